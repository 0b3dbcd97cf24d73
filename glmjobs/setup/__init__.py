"""From nothing to a scored run: `python -m glmjobs.setup`.

Each step is what another command does, and what it needs to know is asked: what was found, what was done and the
command that does the same by hand stand in a line or two. Whether a step is done is looked up where its result lies
(the environment, the profile, the model, the runs), so that the same command goes on wherever it was interrupted;
``glmjobs-setup.json`` keeps the answers that were given, and nothing else.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("main", "parser"):
        return getattr(import_module(f"{__name__}.__main__"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
