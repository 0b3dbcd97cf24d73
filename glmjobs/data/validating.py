"""From records to rows: every row checked, every one left out has a reason and a line.

A few bad rows are dropped and reported. Where most rows are bad the file (or a column name) is wrong, and
going on would train on the remains: that is BadInput, naming the first bad line and the likeliest mistake.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator

from glmjobs.data.reading import Problem, Record
from glmjobs.data.rows import Columns, Row
from glmjobs.data.sources import Source
from hpc.core.errors import BadInput

#: Share of unusable rows above which the source as a whole is refused.
MAX_BAD_SHARE = 0.5
_EARLY = 1000  # so many rows, all bad: no need to read the rest

_SETTINGS = {"prompt": "data.prompt_column", "query": "data.query_column", "response": "data.response_column"}


class Validator:
    """Turns a source's records into rows, and keeps count of what it saw."""

    def __init__(self, source: Source, columns: Columns) -> None:
        """Raises BadInput where two of the three columns are the same."""
        named = [name for name in columns if name]
        twice = [name for name in named if named.count(name) > 1]
        if twice:
            raise BadInput(
                f"column {twice[0]!r} is named twice (prompt {columns.prompt!r}, query {columns.query!r}, "
                f"response {columns.response!r}): give each its own, query '' for none"
            )
        self.source, self.columns = source, columns
        self.rows = 0
        self.kept = 0
        self.problems: list[Problem] = []
        self._names: Counter[str] = Counter()
        self._queries = 0

    def rows_and_problems(self) -> Iterator[Row | Problem]:
        """Every row of the source, checked.

        Raises:
            BadInput: too many rows are unusable, or a column is missing throughout; known only near the
            end, so
                write nothing final before this iterator ends.
        """
        for record in self.source.records(self.columns):
            self.rows = record.row
            checked = record if isinstance(record, Problem) else self.check(record)
            if isinstance(checked, Problem):
                self.problems.append(checked)
                if not self.kept and len(self.problems) == _EARLY:
                    raise BadInput(self._explain())
            else:
                self.kept += 1
            yield checked
        if not self.rows:
            raise BadInput(f"{self.source.name}: no rows in it")
        if len(self.problems) > MAX_BAD_SHARE * (self.kept + len(self.problems)):
            raise BadInput(self._explain())
        if self.columns.query and not self._queries:
            raise BadInput(self._missing("query", self.columns.query, 1, self.rows))

    def check(self, record: Record) -> Row | Problem:
        """One record as a row, or why not."""
        value = record.value
        if not isinstance(value, dict):
            return Problem(record.row, record.line, "not an object", f"found {type(value).__name__}")
        if self.rows <= _EARLY:
            self._names.update(str(key) for key in value)
        prompt_column, query_column, response_column = self.columns
        for column in (prompt_column, response_column):
            if column not in value:
                return Problem(record.row, record.line, f"no column {column!r}")
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
                kind = "null" if text is None else type(text).__name__
                return Problem(record.row, record.line, f"{column!r} is not text", f"found {kind}")
            if not _encodable(text):
                return Problem(
                    record.row, record.line, f"{column!r} is not valid Unicode", "a lone surrogate"
                )
        if not prompt.strip() and not (query or "").strip():
            return Problem(record.row, record.line, "empty prompt")
        if not response.strip():
            return Problem(record.row, record.line, "empty response")
        return Row(record.row, prompt, query or "", response)

    def _explain(self) -> str:
        """What is wrong with the source as a whole: its most frequent problem, at its first line."""
        reason, count = Counter(problem.reason for problem in self.problems).most_common(1)[0]
        first = next(problem for problem in self.problems if problem.reason == reason)
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
            "not UTF-8": "convert it: iconv -f GB18030 -t UTF-8",
        }.get(reason, "choose other columns or mend the file")
        return f"{self.source.name}:{first.line}: {reason}{detail} in {share}; {right}"

    def _missing(self, part: str, column: str, line: int, count: int) -> str:
        names = [name for name, _ in self._names.most_common(12) if name != column]
        near = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "name the right one"
        have = ", ".join(repr(name) for name in names) or "none"
        switch = ", or '' for none" if part == "query" else ""
        return (
            f"{self.source.name}:{line}: no column {column!r} in {count} of {self.rows} rows "
            f"(they have {have}); {hint}: set {_SETTINGS[part]}{switch}"
        )


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
