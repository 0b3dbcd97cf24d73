"""What happened, on disk: the ledger, the stage markers, and the files' atomic writes both rest on.

The run directory is the truth; Slurm's own memory can be late, purged or switched off. Three kinds of record:

* ``ledger.jsonl``: one JSON object a line, appended, never rewritten (:func:`append`, :func:`read`).
* ``stages/<stage>.json``: written last and atomically when a stage has an outcome (:func:`write_marker`).
* ``stages/<stage>.progress.json``: how far a running stage is (:func:`write_progress`), so that whoever decides about
  another attempt can see whether this one got anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

Json = dict[str, Any]
LEDGER = "ledger.jsonl"


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds, as every record carries it."""
    return stamp(datetime.now(timezone.utc).timestamp())


def stamp(seconds: float) -> str:
    """Unix seconds in that form."""
    when = datetime.fromtimestamp(seconds, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def append(run: Path, event: str, *, durable: bool = True, **fields: Any) -> Json:
    """Append one event to the run's ledger and return it.

    The line is written by one ``write`` under a lock, so that events of several jobs never mix, and flushed to disk.

    Args:
        durable: False leaves the flushing to a later event; the line survives its process, but not a power cut.
    """
    record: Json = {"time": now(), "event": event, **{k: v for k, v in fields.items() if v is not None}}
    line = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
    descriptor = os.open(run / LEDGER, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        _lock(descriptor)
        size = os.fstat(descriptor).st_size
        # A writer that died half-way leaves a torn last line: end it, so that this event stands on a line of its own.
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


def _lock(descriptor: int) -> None:
    """Lock where the file system can; some parallel file systems are mounted without locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextlib.contextmanager
def exclusive(path: Path, *, patience: float = 0.0) -> Iterator[bool]:
    """Hold ``path`` as a lock file; yields False where another process kept it for ``patience`` seconds.

    The lock goes with the process that holds it, however that ends. On a file system that has no locks it is
    given to everyone: what it guards has to be right without it, only later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + patience
    try:
        held = _try_lock(descriptor)
        while not held and time.monotonic() < until:
            time.sleep(0.1)
            held = _try_lock(descriptor)
        yield held
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read(run: Path) -> list[Json]:
    """Every whole event of the run's ledger, oldest first. Torn lines (a writer was killed) are passed over."""
    return list(read_jsonl(run / LEDGER))


def read_jsonl(path: Path) -> Iterator[Json]:
    """The JSON objects of a file, one a line; lines that are not whole objects are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def events(run: Path, *, event: str | None = None, stage: str | None = None) -> list[Json]:
    """The ledger's events of one kind and one stage, oldest first."""
    return [
        e
        for e in read(run)
        if (event is None or e.get("event") == event) and (stage is None or e.get("stage") == stage)
    ]


def write_atomic(path: Path, data: str | bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Write beside, flush to disk (where ``durable``), rename: readers see the old file or the whole new one, never a
    part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
        if durable:
            sync_directory(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Make a rename in ``path`` durable (a no-op where directories cannot be synced)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically, indented for people."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Json | None:
    """A JSON object from a file, or None where it is absent or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def marker(run: Path, stage: str) -> Json | None:
    """A stage's marker, or None while it has no outcome."""
    return read_json(run / "stages" / f"{stage}.json")


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
        started: when the stage began, as :func:`now` gives it.
    """
    ended = now()
    seconds = (parse_time(ended) - parse_time(started)).total_seconds()
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


def describe(run: Path, path: Path) -> Json:
    """A file's path inside the run, size in bytes and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    try:
        name = str(path.relative_to(run))
    except ValueError:
        name = str(path)
    return {"path": name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def write_progress(run: Path, stage: str, **fields: Any) -> None:
    """Say how far a stage is (for train: ``step``, ``checkpoint``). Not durable on purpose: it is only news."""
    path = run / "stages" / f"{stage}.progress.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"time": now(), **fields}, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def progress(run: Path, stage: str) -> Json:
    """The latest progress of a stage; empty while there is none."""
    return read_json(run / "stages" / f"{stage}.progress.json") or {}


def parse_time(text: str) -> datetime:
    """The inverse of :func:`now`."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
