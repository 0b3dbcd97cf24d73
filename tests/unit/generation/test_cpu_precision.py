"""Without a GPU: which type the weights take, and a model that memory does not hold is one line before it loads."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from glmjobs import chat
from glmjobs.cli import run_command
from glmjobs.generation import cpu_precision
from glmjobs.generation.cpu_precision import choose
from hpc.core.errors import BadInput
from tests.support.sparse_models import sparse_chatglm

GB = 10**9


@pytest.fixture
def six_billion(tmp_path: Path) -> Path:
    sparse_chatglm(tmp_path / "chatglm-6b")
    return tmp_path / "chatglm-6b"


@pytest.mark.parametrize(
    ("room", "able", "wanted", "found"),
    [
        (30 * GB, ("bfloat16",), None, "float32"),
        (20 * GB, ("bfloat16",), None, "bfloat16"),
        (30 * GB, ("bfloat16",), "bfloat16", "bfloat16"),
        (20 * GB, (), None, None),
        (13 * GB, ("bfloat16",), None, None),
        (20 * GB, ("bfloat16",), "float32", None),
    ],
)
def test_the_type_that_fits(
    room: int, able: tuple[str, ...], wanted: str | None, found: str | None, six_billion: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cpu_precision, "available_memory", lambda: room)
    monkeypatch.setattr(cpu_precision, "computes", lambda dtype: dtype in (*able, "float32"))
    if found is not None:
        assert choose(six_billion, wanted) == found
        return
    monkeypatch.setattr("glmjobs.models.load_tokenizer", lambda directory: Tokenizer())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [str(six_billion), "--once", "1+1", *(["--dtype", wanted] if wanted else [])]
    assert run_command(chat.main, words) == 3
    said = capsys.readouterr().err
    needed = "13.6 GB of memory in bfloat16" if able and not wanted else "27.2 GB of memory in float32"
    assert needed in said and f"{room / GB:.1f} GB are available" in said and said.count("\n") == 1


class Tokenizer:
    """As much of one as is asked for before the model loads."""

    def convert_tokens_to_ids(self, token: str) -> int:
        return 5

    eos_token_id = 5


def test_ranks_side_by_side_share_the_memory(six_billion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_precision, "available_memory", lambda: 30 * GB)
    monkeypatch.setattr(cpu_precision, "computes", lambda dtype: True)
    assert [choose(six_billion, None, ranks) for ranks in (1, 2)] == ["float32", "bfloat16"]


def test_a_type_that_torch_does_not_compute_here(six_billion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_precision, "computes", lambda dtype: dtype == "float32")
    with pytest.raises(BadInput, match="--dtype float16: torch computes none on this CPU"):
        choose(six_billion, "float16")
    assert cpu_precision.computes("float32")
