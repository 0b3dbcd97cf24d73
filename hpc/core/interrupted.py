"""Ctrl-C while a command is still being imported: a word, as later (:mod:`hpc.core.command`), and no traceback.

Python then ends by the signal, which a shell shows as 130. Standard library only.
"""

from __future__ import annotations

import sys
from types import TracebackType


def quietly() -> None:
    """From now on; only where Python was started for a module of ours (``python -m``): its ``argv[0]`` is then ``-m``
    until that module runs."""
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
