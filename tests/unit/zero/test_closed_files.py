"""A file of a checkpoint that may not be read, and a place that may not be written: bad input, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero import committed
from glmjobs.zero.guarded_files import reading
from glmjobs.zero.layout import Extent
from glmjobs.zero.source_files import SourceFiles
from hpc.core.errors import BadInput, WorkFailed
from tests.support.may_not import needs_setpriv, said
from tests.support.small_checkpoints import RANKS, SHAPES

pytestmark = needs_setpriv


@pytest.mark.parametrize("stage", [2, 3])
def test_consolidating(stage: int, bench: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-10"
    bench.make_checkpoint(checkpoint, SHAPES, stage, RANKS, True)
    shard = next(checkpoint.rglob("*_optim_states.pt"))
    for closed in (shard, next(checkpoint.rglob("*_model_states.pt")), checkpoint / "latest"):
        mode = closed.stat().st_mode
        closed.chmod(0)
        ((_, code, text),) = said(tmp_path, [f"consolidate {checkpoint} {tmp_path / 'model'}"])
        assert code == 2 and text.count("\n") == 1 and f"{closed}: " in text, text
        assert "Permission denied" in text
        closed.chmod(mode)
    (tmp_path / "closed").mkdir(mode=0o500)
    ((_, code, text),) = said(tmp_path, [f"consolidate {checkpoint} {tmp_path / 'closed' / 'model'}"])
    assert code == 2 and text.count("\n") == 1 and "Permission denied" in text


def test_the_kind_follows_the_systems_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same place: a permission is the person's to give, a directory in place of a file is damage."""

    def refuses(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(WorkFailed, match="not a regular file"):
        SourceFiles().read(Extent(tmp_path, 0, 1, "U8"), memoryview(bytearray(1)))
    with pytest.raises(WorkFailed), reading(tmp_path, "a file"):
        tmp_path.read_bytes()
    monkeypatch.setattr("glmjobs.zero.source_files.open_handle", refuses)
    with pytest.raises(BadInput, match="cannot be opened: Permission denied"):
        SourceFiles().read(Extent(tmp_path, 0, 1, "U8"), memoryview(bytearray(1)))
    with pytest.raises(BadInput, match="cannot be read: Permission denied; a file"), reading(tmp_path, "a file"):
        refuses()


def test_a_closed_commit_is_a_reason_to_pass_a_checkpoint_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / committed.COMMITTED).write_text("{}")
    monkeypatch.setattr("glmjobs.zero.guarded_files.read_small", refuses)
    assert "Permission denied" in str(committed.problem(tmp_path))
