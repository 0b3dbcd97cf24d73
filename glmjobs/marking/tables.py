"""The marker's tables (TOML files in ``wordlists/``) and its rules: each has a name, and can be switched off by it.

Units, signs and phrases are data. A phrase is a rule whose condition is a pattern; a :class:`Rule` has one in code.
Both stand in :data:`RULES` under their names, so that a test can switch each off and see which verdicts depend on it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any, Generic, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Case = TypeVar("Case")


@dataclass
class Rule(Generic[Case]):
    """One rule: where ``when`` holds of a case, ``effect`` (a weight, or what becomes of a statement) applies.

    ``when`` may tell how far it holds: a number is multiplied with the weight. ``example`` is a text for the reader.
    """

    id: str
    effect: Any
    when: Callable[[Case], Any]
    example: str

    def __post_init__(self) -> None:
        RULES[self.id] = self


class Phrase:
    """A pattern with a name, from ``phrases.toml``: ``any`` of several, after ``start`` and before ``end``."""

    __slots__ = ("example", "finditer", "id", "match", "pattern", "search", "split", "sub")

    def __init__(self, id: str, any: list[str], start: str = "", end: str = "", example: str = "") -> None:
        self.id, self.example = id, example
        body = "|".join(any)
        self.bind(re.compile(f"{start}(?:{body}){end}" if start or end else body))
        RULES[id] = self

    def bind(self, pattern: re.Pattern[str]) -> None:
        """Match with ``pattern`` from now on."""
        self.pattern = pattern
        self.search, self.match, self.finditer = pattern.search, pattern.match, pattern.finditer
        self.sub, self.split = pattern.sub, pattern.split


RULES: dict[str, Rule[Any] | Phrase] = {}
"""Every rule by its name."""

def load(name: str) -> dict[str, Any]:
    """One of the TOML files of ``wordlists/``."""
    place = resources.files("glmjobs.marking") / "wordlists" / f"{name}.toml"
    return tomllib.loads(place.read_text(encoding="utf-8"))


_PHRASES = load("phrases")


def phrase(id: str) -> Phrase:
    """A phrase by its name."""
    found = RULES.get(id)
    return found if isinstance(found, Phrase) else Phrase(id, **_PHRASES[id])
