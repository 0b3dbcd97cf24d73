"""Tokenised examples on disk, memory-mapped, made once for each content, tokenizer and settings.

A directory ``tokenised-<fingerprint>`` holds, for n examples with t tokens in all::

    input_ids.bin  int32[t]     labels.bin  int32[t] (-100: no loss)
    offsets.bin    int64[n+1]   rows.bin    int64[n]  (row number in the source)
    tokenised.json counts and fingerprint

It is written beside and renamed into place whole: a directory of that name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glmjobs.data import shared_tokens
from glmjobs.data.framing import (
    LEFT_OUT,
    NO_LABEL,
    Example,
    FamilyLike,
    Frame,
    Limits,
    TooLong,
    examples,
    tokenizer_fingerprint,
)
from glmjobs.data.prepared import Prepared
from glmjobs.data.rows import LossOn, Row, answers
from glmjobs.data.splitting import Part
from hpc.core.errors import BadInput, of_system
from hpc.core.files import beside, remove_stale, sync_directory, write_json

FORMAT = 1
MARKER = "tokenised.json"
_BATCH = 4096  # rows a tokenizer call: enough to keep its threads busy
_FIRST_ROWS = 20  # so many left-out rows are named

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokenised:
    """Tokenised examples. The arrays are memory maps; a copy sent to another process is opened anew there."""

    directory: Path
    figures: dict[str, Any]
    input_ids: Int32s
    labels: Int32s
    offsets: Int64s
    rows: Int64s

    @classmethod
    def load(cls, directory: str | Path) -> Tokenised:
        """Open a finished directory.

        Raises:
            BadInput: it isn't one, or a file's size doesn't match.
        """
        directory = Path(directory)
        try:
            figures = json.loads((directory / MARKER).read_text(encoding="utf-8"))
            examples, tokens = figures["examples"], figures["tokens"]
            return cls(
                directory,
                figures,
                _mapped(directory / "input_ids.bin", np.int32, tokens),
                _mapped(directory / "labels.bin", np.int32, tokens),
                _mapped(directory / "offsets.bin", np.int64, examples + 1),
                _mapped(directory / "rows.bin", np.int64, examples),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{directory}: not whole tokenised data ({error}); remove it to make it anew"
            ) from None

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenised.load, (self.directory,)

    @property
    def lengths(self) -> Int64s:
        """Tokens of each example, frame included: int64[n]."""
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> str:
        return str(self.figures["fingerprint"])

    def digest(self) -> str:
        """SHA-256 of every example's token ids and labels, in order; what was tokenised, whatever it was made from."""
        found = hashlib.sha256()
        for numbers in (self.offsets, self.input_ids, self.labels):
            found.update(np.ascontiguousarray(numbers).data)
        return found.hexdigest()

    def example(self, index: int) -> tuple[Int32s, Int32s]:
        """Token ids and labels of one example."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.input_ids[start:end], self.labels[start:end]


def _mapped(path: Path, dtype: type, count: int) -> Any:
    if path.stat().st_size != count * np.dtype(dtype).itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {count} numbers")
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,))


def tokenise(
    prepared: Prepared,
    part: Part,
    tokenizer: Any,
    family: FamilyLike,
    out_dir: str | Path,
    *,
    max_source_length: int = 512,
    max_target_length: int = 512,
    too_long: TooLong = "drop",
    label_sop: bool = False,
    positions: int | None = None,
    loss_on: LossOn = "all",
    shared: Path | None = None,
) -> Tokenised:
    """The tokenised examples of ``part``, from the cache under ``out_dir`` where they are there already.

    Args:
        tokenizer: a transformers tokenizer.
        family: how an example is framed.
        max_source_length: limit in tokens, see :class:`glmjobs.data.framing.Limits`.
        max_target_length: the same of the answer.
        too_long: "drop" leaves over-long examples out; "keep_end" cuts the beginning of an over-long question.
            An over-long answer is left out in both: cut, it would teach the model to stop in mid-sentence.
        label_sop: the original's labels, where ``<sop>`` is a target too.
        positions: that the model has; what takes more is left out.
        loss_on: of a conversation, "all" answers are learned, each an example with what was said before it in its
            prompt (so that every prompt is the model's own), or the "last".
        shared: a folder of what other runs have tokenised (:mod:`glmjobs.data.shared_tokens`).

    Raises:
        BadInput: no example is short enough.
        WorkFailed: the directory cannot be written.
    """
    frame = Frame.of(family, tokenizer, label_sop)
    limits = Limits(max_source_length, max_target_length, too_long, positions, family.positions_apart)
    settings = {
        "data": prepared.fingerprint,
        "part": part,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "family": family.name,
        "prompt": family.prompt_text("question"),
        "frame": [frame.before, frame.between, frame.behind, frame.labels_between, frame.labels_behind],
        "limits": [max_source_length, max_target_length, too_long, positions],
    }
    if prepared.conversations:
        probe = family.chat_prompt(tokenizer, "question", [("asked", "answered")], "system")
        settings["conversations"] = [loss_on, probe]
    text = json.dumps([FORMAT, settings], sort_keys=True, ensure_ascii=False)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    place = Path(out_dir) / f"tokenised-{part}-{fingerprint[:16]}"
    if place.is_dir():
        return Tokenised.load(place)

    def make() -> None:
        batches = _token_batches(prepared.rows(part), tokenizer, family, frame, limits, loss_on)
        _make(place, fingerprint, batches, frame, limits)

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(place.parent)
        if (folder := shared_tokens.usable(shared)) is None:
            make()
        else:
            with shared_tokens.making(folder, place.name):
                if not (place.is_dir() or _taken(folder / place.name, place)):
                    make()
                    shared_tokens.give(place, folder)
    except OSError as error:
        raise of_system(
            error, f"{place}: cannot write the tokenised data: {error.strerror or error}"
        ) from None
    return Tokenised.load(place)


def _taken(there: Path, place: Path) -> bool:
    """Whether another run's directory could be taken; one that is not whole is removed."""
    if not there.is_dir():
        return False
    try:
        Tokenised.load(there)
    except BadInput:
        shutil.rmtree(there, ignore_errors=True)
        return False
    return shared_tokens.link(there, place)


def _make(
    place: Path,
    fingerprint: str,
    batches: Iterable[list[tuple[Row, Example]]],
    frame: Frame,
    limits: Limits,
) -> None:
    """Write everything beside ``place`` and rename it there."""
    started = time.monotonic()
    temporary = beside(place)
    temporary.mkdir()
    try:
        writer = _Writer(temporary, frame, limits)
        with writer:
            for batch in batches:
                writer.add(batch)
        figures = writer.figures()
        if not figures["examples"]:
            raise BadInput(_none_left(figures, limits))
        seconds = round(time.monotonic() - started, 3)
        write_json(
            temporary / MARKER, {"format": FORMAT, "fingerprint": fingerprint, **figures, "seconds": seconds}
        )
        sync_directory(temporary)
        try:
            temporary.rename(place)
        except OSError:
            if not place.is_dir():  # else: another process was faster, with the same content
                raise
        sync_directory(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _token_batches(
    rows: Iterable[Row], tokenizer: Any, family: FamilyLike, frame: Frame, limits: Limits, loss_on: LossOn
) -> Iterator[list[tuple[Row, Example]]]:
    """Batches of rows' answers in token ids; a conversation has several.

    The next batch is tokenised in a thread (compiled code, outside the interpreter's lock) while the caller
    frames and writes this one.
    """
    remaining = iter(rows)

    def following() -> list[tuple[Row, Example]]:
        batch = [(row, asked) for row in islice(remaining, _BATCH) for asked in answers(row, loss_on)]
        found = examples([asked for _, asked in batch], tokenizer, family, frame, limits)
        return [(row, example) for (row, _), example in zip(batch, found, strict=True)]

    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(following)
        while True:
            found = future.result()
            if not found:
                return
            future = pool.submit(following)
            yield found


class _Writer:
    """The four arrays, appended batch by batch, and what was left out."""

    def __init__(self, directory: Path, frame: Frame, limits: Limits) -> None:
        self.frame, self.limits = frame, limits
        self.files = {name: (directory / f"{name}.bin").open("wb") for name in ("input_ids", "labels")}
        self.directory = directory
        self.offsets, self.rows = array("q", [0]), array("q")
        self.target_tokens = 0
        self.left_out: dict[str, int] = {**dict.fromkeys(LEFT_OUT, 0), "answer without tokens": 0}
        self.first_left_out: list[dict[str, Any]] = []
        self.cut_questions = 0
        self.longest = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.offsets_file("offsets", self.offsets)
        self.offsets_file("rows", self.rows)
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def offsets_file(self, name: str, numbers: array[int]) -> None:
        """Write an int64 array."""
        with (self.directory / f"{name}.bin").open("wb") as file:
            numbers.tofile(file)
            file.flush()
            os.fsync(file.fileno())

    def add(self, batch: list[tuple[Row, Example]]) -> None:
        """Frame and append one batch."""
        source_limit = self.limits.source()
        all_ids, all_labels = array("i"), array("i")
        end = self.offsets[-1]
        for row, example in batch:
            source, target = example.asked(self.frame), len(example.target)
            if not target:
                self._leave_out(row, "answer without tokens", 0)
                continue
            if why := self.limits.left_out(self.frame, source, target, example.talk):
                tokens = {"long question": source, "long answer": target}
                self._leave_out(row, why, tokens.get(why, source + target))
                continue
            if source > source_limit:
                example = example._replace(source=example.source[-source_limit:], shortened=True)
            self.cut_questions += example.shortened
            ids, labels = example.framed(self.frame)
            all_ids.extend(ids)
            all_labels.extend(labels)
            end += len(ids)
            self.offsets.append(end)
            self.rows.append(row.id)
            self.longest = max(self.longest, len(ids))
        if not len(all_ids):
            return
        labels_seen = np.frombuffer(all_labels, dtype=np.int32)
        self.target_tokens += int((labels_seen != NO_LABEL).sum())
        all_ids.tofile(self.files["input_ids"])
        all_labels.tofile(self.files["labels"])

    def _leave_out(self, row: Row, reason: str, tokens: int) -> None:
        self.left_out[reason] += 1
        if len(self.first_left_out) < _FIRST_ROWS:
            self.first_left_out.append({"row": row.id, "reason": reason, "tokens": tokens})

    def figures(self) -> dict[str, Any]:
        """Counts for tokenised.json."""
        return {
            "examples": len(self.rows),
            "tokens": self.offsets[-1],
            "target_tokens": self.target_tokens,
            "longest": self.longest,
            "left_out": self.left_out,
            "first_left_out": self.first_left_out,
            "cut_questions": self.cut_questions,
        }


def _none_left(figures: dict[str, Any], limits: Limits) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in figures["left_out"].items() if count)
    return (
        f"no example is left to train on ({left or 'there were none'}): raise data.max_source_length "
        f"({limits.max_source_length}) or data.max_target_length ({limits.max_target_length})"
    )
