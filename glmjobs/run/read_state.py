"""Where a run stands. Its own ledger and markers decide; what Slurm says is only added
(:mod:`glmjobs.run.slurm_state`).

One :class:`StageState` per stage, in words a person can use; everything that shows or waits for a run reads this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from glmjobs.run import progress
from glmjobs.run.directory import RunFile
from glmjobs.run.index import Index, signature, stands_still
from glmjobs.run.reached import REST_ON_TRAINING, behind, of_model
from glmjobs.run.state import (
    DONE,
    FAILED,
    RUNNING,
    STAGES,
    STOPPED,
    WAITING,
    HasPath,
    RunState,
    StageState,
)
from hpc.chain import ledger, own_jobs, submission
from hpc.chain.stage_state import follow, follow_local, follow_submissions, wait_for_repair
from hpc.core import config_files
from hpc.core.errors import BadInput, NotFit
from hpc.core.files import Json


def read_state(run: HasPath, *, ask_slurm: bool = True) -> RunState:
    """The state of a run now.

    Raises:
        NotFit: its directory cannot be read.
    """
    state = read_states([run], ask_slurm=ask_slurm)[0]
    if state.unreadable:
        raise NotFit(state.unreadable)
    state.broken = _broken(run.path)
    return state


def _broken(path: Path) -> str:
    """Why what the stages read first is no run's run.yaml; "" where it is one."""
    try:
        config_files.load(RunFile, path / "run.yaml", "run")
    except BadInput as error:
        return str(error)
    return ""


def read_states(
    runs: Iterable[HasPath], *, ask_slurm: bool = True, index: Index | None = None
) -> list[RunState]:
    """The states of several runs now; Slurm is asked once for all of them.

    Args:
        index: what is known of those that stand still; brought up to date, and saved.
    """
    paths = [run.path for run in runs]
    found: list[RunState] = []
    told: dict[str, list[Json]] = {}
    jobs: dict[str, list[Json]] = {}
    hours: dict[str, dict[str, float]] = {}
    for path in paths:
        try:
            seen = signature(path)
            if index is not None and (kept := index.get(path, seen)) is not None:
                state, hours[str(path)], jobs[str(path)] = kept
                found.append(state)
                continue
            events = ledger.read(path)
            state = _read(path, events)
            found.append(state)
            told[str(path)] = jobs[str(path)] = events
            if index is not None and stands_still(state, events):
                hours[str(path)] = progress.gpu_hours(path, events, [])
                index.keep(path, seen, state, hours[str(path)], _of_jobs(state, events))
        except OSError as error:  # another user's, a damaged disk: no reason to show nothing of the others
            why = f"{error.filename or path}: {error.strerror}"
            found.append(RunState(name=path.name, path=str(path), unreadable=why))
    if index is not None:
        index.save()
    if ask_slurm and any(_asks_slurm(s) for state in found for s in state.stages):
        from glmjobs.run import slurm_state

        slurm_state.add(found, jobs, reread=_stages)
    for state in found:
        if not state.unreadable:
            wait_for_repair(state.submitted)
            for stage in state.submitted:
                progress.add_live(Path(state.path), stage)
            if state.path in hours and all(s.state != RUNNING for s in state.stages):
                state.gpu_hours = hours[state.path]
            else:
                add_costs(state, told.get(state.path) or ledger.read(Path(state.path)))
    return found


def add_costs(state: RunState, events: Sequence[Json]) -> None:
    """What the run has cost by now: what runs is counted until now, what was cut off until its last sign of life."""
    running = [s.stage for s in state.stages if s.state == RUNNING]
    state.gpu_hours = progress.gpu_hours(Path(state.path), events, running)


def _of_jobs(state: RunState, events: Sequence[Json]) -> list[Json]:
    """The lines that say what is on record of the jobs that Slurm may be asked for; none where none is open."""
    wanted = own_jobs.RECORDS if any(_asks_slurm(s) for s in state.stages) else ()
    return [e for e in events if e.get("event") in wanted]


def _asks_slurm(stage: StageState) -> bool:
    return bool(stage.job and stage.job.isdigit() and stage.state != DONE)


def _read(path: Path, events: Sequence[Json]) -> RunState:
    state = RunState(name=path.name, path=str(path), stages=_stages(path, events))
    state.planned = submission.intended(path, events)[0]
    told = next((e for e in reversed(events) if e.get("event") == "data"), {})
    state.data = {name: told[name] for name in ("examples", "left_out", "cut_questions") if name in told}
    state.passed_over = _passed_over(events)
    follow_submissions(state.stages, state.planned, events)
    follow_local(state.stages, events)
    return state


def _passed_over(events: Sequence[Json]) -> list[str]:
    found: list[str] = []
    for event in events:
        if event.get("event") == "attempt" and event.get("stage") == "train":
            found = []
        elif event.get("event") == "passed_over":
            found.append(f"{event.get('checkpoint')}: {event.get('why')}")
    return found


def _stages(path: Path, events: Sequence[Json] | None = None) -> list[StageState]:
    """Every stage by the run directory alone."""
    events = ledger.read(path) if events is None else events
    outdated = behind(path)
    stages = [
        _stage(
            path, stage, [e for e in events if _concerns(e, stage)], outdated if stage in REST_ON_TRAINING else ""
        )
        for stage in STAGES
    ]
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


def _stage(path: Path, stage: str, events: Sequence[Json], outdated: str) -> StageState:
    state = StageState(stage=stage)
    follow(path, state, events, outdated)
    progress.add_progress(path, state)
    if outdated and state.state == WAITING:
        state.blocked = ledger.is_done(path, "train")  # else its job may still be to come
    if stage == "consolidate" and state.state == DONE:
        state.reason = of_model(path)
    if stage == "train" and state.state == DONE:
        figures = (ledger.marker(path, stage) or {}).get("figures") or {}
        if figures.get("ended_early"):
            state.reason = f"ended early: {figures['ended_early']}"
    return state


def tail(path: Path, lines: int = 10) -> list[str]:
    """The last lines of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode("utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return []
