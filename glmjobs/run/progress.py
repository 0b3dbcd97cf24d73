"""What a run's files say about its work: step, loss, rates, time left, GPU utilisation, GPU-hours."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from glmjobs.run.last_activity import last_activity
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.files import Json, read_jsonl
from hpc.core.last_words import said_in, tail_of

if TYPE_CHECKING:
    from glmjobs.run.state import StageState

GPU_SECONDS = 60.0
"""Utilisation is averaged over so long; samples older than twice this say nothing about now."""

PACE_ROWS = 20
"""Log rows from which the time a step takes is estimated."""

TAIL_BYTES = 65536


CLOCK_SECONDS = 5.0
"""Between the clocks of a node, which dates an attempt, and of the file server, which dates its logs."""


def add_progress(path: Path, stage: StageState) -> None:
    """Step, loss and rate as the stage last wrote them."""
    progress = ledger.progress(path, stage.stage)
    stage.step, stage.of = _int(progress.get("step")), _int(progress.get("of"))
    stage.epoch, stage.tokens = _float(progress.get("epoch")), _int(progress.get("tokens"))
    said = progress
    if (
        stage.stage == "train" and stage.step is not None and progress.get("loss") is None
    ):  # a save's news has none
        rows = last_rows(path / "checkpoints" / "train_log.jsonl", 2048)
        said = next((row for row in reversed(rows) if "loss" in row), {})
    stage.loss, stage.tokens_per_s = _float(said.get("loss")), _float(said.get("tokens_per_s"))
    stage.mfu, stage.dev_loss = _float(said.get("mfu")), _float(progress.get("dev_loss"))


def add_live(path: Path, stage: StageState) -> None:
    """Time left and GPU utilisation of a stage that runs."""
    if stage.state != "running":
        return
    stage.gpu_utilisation = gpu_utilisation(path)
    if stage.step is not None and stage.of:
        pace = seconds_per_step(path) if stage.stage == "train" else None
        stage.time_left = pace * max(stage.of - stage.step, 0) if pace is not None else None


def seconds_per_step(path: Path) -> float | None:
    """Median seconds of a training step, from the newest log rows; None while there are fewer than two."""
    rows = [
        (timestamps.parse_time(str(r["time"])).timestamp(), int(r["step"]))
        for r in last_rows(path / "checkpoints" / "train_log.jsonl")[-PACE_ROWS:]
        if "time" in r and isinstance(r.get("step"), int)
    ]
    paces = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(rows) if b[1] > a[1]]
    return median(paces) if paces else None


def gpu_utilisation(path: Path) -> float | None:
    """Mean utilisation (percent) of all the run's GPUs over the last minute; None where no sample is that young."""
    now = time.time()
    young: list[float] = []
    for file in sorted((path / "gpu").glob("*.jsonl")):
        for row in last_rows(file):
            value, when = _float(row.get("utilisation")), row.get("time")
            if value is None or not isinstance(when, str):
                continue
            if now - timestamps.parse_time(when).timestamp() <= GPU_SECONDS:
                young.append(value)
    return fmean(young) if young else None


def gpu_hours(path: Path, events: Sequence[Json], running: Collection[str]) -> dict[str, float]:
    """GPU-hours by part (held, useful, startup, lost, preflight, waiting), as the report counts them.

    Args:
        running: the stages that run now; attempts of others are counted until their last sign of life.
    """
    from glmjobs.run import gpu_hours as costs

    if not any(e.get("event") == "attempt" for e in events):
        return {}
    ran = {str(e.get("stage")) for e in events if e.get("event") == "attempt"}
    over = {stage: costs.End("vanished", last_activity(path, stage) or 0.0) for stage in ran - set(running)}
    over |= costs.done({stage: ledger.marker(path, stage) or {} for stage in over})
    log = read_jsonl(path / "checkpoints" / "train_log.jsonl")
    newest = _int(ledger.progress(path, "train").get("checkpoint"))
    return costs.totals(costs.costs(events, log, time.time(), over=over, checkpoint=newest))


def last_error(path: Path, stage: str) -> str | None:
    """What the newest of the stage's logs that names an error says; None where none does.

    A log to which nothing was written since the stage's newest job went out, or began, tells of one before it.
    """
    folder = path / "jobs" / stage
    begun = [
        timestamps.parse_time(str(e["time"])).timestamp() - CLOCK_SECONDS
        for e in ledger.events(path, stage=stage)
        if e["event"] in ("submitted", "attempt")
    ]
    written = {
        p: p.stat().st_mtime for p in (*folder.glob("*.out"), *folder.glob("rank-*.log")) if p.is_file()
    }
    for log in sorted(written, key=written.__getitem__, reverse=True):
        if written[log] < max(begun, default=0.0):
            return None
        if (said := said_in(tail_of(log))) is not None:
            return said
    return None


def last_rows(path: Path, size: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The JSON objects in the last part of a file of JSON lines; a line cut at the front is passed over."""
    rows = []
    for line in tail_of(path, size=size).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
