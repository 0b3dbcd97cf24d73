"""Whether another attempt follows, from the ledger alone."""

from __future__ import annotations

from typing import Any

import pytest

from hpc.runtime import retry_policy
from hpc.runtime.retry_policy import (
    DONE,
    ENDING,
    FAILED,
    LOST,
    PREEMPTED,
    RUNNING,
    STOPPED,
    TIMED_OUT,
    UNKNOWN,
)
from hpc.runtime.stop import EXIT_FATAL, EXIT_REQUEUE


def history(*ends: Any) -> list[dict[str, Any]]:
    """A ledger: for each end (outcome, checkpoint) an attempt and its end; None: an attempt without an end."""
    events: list[dict[str, Any]] = []
    for end in ends:
        if isinstance(end, dict):
            events.append(end)
            continue
        events.append({"event": "attempt", "stage": "train", "job": "7"})
        if end is not None:
            told = {"signal": end[2]} if len(end) > 2 else {}
            events.append(
                {
                    "event": "ended",
                    "stage": "train",
                    "job": "7",
                    "outcome": end[0],
                    "last_checkpoint": end[1],
                    **told,
                }
            )
    return events


def decide(
    *ends: Any, code: int = 1, warned: bool = False, intends: str = RUNNING, progressed: bool = False
) -> bool:
    events = history(*ends)
    ended = next(e["outcome"] for e in reversed(events) if e["event"] == "ended")
    return retry_policy.decide(
        events,
        ("train", "train"),
        "7",
        ended,
        code,
        limit=3,
        warned=warned,
        intends=intends,
        progressed=progressed,
    ).again


@pytest.mark.parametrize(
    ("code", "told", "marked", "expected"),
    [
        (0, False, False, DONE),
        (0, True, True, DONE),
        (0, True, False, STOPPED),  # srun lost sight of the tasks it was told to end
        (EXIT_REQUEUE, True, False, STOPPED),
        (EXIT_REQUEUE, False, False, FAILED),  # srun's SIGTERM, since another rank failed
        (137, True, False, STOPPED),
        (137, False, False, FAILED),
        (1, True, False, FAILED),
    ],
)
def test_outcome(code: int, told: bool, marked: bool, expected: str) -> None:
    assert retry_policy.outcome(code, told=told, marked=marked) == expected


def test_a_stop_is_one_that_the_job_was_told_to_or_that_saved_something() -> None:
    outcome = retry_policy.outcome
    assert outcome(EXIT_REQUEUE, told=False, marked=False, progressed=True) == STOPPED
    assert outcome(EXIT_REQUEUE, told=False, marked=False, progressed=True, failed=True) == FAILED
    assert outcome(EXIT_REQUEUE, told=True, marked=False, failed=True) == FAILED


def test_failures_in_a_row_end_the_run() -> None:
    assert decide((FAILED, 4), (FAILED, 4))
    assert not decide((FAILED, 4), (FAILED, 4), (FAILED, 4))
    assert not decide((FAILED, None), (FAILED, None), (FAILED, None))


def test_progress_starts_the_count_afresh() -> None:
    assert decide((FAILED, 4), (FAILED, 4), (FAILED, 6), progressed=True)
    assert decide((FAILED, 4), (FAILED, 4), (FAILED, 6), (FAILED, 6))
    assert not decide((FAILED, 4), (FAILED, 6), (FAILED, 6), (FAILED, 6))


def test_deaths_of_the_machine_do_not_count() -> None:
    assert decide((FAILED, 4), None, (FAILED, 4), None, None)
    taken = {
        "event": "ended",
        "stage": "train",
        "job": "7",
        "outcome": FAILED,
        "last_checkpoint": 4,
        "taken": True,
    }
    assert decide((FAILED, 4), taken, taken, (FAILED, 4))


def test_heal_and_success_start_afresh() -> None:
    healed = {"event": "healed", "stage": "train"}
    assert decide((FAILED, 4), (FAILED, 4), healed, (FAILED, 4))
    assert decide((FAILED, 4), (FAILED, 4), (DONE, 4), (FAILED, 4))


def test_neither_another_kind_of_end_nor_another_element_of_the_array_starts_the_count_afresh() -> None:
    assert not decide((FAILED, 4), (FAILED, 4), (STOPPED, 4), (FAILED, 4))
    assert not decide((FAILED, 4), (STOPPED, 4, "SIGUSR1"), (FAILED, 4))
    other = {"event": "ended", "stage": "train", "job": "8", "outcome": FAILED, "last_checkpoint": 4}
    assert not decide((FAILED, 4), other, (FAILED, 4), other, (FAILED, 4))


