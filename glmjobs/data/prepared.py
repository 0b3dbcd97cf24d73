"""The data directory of a run: train.jsonl, dev.jsonl, and prepare.json, written last.

``prepare`` reads a source once, checks every row, splits, leaves train rows out that ask a dev row's
question, and checks the written files again. It is idempotent: with the same content and settings it
returns at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from glmjobs.data.forms import AUTO
from glmjobs.data.place import MARKER, begin, check_place, finished, make_place, unwritable
from glmjobs.data.reading import Problem
from glmjobs.data.rows import Columns, Row, row_key
from glmjobs.data.sources import Source, open_source
from glmjobs.data.splitting import Part, Split
from glmjobs.data.validating import BLANK, MAX_BAD_SHARE, Validator
from hpc.core.errors import BadInput, WorkFailed
from hpc.core.files import atomic_file, remove_stale, write_json

FORMAT = 2  # raise it when the written form changes: old directories are then made anew


@dataclass(frozen=True)
class Prepared:
    """A data directory that is whole. ``record`` is its prepare.json."""

    directory: Path
    record: dict[str, Any]

    @classmethod
    def load(cls, directory: str | Path) -> Prepared:
        """Open a data directory.

        Raises:
            BadInput: it isn't one, was never finished, or its files changed size since.
        """
        directory = Path(directory)
        found = existing(directory)
        if found is None:
            raise BadInput(
                f"{directory}: not a whole data directory ({MARKER} missing or not matching its files)"
            )
        return found

    @property
    def fingerprint(self) -> str:
        return str(self.record["fingerprint"])

    @property
    def train(self) -> int:
        """Number of train rows."""
        return int(self.record["train"])

    @property
    def dev(self) -> int:
        """Number of dev rows."""
        return int(self.record["dev"])

    @property
    def conversations(self) -> int:
        """Rows in which something was said before the question, or that have a system prompt."""
        return int(self.record.get("conversations", 0))

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        return dict(self.record["dropped_by_reason"])

    @property
    def lost(self) -> float:
        """The share of the rows that were left out as unusable, or lost a column such as ``history``; the larger."""
        dropped = sum(n for reason, n in self.dropped_by_reason.items() if reason != BLANK)
        kept = max(1, int(self.record["rows"]) - sum(self.dropped_by_reason.values()))
        return max(dropped / (kept + dropped), int(self.record["context"]["rows"]) / kept)

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that training does not see, or not whole, by reason; those that were asked for (ranges) are none."""
        found = {f"unusable: {reason}": n for reason, n in self.dropped_by_reason.items() if reason != BLANK}
        found |= {f"without their {name!r}": int(n) for name, n in self.record["context"]["columns"].items()}
        removed = int(self.record["overlap"]["train_rows_removed"])
        return {**found, **({"a dev row's question": removed} if removed else {})}

    def path(self, part: Part) -> Path:
        return self.directory / f"{part}.jsonl"

    def rows(self, part: Part) -> Iterator[Row]:
        """The rows of a part, in the source's order."""
        return read_rows(self.path(part))


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a train.jsonl or dev.jsonl."""
    decode = json.JSONDecoder().decode
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            value = decode(line)
            yield Row.of(value)


def prepare(
    source: str | Path | Source,
    out_dir: str | Path,
    *,
    prompt_column: str = "instruction",
    query_column: str = "input",
    response_column: str = "output",
    dev_rows: str | None = "1-10000",
    train_rows: str = "rest",
    deduplicate: bool = True,
    allow_dropped: float = MAX_BAD_SHARE,
    form: str = AUTO,
) -> Prepared:
    """Bring ``source`` into the data directory ``out_dir``.

    Args:
        source: a JSON, JSON lines, gzip, parquet or arrow file, a directory of tables, a hub id, or a Source.
        out_dir: made if absent.
        prompt_column: the source's name for the question.
        query_column: its name for what belongs to the question; "" for none.
        response_column: its name for the answer.
        dev_rows: row ranges such as "1-100,205" (:mod:`glmjobs.data.splitting`); None: no row is scored.
        train_rows: row ranges, or "rest" for all others.
        deduplicate: leave train rows out whose question (normalised) is also a dev row's.
        allow_dropped: share of the rows, 0 to 1, that may be unusable, or lose a column such as ``history``.
        form: the rows' form (:mod:`glmjobs.data.forms`), or found by looking.

    Raises:
        BadInput: the source or a setting is wrong, or ``out_dir`` holds the source itself or another file that would
            be overwritten. Nothing is written then.
    """
    out = Path(out_dir)
    opened = open_source(source)
    check_place(out, source)
    columns = Columns(prompt_column, query_column, response_column)
    split = Split.parse(dev_rows, train_rows)
    validator = Validator(opened, columns, allow_dropped, form)
    settings = {
        "columns": list(validator.columns),
        "dev_rows": dev_rows,
        "train_rows": train_rows,
        "deduplicate": deduplicate,
        # BELLE's form was the only one once: what was prepared then stays valid.
        **({} if validator.form.name == "belle" else {"form": validator.form.name}),
    }
    fingerprint = fingerprint_of(opened.digest(columns), settings)
    done = existing(out)
    if done is not None and done.fingerprint == fingerprint and done.lost <= allow_dropped:
        return done
    started = time.monotonic()
    try:
        record = _write(out, validator, split, deduplicate)
    except OSError as error:
        raise unwritable(out, error) from None
    record = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "source": opened.name,
        "settings": settings,
        **record,
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(out / MARKER, record)
    finished(out)
    return Prepared(out, record)


def fingerprint_of(digest: str, settings: dict[str, Any]) -> str:
    """What tells one content, prepared one way, from all others."""
    text = json.dumps([FORMAT, digest, settings], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def existing(directory: Path) -> Prepared | None:
    """The directory as it stands, if it is whole."""
    try:
        record = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        same = all((directory / f["path"]).stat().st_size == f["bytes"] for f in record["files"])
        whole = record["format"] == FORMAT and same and bool(record["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Prepared(directory, record) if whole else None


def _write(out: Path, validator: Validator, split: Split, deduplicate: bool) -> dict[str, Any]:
    """Write both files under their final names and return the record of it. The marker is the caller's."""
    made = [place for place in [out, *out.parents] if not os.path.lexists(place)]
    make_place(out)
    try:
        remove_stale(out)
        with atomic_file(out / "dev.jsonl") as dev, atomic_file(out / "train.jsonl") as train:
            writer = _Writer(validator, split, {"dev": dev, "train": train})
            writer.run()
            if deduplicate:
                writer.remove_dev_questions()
            writer.check(deduplicate)
            begin(out)
    except BaseException:
        for directory in made:  # nothing half-written, not even an empty directory
            try:
                directory.rmdir()
            except OSError:
                break
        raise
    return writer.record()


