"""Predictions on disk: appended row by row, resumable after any kill, merged once all rows are there. No
torch.

Every process appends to a file of its own, ``predictions.shard-I-of-N.jsonl``, one JSON line a row. Each line
carries a *key*: a digest of the model, the settings and the row's own text (:func:`row_key`). A line counts
only for the row whose key it carries, and only once, so that

* a line torn by a kill is dropped and its row done again,
* the number of shards may change between attempts,
* predictions of another model, other settings or an edited row are never mixed in,
* asking for more rows later keeps the ones already there.

:func:`merge` writes ``predictions.jsonl`` and ``summary.json`` beside them, each renamed into place when
whole. Whoever finishes last may merge, even several at once: all would write the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glmjobs.zero.directories import CONFIG as ADAPTER_CONFIG
from glmjobs.zero.directories import NAMES_BASE, with_bases
from hpc.core.errors import BadInput, WorkFailed, of_system
from hpc.core.files import lock, write_atomic

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system
    fcntl = None  # type: ignore[assignment]

MERGED = ("predictions.jsonl", "summary.json")
"""What is made of the rows, in a folder of scores."""

SAMPLED_BLOCKS = 64
SAMPLED_BYTES = 4096


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of ``count``: every count-th row, so that all parts get short and long ones."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"I/N"``.

        Raises:
            BadInput: unless 1 <= I <= N.
        """
        left, _, right = text.partition("/")
        if (
            left.isascii()
            and right.isascii()
            and left.isdigit()
            and right.isdigit()
            and 1 <= int(left) <= int(right)
        ):
            return cls(int(left), int(right))
        raise BadInput(f"shard {text!r}: write I/N with I from 1 to N, for example 1/8")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def mine(self, positions: Iterable[int]) -> list[int]:
        """Those of the given row positions (from 0) that belong to this part."""
        return [p for p in positions if p % self.count == self.index - 1]

    def path(self, folder: Path) -> Path:
        """This part's file."""
        return folder / f"predictions.shard-{self.index}-of-{self.count}.jsonl"


@dataclass(frozen=True)
class Answer:
    """A model's answer to one row, as a shard file keeps it."""

    id: int | str
    question: str
    gold: str
    prediction: str
    tokens: int
    finish: str  # "stop": the model ended its answer; "length": it was cut

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction(Answer):
    """An answer and its verdict; the fields are those of a line of ``predictions.jsonl``."""

    correct: bool
    gold_value: str
    predicted_value: str
    reason: str
    sure: float = 1.0  # of the verdict, 0 to 1
    trace: Any = ()  # the rules that fired: (side, rule, words)
    status: str = (
        "marked"  # "not marked": an answer of a kind that is not marked; "failed": a rule raised an error
    )
    judge: str = "meaning"  # whose verdict it is
    second: Any = (
        None  # what a second judge says: judge, correct, gold_value, predicted_value, reason, status
    )


