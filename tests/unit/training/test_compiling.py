"""A run trains with compiled blocks from its first step to its last, or never, whoever resumes it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from glmjobs.compat import COMPILES_ONCE  # noqa: E402
from glmjobs.models.common.attention import default_way  # noqa: E402
from glmjobs.models.common.attention_ways import set_way  # noqa: E402
from glmjobs.models.common.compiled import compile_parts  # noqa: E402
from glmjobs.recipe.schema import TrainSection  # noqa: E402
from glmjobs.training import compiling  # noqa: E402
from glmjobs.training.agreement import Agreement  # noqa: E402
from hpc.chain import ledger  # noqa: E402
from hpc.core.errors import BadInput  # noqa: E402
from tests.support.small_families import PROMPTS, packed_batch, small_trained  # noqa: E402

GPU, CPU = torch.device("cuda"), torch.device("cpu")
pytestmark = pytest.mark.skipif(not COMPILES_ONCE, reason="torch 2.5 and later compile here")


class Timed:
    """Stands in for the measurement, which wants the device."""

    def __init__(self, plain: float = 1.0, compiled: float = 0.5, failure: str = "") -> None:
        self.answer, self.times = (plain, compiled, failure), 0

    def __call__(self, trainer: Any, way: str) -> tuple[float, float, str]:
        self.times += 1
        return self.answer


def settle(
    run: Path, device: Any = GPU, *, way: str | None = "whole", resumes: bool = False, **settings: Any
) -> bool:
    trainer = SimpleNamespace(model=torch.nn.Linear(1, 1), args=SimpleNamespace(device=device))
    given = TrainSection(**settings)
    return compiling.settle(given, run, trainer, Agreement(), way, rank=0, resumes=resumes)


@pytest.mark.parametrize(("compiled", "wanted"), [(0.5, True), (0.97, False), (math.nan, False)])
def test_where_it_pays(
    compiled: float, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Timed(compiled=compiled, failure="compiling fails: no g++" if math.isnan(compiled) else "")
    monkeypatch.setattr(compiling, "_timed", timed)
    assert settle(tmp_path) is wanted
    timed.answer = (1.0, 2.0 if wanted else 0.1, "")
    assert settle(tmp_path, resumes=True) is wanted, "the run keeps to it"
    assert timed.times == 1 and len(ledger.events(tmp_path, event="compiled", stage="train")) == 1


def test_a_run_of_before_and_a_cpu_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_timed", timed := Timed())
    assert not settle(tmp_path, resumes=True)
    assert not settle(tmp_path, CPU)
    assert not settle(tmp_path, way=None), "rows that are not packed"
    assert not settle(tmp_path, compile=False)
    assert timed.times == 0


def test_asked_for_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_timed", Timed(failure="compiling fails: no g++"))
    with pytest.raises(BadInput, match=r"^train\.compile: compiling fails: no g\+\+; false or auto$"):
        settle(tmp_path, CPU, compile=True)
    for settings in ({"zero_stage": 3}, {"packing": False}):
        with pytest.raises(ValueError, match=r"train\.compile is true, which takes packed rows"):
            TrainSection(compile=True, **settings)


def passed(model: Any, batch: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Loss and gradients."""
    loss = model(**batch).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return float(loss.detach()), found


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: torch.compile needs one on a CPU")
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f == "chatglm" else [pytest.mark.slow]) for f in PROMPTS]
)
def test_it_is_the_same_function(family: str) -> None:
    model, batch = small_trained(family, std=0.08), packed_batch(family, [[17, 9, 30], [41, 11]], 60)
    set_way(model, default_way(CPU))
    loss, gradients = passed(model, batch)
    names = list(model.state_dict())
    compile_parts(model)
    torch.compiler.reset()
    found, others = passed(model, batch)
    assert found == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
