"""Records of a table as text: CSV, TSV, or with semicolons; a header line first, quoted cells as Excel writes them.

Every cell is text: an answer of 007 or 1.50 stays as it is, and an empty cell is "".
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from glmjobs.data.reading import Problem, Record, first_bytes, guess_encoding, opened, recode, whole_gzip
from hpc.core.errors import BadInput

_LONGEST_CELL = 2**31 - 1
_MARKS = {"\t": "TSV", ",": "CSV", ";": "CSV"}


def delimiter(path: Path) -> str | None:
    """What parts the cells of a text table: by the file's name, or by a first line of several short names; None: it is
    none.

    Raises:
        BadInput: the file cannot be read, or is of no text form.
    """
    with opened(path) as stream, whole_gzip(path):
        first = first_bytes(path, stream)
    if first[:1] in (b"[", b"{"):
        return None
    line = first.split(b"\n", 1)[0].strip()
    counted = max(_MARKS, key=lambda mark: line.count(mark.encode()))
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending == ".tsv":
        return "\t"
    if ending == ".csv":
        return counted if counted.encode() in line else ","
    cells = line.split(counted.encode())
    short = all(len(cell) <= 40 and cell[:1] not in b'{["' for cell in cells)
    return counted if len(cells) > 1 and short and cells[-1] else None


def read_delimited(path: Path, mark: str, names: Sequence[str] | None = None) -> Iterator[Record | Problem]:
    """Every record, in order; rows are counted from 1 without the header.

    Args:
        mark: what parts the cells.
        names: of the columns, where the file has no header.

    Raises:
        BadInput: the file is not UTF-8 throughout, a quote is not closed, a column is there twice, or there are no
            rows.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with opened(path) as stream, whole_gzip(path):
        reader = csv.reader(_lines(path, stream), delimiter=mark, strict=True)
        row, line = 0, 1
        try:
            if names is None:
                names = _header(path, next(reader, []))
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    row += 1
                    yield _record(row, line, names, cells)
                line = reader.line_num + 1
        except csv.Error as error:
            raise BadInput(
                f"{path}:{line}: no {_MARKS[mark]} in the row that begins here ({error}): quote cells that hold "
                "quotes or line breaks, and double the quotes in them"
            ) from None
    if not row:
        raise BadInput(f"{path}: a header and no rows")


def first_cells(path: Path, mark: str) -> list[str]:
    """The cells of the first line: the columns' names, where the file has a header.

    Raises:
        BadInput: the line cannot be read.
    """
    with opened(path) as stream, whole_gzip(path):
        try:
            return next(csv.reader(_lines(path, stream), delimiter=mark, strict=True), [])
        except csv.Error as error:
            raise BadInput(f"{path}:1: no {_MARKS[mark]} in this line ({error})") from None


def _record(row: int, line: int, names: Sequence[str], cells: list[str]) -> Record | Problem:
    if len(cells) != len(names):
        return Problem(
            row, line, "another number of cells than the first line", f"{len(cells)}, not {len(names)}"
        )
    return Record(row, line, {name: cell for name, cell in zip(names, cells, strict=True) if name})


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not any(names):
        raise BadInput(f"{path}:1: the first line names no columns")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{path}: has the column {twice!r} twice; leave one of them")
    return names


def _lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    for number, raw in enumerate(stream, 1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            hint = guess_encoding(raw)
            raise BadInput(
                f"{path}:{number}: not UTF-8 ({hint or 'no known encoding'}); convert it: {recode(path, hint)}"
            ) from None
