"""Which rows does each rule of the marker decide? Every rule is switched off in turn, on the rows where it fires.

``python -m tests.support.rule_mutation [ID …]`` prints a line a rule: rows where it fires, rows whose verdict flips
without it, and the rows among them that would then be wrong.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from glmjobs.marking import judge
from glmjobs.marking import question as questions
from glmjobs.marking.tables import RULES, Phrase
from glmjobs.marking.values import scan
from tests.support.labelled_rows import Row, rows


class Found(NamedTuple):
    """How many rows a rule fires on, how many verdicts flip without it, and how many of these were right."""

    id: str
    fires: int
    flips: int
    worse: int


def correct(row: Row) -> bool:
    """The marker's verdict, nothing remembered from other rules."""
    questions.read.cache_clear()
    scan._scan.cache_clear()
    return judge(row["question"], row["gold"], row["prediction"]).correct


@contextmanager
def noting(fired: set[str]) -> Iterator[None]:
    """Note the rules that fire."""

    def noted(id: str, call: Any) -> Any:
        def calling(*args: Any, **named: Any) -> Any:
            result = call(*args, **named)
            if id not in fired and result is not None and result is not False:
                fired.add(id)
            return result

        return calling

    kept = []
    for id, rule in RULES.items():
        for name in (
            ("search", "match", "finditer", "sub", "split") if isinstance(rule, Phrase) else ("when",)
        ):
            kept.append((rule, name, getattr(rule, name)))
            setattr(rule, name, noted(id, getattr(rule, name)))
    try:
        yield
    finally:
        for rule, name, call in kept:
            setattr(rule, name, call)


@contextmanager
def switched_off(id: str) -> Iterator[None]:
    """Without one rule."""
    rule = RULES[id]
    if isinstance(rule, Phrase):
        kept = rule.pattern
        rule.bind(re.compile("(?!)"))
        try:
            yield
        finally:
            rule.bind(kept)
    else:
        when, rule.when = rule.when, lambda case: False
        try:
            yield
        finally:
            rule.when = when


def mutate(ids: Iterable[str], labelled: list[Row]) -> Iterator[Found]:
    """Each rule's rows."""
    base: list[bool] = []
    where: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(labelled):
        fired: set[str] = set()
        with noting(fired):
            base.append(correct(row))
        for id in fired:
            where[id].append(place)
    for id in ids:
        with switched_off(id):
            flipped = [p for p in where[id] if correct(labelled[p]) != base[p]]
        worse = sum(base[p] == labelled[p]["correct"] for p in flipped)
        yield Found(id, len(where[id]), len(flipped), worse)


if __name__ == "__main__":
    for found in mutate(sys.argv[1:] or list(RULES), rows()):
        print(*found, flush=True)