class _Writer:
    """The rows' way into the two files, and the counts of it."""

    def __init__(self, validator: Validator, split: Split, files: dict[Part, BinaryIO]) -> None:
        self.validator, self.split, self.files = validator, split, files
        self.counts: dict[Part, int] = {"dev": 0, "train": 0}
        self.unused = 0
        self.dev_keys: set[bytes] = set()
        self.train_keys = bytearray()  # 16 bytes a row
        self.train_ids, self.train_sizes = array("Q"), array("Q")  # row number, bytes of its line
        self.removed: list[int] = []
        self.dev_in_train = 0
        self.written: list[dict[str, Any]] = []

    def run(self) -> None:
        """One pass over the source."""
        encode = json.JSONEncoder(ensure_ascii=False).encode
        for row in self.validator.rows_and_problems():
            if isinstance(row, Problem):
                continue
            part = self.split.part(row.id)
            if part is None:
                self.unused += 1
                continue
            line = encode(row.as_dict()).encode() + b"\n"
            self.files[part].write(line)
            self.counts[part] += 1
            key = row_key(row)
            if part == "dev":
                self.dev_keys.add(key)
            else:
                self.train_keys += key
                self.train_ids.append(row.id)
                self.train_sizes.append(len(line))
        self.split.check(self.validator.rows, self.validator.source.name)

    def remove_dev_questions(self) -> None:
        """Take the train rows out whose question is a dev row's (which may stand after them in the file)."""
        keys = self.train_keys
        doubled = [bytes(keys[at : at + 16]) in self.dev_keys for at in range(0, len(keys), 16)]
        if not any(doubled):
            return
        file = self.files["train"]
        file.flush()
        with Path(file.name).open("rb") as reader:  # the writer stays behind the reader, in the same file
            file.seek(0)
            for size, double in zip(self.train_sizes, doubled, strict=True):
                line = reader.read(size)
                if not double:
                    file.write(line)
        file.truncate()
        self.removed = [row for row, double in zip(self.train_ids, doubled, strict=True) if double]
        self.counts["train"] -= len(self.removed)

    def check(self, deduplicate: bool) -> None:
        """Read both files again: none empty, every row counted, and how many train rows ask a dev question.

        Raises:
            BadInput: a part has no rows.
            WorkFailed: the files are not what was meant to be written.
        """
        seen: dict[Part, list[bytes]] = {}
        for part in ("dev", "train"):
            file = self.files[part]
            file.flush()
            digest, keys = hashlib.sha256(), []
            with Path(file.name).open("rb") as reader:
                for line in reader:
                    digest.update(line)
                    keys.append(row_key(Row.of(json.loads(line))))
            if len(keys) != self.counts[part]:
                raise WorkFailed(f"{part}.jsonl: {len(keys)} rows read back, {self.counts[part]} written")
            if not keys and (part == "train" or self.split.dev.ranges):
                raise BadInput(self._nothing_left(part))
            seen[part] = keys
            name = f"{part}.jsonl"
            self.written.append({"path": name, "bytes": file.tell(), "sha256": digest.hexdigest()})
        dev = set(seen["dev"])
        self.dev_in_train = sum(key in dev for key in seen["train"])
        if deduplicate and self.dev_in_train:
            raise WorkFailed(f"train.jsonl still holds {self.dev_in_train} dev questions")

    def _nothing_left(self, part: Part) -> str:
        source, rows = self.validator.source.name, self.validator.rows
        why = f"{source}: no {part} row is left of its {rows} rows"
        if self.removed:
            return f"{why}: all {len(self.removed)} train rows ask questions of dev rows"
        unusable = f"{len(self.validator.problems)} unusable"
        if others := self.validator.other_forms():
            unusable += f"; of other forms: {others}"
        return f"{why} ({unusable}); change data.dev_rows or data.train_rows, or mend the rows"

    def record(self) -> dict[str, Any]:
        """What prepare.json says."""
        problems = self.validator.problems
        return {
            "form": {"name": self.validator.form.name, "title": self.validator.form.title},
            "conversations": self.validator.talks,
            "rows": self.validator.rows,
            "train": self.counts["train"],
            "dev": self.counts["dev"],
            "unused": self.unused,
            "dropped_by_reason": dict(Counter(problem.reason for problem in problems).most_common()),
            "overlap": {
                "train_rows_removed": len(self.removed),
                "rows": self.removed,
                "checked": True,
                "dev_in_train": self.dev_in_train,
            },
            "context": {"rows": self.validator.context_rows, "columns": dict(self.validator.context)},
            "unmarked": {"rows": self.validator.unmarked, "lines": self.validator.unmarked_lines},
            "files_left_out": self.validator.source.left_out,
            "files": self.written,
            "dropped": [problem._asdict() for problem in problems],
        }
