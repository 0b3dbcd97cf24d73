"""What is shown as a stage's error is what its newest job said, not one before it."""

from __future__ import annotations

import os
from pathlib import Path

from glmjobs.run.progress import last_error
from hpc.chain import ledger
from hpc.core import timestamps

SAID = "train: ImportError: a module that is not there on this node"


def log(run: Path, name: str, written: float) -> None:
    """A log that names an error, last written so long after the ledger's last line."""
    path = run / "jobs" / "train" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"error: {SAID}\n")
    last = timestamps.parse_time(str(ledger.read(run)[-1]["time"])).timestamp()
    os.utime(path, (last + written, last + written))


def test_only_the_newest_job_counts(tmp_path: Path) -> None:
    ledger.append(tmp_path, "attempt", stage="train", job="7")
    log(tmp_path, "7_0.out", -60.0)
    log(tmp_path, "rank-0.log", -60.0)
    assert last_error(tmp_path, "train") is None
    log(tmp_path, "7_1.out", 1.0)
    assert last_error(tmp_path, "train") == SAID
    log(tmp_path, "7_1.out", -2.0)  # the file server's clock is behind
    assert last_error(tmp_path, "train") == SAID


def test_a_job_that_died_before_its_first_line(tmp_path: Path) -> None:
    ledger.append(tmp_path, "attempt", stage="train", job="7")
    ledger.append(tmp_path, "submitted", stage="train", job="8")
    log(tmp_path, "7.out", -60.0)
    assert last_error(tmp_path, "train") is None
    log(tmp_path, "8.out", 3.0)
    assert last_error(tmp_path, "train") == SAID
