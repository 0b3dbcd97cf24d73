"""Whose job it is: the comment decides; without one, name, output and time of submission together."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from hpc.slurm.identity import Claim, is_ours
from hpc.slurm.records import JobInfo, JobState, parse_shown, parse_submitted, task_numbers

NOON = datetime(2026, 11, 29, 12, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)
MARK = "glmjobs:0123456789abcdef:train"
CLAIM = Claim(
    job="7", comment=MARK, name="a-train", output="/runs/a/jobs/train/%j.out", submitted=NOON, recorded=NOON
)
JOB = JobInfo(
    id="7",
    state=JobState.PENDING,
    comment=MARK,
    name="a-train",
    output="/runs/a/jobs/train/7.out",
    submitted=NOON,
)


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({}, True),
        ({"comment": f"PROJECT-7 {MARK}"}, True),
        ({"comment": f"{MARK},billing=7", "name": "renamed", "submitted": NOON + MINUTE}, True),
        ({"comment": "glmjobs:0123456789abcdef:score"}, False),  # the run's, but for another stage
        ({"comment": "glmjobs:fedcba9876543210:train"}, False),
        ({"comment": "line:fedcba9876543210:train"}, False),
        ({"comment": MARK + "er"}, False),
        ({"comment": ""}, True),
        ({"comment": "PROJECT-7"}, True),
        ({"comment": "", "name": "b-train"}, False),
        ({"comment": "", "output": "/runs/b/jobs/train/7.out"}, False),
        ({"comment": "", "submitted": NOON + MINUTE}, False),
        ({"comment": "", "submitted": NOON + MINUTE, "restarts": 1}, True),
        ({"comment": "", "submitted": NOON - MINUTE, "restarts": 1}, False),
        ({"comment": "", "submitted": None}, False),
        ({"comment": "", "output": ""}, True),  # sacct
        ({"comment": "", "output": "", "name": "b-train"}, False),
        ({"comment": "", "output": "", "submitted": NOON + timedelta(seconds=1)}, False),
        ({"comment": "", "output": "", "submitted": NOON + MINUTE, "restarts": 1}, False),
    ],
)
def test_what_proves_a_job(changes: dict[str, object], ours: bool) -> None:
    assert is_ours(replace(JOB, **changes), CLAIM) is ours  # type: ignore[arg-type]


def test_where_the_controllers_time_is_not_on_record() -> None:
    claim = replace(CLAIM, name="", submitted=None, recorded=NOON)
    bare = replace(JOB, comment="")
    assert is_ours(replace(bare, submitted=NOON + timedelta(seconds=2)), claim)
    assert not is_ours(replace(bare, submitted=NOON + MINUTE), claim)
    assert not is_ours(replace(bare, output=""), claim), (
        "the ledger's own time is too coarse to prove it alone"
    )
    assert not is_ours(bare, Claim(job="7"))


def test_an_output_with_numbers_and_percent_signs() -> None:
    array = replace(CLAIM, output="/runs/100%%/jobs/score/%A_%a.out")
    for shown in ("/runs/100%%/jobs/score/%A_%a.out", "/runs/100%/jobs/score/7_4294967294.out"):
        assert is_ours(replace(JOB, comment="", output=shown), array)
    assert not is_ours(replace(JOB, comment="", output="/runs/100%/jobs/train/7_0.out"), array)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7\n", ("7", "")),
        ("7;west\n", ("7", "west")),
        ("Reminder: your job 4 used 12%\n31\n", ("31", "")),
        ("31;west\nSee job 4 too\n", ("31", "west")),
        ("Submitted batch job 31 on cluster west\n", ("31", "west")),
        ("31 on cluster west\n", ("31", "west")),
        ("Submitted batch job 31\n", ("31", "")),
        ("your job 4 is ready\n", None),
        ("", None),
        ("12.5\n", None),
    ],
)
def test_sbatchs_answer(text: str, answer: tuple[str, str] | None) -> None:
    assert parse_submitted(text) == answer


def test_scontrols_records() -> None:
    """Recorded from Slurm 22.05.8, shortened."""
    text = (
        "JobId=2 ArrayJobId=2 ArrayTaskId=0-2%2 JobName=a b JobState=PENDING Reason=JobHeldUser Dependency=(null) "
        "Restarts=0 ExitCode=0:0 SubmitTime=2026-11-29T01:50:22 Comment=x:1 \nyz StdOut=/o/2_4294967294.out \n"
        "JobId=5 ArrayJobId=2 ArrayTaskId=3 JobName=a b JobState=FAILED Reason=None Restarts=1 ExitCode=7:0 \n"
    )
    found = parse_shown(text)
    assert [(j.id, j.state, j.exit_code, j.restarts) for j in found] == [
        *((f"2_{i}", JobState.PENDING, 0, 0) for i in range(3)),
        ("2_3", JobState.FAILED, 7, 1),
    ]
    assert {j.name for j in found} == {"a b"} and found[0].output == "/o/2_4294967294.out"
    assert parse_shown("") == [] and task_numbers("0-8:4,11") == [0, 4, 8, 11]
