"""A sweep on a real Slurm: two trainings at a time, healed and cancelled by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel, heal, sweep
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from hpc.chain import submission
from hpc.slurm import client as slurm
from tests.support.small_chain import done, ids, starts, tell

pytestmark = pytest.mark.slurm

WORDS = (
    "--recipe", "configs/tiny.yaml", "--cluster", "configs/clusters/devcluster.yaml", "--executor", "slurm",
    "--gpus", "1", "--set", "train.learning_rate=1e-4,2e-4", "--set", "train.epochs=1,2", "--set", "score.shards=2",
    "--at-once", "2", "--name", "four",
)  # fmt: skip


def test_two_at_a_time_and_the_next_when_one_has_ended(
    slurm_env: dict[str, str], small: Path, wait_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = submission.write_scripts

    def first_tell(chain: Any, *rest: Any) -> None:
        tell(chain.run, train="wait")
        original(chain, *rest)

    monkeypatch.setattr(submission, "write_scripts", first_tell)
    assert sweep.main([*WORDS]) == 0
    assert sweep.main([*WORDS]) == 0, "given again it makes nothing"
    runs = [Run.open(small / f"four-{n}") for n in range(1, 5)]

    def running() -> list[bool]:
        return [bool(starts(run, "train")) for run in runs]

    wait_for(lambda: running()[:2] == [True, True], 60, "the first of both lanes")
    jobs = [ids(run)["train"] for run in runs]
    assert read_state(runs[2]).get("train").reason.startswith("waits for its turn")
    assert heal.main(["four"]) == 0, "waiting for one's turn is no fault"
    assert [ids(run)["train"] for run in runs] == jobs
    known = slurm.jobs(jobs[2:])
    assert all("singleton" in info.dependency for info in known.values()), known
    assert running() == [True, True, False, False]
    (runs[1].path / "go").touch()
    wait_for(lambda: running() == [True, True, False, True], 60, "the second of the second lane")
    wait_for(lambda: done(runs[1]), 120, "the chain that was let go")
    assert cancel.main(["four"]) == 0

    def over() -> bool:
        left = slurm.jobs([ids(run)["train"] for run in runs])
        return all(info.state.is_final for info in left.values())

    wait_for(over, 60, "all trainings to end")
    assert not starts(runs[2], "train"), "none began because one before it was ended"
