"""A run computes the attention of its packed rows in one way from its first step to its last, whoever resumes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from glmjobs.models.common.attention_ways import possible_ways  # noqa: E402
from glmjobs.recipe.schema import TrainSection  # noqa: E402
from glmjobs.training import attention  # noqa: E402
from glmjobs.training.agreement import Agreement  # noqa: E402
from hpc.chain import ledger  # noqa: E402
from hpc.core.errors import BadInput  # noqa: E402
from tests.support.small_families import small_trained  # noqa: E402

GPU, CPU = torch.device("cuda"), torch.device("cpu")


class Measured:
    """Stands in for the measurement, which wants the device; counts how often it was asked for."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.times = seconds, 0

    def __call__(self, trainer: Any, ways: tuple[str, ...]) -> dict[str, float]:
        self.times += 1
        return self.seconds


class Attempts:
    """A run's attempts, one rank each."""

    def __init__(self, run: Path, family: str = "chatglm") -> None:
        self.run, self.model = run, small_trained(family)

    def settle(self, device: Any, *, resumes: bool = False, rank: int = 0, **settings: Any) -> str | None:
        trainer = SimpleNamespace(model=self.model, args=SimpleNamespace(device=device))
        found = attention.settle(
            TrainSection(**settings), self.run, trainer, Agreement(), rank=rank, resumes=resumes
        )
        ways = {m.packed_attention for m in self.model.modules() if hasattr(m, "packed_attention")}
        assert ways == {found}
        return found

    def on_record(self) -> list[str]:
        return [e["way"] for e in ledger.events(self.run, event="attention", stage="train")]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    found = Measured(pieces=1.0, whole=2.0, flex=float("nan"))
    monkeypatch.setattr(attention, "_measured", found)
    return found


def test_the_fastest_is_kept(tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = Attempts(tmp_path)
    assert attempts.settle(GPU) == "pieces"
    said = "attention of packed rows: pieces (a layer forward and backward: pieces 1000 ms, whole 2000 ms, flex fails)"
    assert capsys.readouterr().err == said + "\n"
    measured.seconds = {"pieces": 2.0, "whole": 1.0}
    assert attempts.settle(GPU, resumes=True) == "pieces"
    assert attempts.settle(GPU) == "pieces", "also where nothing had been saved"
    assert capsys.readouterr().err == 2 * f"{said}\n"
    assert (measured.times, attempts.on_record()) == (1, ["pieces"])


def test_the_recipe_decides_where_it_says_one(tmp_path: Path, measured: Measured) -> None:
    attempts = Attempts(tmp_path)
    assert attempts.settle(GPU) == "pieces"
    assert attempts.settle(GPU, resumes=True, attention="whole") == "whole"
    assert attempts.settle(GPU, resumes=True) == "whole", "the last that was used"
    assert (measured.times, attempts.on_record()) == (1, ["pieces", "whole"])


def test_a_run_of_before_goes_on_as_it_did(tmp_path: Path, measured: Measured) -> None:
    """It has a checkpoint, and no word about its attention: that was one call under the whole mask."""
    assert Attempts(tmp_path).settle(GPU, resumes=True) == "whole"
    assert measured.times == 0


def test_a_cpu_measures_nothing(tmp_path: Path, measured: Measured) -> None:
    attempts = Attempts(tmp_path)
    assert attempts.settle(CPU) == "pieces"
    assert measured.times == 0
    ledger.append(tmp_path, "attention", stage="train", way="flex", why="a GPU's run")
    assert attempts.settle(CPU, resumes=True) == "pieces", "what a GPU kept is not possible here"


def test_rows_that_are_not_packed_have_one_way(tmp_path: Path, measured: Measured) -> None:
    trainer = SimpleNamespace(model=None, args=None)
    settings = TrainSection(packing=False)
    assert attention.settle(settings, tmp_path, trainer, Agreement(), rank=0, resumes=False) is None


def test_a_way_that_is_not_possible_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"^train.attention: flex is not possible here.*pieces, whole or auto$"
    ):
        Attempts(tmp_path).settle(CPU, attention="flex")
    if "flex" in possible_ways(GPU):
        dropped = Attempts(tmp_path, "glm")
        dropped.model.config.attention_dropout_prob = 0.1
        with pytest.raises(BadInput, match="without attention dropout"):
            dropped.settle(GPU, attention="flex")
    with pytest.raises(ValueError, match=r"flex, which trains on GPUs alone, and train\.device is cpu"):
        TrainSection(attention="flex", device="cpu")
