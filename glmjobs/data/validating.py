"""From records to rows: every row checked, every one left out has a reason and a line.

A few bad rows are dropped and reported. Where most rows are bad the file (or a column name) is wrong, and
going on would train on the remains: that is BadInput, naming the first bad line and the likeliest mistake.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from glmjobs.data import conversations, forms
from glmjobs.data.forms import AUTO, Unusable
from glmjobs.data.reading import Problem, Record, recode
from glmjobs.data.recognising import training_form
from glmjobs.data.rows import CONTEXT, Columns, Row
from glmjobs.data.sources import Source
from hpc.core import hints
from hpc.core.errors import BadInput

#: Share of unusable rows above which the source as a whole is refused.
MAX_BAD_SHARE = 0.5
BLANK = "blank line"
_EARLY = 1000  # so many rows, all bad: no need to read the rest

_OTHER = "of another form: "
"""What the reason begins with for rows of another form than the first ones; behind it that form's name."""
_LINES = 5

_SETTINGS = {"prompt": "data.prompt_column", "query": "data.query_column", "response": "data.response_column"}


class Validator:
    """Turns a source's records into rows, and keeps count of what it saw."""

    def __init__(
        self, source: Source, columns: Columns, allowed: float = MAX_BAD_SHARE, form: str = AUTO
    ) -> None:
        """``allowed``: share of the rows that may be left out, or lose a column that the model was meant to see.
        ``form``: of :data:`glmjobs.data.forms.TRAINING`, or found by looking.

        Raises BadInput where two of the three columns are the same, or the form is not the rows'."""
        named = [name for name in columns if name]
        twice = [name for name in named if named.count(name) > 1]
        if twice:
            raise BadInput(
                f"column {twice[0]!r} is named twice (prompt {columns.prompt!r}, query {columns.query!r}, "
                f"response {columns.response!r}): give each its own; for no query: "
                + hints.setting("data.query_column", "")
            )
        self.source, self.allowed = source, allowed
        self.form, self.columns = training_form(source, columns, form)
        self._named = columns
        self.rows = 0
        self.talks = 0
        """Kept rows in which something was said before, or a system prompt stands."""
        self.kept = 0
        self.problems: list[Problem] = []
        self.context: Counter[str] = Counter()
        """Kept rows that have something in a column of CONTEXT, by column: it is left out."""
        self.context_rows = 0
        self.unmarked = 0
        """Kept rows whose worked answer has no mark (:data:`glmjobs.data.forms.MARKS`) before its result."""
        self.unmarked_lines: list[int] = []
        """The first of them."""
        self._names: Counter[str] = Counter()
        self._queries = 0

    def rows_and_problems(self, limit: int | None = None) -> Iterator[Row | Problem]:
        """Every row of the source, or the first ``limit``, checked.

        Raises:
            BadInput: too many rows are unusable, or a column is missing throughout; known only near the end, so
                write nothing final before this iterator ends.
        """
        for record in islice(self.source.records(self.columns), limit):
            self.rows = record.row
            checked = record if isinstance(record, Problem) else self.check(record)
            if isinstance(checked, Problem):
                self.problems.append(checked)
                if not self.kept and len(self.problems) == _EARLY:
                    raise BadInput(self._explain())
            else:
                self.kept += 1
                self.talks += not checked.alone
                self._note_context(record)
                self._note_result(record)
            yield checked
        if not self.rows:
            raise BadInput(f"{self.source.name}: no rows in it")
        bad = sum(problem.reason != BLANK for problem in self.problems)  # a blank line is nothing lost
        if bad > self.allowed * (self.kept + bad):
            raise BadInput(self._explain())
        if self.context_rows > self.allowed * self.kept:
            raise BadInput(self._lost_context())
        whole = limit is None or self.rows < limit
        if self.columns.query and not self.form.turns and not self._queries and whole:
            raise BadInput(self._missing("query", self.columns.query, 1, self.rows))

    def _note_context(self, record: Record | Problem) -> None:
        value = record.value if isinstance(record, Record) else None
        left = (
            [name for name in CONTEXT if name not in self._read() and value.get(name)]
            if isinstance(value, dict)
            else []
        )
        self.context.update(left)
        self.context_rows += bool(left)

    def _note_result(self, record: Record | Problem) -> None:
        """Count a worked answer whose result isn't marked, where the mark is what tells the gold answer."""
        value = record.value if isinstance(record, Record) else None
        if self.form.short not in forms.MARKS or not isinstance(value, dict):
            return
        column = self.columns.response
        if (
            forms.first_of(value, self.form.gold) == column
            and self.form.short(value[column]) == value[column]
        ):
            self.unmarked += 1
            self.unmarked_lines += [record.line] if self.unmarked <= _LINES else []

    def _other_form(self, value: object) -> str:
        """The name of the form that a row is of, where that is another than this one; else ""."""
        if not isinstance(value, dict):
            return ""
        needed = [] if self.form.turns else [self.columns.prompt, self.columns.response]
        if self.form.fits(value) if self.form.turns else all(value.get(name) is not None for name in needed):
            return ""
        other = forms.find_form(value, self._named)
        alike = (
            other is None or other.name == self.form.name or {other.name, self.form.name} <= {*forms.PLAIN}
        )
        return "" if other is None or alike else other.name

    def other_forms(self) -> str:
        """The forms that rows are of besides this one, with their counts and first lines, in words; else ""."""
        found: dict[str, list[int]] = {}
        for problem in self.problems:
            if problem.reason.startswith(_OTHER):
                found.setdefault(problem.reason.removeprefix(_OTHER), []).append(problem.line)
        return ", ".join(f"{name} ({len(lines):,}, from line {lines[0]})" for name, lines in found.items())

    def _read(self) -> tuple[str, ...]:
        """Columns that the form reads."""
        context = ("history", "system") if self.form.context else ()
        return (
            (self.form.turns, "system", "tools", "functions")
            if self.form.turns
            else (*self.columns, *context)
        )

    def check(self, record: Record) -> Row | Problem:
        """One record as a row, or why not."""
        try:
            row = self._talk(record) if self.form.turns else self._plain(record)
        except Unusable as why:
            other = self._other_form(record.value)
            return Problem(
                record.row, record.line, *((_OTHER + other,) if other else (why.reason, why.detail))
            )
        if isinstance(row, Problem):
            return row
        for texts in (*row.history, (row.system,)):
            if not all(map(_encodable, texts)):
                return Problem(record.row, record.line, "not valid Unicode", "a lone surrogate")
        if any(not text.strip() for turn in row.history for text in turn):
            return Problem(record.row, record.line, "an empty turn")
        return row

    def _talk(self, record: Record) -> Row | Problem:
        """A conversation."""
        if not isinstance(record.value, dict):
            return Problem(record.row, record.line, "not an object", f"found {forms.kind_of(record.value)}")
        talk = conversations.read_turns(self.form, record.value)
        if not talk.question.strip():
            return Problem(record.row, record.line, "empty prompt")
        if not talk.answer.strip():
            return Problem(record.row, record.line, "empty response")
        if not (_encodable(talk.question) and _encodable(talk.answer)):
            return Problem(record.row, record.line, "not valid Unicode", "a lone surrogate")
        return Row(record.row, talk.question, "", talk.answer, talk.history, talk.system)

    def _plain(self, record: Record) -> Row | Problem:
        """Prompt, query and response in columns."""
        value = record.value
        if not isinstance(value, dict):
            return Problem(record.row, record.line, "not an object", f"found {forms.kind_of(value)}")
        if self.rows <= _EARLY:
            self._names.update(str(key) for key in value)
        prompt_column, query_column, response_column = self.columns
        for column in (prompt_column, response_column):
            if column not in value:
                raise Unusable(f"no column {column!r}")
        prompt, response = value[prompt_column], value[response_column]
        query = value.get(query_column) if query_column else ""
        self._queries += query_column in value
        texts = (
            (prompt_column, prompt),
            (query_column, "" if query is None else query),
            (response_column, response),
        )
        for column, text in texts:
            if not isinstance(text, str):
                raise Unusable(f"{column!r} is not text", f"found {forms.kind_of(text)}")
            if not _encodable(text):
                return Problem(
                    record.row, record.line, f"{column!r} is not valid Unicode", "a lone surrogate"
                )
        if not prompt.strip() and not (query or "").strip():
            return Problem(record.row, record.line, "empty prompt")
        if not response.replace(self.form.holds or "\0", "").strip():
            return Problem(record.row, record.line, "empty response")
        if not self.form.context:
            return Row(record.row, prompt, query or "", response)
        history, system = conversations.read_history(value), conversations.read_system(value)
        return Row(record.row, prompt, query or "", response, history, system)

    def _explain(self) -> str:
        """What is wrong with the source as a whole: its most frequent problem, at its first line."""
        bad = [problem for problem in self.problems if problem.reason != BLANK]
        without = f"or go on without them: {allow_setting(len(bad) / max(1, self.kept + len(bad)))}"
        if 2 * sum(problem.reason.startswith(_OTHER) for problem in bad) >= len(bad) > 0:
            own = f"{self.form.name} ({self.kept:,}), " if self.kept else ""
            said = f"{self.source.name}: rows of several forms: {own}{self.other_forms()}; save the rows of each form "
            said += "as a file of its own, and name the files under data.sources"
            return f"{said}; {without}" if self.kept else said
        reason, count = Counter(problem.reason for problem in self.problems).most_common(1)[0]
        first = next(problem for problem in self.problems if problem.reason == reason)
        if self.kept == 0 and (whole := self._one_object(reason)):
            return f"{self.source.name}: {whole}"
        for part, column in zip(("prompt", "query", "response"), self.columns, strict=True):
            if reason == f"no column {column!r}":
                return self._missing(part, column, first.line, count)
        share = (
            f"{count} of the first {self.rows} rows"
            if self.rows == _EARLY
            else f"{count} of {self.rows} rows"
        )
        detail = f" ({first.detail})" if first.detail else ""
        right = {
            "broken JSON": "expected one JSON object a line, or one JSON array",
            "not an object": 'expected objects such as {"instruction": …, "output": …}',
            "not UTF-8": f"convert it: {recode(self.source.name, first.detail)}",
        }.get(reason, "choose other columns or mend the file")
        if len(bad) > count:
            share += f", {len(bad)} unusable in all"
        said = f"{self.source.name}:{first.line}: {reason}{detail} in {share}; {right}"
        return f"{said}; {without}" if self.kept else said

    def _one_object(self, reason: str) -> str | None:
        """What a file is that holds one object instead of rows."""
        rows = 'write one object a row, such as {"instruction": …, "output": …}'
        first = next(iter(islice(self.source.records(self.columns), 1)), None)
        if isinstance(first, Record) and isinstance(first.value, dict) and self.rows == 1:
            lists = {name: value for name, value in first.value.items() if isinstance(value, list) and value}
            inside = next((name for name, value in lists.items() if isinstance(value[0], dict)), None)
            if inside is not None:
                return f"one object, whose {inside!r} is the list of rows: save that list as the file"
            if lists:
                return f"one object of lists, a list a column (as pandas' to_dict makes it): {rows}"
        if isinstance(first, Problem) and reason == "broken JSON" and self.problems[0].line == 1:
            return (
                None if not self._spread() else f"JSON over several lines, and no array: {rows}, on one line"
            )
        return None

    def _spread(self) -> bool:
        """Whether objects are written over several lines each."""
        return "property name" in self.problems[0].detail and len({p.detail for p in self.problems}) > 1

    def _lost_context(self) -> str:
        """Columns that training would not see, in more rows than is allowed."""
        names = ", ".join(f"{name!r} ({count:,})" for name, count in self.context.most_common())
        return (
            f"{self.source.name}: {self.context_rows:,} of {self.kept:,} rows hold more than prompt, query and "
            f"response, which training would not see: {names}; name a form that reads it (data.form), bring it "
            f"into the prompt, or go on without it: {allow_setting(self.context_rows / self.kept)}"
        )

    def _missing(self, part: str, column: str, line: int, count: int) -> str:
        names = [name for name, _ in self._names.most_common(12) if name != column]
        near = [name for name in names if name.strip().lower() == column.lower()][:1]
        near = near or difflib.get_close_matches(column, names, n=1, cutoff=0.5)
        have = ", ".join(repr(name) for name in names) or "none"
        hint = f"did you mean {near[0]!r}?" if near else "name the right one"
        typed = f" ({hints.setting(_SETTINGS[part], near[0])})" if near else ""
        none = f", or {hints.setting('data.query_column', '')} for none" if part == "query" else ""
        return (
            f"{self.source.name}:{line}: no column {column!r} in {count} of {self.rows} rows "
            f"(they have {have}); {hint}: set {_SETTINGS[part]}{typed}{none}"
        )


def allow_setting(share: float) -> str:
    """The setting that allows a share to be left out, rounded up to a hundredth."""
    return hints.setting("data.allow_dropped", f"{min(1.0, math.ceil(share * 100) / 100):g}")


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
