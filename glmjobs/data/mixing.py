"""Several sources as one data directory: each read, checked and split on its own, then their rows put together.

Rows are neither lost nor repeated unless a source asks for it: ``weight`` says how often its train rows are read in an
epoch (0.5: a seeded half of them; 2: each twice), ``rows`` how many of them. Which ones is decided by a hash of seed,
source and row, so every machine chooses the same. A train row that asks a dev row's question, of whichever source, is
left out.

The ids of a source's rows go on behind those of the source before it; ``prepare.json`` says where each begins.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from glmjobs.data.forms import AUTO
from glmjobs.data.place import MARKER, begin, check_place, finished, make_place, unwritable
from glmjobs.data.prepared import FORMAT, Prepared, existing, fingerprint_of, prepare
from glmjobs.data.rows import Row, row_key
from glmjobs.data.sources import Source
from glmjobs.data.splitting import Part
from hpc.core.errors import BadInput
from hpc.core.files import atomic_file, remove_stale, sha256_file, write_json

FOLDER = "sources"
"""Under the data directory: each source's own, prepared."""


@dataclass(frozen=True)
class Mixed:
    """One source, and how much of it is read.

    Attributes:
        dev_rows: row ranges that are scored; None: none.
        weight: how often each train row is read in an epoch.
        rows: so many train rows instead.
    """

    name: str
    source: str | Path | Source
    form: str = AUTO
    dev_rows: str | None = None
    weight: float = 1.0
    rows: int | None = None


