"""Generation, marking and statistics of scores. Importing it imports no torch; names load when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmjobs.scoring.marking import Verdict, answer_type, gold_has_false_equation, judge

_WHERE = {
    "judge": "marking", "Verdict": "marking", "answer_type": "marking", "gold_has_false_equation": "expression",
}  # fmt: skip

__all__ = ["Verdict", "answer_type", "gold_has_false_equation", "judge"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"glmjobs.scoring.{_WHERE[name]}"), name)