def row_key(fingerprint: str, row: Mapping[str, Any]) -> str:
    """Digest that ties a prediction to its model, its settings (``fingerprint``) and its row (id, question,
    gold, and what was said before)."""
    said_before = [row[name] for name in ("history", "system") if row.get(name)]
    text = json.dumps(
        [fingerprint, row["id"], row["question"], row["gold"], *said_before], ensure_ascii=False
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def settings_fingerprint(**settings: Any) -> str:
    """Digest of whatever decides a prediction besides the row: the model's fingerprint, dtype, length limits,
    …"""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def model_fingerprint(model_dir: Path) -> str:
    """Digest of a model directory's content: its configuration, tokenizer and weights, wherever it is copied
    to; of an adapter, its base's as well, wherever that is.

    Small files count whole. Of each large one, the size and 64 evenly spread blocks of 4 KiB count: training
    moves every weight, so this tells models apart without reading 12 GB on every rank.
    """
    digest = hashlib.sha256()
    chain = with_bases(model_dir)
    for directory in chain:
        _add_content(digest, directory, names_base=directory != chain[-1])
    return digest.hexdigest()[:32]


def _add_content(digest: hashlib._Hash, directory: Path, *, names_base: bool) -> None:
    """Add a directory's files to a digest.

    Args:
        names_base: it is an adapter's, whose configuration tells its base by a path; what lies there is what counts.
    """
    for path in sorted(directory.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.suffix in {".md", ".lock"}:
            continue
        if path.name in {"manifest.json", "training_args.bin"}:  # say when it was made, not what it is
            continue
        if names_base and path.name == ADAPTER_CONFIG:
            said = {k: v for k, v in json.loads(path.read_bytes()).items() if k != NAMES_BASE}
            digest.update(json.dumps(said, sort_keys=True).encode())
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= 4 * SAMPLED_BLOCKS * SAMPLED_BYTES:
                digest.update(file.read())
                continue
            for block in range(SAMPLED_BLOCKS):
                file.seek((size - SAMPLED_BYTES) * block // (SAMPLED_BLOCKS - 1))
                digest.update(file.read(SAMPLED_BYTES))


class Writer:
    """Appends rows to one shard's file; a whole line or nothing survives a kill.

    Use as a context manager. A torn last line left by an earlier attempt is cut off first.

    Raises:
        BadInput: the folder cannot be made or written.
        WorkFailed: another process is writing the same shard now, or the disk refuses the line.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path = shard.path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise BadInput(f"{folder}: predictions cannot be written there: {error.strerror}") from None
        try:
            self._lock(shard)
            self._cut_torn_line()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, key: str, answer: Answer, seconds: float, **more: str | bool) -> None:
        """Write one row with one system call.

        Args:
            seconds: time this process spent since its previous row.
            **more: what else the summary needs to know of a row; not part of ``predictions.jsonl``.
        """
        record = {"key": key, "seconds": round(seconds, 4), **more, **answer.as_dict()}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as error:
            raise of_system(error, f"{self.path}: cannot write: {error.strerror}") from None

    def close(self) -> None:
        """Flush to the disk and close, so that another node that opens the file next sees every line."""
        with suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)

    def _lock(self, shard: Shard) -> None:
        # Without locks (Lustre mounted so) it goes on: duplicates are dropped on reading.
        if lock(self._fd, wait=False) is False:
            raise WorkFailed(f"{self.path}: another process is scoring shard {shard} now")

    def _cut_torn_line(self) -> None:
        end = os.fstat(self._fd).st_size
        whole = end
        while whole > 0:
            start = max(0, whole - SAMPLED_BYTES)
            newline = os.pread(self._fd, whole - start, start).rfind(b"\n")
            whole = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if whole < end:
            os.ftruncate(self._fd, whole)


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """Every whole record of every shard file, in a fixed order; torn and foreign lines are passed over."""
    for path in sorted(folder.glob("predictions.shard-*-of-*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written, or torn
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and isinstance(record.get("key"), str):
                    yield record


def collect(folder: Path, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The first record of each wanted key. ``seconds`` there, summed by shard file, are kept by
    :func:`busy_seconds`."""
    wanted = set(keys)
    found: dict[str, dict[str, Any]] = {}
    for record in records(folder):
        if record["key"] in wanted:
            found.setdefault(record["key"], record)
    return found


def busy_seconds(folder: Path, keys: Iterable[str]) -> list[float]:
    """Seconds each shard file's process spent on the wanted rows; repeated rows count, since they took
    time."""
    wanted = set(keys)
    totals = []
    for path in sorted(folder.glob("predictions.shard-*-of-*.jsonl")):
        seconds = 0.0
        with path.open("rb") as file:
            for line in file:
                with suppress(ValueError, TypeError, AttributeError):
                    record = json.loads(line)
                    if record.get("key") in wanted:
                        seconds += float(record.get("seconds", 0.0))
        if seconds:
            totals.append(seconds)
    return totals


def write_text(path: Path, text: str) -> None:
    """Write a whole file; lone surrogates, which UTF-8 cannot hold, are written as escapes.

    Raises:
        WorkFailed: the disk is full or read-only.
    """
    try:
        write_atomic(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise of_system(error, f"{path}: cannot write: {error.strerror}") from None


def merge(
    folder: Path, found: Mapping[str, Mapping[str, Any]], keys: Iterable[str], summary: Mapping[str, Any]
) -> None:
    """Write ``predictions.jsonl`` (rows in the order of ``keys``), then ``summary.json``. Idempotent.

    Raises:
        KeyError: a key is missing from ``found``: merge only what is complete.
    """
    names = Prediction.__dataclass_fields__
    lines = [json.dumps({n: found[key].get(n) for n in names}, ensure_ascii=False) for key in keys]
    rows, figures = (folder / name for name in MERGED)
    write_text(rows, "".join(line + "\n" for line in lines))
    write_text(figures, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
