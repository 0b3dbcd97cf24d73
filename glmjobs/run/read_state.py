"""Where a run stands. Its own ledger and markers decide; what Slurm says is only added
(:mod:`glmjobs.run.slurm_state`).

One :class:`StageState` per stage, in words a person can use; everything that shows or waits for a run reads this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from glmjobs.run import progress
from glmjobs.run.state import (
    BAD,
    CANCELLED,
    DONE,
    ENDED,
    FAILED,
    LOST,
    RUNNING,
    STAGES,
    STOPPED,
    WAITING,
    HasPath,
    RunState,
    StageState,
)
from hpc.chain import ledger, submission
from hpc.core.errors import NotFit
from hpc.core.files import Json
from hpc.core.process import alive


def read_state(run: HasPath, *, ask_slurm: bool = True) -> RunState:
    """The state of a run now.

    Raises:
        NotFit: its directory cannot be read.
    """
    state = read_states([run], ask_slurm=ask_slurm)[0]
    if state.unreadable:
        raise NotFit(state.unreadable)
    return state


def read_states(runs: Iterable[HasPath], *, ask_slurm: bool = True) -> list[RunState]:
    """The states of several runs now; Slurm is asked once for all of them."""
    paths = [run.path for run in runs]
    found: list[RunState] = []
    told: dict[str, list[Json]] = {}
    for path in paths:
        try:
            events = ledger.read(path)
            found.append(_read(path, events))
            told[str(path)] = events
        except OSError as error:  # another user's, a damaged disk: no reason to show nothing of the others
            why = f"{error.filename or path}: {error.strerror}"
            found.append(RunState(name=path.name, path=str(path), unreadable=why))
    if ask_slurm and any(_asks_slurm(s) for state in found for s in state.stages):
        from glmjobs.run import slurm_state

        slurm_state.add(found, reread=_stages)
    for state in found:
        if not state.unreadable:
            _follow_up(state)
            add_costs(state, told[state.path])
    return found


def add_costs(state: RunState, events: Sequence[Json]) -> None:
    """What the run has cost by now: what runs is counted until now, what was cut off until its last sign of life."""
    running = [s.stage for s in state.stages if s.state == RUNNING]
    state.gpu_hours = progress.gpu_hours(Path(state.path), events, running)


def _asks_slurm(stage: StageState) -> bool:
    return bool(stage.job and stage.job.isdigit() and stage.state != DONE)


def _read(path: Path, events: Sequence[Json]) -> RunState:
    state = RunState(name=path.name, path=str(path), stages=_stages(path, events))
    state.planned = submission.intended(path, events)[0]
    _submissions(state, events)
    _local(state, events)
    return state


def _stages(path: Path, events: Sequence[Json] | None = None) -> list[StageState]:
    """Every stage by the run directory alone."""
    events = ledger.read(path) if events is None else events
    stages = [_stage(path, stage, [e for e in events if _concerns(e, stage)]) for stage in STAGES]
    by_name = {s.stage: s for s in stages}
    preflight, train = by_name["preflight"], by_name["train"]
    preflight.job = preflight.job or train.job  # it runs inside the train job
    if preflight.state in (FAILED, STOPPED) and train.state == WAITING:
        train.reason, train.blocked = "preflight failed", True
    return stages


def _concerns(event: Json, stage: str) -> bool:
    """Whether a line is about a stage; preflight shares the train job's fate in the queue."""
    named = event.get("stage")
    shared = ("submitted", "requeued", "healed", "cancelled", "not_cancelled")
    return named == stage or (stage == "preflight" and named == "train" and event.get("event") in shared)


def _stage(path: Path, stage: str, events: Sequence[Json]) -> StageState:
    state = StageState(stage=stage)
    tasks: dict[Any, str] = {}
    for event in events:
        _apply(state, tasks, event)
    state.state = _overall(state, tasks)
    if len(tasks) > 1 or any(task is not None for task in tasks):
        state.elements = {word: list(tasks.values()).count(word) for word in dict.fromkeys(tasks.values())}
    marker = ledger.marker(path, stage)
    if marker and marker.get("outcome") == "done":
        state.state, state.seconds, state.error, state.reason = DONE, marker.get("seconds"), None, ""
        state.elements = {}
    progress.add_progress(path, state)
    return state


