"""Records of a JSON file, streamed: JSON lines, one array, or objects one after another over several lines; gzip or
not, with a BOM or not.

A record that cannot be read is a :class:`Problem` with its line, and reading goes on; what makes the whole
file unreadable (empty, UTF-16, a cut gzip stream, an array with a mistake inside) is :class:`BadInput`.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from hpc.core import hints
from hpc.core.errors import BadInput

_BOM = codecs.BOM_UTF8
_CHUNK = 1 << 20
_WHITE = " \t\r\n"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive: unpack it first (a workbook of Excel: save it as CSV)",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel: save it as CSV, in UTF-8",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a rar archive: unpack it first",
    b"\xfd7zXZ": "xz data: unpack it first (gzip is read as it is)",
    b"BZh": "bzip2 data: unpack it first (gzip is read as it is)",
    b"\x28\xb5\x2f\xfd": "zstandard data: unpack it first (gzip is read as it is)",
}


_LOOKED_AT = 1000
"""Rows in which a name that stands twice in an object is found; JSON's reader takes the second in silence."""

BLANK = "blank line"
"""The reason of a line with nothing on it."""


class Problem(NamedTuple):
    """Why a row was left out. ``reason`` is one of few; ``detail`` is this row's own."""

    row: int
    line: int
    reason: str
    detail: str = ""


class Record(NamedTuple):
    """One parsed value of the source, with its row number and the line it begins on (both from 1)."""

    row: int
    line: int
    value: object


def read_json(path: Path) -> Iterator[Record | Problem]:
    """Every record of a JSON file, in order.

    In JSON lines the row number is the line number (blank lines count, at the end of the file they don't);
    in an array it is the element's number.

    Raises:
        BadInput: the file is missing, empty, not UTF-8 throughout, cut off, or an array with a mistake in
        it.
    """
    with whole_gzip(path), opened(path) as stream:
        start = first_bytes(path, stream)
        kind = _array_records if start[:1] == b"[" else _spread_records if _spread(start) else _line_records
        yield from kind(path, stream)


@contextmanager
def whole_gzip(path: Path) -> Iterator[None]:
    """Damaged or cut gzip data, and a disk that fails, as one line."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path}: damaged or cut-off gzip data ({error}); fetch the file again") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from None


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, uncompressed."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from None
    with raw:
        if raw.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(raw) as unpacked:
                yield io.BufferedReader(cast("io.RawIOBase", unpacked), _CHUNK)
        else:
            yield raw


def first_bytes(path: Path, stream: io.BufferedReader) -> bytes:
    """The first bytes that are not white space, after checks of what the file is at all."""
    head = stream.peek(4096)
    if not head:
        raise BadInput(f"{path}: the file is empty; expected JSON lines, a JSON array or CSV")
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise BadInput(f"{path}: {what}")
    if head.startswith(b"version https://git-lfs"):
        raise BadInput(
            f"{path}: a Git LFS pointer, not the file itself; fetch it: {hints.lfs_pull(path.parent)}"
        )
    if head[257:262] == b"ustar":
        raise BadInput(f"{path}: a tar archive: unpack it first")
    if head.lstrip(_BOM)[:200].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadInput(f"{path}: a web page or XML, not the data: fetch the file itself again")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:512]:
        raise BadInput(f"{path}:1: UTF-16 or binary, not UTF-8; for text: {recode(path, 'UTF-16')}")
    return head.removeprefix(_BOM).lstrip()


class _Twice(Exception):
    """An object names a column twice."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(repr(next(name for name in names if names.count(name) > 1)))
    return found


def _line_records(path: Path, stream: BinaryIO) -> Iterator[Record | Problem]:
    """JSON lines. Split at line feeds only: U+2028 and its like may stand inside a JSON text."""
    decode, careful = json.JSONDecoder().decode, json.JSONDecoder(object_pairs_hook=_once).decode
    blank: list[int] = []
    seen = False
    for number, raw in enumerate(stream, 1):
        if number == 1:
            raw = raw.removeprefix(_BOM)
        text: str | Problem = _utf8(number, raw)
        if isinstance(text, Problem):
            yield text
            continue
        text = text.strip(_WHITE)
        if not text:
            blank.append(number)
            continue
        for empty in blank:
            yield Problem(empty, empty, BLANK)
        blank.clear()
        seen = True
        try:
            value = (decode if number > _LOOKED_AT else careful)(text)
        except _Twice as twice:
            yield Problem(number, number, f"the column {twice} twice in one object")
            continue
        except (ValueError, RecursionError) as error:
            at = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            yield Problem(number, number, "broken JSON", _json_message(error) + at)
            continue
        yield Record(number, number, value)
    if not seen and blank:
        raise BadInput(f"{path}: the file holds only blank lines; expected JSON lines or a JSON array")