def prepare_mixed(
    sources: Sequence[Mixed], out_dir: str | Path, *, seed: int = 0, deduplicate: bool = True, **settings: Any
) -> Prepared:
    """Bring several sources into the data directory ``out_dir``.

    Args:
        seed: decides which rows are read, where not all are.
        deduplicate: leave train rows out whose question is a dev row's, of any source.
        **settings: of :func:`glmjobs.data.prepared.prepare`, the same for all sources.

    Raises:
        BadInput: a source or a setting is wrong, or a source has fewer rows than are asked of it.
        WorkFailed: the directory cannot be written.
    """
    out, started = Path(out_dir), time.monotonic()
    for one in sources:
        check_place(out, one.source)
    parts = [_prepared(one, out / FOLDER / one.name, deduplicate, settings) for one in sources]
    wanted = [
        [one.name, one.weight, one.rows, part.fingerprint] for one, part in zip(sources, parts, strict=True)
    ]
    fingerprint = fingerprint_of("mixed", {"sources": wanted, "seed": seed, "deduplicate": deduplicate})
    done = existing(out)
    if done is not None and done.fingerprint == fingerprint:
        return done
    try:
        record = _write(out, list(zip(sources, parts, strict=True)), seed, deduplicate)
    except OSError as error:
        raise unwritable(out, error) from None
    record |= {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "settings": {"deduplicate": deduplicate, "seed": seed},
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(out / MARKER, record)
    finished(out)
    return Prepared(out, record)


@contextmanager
def of_source(name: str) -> Iterator[None]:
    """Refusals say of which of several sources they are; settings that each has of its own lose their ``data.``."""
    try:
        yield
    except BadInput as error:
        said = str(error).replace("--set data.form=", "form: ")
        said = said.replace("data.form", "form").replace("data.dev_rows", "dev_rows")
        raise BadInput(f"data.sources: {name}: {said}") from None


def _prepared(one: Mixed, out: Path, deduplicate: bool, settings: dict[str, Any]) -> Prepared:
    with of_source(one.name):
        return prepare(
            one.source, out, dev_rows=one.dev_rows, deduplicate=deduplicate, form=one.form, **settings
        )


def source_of(record: dict[str, Any], id: int) -> str:
    """The name of the source that a row of a mixed data directory came from; "" where there is one source.

    Args:
        record: the directory's prepare.json.
    """
    before = [source["name"] for source in record.get("sources", ()) if source["first"] <= id]
    return str(before[-1]) if before else ""


def _write(out: Path, parts: list[tuple[Mixed, Prepared]], seed: int, deduplicate: bool) -> dict[str, Any]:
    make_place(out)
    remove_stale(out)
    offsets = [0]
    for _, part in parts:
        offsets.append(offsets[-1] + int(part.record["rows"]))
    dev_keys = {row_key(row) for _, part in parts for row in part.rows("dev")}
    if not dev_keys:
        raise BadInput("data.sources: none has dev_rows: name some rows to be scored")
    removed: list[int] = []
    described: list[dict[str, Any]] = []
    with atomic_file(out / "dev.jsonl") as dev, atomic_file(out / "train.jsonl") as train:
        for (one, part), offset in zip(parts, offsets, strict=False):
            asked = {row.id: row_key(row) in dev_keys for row in part.rows("train")}
            kept = [id for id, of_dev in asked.items() if not (deduplicate and of_dev)]
            removed += [id + offset for id, of_dev in asked.items() if deduplicate and of_dev]
            times = _times(one, kept, seed)
            for row in _shifted(part, "train", offset):
                for _ in range(times.get(row.id - offset, 0)):
                    _line(train, row)
            described.append(_described(one, part, offset, len(kept), times))
        shifted = (_shifted(part, "dev", offset) for (_, part), offset in zip(parts, offsets, strict=False))
        for together in zip_longest(*shifted):  # in turn, so that the first so many are of all sources
            for row in filter(None, together):
                _line(dev, row)
        begin(out)
    return _record(out, parts, described, removed, deduplicate)


def _times(one: Mixed, kept: list[int], seed: int) -> dict[int, int]:
    """How often each train row is read in an epoch."""
    if one.rows is not None and one.rows > len(kept):
        raise BadInput(
            f"data.sources: {one.name}: rows = {one.rows:,}, but it has {len(kept):,} train rows; ask for fewer, or "
            "for weight, which repeats them"
        )
    all_of_them = round(one.weight * len(kept)) if one.rows is None else one.rows
    whole, extra = divmod(all_of_them, len(kept) or 1)
    ranked = sorted(kept, key=lambda id: hashlib.blake2b(f"{seed} {one.name} {id}".encode()).digest())
    return {id: whole + (at < extra) for at, id in enumerate(ranked)}


def _shifted(part: Prepared, which: Part, offset: int) -> Iterator[Row]:
    return (row._replace(id=row.id + offset) for row in part.rows(which))


def _line(file: BinaryIO, row: Row) -> None:
    file.write(json.dumps(row.as_dict(), ensure_ascii=False).encode() + b"\n")


def _described(one: Mixed, part: Prepared, offset: int, kept: int, times: dict[int, int]) -> dict[str, Any]:
    """A source's counts: its train rows, how many are read in an epoch (each time counted), and how many never."""
    return {
        "name": one.name,
        "source": part.record["source"],
        "form": part.record["form"]["name"],
        "first": offset + 1,
        "rows": part.record["rows"],
        "dev": part.dev,
        "train": kept,
        "read": sum(times.values()),
        "unread": sum(not often for often in times.values()),
        "weight": one.weight if one.rows is None else None,
        "dropped": sum(part.dropped_by_reason.values()),
    }


def _record(
    out: Path, parts: list[tuple[Mixed, Prepared]], described: list[dict[str, Any]], removed: list[int],
    deduplicate: bool,
) -> dict[str, Any]:  # fmt: skip
    """What prepare.json says: sums over the sources, and each source's counts."""
    records = [part.record for _, part in parts]
    train, dev = (sum(source[key] for source in described) for key in ("read", "dev"))
    if not train:
        raise BadInput("data.sources: no train row is left; ask for more rows, or name other dev rows")
    files = [
        {"path": name, "bytes": (out / name).stat().st_size, "sha256": sha256_file(out / name)}
        for name in ("dev.jsonl", "train.jsonl")
    ]
    own = sum(len(record["overlap"]["rows"]) for record in records)
    dropped: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    for record in records:
        dropped.update(record["dropped_by_reason"])
        columns.update(record["context"]["columns"])
    return {
        "source": ", ".join(source["name"] for source in described),
        "sources": described,
        "form": {"name": "mixed", "title": f"{len(parts)} sources"},
        "conversations": sum(record["conversations"] for record in records),
        "rows": sum(record["rows"] for record in records),
        "train": train,
        "dev": dev,
        "unused": sum(source["unread"] for source in described) + sum(record["unused"] for record in records),
        "dropped_by_reason": dict(dropped.most_common()),
        "overlap": {
            "train_rows_removed": own + len(removed), "rows": removed, "checked": True,
            "dev_in_train": 0 if deduplicate else sum(record["overlap"]["dev_in_train"] for record in records),
        },
        "context": {"rows": sum(record["context"]["rows"] for record in records), "columns": dict(columns)},
        "unmarked": {"rows": sum(record.get("unmarked", {}).get("rows", 0) for record in records), "lines": []},
        "files_left_out": [line for record in records for line in record["files_left_out"]],
        "files": files,
        "dropped": [problem for record in records for problem in record["dropped"]],
    }  # fmt: skip
