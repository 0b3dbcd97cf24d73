"""Questions with gold answers, from the file forms people have: BELLE, CMATH, MGSM. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glmjobs.data.reading import Problem, read_json
from glmjobs.data.rows import question_text
from hpc.core.errors import BadInput

FORMS: dict[str, tuple[str, str, str]] = {
    "BELLE": ("instruction", "input", "output"),
    "CMATH": ("input", "", "golden"),
    "MGSM": ("question", "", "answer"),
}
"""Form: its columns for the prompt, the optional query after it, and the gold answer. The first that fits is
taken."""


class Question(NamedTuple):
    """One row to answer. ``id`` is the row's own id where it has one, else its line number from 1."""

    id: int | str
    question: str
    gold: str


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """The rows of a file: JSON lines, a JSON array (either may be gzipped), or MGSM's ``question TAB answer``
    lines.

    Args:
        limit: only the first so many.

    Raises:
        BadInput: the file is missing, empty, or a row of it cannot be read, with its line and what would be
            right.
    """
    rows = _tab_separated(path) if path.suffix.lower() == ".tsv" else _json(path)
    questions: list[Question] = []
    seen: set[int | str] = set()
    for question in rows:
        if limit is not None and len(questions) >= limit:
            break
        if question.id in seen:
            raise BadInput(f"{path}: two rows have the id {question.id!r}; ids must differ")
        seen.add(question.id)
        questions.append(question)
    if not questions:
        raise BadInput(f"{path}: no rows in this file")
    return questions


def _json(path: Path) -> Iterator[Question]:
    form: tuple[str, str, str] | None = None
    for record in read_json(path):
        if isinstance(record, Problem):
            if record.reason == "blank line":
                continue
            raise BadInput(
                f"{path}:{record.line}: {record.reason}{f' ({record.detail})' if record.detail else ''}"
            )
        if not isinstance(record.value, Mapping):
            raise BadInput(f"{path}:{record.line}: a row is a JSON object, not {type(record.value).__name__}")
        row: Mapping[str, Any] = record.value
        form = form or _form(row, f"{path}:{record.line}")
        prompt, query, gold = form
        for column in (prompt, gold):
            if not isinstance(row.get(column), (str, int, float)) or isinstance(row.get(column), bool):
                found = "is missing" if column not in row else f"is {type(row[column]).__name__}, not text"
                raise BadInput(f"{path}:{record.line}: column {column!r} {found}")
        given = row.get("id")
        number = given if isinstance(given, (int, str)) and not isinstance(given, bool) else record.row
        text = question_text(str(row[prompt]), str(row.get(query) or "") if query else "")
        yield Question(number, text, str(row[gold]))


def _form(row: Mapping[str, Any], where: str) -> tuple[str, str, str]:
    for form in FORMS.values():
        if form[0] in row and form[2] in row:
            return form
    known = "; ".join(f"{name}: {form[0]} and {form[2]}" for name, form in FORMS.items())
    found = ", ".join(map(str, list(row)[:8])) or "none"
    raise BadInput(f"{where}: no known pair of question and answer columns; found: {found}; known: {known}")


def _tab_separated(path: Path) -> Iterator[Question]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        parts = line.split("\t")
        if number == 1 and tuple(part.strip().lower() for part in parts) in {
            (f[0], f[2]) for f in FORMS.values()
        }:
            continue  # a header
        if len(parts) != 2 or not parts[0].strip() or not parts[1].strip():
            raise BadInput(f"{path}:{number}: expected question TAB answer, found {len(parts)} fields")
        yield Question(number, parts[0], parts[1])