def _utf8(number: int, raw: bytes) -> str | Problem:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Problem(number, number, "not UTF-8", guess_encoding(raw) or f"byte {error.start + 1}")


def guess_encoding(raw: bytes) -> str:
    """The likeliest other encoding of Chinese text in ``raw``, or nothing."""
    for name in ("gb18030", "big5"):
        try:
            raw.decode(name)
        except UnicodeDecodeError:
            continue
        return f"looks like {name.upper()}"
    return ""


def recode(path: str | Path, looks: str) -> str:
    """The command that makes UTF-8 of a text file, beside it; ``looks``: :func:`guess_encoding`'s words."""
    before = looks.removeprefix("looks like ") if looks.startswith(("looks like ", "UTF-16")) else "GB18030"
    there = Path(path)
    made = there.with_name(f"utf8-{there.name.removesuffix('.gz')}")
    read = f"gzip -dc {shlex.quote(str(there))} |" if there.suffix == ".gz" else ""
    words = ["iconv", "-f", before, "-t", "UTF-8", *([] if read else [str(there)])]
    return f"{read} {shlex.join(words)} > {shlex.quote(str(made))}".strip()


def _json_message(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    # What else a decoder raises: Python's limit on the digits of an integer.
    return (
        "nested too deeply" if isinstance(error, RecursionError) else "an integer of more digits than are read"
    )


def _array_records(path: Path, stream: BinaryIO) -> Iterator[Record]:
    """The elements of one JSON array, without holding the whole text."""
    window = _Window(path, stream)
    window.expect("[")
    row = 0
    if window.next_mark() == "]":
        raise BadInput(f"{path}: an empty array; expected rows")
    while True:
        line = window.line
        row += 1
        yield Record(row, line, window.value())
        mark = window.next_mark()
        if mark == "]":
            break
        window.expect(",")
        window.next_mark()
    window.expect("]")
    if window.next_mark(needed=False):
        raise BadInput(
            f"{path}:{window.line}: more text after the array's end; is this JSON lines of arrays?"
        )


def _spread(start: bytes) -> bool:
    """Whether objects are written over several lines each, one after another (as Math23K's file has them)."""
    text = start.decode("utf-8", "ignore")
    if text.split("\n", 1)[0].strip() == "{":
        return True
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end]


def _spread_records(path: Path, stream: BinaryIO) -> Iterator[Record]:
    """Objects that follow each other, over any number of lines."""
    window = _Window(path, stream)
    row = 0
    while window.next_mark(needed=False):
        row += 1
        yield Record(row, window.line, window.value("object"))


class _Window:
    """A moving piece of the text of a file, with the line number of its start."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self.decoder = json.JSONDecoder()
        self.to_text = codecs.getincrementaldecoder("utf-8-sig")("strict")
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    def fill(self) -> bool:
        """Read on, at least as much as is held (retries then cost linear time in all); False at the end."""
        if self.ended:
            return False
        raw = self.stream.read(max(_CHUNK, len(self.text) - self.at))
        self.ended = not raw
        try:
            more = self.to_text.decode(raw, final=self.ended)
        except UnicodeDecodeError:
            hint = guess_encoding(raw)
            raise BadInput(
                f"{self.path}:{self.line}: not UTF-8 ({hint or 'no known encoding'}) from about here; convert it: "
                + recode(self.path, hint)
            ) from None
        self.text, self.at = self.text[self.at :] + more, 0
        return True

    def next_mark(self, needed: bool = True) -> str:
        """Move to the next character that is not white space and show it; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _WHITE:
                self.line += self.text[self.at] == "\n"
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.fill():
                if needed:
                    raise BadInput(
                        f"{self.path}:{self.line}: the array isn't closed; the file may be cut off"
                    )
                return ""

    def expect(self, mark: str) -> None:
        found = self.next_mark()
        if found != mark:
            raise BadInput(f"{self.path}:{self.line}: broken JSON array: expected {mark!r}, found {found!r}")
        self.at += 1

    def value(self, what: str = "array element") -> object:
        """Parse the value that begins here."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                if self.fill():
                    continue
                raise BadInput(
                    f"{self.path}:{self.line}: broken JSON in the {what} that begins here ({_json_message(error)})"
                ) from None
            if end == len(self.text) and self.fill():  # a number may go on in the next piece
                continue
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            return cast("object", value)
