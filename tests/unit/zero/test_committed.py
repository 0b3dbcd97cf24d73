"""What a committed.json says is believed only as far as it can be checked; whoever wrote it, reading it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glmjobs.zero import committed
from hpc.core.errors import WorkFailed


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """checkpoint-4, committed, and an older whole one."""
    for step in (2, 4):
        shards = tmp_path / f"checkpoint-{step}" / f"global_step{step}"
        shards.mkdir(parents=True)
        (shards / "shard.pt").write_bytes(bytes(10 * step))
        committed.commit(tmp_path / f"checkpoint-{step}", step, 8)
    return tmp_path / "checkpoint-4"


def write(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link_out(file: Path) -> None:
    file.rename(file.parent.parent / "elsewhere.json")
    file.symlink_to(file.parent.parent / "elsewhere.json")


DAMAGE = {
    "cut off": write('{"step": 4, "fi'),
    "no object": write("[]"),
    "no files": write('{"step": 4}'),
    "sizes in words": write('{"step": 4, "files": [{"path": "a", "bytes": "many"}]}'),
    "ranks in words": write('{"step": 4, "world_size": "8", "files": []}'),
    "endless nesting": write("[" * 200_000),
    "a pipe": pipe,
    "a link out": link_out,
    "names a file outside": write(json.dumps({"files": [{"path": "../elsewhere", "bytes": 0}]})),
}


def test_it_says_what_was_committed(checkpoint: Path) -> None:
    said = committed.read(checkpoint)
    assert said == committed.Commit({"global_step4/shard.pt": 40}, step=4, world_size=8)
    assert committed.check(checkpoint) == said and committed.problem(checkpoint) is None
    assert committed.newest_committed(checkpoint.parent) == checkpoint


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_one_is_one_line_and_the_checkpoint_before_counts(checkpoint: Path, how: str) -> None:
    DAMAGE[how](checkpoint / committed.COMMITTED)
    with pytest.raises(WorkFailed) as caught:
        committed.check(checkpoint)
    assert "\n" not in str(caught.value) and str(checkpoint) in str(caught.value)
    found = committed.newest(checkpoint.parent)
    assert found is not None and found.step == 2, "training goes on from the one before"
    with pytest.raises(WorkFailed):
        committed.newest_committed(checkpoint.parent)  # consolidation would give less training than there is


@pytest.mark.parametrize(("size", "why"), [(None, "is missing"), (7, "has 7 bytes instead of the 40")])
def test_file_that_is_not_as_committed(checkpoint: Path, size: int | None, why: str) -> None:
    shard = checkpoint / "global_step4" / "shard.pt"
    shard.unlink()
    if size is not None:
        shard.write_bytes(bytes(size))
    problem = committed.problem(checkpoint)
    assert problem is not None and problem.startswith("global_step4/shard.pt: ") and why in problem


def test_uncommitted_one_is_passed_over_by_all(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint / committed.COMMITTED).unlink()
    assert committed.read(checkpoint) is None and "not committed" in str(committed.problem(checkpoint))
    assert committed.newest_committed(checkpoint.parent).name == "checkpoint-2"
    assert "checkpoint-4: skipped" in capsys.readouterr().out