def _apply(state: StageState, tasks: dict[Any, str], event: Json) -> None:
    """Follow the ledger, a line at a time. ``tasks``: the state of each element of an array (else of the one job)."""
    kind, task = event.get("event"), event.get("array_task")
    if kind == "submitted":
        state.job, state.state, state.error, state.reason = str(event.get("job")), WAITING, None, ""
        tasks.clear()
    elif kind == "attempt":
        state.attempts += 1
        state.state, state.nodes, state.reason, state.error = RUNNING, event.get("nodes"), "", None
        tasks[task] = RUNNING
    elif kind == "ended":
        outcome = {"done": DONE, "stopped": STOPPED}.get(str(event.get("outcome")), FAILED)
        if outcome == STOPPED and state.state == CANCELLED:
            outcome = CANCELLED
        key = task if task in tasks else next((t for t, s in tasks.items() if s == RUNNING), task)
        tasks[key] = outcome
        if outcome in (FAILED, STOPPED):
            state.error = event.get("error") or _ending(outcome, event)
    elif kind == "requeued":
        for key in [k for k, word in tasks.items() if word in (STOPPED, FAILED)]:
            tasks[key] = WAITING
        state.reason = "requeued"
    elif kind == "healed" and event.get("action") != "replace":
        for key in [k for k, word in tasks.items() if word != DONE]:
            tasks[key] = WAITING
        state.state, state.error, state.reason = WAITING, None, ""
    elif kind == "cancelled":
        state.state = CANCELLED
    elif kind == "not_cancelled":  # Slurm did not hear of it
        state.state = WAITING  # or as its elements are


def _ending(outcome: str, event: Json) -> str:
    """How an attempt ended that named no error."""
    if outcome == FAILED:
        return f"exit code {event.get('exit_code')}"
    saved = event.get("last_checkpoint")
    at = f", with checkpoint {saved} saved" if isinstance(saved, int) else ""
    return f"told to stop ({event.get('signal') or 'no signal on record'}){at}"


def _overall(state: StageState, tasks: dict[Any, str]) -> str:
    """One word for all elements: running if any is, else the worst."""
    words = set(tasks.values())
    if state.state == CANCELLED and FAILED not in words:
        return CANCELLED
    for word in (RUNNING, FAILED, CANCELLED, STOPPED, WAITING):
        if word in words:
            return word
    # An ended event without the marker: the other shards of an array are to come.
    return WAITING


def _submissions(state: RunState, events: Sequence[Json]) -> None:
    """What is meant to be in the queue and is not on record there."""
    kinds = ("submitting", "submitted", "not_submitted", "refused")
    for stage in state.stages:
        own = [e for e in events if e.get("stage") == stage.stage and e.get("event") in kinds]
        if own and own[-1]["event"] == "submitting":
            stage.reason, stage.blocked = "sbatch gave no answer: heal looks the job up", True
        elif own and own[-1]["event"] == "refused":
            stage.error, stage.blocked = own[-1].get("error"), True
        elif stage.job is None and stage.state == WAITING and stage.stage in state.planned:
            stage.reason = "not submitted yet; heal submits it"


def _local(state: RunState, events: Sequence[Json]) -> None:
    """A local chain's process that is gone without a word has taken its stages with it."""
    for stage in state.stages:
        if not (stage.job or "").startswith("local-") or stage.state in ENDED:
            continue
        if alive(int(str(stage.job).removeprefix("local-"))):
            continue
        stage.blocked = True
        if stage.state == RUNNING:
            stage.state, stage.error = LOST, "its process is gone (killed, or the machine restarted)"
        elif any(e.get("event") == "chain_ended" for e in events):
            stage.reason = "the chain ended before it"
        else:
            stage.reason = "the chain's process is gone"


def _follow_up(state: RunState) -> None:
    """Stages after one that ended badly wait for a person; in their own words, whatever Slurm calls it."""
    bad: StageState | None = None
    for stage in state.submitted:
        if bad is not None and stage.state == WAITING and stage.job:
            stage.blocked = True
            stage.reason = f"{bad.stage} {bad.state}: it waits for `heal`"
        if stage.state in BAD or stage.stuck:
            bad = bad or stage
        progress.add_live(Path(state.path), stage)


def tail(path: Path, lines: int = 10) -> list[str]:
    """The last lines of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode("utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return []
