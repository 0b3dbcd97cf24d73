"""The state of a run and its stages, as plain data in words a person can use."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hpc.chain import stage_state
from hpc.chain.stage_state import BAD, CANCELLED, DONE, ENDED, FAILED, LOST, RUNNING, STOPPED, WAITING

__all__ = [
    "BAD", "BROKEN", "CANCELLED", "DONE", "ENDED", "FAILED", "LOST", "RUNNING", "STAGES", "STOPPED", "UNREADABLE",
    "WAITING", "HasPath", "RunState", "StageState",
]  # fmt: skip

STAGES = ("preflight", "train", "consolidate", "score", "report")


UNREADABLE = "unreadable"
BROKEN = "broken"


class HasPath(Protocol):
    """What is needed of a run here: its directory. (A :class:`glmjobs.run.directory.Run` is one.)"""

    @property
    def path(self) -> Path: ...


@dataclass(kw_only=True)
class StageState(stage_state.StageState):
    """One stage, with what its work says of itself.

    ``time_left`` in seconds, ``gpu_utilisation`` in percent (mean of the last minute), ``mfu`` a share of 1.
    """

    of: int | None = None
    loss: float | None = None
    dev_loss: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    epoch: float | None = None
    tokens: int | None = None
    gpu_utilisation: float | None = None
    time_left: float | None = None


@dataclass(kw_only=True)
class RunState:
    """All stages of a run, and what it has cost (GPU-hours by part; see :mod:`glmjobs.run.gpu_hours`)."""

    name: str
    path: str
    stages: list[StageState] = field(default_factory=list)
    planned: tuple[str, ...] = ()
    gpu_hours: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """Training examples, and what was left out of the data, as training found them; empty before."""
    passed_over: list[str] = field(default_factory=list)
    """Checkpoints that the newest attempt at training did not go on from, and why."""
    slurm: str = ""
    """"" where Slurm answered or was not asked; else why it did not."""
    unreadable: str = ""
    """Why nothing is known of it: its directory could not be read."""
    broken: str = ""
    """What is wrong with its run.yaml, where one run is looked at: no further stage of it can start."""

    @property
    def submitted(self) -> list[StageState]:
        """The stages that belong to this run's chain. (A train job submitted by hand need not check its nodes.)"""
        found = [s for s in self.stages if s.job or s.state != WAITING or s.stage in self.planned]
        past = any(s.stage == "train" and s.state not in (WAITING, CANCELLED) for s in found)
        return [
            s for s in found if not (past and s.stage == "preflight" and s.state != DONE and not s.attempts)
        ]

    @property
    def state(self) -> str:
        """The run's own state: done when every stage of it is; else that of the first stage that isn't."""
        if self.unreadable:
            return UNREADABLE
        chosen = self.submitted
        if self.broken and all(s.state != RUNNING for s in chosen):
            return BROKEN
        if not self.planned and chosen and all(s.state == DONE for s in chosen):
            chosen = self.stages  # what belongs to it is not on record
        return next((s.state for s in chosen if s.state != DONE), DONE if chosen else WAITING)

    @property
    def ended(self) -> bool:
        """True when nothing more will happen by itself."""
        chosen = self.submitted
        if any(s.state == RUNNING for s in chosen):
            return False
        if all(s.state == DONE for s in chosen):
            return self.state == DONE
        return any(s.state in BAD for s in chosen) or all(s.stuck for s in chosen if s.state == WAITING)

    @property
    def trouble(self) -> StageState | None:
        """The first stage that is not done and will not be by itself."""
        bad = [s for s in self.submitted if s.state in BAD]
        return next(iter(bad or [s for s in self.submitted if s.stuck]), None)

    def get(self, stage: str) -> StageState:
        """One stage's state."""
        return next(s for s in self.stages if s.stage == stage)

    def document(self) -> dict[str, Any]:
        """As plain data, for ``--json``."""
        hours = {part: round(value, 6) for part, value in self.gpu_hours.items()}
        return {**asdict(self), "state": self.state, "ended": self.ended, "gpu_hours": hours}
