"""Data: reading, checking, splitting, tokenising, packing, collating. Works in a notebook, without Slurm.

``prepare`` makes a data directory; then :mod:`glmjobs.data.tokenised`, :mod:`glmjobs.data.packing` and
:mod:`glmjobs.data.collate` (the only module here that imports torch) turn it into batches. The names below are loaded
when they are first used: a recipe is checked with :mod:`glmjobs.data.splitting` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmjobs.data.prepared import Prepared, prepare
    from glmjobs.data.rows import Row, question_text
    from glmjobs.data.sources import MadeSource

_HOME = {
    "MadeSource": "sources",
    "Prepared": "prepared",
    "Row": "rows",
    "prepare": "prepared",
    "question_text": "rows",
}

__all__ = ["MadeSource", "Prepared", "Row", "prepare", "question_text"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
