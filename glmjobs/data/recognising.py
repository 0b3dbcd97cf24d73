"""Which form a source's rows are of: found by looking at the first, or named and held against them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from glmjobs.data import forms
from glmjobs.data.delimited import delimiter, first_cells
from glmjobs.data.forms import AUTO, Form
from glmjobs.data.reading import Record
from glmjobs.data.rows import Columns
from glmjobs.data.sources import Source, TextSource
from hpc.core.errors import BadInput

_LOOKED_AT = 20
"""First rows that are looked at to find the form."""

_HEADERLESS = {2: ("question", "answer"), 6: ("question", "A", "B", "C", "D", "answer")}
"""What the cells of a table without a header are, by their number: MGSM's and MMLU's files have none."""
_LETTERS = ("A", "B", "C", "D")
_NUMBER = re.compile(r"[-+]?[\d.,]*\d%?")


def training_form(source: Source, columns: Columns, name: str = AUTO) -> tuple[Form, Columns]:
    """The form of a source's rows, and what it calls the three parts.

    Raises:
        BadInput: the named form is not the rows', or theirs is a test set's.
    """
    first = [
        record.value for record in islice(source.records(None), _LOOKED_AT) if isinstance(record, Record)
    ]
    rows = [value for value in first if isinstance(value, dict)]
    if name != AUTO:
        return _named_form(source, columns, name, rows)
    found = next((form for row in rows if (form := forms.find_form(row, columns))), None)
    if found is None:
        _refuse_without_header(source, columns)
        return forms.named("belle")[0], columns  # whose refusal says which column is missing
    if found.name in forms.PLAIN:
        there = {key for row in rows for key in row}
        return forms.plain_form(dict.fromkeys(there)), columns
    if not found.trains:
        raise _test_set(source, found)
    return found, _columns_of(found, rows[0], columns)


def _test_set(source: Source, form: Form) -> BadInput:
    return BadInput(
        f"{source.name}: looks like {form.title}, a test set without worked answers to learn: name it in score.sets"
    )


def _refuse_without_header(source: Source, columns: Columns) -> None:
    """A table whose first line is no header.

    Raises:
        BadInput: it is one: a test set of a known form, or rows of which nothing says what their cells are.
    """
    mark = delimiter(source.path) if isinstance(source, TextSource) else None
    if mark is None or not isinstance(source, TextSource):
        return
    cells = [cell.strip() for cell in first_cells(source.path, mark)]
    if {*columns} & {*cells} or not any(map(_is_data, cells)):
        return
    found = forms.find_form(dict(zip(table_columns(cells).names, cells, strict=True)))
    if found is not None and not found.trains:
        raise _test_set(source, found)
    shown = ", ".join(repr(cell if len(cell) <= 20 else f"{cell[:20]}…") for cell in cells[:8])
    header = mark.join(filter(None, columns))
    raise BadInput(
        f"{source.name}:1: the first line of a table names its columns, and this one is a row: {shown}; write such a "
        f"line above it: {header!r}"
    )


def _is_data(cell: str) -> bool:
    """Whether a cell of the first line is surely no column's name."""
    return len(cell) > 40 or cell.endswith(("。", "？", "?")) or _NUMBER.fullmatch(cell) is not None


class TableColumns(NamedTuple):
    """What a test set's table calls its columns, and whether that is its first line."""

    names: list[str]
    header: bool


def table_columns(cells: Sequence[str]) -> TableColumns:
    """The columns of a test set's table, by its first line: a header (in any case), or the first row of a file that
    has none."""
    lower = [cell.lower() for cell in cells]
    for names in (list(cells), lower):
        if forms.find_form(dict.fromkeys(names, "#### A")) is not None:
            return TableColumns(names, True)
    bare = _HEADERLESS.get(len(cells))
    if (
        bare
        and not set(lower) & {"question", "id", "answer"}
        and (len(cells) == 2 or cells[-1].upper() in _LETTERS)
    ):
        return TableColumns(list(bare), False)
    return TableColumns(list(cells), True)


def _named_form(source: Source, columns: Columns, name: str, rows: list[Any]) -> tuple[Form, Columns]:
    wanted = forms.named(name)
    if not wanted[0].trains:
        raise BadInput(
            f"data.form = {name}: {wanted[0].title} is a test set, for score.sets; training data are of the forms "
            + ", ".join(forms.TRAINING)
        )
    if wanted[0].name in forms.PLAIN:
        alike = not rows or any(columns.prompt in row or columns.response in row for row in rows)
    else:
        alike = not rows or any(form.fits(row) for form in wanted for row in rows)
    if not alike:
        raise BadInput(f"{source.name}: {forms.unlike(wanted[0].name, rows[0], 'data.form')}")
    return wanted[0], _columns_of(wanted[0], rows[0] if rows else {}, columns)


def _columns_of(form: Form, row: dict[str, Any], columns: Columns) -> Columns:
    """What the rows of a form call the three parts: the recipe's names for a plain form, else the form's own."""
    if form.turns or form.name in forms.PLAIN:
        return columns
    prompt, response = (forms.first_of(row, names) or names[0] for names in (form.question, form.response))
    return Columns(prompt, "", response)
