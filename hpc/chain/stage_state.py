"""The state of a chain's stages as its ledger and markers tell it, in words a person can use. Asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc.chain import ledger
from hpc.core.files import Json
from hpc.core.last_words import exit_words
from hpc.core.process import alive

WAITING, RUNNING, DONE, FAILED, STOPPED, CANCELLED, LOST = (
    "waiting", "running", "done", "failed", "stopped", "cancelled", "lost",
)  # fmt: skip
ENDED = (DONE, FAILED, STOPPED, CANCELLED, LOST)
BAD = (FAILED, STOPPED, CANCELLED, LOST)
REQUEUED = "requeued"
"""How the reason of a stage begins that its own job has put back into the queue."""


@dataclass(kw_only=True)
class StageState:
    """One stage: its state, and why.

    ``elements``: how many of an array's elements are in which state; ``reason``: why it is so, ``error``: the last
    error line; ``blocked``: it waits for something that will not happen by itself.
    """

    stage: str
    state: str = WAITING
    job: str | None = None
    attempts: int = 0
    nodes: str | None = None
    step: int | None = None
    elements: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    error: str | None = None
    seconds: float | None = None
    blocked: bool = False

    @property
    def stuck(self) -> bool:
        """Waiting for something that will not happen by itself."""
        return self.state == WAITING and (self.job is None or self.blocked)


def follow(path: Path, state: StageState, events: Sequence[Json], outdated: str = "") -> None:
    """Bring a fresh state up to date from the lines of the ledger that concern it, and from its marker.

    Args:
        outdated: why its marker counts no longer; "": it does.
    """
    tasks: dict[Any, str] = {}
    for event in events:
        _apply(state, tasks, event)
    state.state = _overall(state, tasks)
    if len(tasks) > 1 or any(task is not None for task in tasks):
        state.elements = {word: list(tasks.values()).count(word) for word in dict.fromkeys(tasks.values())}
    marker = ledger.marker(path, state.stage)
    if marker and outdated:
        state.reason = outdated
    elif marker and marker.get("outcome") == "done":
        state.state, state.seconds, state.error, state.reason = DONE, marker.get("seconds"), None, ""
        state.elements = {}


def _apply(state: StageState, tasks: dict[Any, str], event: Json) -> None:
    """Follow the ledger, a line at a time. ``tasks``: the state of each element of an array (else of the one job)."""
    kind, task = event.get("event"), event.get("array_task")
    if kind == "submitted":
        state.job, state.state, state.error, state.reason = str(event.get("job")), WAITING, None, ""
        tasks.clear()
    elif kind == "attempt":
        state.attempts += 1
        state.state, state.nodes, state.error = RUNNING, event.get("nodes"), None
        state.reason = state.reason.removeprefix(REQUEUED).removeprefix(
            "; "
        )  # how the attempt before it failed
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
        failed = f"; the last attempt failed: {state.error}" if FAILED in tasks.values() else ""
        state.reason = REQUEUED + failed
        for key in [k for k, word in tasks.items() if word in (STOPPED, FAILED)]:
            tasks[key] = WAITING
    elif kind == "not_requeued":
        outcome = STOPPED if event.get("outcome") == "stopped" else FAILED
        for key in [k for k, word in tasks.items() if word == WAITING and k == task]:
            tasks[key] = outcome
        state.state, state.error, state.reason = outcome, event.get("error"), ""
    elif kind == "healed" and event.get("action") != "replace":
        for key in [k for k, word in tasks.items() if word != DONE]:
            tasks[key] = WAITING
        state.state, state.error, state.reason = WAITING, None, ""
    elif kind == "reopened":
        state.state, state.error, state.reason = WAITING, None, str(event.get("why"))
        tasks.clear()
    elif kind == "cancelled":
        state.state = CANCELLED
    elif kind == "not_cancelled":  # Slurm did not hear of it
        state.state = WAITING  # or as its elements are


def _ending(outcome: str, event: Json) -> str:
    """How an attempt ended that named no error."""
    if outcome == FAILED:
        return exit_words(int(event.get("exit_code") or 0))
    saved = event.get("last_checkpoint")
    at = f", with checkpoint {saved} saved" if isinstance(saved, int) else ""
    why = (
        "preempted by another job"
        if event.get("preempted")
        else f"told to stop ({event.get('signal') or 'no signal on record'})"
    )
    return why + at


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


def follow_submissions(stages: Sequence[StageState], planned: Sequence[str], events: Sequence[Json]) -> None:
    """What is meant to be in the queue and is not on record there."""
    kinds = ("submitting", "submitted", "not_submitted", "refused")
    for stage in stages:
        own = [e for e in events if e.get("stage") == stage.stage and e.get("event") in kinds]
        if own and own[-1]["event"] == "submitting":
            stage.reason, stage.blocked = "sbatch gave no answer: heal looks the job up", True
        elif own and own[-1]["event"] == "refused":
            stage.error, stage.blocked = own[-1].get("error"), True
        elif stage.job is None and stage.state == WAITING and stage.stage in planned:
            stage.reason = "not submitted yet; heal submits it"


def follow_local(stages: Sequence[StageState], events: Sequence[Json]) -> None:
    """A local chain's process that is gone without a word has taken its stages with it."""
    for stage in stages:
        if not (stage.job or "").startswith("local-") or stage.state in ENDED or stage.blocked:
            continue
        if alive(int(str(stage.job).removeprefix("local-"))):
            continue
        stage.blocked = True
        if stage.state == RUNNING:
            stage.state, stage.error = LOST, "its process is gone (killed, or the machine restarted)"
        elif any(s.job == stage.job and s.state in (FAILED, STOPPED, CANCELLED) for s in stages):
            stage.reason = "the chain ended before it"  # a job can have stages before the one it is named for
        elif (end := _chain_end(stage, events)) and end.get("stage") == stage.stage and end.get("error"):
            stage.state, stage.error = FAILED, f"ended before its first line: {end['error']}"
        elif end:
            stage.reason = "the chain ended before it"
        else:
            stage.reason = "the chain's process is gone"


def _chain_end(stage: StageState, events: Sequence[Json]) -> Json | None:
    """How the local chain ended that this stage was last given to."""
    for event in reversed(events):
        if event.get("event") == "chain_ended":
            return event
        if event.get("stage") == stage.stage and event.get("event") in ("submitted", "healed"):
            break
    return None


def wait_for_repair(stages: Sequence[StageState]) -> None:
    """Stages after one that ended badly wait for a person; in their own words, whatever Slurm calls it."""
    bad: StageState | None = None
    for stage in stages:
        if bad is not None and stage.state == WAITING and stage.job:
            stage.blocked = True
            stage.reason = f"{bad.stage} {bad.state}: it waits for `heal`"
        if stage.state in BAD or stage.stuck:
            bad = bad or stage
