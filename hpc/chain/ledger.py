"""What happened, on disk: the ledger and the stage markers.

The run directory is the truth; Slurm's own memory can be late, purged or switched off. Three kinds of record:

* ``ledger.jsonl``: one JSON object a line, appended, never rewritten (:func:`append`, :func:`read`).
* ``stages/<stage>.json``: written last and atomically when a stage has an outcome (:func:`write_marker`).
* ``stages/<stage>.progress.json``: how far a running stage is (:func:`write_progress`), so that whoever decides about
  another attempt can see whether this one got anywhere.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpc.core import timestamps
from hpc.core.files import Json, lock, naming, read_json, read_jsonl, sha256_file, write_json

LEDGER = "ledger.jsonl"


def append(run: Path, event: str, *, durable: bool = True, **fields: Any) -> Json:
    """Append one event to the run's ledger and return it.

    The line is written by one ``write`` under a lock, so that events of several jobs never mix, and flushed to disk.

    Args:
        durable: False leaves the flushing to a later event; the line survives its process, but not a power cut.
    """
    record: Json = {
        "time": timestamps.now(),
        "event": event,
        **{k: v for k, v in fields.items() if v is not None},
    }
    line = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
    with naming(run / LEDGER):
        descriptor = os.open(run / LEDGER, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            lock(descriptor)
            size = os.fstat(descriptor).st_size
            # A writer that died half-way leaves a torn last line: end it, so that this event has a line of its own.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + line.encode())
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return record


def flush(run: Path) -> None:
    """Make every event written so far durable."""
    descriptor = os.open(run / LEDGER, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(run: Path) -> list[Json]:
    """Every whole event of the run's ledger, oldest first. Torn lines (a writer was killed) are passed over."""
    return list(read_jsonl(run / LEDGER))


def events(run: Path, *, event: str | None = None, stage: str | None = None) -> list[Json]:
    """The ledger's events of one kind and one stage, oldest first."""
    return [
        e
        for e in read(run)
        if (event is None or e.get("event") == event) and (stage is None or e.get("stage") == stage)
    ]


def marker(run: Path, stage: str) -> Json | None:
    """A stage's marker, or None while it has no outcome.

    Raises:
        PermissionError: it may not be read: nobody can tell then what is done.
    """
    path = run / "stages" / f"{stage}.json"
    found = read_json(path)
    if found is None and path.exists() and not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return found


def is_done(run: Path, stage: str) -> bool:
    """Whether the stage's marker says that it is done."""
    found = marker(run, stage)
    return found is not None and found.get("outcome") == "done"


def write_marker(
    run: Path,
    stage: str,
    *,
    outcome: str,
    started: str,
    outputs: Iterable[Path] = (),
    figures: Json | None = None,
) -> Json:
    """Write ``stages/<stage>.json``, the last thing a stage does.

    Args:
        outputs: files inside the run directory; listed with size (bytes) and SHA-256.
        started: when the stage began, as :func:`hpc.core.timestamps.now` gives it.
    """
    ended = timestamps.now()
    seconds = (timestamps.parse_time(ended) - timestamps.parse_time(started)).total_seconds()
    record: Json = {
        "stage": stage,
        "outcome": outcome,
        "attempt": len(events(run, event="attempt", stage=stage)) or 1,
        "started": started,
        "ended": ended,
        "seconds": round(seconds, 3),
        "outputs": [describe(run, path) for path in outputs],
        "figures": figures or {},
    }
    write_json(run / "stages" / f"{stage}.json", record)
    return record


def reopen(run: Path, stage: str, why: str, **figures: Any) -> None:
    """A stage that is done is to be done again, or to go on: on record, with what it had come to; its marker goes.

    Nothing where it was not done.
    """
    if is_done(run, stage):
        append(run, "reopened", stage=stage, why=why, **figures)
        (run / "stages" / f"{stage}.json").unlink()


def is_ending(run: Path) -> bool:
    """Whether the last that was heard of a run is that a stage ended, and not well, or its chain on this machine."""
    kinds = ("submitted", "healed", "attempt", "ended", "requeued", "not_requeued", "chain_ended")
    last = next((e for e in reversed(read(run)) if e.get("event") in kinds), {})
    return last.get("event") in ("chain_ended", "not_requeued") or (
        last.get("event") == "ended" and last.get("outcome") != "done"
    )


def reopened(run: Path, stage: str) -> str:
    """Why a stage is to be done again that nobody has begun again yet; "" where that is not so."""
    told = [e for e in events(run, stage=stage) if e.get("event") in ("reopened", "healed", "attempt")]
    return str(told[-1].get("why")) if told and told[-1]["event"] == "reopened" else ""


def describe(run: Path, path: Path) -> Json:
    """A file's path inside the run, size in bytes and SHA-256."""
    try:
        name = str(path.relative_to(run))
    except ValueError:
        name = str(path)
    return {"path": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def write_progress(run: Path, stage: str, **fields: Any) -> None:
    """Say how far a stage is (for train: ``step``, ``checkpoint``). Not durable on purpose: it is only news."""
    path = run / "stages" / f"{stage}.progress.json"
    write_json(path, {"time": timestamps.now(), **fields}, durable=False)


def progress(run: Path, stage: str) -> Json:
    """The latest progress of a stage; empty while there is none."""
    return read_json(run / "stages" / f"{stage}.progress.json") or {}
