"""What status says of an attempt that failed, while the next waits and runs; and of one that was preempted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hpc.chain import ledger
from hpc.chain.stage_state import FAILED, RUNNING, StageState, follow
from hpc.runtime.retry_policy import STARTS_WITHOUT_PROGRESS


def state(run: Path) -> StageState:
    found = StageState(stage="work")
    follow(run, found, ledger.read(run))
    return found


def end(run: Path, **fields: object) -> None:
    ledger.append(run, "attempt", stage="work", job="7")
    ledger.append(run, "ended", stage="work", job="7", **fields)


def test_the_last_attempts_error_stays_in_sight(tmp_path: Path) -> None:
    end(tmp_path, outcome="failed", exit_code=1, error="CUDA error")
    assert state(tmp_path).error == "CUDA error"
    ledger.append(tmp_path, "requeued", stage="work", job="7")
    assert state(tmp_path).reason == "requeued; the last attempt failed: CUDA error"
    ledger.append(tmp_path, "attempt", stage="work", job="7")
    now = state(tmp_path)
    assert (now.state, now.error, now.reason) == (RUNNING, None, "the last attempt failed: CUDA error")
    ledger.append(tmp_path, "ended", stage="work", job="7", outcome="stopped", signal="SIGUSR1")
    ledger.append(tmp_path, "requeued", stage="work", job="7")
    assert state(tmp_path).reason == "requeued"


def test_preempted_is_not_told_to_stop(tmp_path: Path) -> None:
    end(tmp_path, outcome="stopped", preempted=True, last_checkpoint=4)
    assert state(tmp_path).error == "preempted by another job, with checkpoint 4 saved"


def test_so_many_starts_from_one_checkpoint_are_the_last(tmp_path: Path) -> None:
    ledger.write_progress(tmp_path, "work", checkpoint=4)
    for _ in range(STARTS_WITHOUT_PROGRESS):
        ledger.append(tmp_path, "attempt", stage="work", job="7", checkpoint=4)
    words = [
        sys.executable,
        "-m",
        "hpc.runtime.attempt",
        str(tmp_path),
        "--stage",
        "work",
        "touch",
        str(tmp_path / "x"),
    ]
    done = subprocess.run(
        words, env={**os.environ, "SLURM_JOB_ID": "7"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and not (tmp_path / "x").exists()
    assert done.stderr.startswith(
        f"error: work: started {STARTS_WITHOUT_PROGRESS} times in a row from checkpoint 4; "
    )
    now = state(tmp_path)
    assert now.state == FAILED and now.error in done.stderr
