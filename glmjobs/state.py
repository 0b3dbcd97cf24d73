"""Where a run stands, read from its own ledger and markers. What Slurm says is only added.

One :class:`StageState` per stage, in words a person can use; everything that shows or waits for a run reads this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from glmjobs.run import STAGES, Run
from hpc import ledger
from hpc.errors import HpcError

WAITING, RUNNING, DONE, FAILED, STOPPED, CANCELLED, LOST = (
    "waiting", "running", "done", "failed", "stopped", "cancelled", "lost",
)  # fmt: skip
ENDED = (DONE, FAILED, STOPPED, CANCELLED, LOST)


@dataclass(kw_only=True)
class StageState:
    """One stage: its state, and why."""

    stage: str
    state: str = WAITING
    job: str | None = None
    attempts: int = 0
    nodes: str | None = None
    step: int | None = None
    of: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    reason: str = ""
    error: str | None = None
    seconds: float | None = None


@dataclass(kw_only=True)
class RunState:
    """All stages of a run."""

    name: str
    path: str
    stages: list[StageState] = field(default_factory=list)

    @property
    def state(self) -> str:
        """The run's own state: done when every submitted stage is; else that of the first stage that isn't."""
        submitted = [s for s in self.stages if s.job or s.state != WAITING]
        return next((s.state for s in submitted if s.state != DONE), DONE if submitted else WAITING)

    @property
    def ended(self) -> bool:
        """True when nothing more will happen by itself."""
        submitted = [s for s in self.stages if s.job or s.state != WAITING]
        if any(s.state == RUNNING for s in submitted):
            return False
        return all(s.state == DONE for s in submitted) or any(
            s.state in ENDED and s.state != DONE for s in submitted
        )

    def get(self, stage: str) -> StageState:
        """One stage's state."""
        return next(s for s in self.stages if s.stage == stage)


def read(run: Run, *, ask_slurm: bool = True) -> RunState:
    """The state of a run now."""
    events = ledger.read(run.path)
    stages = [_stage(run, stage, events) for stage in STAGES]
    _job_of_preflight(stages)
    state = RunState(name=run.name, path=str(run.path), stages=stages)
    _local(state, events)
    if ask_slurm:
        _slurm(state)
    return state


def _stage(run: Run, stage: str, events: list[ledger.Json]) -> StageState:
    mine = [e for e in events if e.get("stage") == stage]
    state = StageState(stage=stage)
    for event in mine:
        _apply(state, event)
    marker = ledger.marker(run.path, stage)
    if marker and marker.get("outcome") == "done" and state.state != RUNNING:
        state.state, state.seconds = DONE, marker.get("seconds")
    progress = ledger.progress(run.path, stage)
    state.step, state.of = _int(progress.get("step")), _int(progress.get("of"))
    state.loss, state.tokens_per_s = progress.get("loss"), progress.get("tokens_per_s")
    return state


def _apply(state: StageState, event: ledger.Json) -> None:
    kind = event.get("event")
    if kind == "submitted":
        state.job, state.state, state.error = str(event.get("job")), WAITING, None
    elif kind == "attempt":
        state.attempts += 1
        state.state, state.nodes = RUNNING, event.get("nodes")
    elif kind == "ended":
        state.state = {"done": DONE, "stopped": STOPPED}.get(str(event.get("outcome")), FAILED)
        state.error = event.get("error") or (
            f"exit code {event.get('exit_code')}" if state.state == FAILED else None
        )
    elif kind == "requeued":
        state.state, state.reason = WAITING, "requeued"
    elif kind == "cancelled" and state.state != DONE:
        state.state = CANCELLED


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _job_of_preflight(stages: list[StageState]) -> None:
    """preflight runs inside the train job."""
    by_name = {s.stage: s for s in stages}
    by_name["preflight"].job = by_name["preflight"].job or by_name["train"].job
    if by_name["preflight"].state == FAILED and by_name["train"].state == WAITING:
        by_name["train"].reason = "preflight failed"


def _local(state: RunState, events: list[ledger.Json]) -> None:
    """A local chain's process that is gone without a word has taken its stages with it."""
    for stage in state.stages:
        if not (stage.job or "").startswith("local-") or stage.state in ENDED:
            continue
        if alive(int(str(stage.job).removeprefix("local-"))):
            continue
        if stage.state == RUNNING:
            stage.state, stage.error = LOST, "its process is gone (killed, or the machine restarted)"
        elif any(e.get("event") == "chain_ended" for e in events):
            stage.reason = "the chain ended before it"
        else:
            stage.reason = "the chain's process is gone"


def alive(pid: int) -> bool:
    """True while the process runs (a zombie doesn't)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _slurm(state: RunState) -> None:
    """Add what Slurm knows of jobs that the ledger thinks are still to come or running."""
    ids = {s.job for s in state.stages if s.job and s.job.isdigit() and s.state not in (DONE,)}
    if not ids:
        return
    from hpc import slurm

    try:
        known = slurm.jobs(sorted(i for i in ids if i))
    except HpcError as error:
        for stage in state.stages:
            if stage.job in ids:
                stage.reason = f"Slurm does not answer: {' '.join(str(error).split())[:80]}"
        return
    for stage in state.stages:
        info = known.get(stage.job or "")
        if info is None or stage.state == DONE:
            continue
        _add_slurm(stage, info)


def _add_slurm(stage: StageState, info: Any) -> None:
    if info.state.is_pending:
        stage.state = stage.state if stage.state in (FAILED, CANCELLED) else WAITING
        stage.reason = info.reason or stage.reason
    elif info.state.is_final and not info.state.is_success and stage.state in (RUNNING, WAITING):
        name = str(info.state.value if hasattr(info.state, "value") else info.state)
        stage.state = CANCELLED if "CANCELLED" in name else FAILED
        stage.error = stage.error or f"Slurm: {name}, exit code {info.exit_code}"


def tail(path: Path, lines: int = 10) -> list[str]:
    """The last lines of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode("utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return []
