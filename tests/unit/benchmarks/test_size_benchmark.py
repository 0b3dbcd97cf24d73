"""The benchmark at size: its checkpoints take no disk and are a model's; it looks for room first."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import size as bench
from glmjobs.zero import write
from glmjobs.zero.checkpoint import open_checkpoint
from glmjobs.zero.consolidate import Options, consolidate
from hpc.core.errors import BadInput, NotFit
from tests.support.sparse_models import chatglm_shapes, sparse_chatglm, sparse_checkpoint

SHAPES = chatglm_shapes(2, 512, 8000)


def test_a_sparse_checkpoint_is_whole_and_takes_no_disk(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-10"
    total = sparse_checkpoint(folder, SHAPES, 4)
    files = list(folder.rglob("*_optim_states.pt"))
    assert len(files) == 4 and sum(f.stat().st_size for f in files) > 4 * total
    assert sum(f.stat().st_blocks * 512 for f in files) < total // 4
    found = open_checkpoint(folder)
    assert {name: tuple(t.shape) for name, t in found.tensors.items()} == {
        name: shape for name, shape in SHAPES.items() if name != "lm_head.weight"
    }
    sparse_chatglm(tmp_path / "base", layers=2, hidden=512, vocab=8000)
    made = consolidate(folder, tmp_path / "model", Options(fsync=False), tmp_path / "base")
    assert made["parameters"] == total and made["overflow"] == {}
    assert sum(int(file["bytes"]) for file in made["files"]) == pytest.approx(2 * total, rel=0.01)


def test_room_is_looked_at_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "free_bytes", lambda _: 10**6)
    monkeypatch.setattr(bench, "measured", lambda command: pytest.fail(f"ran {command}"))
    with pytest.raises(NotFit, match="are needed here"):
        bench.main(["--quick", "--work", str(tmp_path)])


def test_a_step_that_fails_shows_why() -> None:
    with pytest.raises(SystemExit, match=r"(?s)failed:.*broken"):
        bench.measured(["bash", "-c", "echo broken; exit 3"])
    found = bench.measured(["bash", "-c", "x=$(head -c 50000000 /dev/zero | tr '\\0' a); echo ${#x}"])
    assert found["said"] == "50000000" and found["peak_mib"] > 40


@pytest.mark.parametrize(
    "options",
    [("--work", "/nonexistent"), ("--hidden", "100"), ("--layers", "0"), ("--python", "/no/python")],
)
def test_bad_options_are_one_line(options: tuple[str, str]) -> None:
    with pytest.raises(BadInput, match=options[0]):
        bench.main(list(options))
