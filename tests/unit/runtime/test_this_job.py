"""What a batch process is called in Slurm and on record, and what is known of queued attempts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.batch.jobs import Job
from hpc.chain import ledger
from hpc.chain.own_jobs import Found
from hpc.chain.repair import KEEP, REPLACE, REQUEUE, decide
from hpc.chain.stage_state import StageState, follow
from hpc.chain.submission import to_wait_for
from hpc.runtime.this_job import ThisJob
from hpc.slurm.client import JobInfo, JobState
from hpc.slurm.identity import Claim

ARRAY = {
    "SLURM_JOB_ID": "9",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_ARRAY_TASK_MAX": "3",
}


@pytest.mark.parametrize(
    ("environ", "queued", "names"),
    [
        ({}, False, ("local", "", None, "")),
        ({"SLURM_JOB_ID": "9"}, True, ("9", "9", None, "")),
        (ARRAY, False, ("9", "7_1", 1, "")),
        (ARRAY, True, ("7", "7_1", None, "7_[2-3]")),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "3"}, True, ("7", "7_3", None, "")),
    ],
)
def test_its_names(environ: dict[str, str], queued: bool, names: tuple[str, str, int | None, str]) -> None:
    this = ThisJob.here(queued=queued, environ=environ)
    assert (this.name.partition("-")[0], this.slurm_id, this.task, this.later) == names
    assert this.number == environ.get("SLURM_JOB_ID", "") and this.on_slurm == bool(environ)


def test_the_last_queued_attempt_says_that_it_is(tmp_path: Path) -> None:
    middle, last = (
        ThisJob.here(queued=True, environ={**ARRAY, "SLURM_ARRAY_TASK_ID": task}) for task in ("1", "3")
    )
    assert middle.again() == "" and last.again() == "no queued attempt is left"
    assert not middle.dropped(tmp_path)
    ledger.append(tmp_path, "attempts_dropped", stage="train", job="7")
    assert middle.dropped(tmp_path) and not ThisJob.here(environ=ARRAY).dropped(tmp_path)


def shown(*states: JobState, attempts: int = 3) -> Found:
    parts = tuple(JobInfo(id=f"7_{n}", state=state, reason="") for n, state in enumerate(states))
    return Found(claim=Claim(job="7", attempts=attempts), parts=parts)


def test_a_stopped_attempt_is_no_end_so_long_as_others_follow() -> None:
    F, P, R, C = JobState.FAILED, JobState.PENDING, JobState.RUNNING, JobState.CANCELLED
    assert decide("train", shown(F, R, P), False).what == KEEP
    assert decide("train", shown(F, P, P), False).what == KEEP
    assert decide("train", shown(F, F, C), False).what == REPLACE
    assert decide("score", shown(F, P, P, attempts=1), False).what == REQUEUE
    assert decide("train", shown(F, P, P), False, changed="time: 1 → 2").what == REPLACE


def test_only_attempts_that_have_not_failed_are_waited_for() -> None:
    found = shown(JobState.FAILED, JobState.RUNNING, JobState.PENDING)
    assert to_wait_for(found.claim, found.parts) == ["7_1?7_2"]
    assert to_wait_for(found.claim, found.parts[1:2]) == ["7_1"]
    assert to_wait_for(found.claim, found.parts[:1]) == ["7"]


def test_what_status_tells_of_a_job_that_could_not_be_queued_again(tmp_path: Path) -> None:
    told = "stopped: checkpoint 5 is kept; it could not be queued again from node1 (no): `heal` goes on from there"
    ledger.append(tmp_path, "submitted", stage="train", job="7", executor="slurm")
    ledger.append(tmp_path, "attempt", stage="train", job="7", nodes="node1")
    ledger.append(tmp_path, "ended", stage="train", job="7", outcome="stopped", exit_code=85)
    ledger.append(tmp_path, "requeued", stage="train", job="7")
    waits, stopped = StageState(stage="train"), StageState(stage="train")
    follow(tmp_path, waits, ledger.read(tmp_path))
    assert waits.state == "waiting" and not ledger.is_ending(tmp_path)
    ledger.append(tmp_path, "not_requeued", stage="train", job="7", outcome="stopped", error=told)
    follow(tmp_path, stopped, ledger.read(tmp_path))
    assert (stopped.state, stopped.error, stopped.reason) == ("stopped", told, "")
    assert ledger.is_ending(tmp_path)


def test_attempts_are_one_or_more() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Job(stage="train", steps=(), attempts=0)
