"""What sending asks of a tracker: one open run there, that takes steps in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from glmjobs.tracking.records import Step
from glmjobs.tracking.state import NOTHING
from glmjobs.tracking.targets import Target


@dataclass(frozen=True)
class Opening:
    """A run to be opened at a tracker, or made there.

    Attributes:
        key: unique, of letters and digits: the run's id over all attempts.
        name: what people call it.
        config: every setting.
        staging: an empty directory for the tracker's own files.
    """

    target: Target
    key: str
    name: str
    config: Mapping[str, Any]
    staging: Path


class Session(Protocol):
    """A run that is open at a tracker. Whatever goes wrong is an exception of the tracker's own."""

    has: int = NOTHING
    """The last step that the tracker itself says it has."""

    url: str | None = None
    """The run's page."""

    def step(self, step: Step) -> None:
        """Hand over one step; they come in order."""

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """Hand over figures of the whole; ``step``: the last there is."""

    def close(self, *, finished: bool) -> None:
        """Wait until everything is there. ``finished``: there will be no more steps."""