def test_starts_from_one_checkpoint_are_counted_however_they_ended() -> None:
    def begun(checkpoint: int | None, job: str = "7") -> dict[str, Any]:
        return {"event": "attempt", "stage": "train", "job": job, "checkpoint": checkpoint}

    def starts(*events: dict[str, Any], checkpoint: int | None = 4) -> int:
        return retry_policy.starts(events, ("train", "train"), "7", checkpoint)

    assert starts(begun(2), begun(4), begun(4, job="8"), begun(4)) == 2
    assert starts(begun(2), begun(4), checkpoint=6) == 0
    assert starts(begun(4), {"event": "healed", "stage": "train"}, begun(4)) == 1
    assert starts(begun(None), begun(None), checkpoint=None) == 2


@pytest.mark.parametrize("code", [2, 3, EXIT_FATAL])
def test_final_codes(code: int) -> None:
    assert not decide((FAILED, 9), code=code, progressed=True)


def test_time_limit_again_and_again() -> None:
    assert decide((STOPPED, 4), code=85, warned=True)
    assert decide((STOPPED, 4), (STOPPED, 6), (STOPPED, 8), code=85, warned=True, progressed=True)
    assert not decide(*[(STOPPED, None, "SIGUSR1")] * 3, code=85, warned=True)


def test_preemption_never_counts() -> None:
    assert decide(*[(STOPPED, 4)] * 9, code=85, warned=False)


def test_what_slurm_or_a_person_wants() -> None:
    assert decide((STOPPED, 4), code=85, warned=True, intends=TIMED_OUT)
    assert decide((STOPPED, 4), code=85, warned=True, intends=UNKNOWN)
    assert not decide((STOPPED, 4), code=85, intends=UNKNOWN)
    assert not decide((STOPPED, 4), code=85, warned=True, intends=ENDING)
    assert not decide((FAILED, 4), intends=LOST), "Slurm requeues it by itself"
    cancelled = {"event": "cancelled", "job": "7"}
    assert not decide((STOPPED, 4), cancelled, code=85, warned=True)
    assert decide(cancelled, (STOPPED, 4), code=85, warned=True), "cancelled before this start"


def times(state: str, *, preempt: str, end: str) -> dict[str, str]:
    """scontrol's words for a job that started at ten."""
    day = "2026-01-01T"
    return {
        "JobState": state,
        "StartTime": f"{day}10:00:00",
        "PreemptTime": day + preempt,
        "EndTime": day + end,
    }


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({"JobState": "RUNNING", "Reason": "None"}, RUNNING),
        ({"JobState": "COMPLETING", "Reason": "TimeLimit"}, TIMED_OUT),
        ({"JobState": "TIMEOUT", "Reason": "TimeLimit"}, TIMED_OUT),
        ({"JobState": "COMPLETING", "Reason": "None"}, ENDING),
        ({"JobState": "CANCELLED", "Reason": "None"}, ENDING),
        ({"JobState": "COMPLETING", "Reason": "NodeDown"}, LOST),
        ({"JobState": "NODE_FAIL", "Reason": "NodeDown"}, LOST),
        ({"JobState": "PENDING", "Reason": "BeginTime"}, LOST),
        (times("RUNNING", preempt="10:00:05", end="10:00:15"), PREEMPTED),  # within its grace
        (times("COMPLETING", preempt="10:00:15", end="10:00:15"), PREEMPTED),  # PreemptMode=CANCEL
        (times("COMPLETING", preempt="10:00:05", end="10:00:12"), ENDING),  # scancel within the grace
        (times("RUNNING", preempt="09:00:00", end="11:00:00"), RUNNING),  # that was an earlier start
        ({**times("COMPLETING", preempt="10:00:15", end="10:00:15"), "Restarts": "1"}, LOST),
        (None, UNKNOWN),
    ],
)
def test_slurm_intends(shown: dict[str, str] | None, expected: str) -> None:
    assert retry_policy.slurm_intends(shown) == expected


@pytest.mark.parametrize(
    ("advice", "said"),
    [("", "give the job more time, or save more often"), ("raise jobs.x.time", "raise jobs.x.time")],
)
def test_a_time_limit_that_is_too_short_comes_with_advice(advice: str, said: str) -> None:
    decided = retry_policy.decide(
        history(*[("stopped", None, "SIGUSR1")] * 3), ("train", "train"), "7", STOPPED, EXIT_REQUEUE, limit=3,
        warned=True, intends=TIMED_OUT, progressed=False, advice=advice,
    )  # fmt: skip
    assert not decided.again and decided.reason.endswith(said)
    assert decided.reason.startswith("3 attempts in a row were stopped by the time limit")
