"""Test sets: questions with gold answers, of any form (:mod:`glmjobs.data.forms`) and file that people have. No torch.

>>> read_set(Path("cmath_dev.jsonl")).form.title  # doctest: +SKIP
'CMATH'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from glmjobs.data import forms
from glmjobs.data.delimited import delimiter, first_cells, read_delimited
from glmjobs.data.forms import AUTO, Form, Unusable
from glmjobs.data.questions import counted_from, read_question
from glmjobs.data.reading import Problem, Record
from glmjobs.data.recognising import table_columns
from glmjobs.data.sources import TextSource, open_source
from hpc.core.errors import BadInput

_LOOKED_AT = 20


class Question(NamedTuple):
    """One row to answer. ``id`` is the row's own id where it has one, else its line number from 1. Of a conversation,
    ``question`` is asked last, after the ``(question, answer)`` turns of ``history``."""

    id: int | str
    question: str
    gold: str
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""


class QuestionSet(NamedTuple):
    """A file's questions, the form they were found in, and so which judge marks them (``form.judge``)."""

    form: Form
    questions: list[Question]


def read_set(path: Path, form: str = AUTO, limit: int | None = None) -> QuestionSet:
    """The rows of a file or directory: JSON, JSON lines, CSV, TSV (each also gzipped), parquet, or what ``datasets``
    saved, of which the split ``test`` is read.

    Args:
        form: one of :data:`glmjobs.data.forms.NAMES`, or found by looking.
        limit: only the first so many.

    Raises:
        BadInput: the file is missing, empty, of no form that is known, or a row of it cannot be read, with its line and
            what would be right.
    """
    by_line, records = _records(path)
    head = list(islice(records, min(_LOOKED_AT, limit or _LOOKED_AT)))
    if not head:
        raise BadInput(f"{path}: no rows in this file")
    found = _form(path, form, head)
    rows: Iterable[Record] = chain(head, records)
    first = None
    if found.options:  # whether its numbers are counted from 0 or 1, all rows tell
        rows = list(rows)
        try:
            first = counted_from(found, (row.value for row in rows if isinstance(row.value, dict)))
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
    questions: list[Question] = []
    seen: set[int | str] = set()
    for record in islice(rows, limit):
        question = _question(path, record, found, first, by_line)
        if question.id in seen:
            raise BadInput(f"{path}: two rows have the id {question.id!r}; ids must differ")
        seen.add(question.id)
        questions.append(question)
    return QuestionSet(found, questions)


def _question(path: Path, record: Record, form: Form, first: int | None, by_line: bool) -> Question:
    where = f"{path}:{record.line}"
    if not isinstance(record.value, dict):
        raise BadInput(f"{where}: a row is a JSON object, not {forms.kind_of(record.value)}")
    row: dict[str, Any] = record.value
    try:
        asked = read_question(form, row, first)
    except Unusable as why:
        raise BadInput(f"{where}: {why.reason}{f' ({why.detail})' if why.detail else ''}") from None
    given = row.get("id")
    number = given if isinstance(given, (int, str)) and not isinstance(given, bool) and given != "" else None
    place = record.line if by_line else record.row
    return Question(place if number is None else number, *asked)


def _records(path: Path) -> tuple[bool, Iterator[Record]]:
    """Whether rows are called by their lines, and the rows."""
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    source = open_source(path, split="test")
    if isinstance(source, TextSource) and (mark := delimiter(path)) is not None:
        return True, _whole(path, _table(path, mark))
    return False, _whole(path, source.records(None))


def _whole(path: Path, records: Iterator[Record | Problem]) -> Iterator[Record]:
    """Every record; blank lines are none.

    Raises:
        BadInput: a row cannot be read.
    """
    for record in records:
        if isinstance(record, Record):
            yield record
        elif record.reason != "blank line":
            detail = f" ({record.detail})" if record.detail else ""
            raise BadInput(f"{path}:{record.line}: {record.reason}{detail}")


def _table(path: Path, mark: str) -> Iterator[Record | Problem]:
    """A table's rows, with a header (in any case) or without one."""
    cells = [cell.strip() for cell in first_cells(path, mark)]
    names, header = table_columns(cells)
    if header and names == cells:
        return read_delimited(path, mark)
    return islice(read_delimited(path, mark, names), int(header), None)


def _form(path: Path, name: str, records: Sequence[Record]) -> Form:
    rows = [record.value for record in records[:_LOOKED_AT] if isinstance(record.value, dict)]
    if not rows:
        raise BadInput(
            f"{path}:{records[0].line}: a row is a JSON object, not {forms.kind_of(records[0].value)}"
        )
    if name == AUTO:
        found = next((form for row in rows if (form := forms.find_form(row)) is not None), None)
        if found is None:
            raise BadInput(f"{path}:{records[0].line}: {_unknown(rows[0])}")
        return found
    wanted = forms.named(name)
    fitting = next((form for form in wanted for row in rows if form.fits(row)), None)
    if fitting is None:
        raise BadInput(f"{path}: {forms.unlike(wanted[0].name, rows[0])}")
    return fitting


def _unknown(row: dict[str, Any]) -> str:
    """Why a row is of none of the forms."""
    have = ", ".join(map(str, list(row)[:8])) or "none"
    if {"A", "B"} <= row.keys() or {"choices", "options"} & row.keys():
        if not {"question", "Question"} & row.keys():
            return f"questions with options, but no column question or Question; found: {have}"
        return (
            f"questions with options, but no column of gold answers (answer, Answer or label); found: {have}; a test "
            "split often comes without: take the one for validation"
        )
    known = "; ".join(dict.fromkeys(f"{form.name}: {form.said}" for form in forms.FORMS))
    return f"no known columns of question and answer; found: {have}; known: {known}"
