"""A chain in trouble goes on where it stands: what Slurm still holds keeps its job id, the rest is submitted anew.

For each job of the chain, in order, :func:`decide` says what it needs, from the run directory (is the stage done?) and
from Slurm (does it know the job, and how is it?); :class:`ChainRepair` does it. A job is put back into the queue before
its dependents are re-armed: Slurm refuses to wait for a job that has failed. Nothing is submitted anew before the
controller itself has been asked for the job's number, and for its comment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hpc.batch.jobs import Chain, Job
from hpc.batch.script import asked, asks, render
from hpc.chain import ledger, own_jobs, submission
from hpc.chain.local import at_work
from hpc.chain.own_jobs import Found
from hpc.slurm import client as slurm
from hpc.slurm import reasons
from hpc.slurm.client import SlurmRefused
from hpc.slurm.records import JobInfo

KEEP, REARM, RELEASE, REQUEUE, REPLACE, SUBMIT, START, DONE = (
    "keep", "re-arm", "release", "requeue", "replace", "submit", "start", "done",
)  # fmt: skip
ENDING_SECONDS = 10.0
"""A chain on this machine whose stage has failed is at an end as soon as it has written that down."""

SETTLE_SECONDS = 60.0
"""A job that is ending (COMPLETING) can be judged only afterwards; KillWait is 30 s by default."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """What was done about one job of the chain: how, under which id, and why."""

    stage: str
    what: str
    job: str | None = None
    why: str = ""


def decide(stage: str, known: Found | None, done: bool, changed: str = "", reopened: str = "") -> Action:
    """What one job of a chain needs.

    Args:
        known: what Slurm knows of the job on record; None: it was never submitted.
        changed: how the job would ask for other things today than it did; "": it would not.
        reopened: why it is to be done again, though it had ended well; "": it is not.
    """
    if known is None:
        return Action(
            stage=stage, what=DONE if done else SUBMIT, why="" if done else "it was never submitted"
        )
    job, infos = known.claim.job, known.standing
    if done:
        return Action(stage=stage, what=DONE, job=job)
    if not infos and (late := known.late) is not None:
        return Action(
            stage=stage, what=KEEP, job=job,
            why=f"it was accepted {late:.0f} s ago and Slurm does not list it yet; look again in a minute",
        )  # fmt: skip
    if not infos:
        return Action(stage=stage, what=SUBMIT, job=job, why=reopened or known.gone())
    if any(i.state.is_active for i in infos):
        return Action(stage=stage, what=KEEP, job=job, why="it runs")
    if changed:
        return Action(stage=stage, what=REPLACE, job=job, why=f"it asks for other things now: {changed}")
    if any(i.state.is_final for i in infos):
        bad = next((i for i in infos if i.state.is_final and not i.state.is_success), None)
        return Action(
            stage=stage,
            what=REQUEUE if known.claim.attempts == 1 else REPLACE,
            job=job,
            why=reasons.ending(bad) if bad else reopened or "it left no result",
        )
    if any(reasons.held_reason(i) for i in infos):
        return Action(stage=stage, what=RELEASE, job=job, why="it is held")
    return Action(stage=stage, what=KEEP, job=job, why=reasons.waiting(infos[0]) or "it waits")


def repair(
    chain: Chain,
    why: Mapping[str, str] | None = None,
    *,
    intend: Callable[[Action], None] | None = None,
    tell: Callable[[Action], None] | None = None,
) -> list[Action]:
    """Let a chain that failed, was cut off or has a hole go on; what was done, a line a job. Twice is as once.

    Args:
        why: stage → what went wrong, for the record of a local chain.
        intend: called, before anything is done, for each job that is to be cancelled and submitted anew.
        tell: called for each job when it has been seen to; where a later one is refused, this much was done.

    Raises:
        BadInput: the run is being submitted or repaired by another process.
        NotFit: the jobs are on another cluster than this machine's.
        SlurmUnreachable: Slurm is away; call again.
        WorkFailed: sbatch refused a job; call again when it is mended.
    """
    tell = tell or (lambda action: None)
    if chain.local:
        actions = start_again(chain, why or {})
        for action in actions:
            tell(action)
        return actions
    with submission.lock(chain.run), own_jobs.on_its_cluster(chain.run):
        own_jobs.on_one_cluster(chain.run)
        if not chain.key:
            chain = submission.identified(chain)
            submission.intend(chain, [job.stage for job in chain.jobs])
        return ChainRepair(chain).repair(intend or (lambda action: None), tell)


def start_again(chain: Chain, why: Mapping[str, str]) -> list[Action]:
    """Start a chain again on this machine, with what is missing."""
    missing = tuple(job for job in chain.jobs if not ledger.is_done(chain.run, job.stage))
    done = [Action(stage=job.stage, what=DONE) for job in chain.jobs if job not in missing]
    submitted = submission.current_jobs(chain.run).values()
    busy = next((job for job in submitted if at_work(job)), None)
    until = time.monotonic() + ENDING_SECONDS
    while busy is not None and ledger.is_ending(chain.run) and time.monotonic() < until:
        time.sleep(0.05)  # its last stage has ended, and it is about to
        busy = busy if at_work(busy) else None
    if busy is not None:
        said = f"process {busy.removeprefix('local-')} is at work"
        return [*done, *(Action(stage=j.stage, what=KEEP, job=busy, why=said) for j in missing)]
    why = {job.stage: ledger.reopened(chain.run, job.stage) or why.get(job.stage, "") for job in missing}
    for job in missing:
        ledger.append(chain.run, "healed", stage=job.stage, action=START, why=why[job.stage] or None)
    ids = submission.submit(replace(chain, jobs=missing)) if missing else {}
    return [*done, *(Action(stage=s, what=START, job=i, why=why[s]) for s, i in ids.items())]


class ChainRepair:
    """Repairs one chain on Slurm: the whole of it, as it would be submitted today."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.run = chain, chain.run
        self.ids: dict[str, str] = {}
        self.fresh: list[str] = []
        self.moved: set[str] = set()

    def repair(self, intend: Callable[[Action], None], tell: Callable[[Action], None]) -> list[Action]:
        """Do what is needed, job by job: all is decided before the first thing is done."""
        self._find_lost()
        known = self._settled()
        self.ids = {stage: found.claim.job for stage, found in known.items()}
        decided = []
        for job in self.chain.jobs:
            done = ledger.is_done(self.run, job.stage)
            reopened = ledger.reopened(self.run, job.stage)
            decided.append(decide(job.stage, known.get(job.stage), done, self._changed(job), reopened))
        for action in decided:
            if action.what == REPLACE:
                intend(action)
        taken = []
        for action, job in zip(decided, self.chain.jobs, strict=True):
            found = known.get(job.stage)
            taken.append(self._do(action, job, found.standing if found else ()))
            tell(taken[-1])
        return taken

    def _changed(self, job: Job) -> str:
        """How the job would ask for other things than it did when it was submitted: ``time: 01:00:00 → 02:00:00``.

        (One that was submitted by hand has nothing on record.)
        """
        now = asks(job, self.chain)
        before = next(
            (e.get("asks") for e in reversed(ledger.events(self.run, event="submitted", stage=job.stage))),
            None,
        )
        script = submission.script_file(self.run, job.stage)
        if not before and script.is_file():
            before = asked(script.read_text(encoding="utf-8", errors="replace"))
            now = {name: value for name, value in now.items() if name in asked(render(job, self.chain))}
        if not isinstance(before, dict):
            return ""
        return "; ".join(
            f"{name}: {before.get(name, 'none')} → {now.get(name, 'none')}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        )

    def _find_lost(self) -> None:
        """Jobs whose submission got no answer, or whose submitter was killed before it wrote the answer down."""
        have = submission.current_jobs(self.run)
        for job in self.chain.jobs:
            stage = job.stage
            lost = submission.unanswered(self.run, stage)
            if (stage not in have or lost) and not self._adopt(job) and lost:
                ledger.append(self.run, "not_submitted", stage=stage)

    def _adopt(self, job: Job) -> str | None:
        """The job that is this one and is on record nowhere, put on record; its id."""
        found = submission.look_up(self.chain, job)
        if found is None:
            return None
        return submission.record(self.chain, job, found.id, cluster=found.cluster, found=True)

    def _settled(self) -> dict[str, Found]:
        """Stage → what Slurm knows of its job, once none of them is on its way out."""
        mine = own_jobs.of_run(self.run)
        wanted = [mine[job.stage] for job in self.chain.jobs if job.stage in mine]
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            known = own_jobs.certain(wanted)
            parts = [info for found in known.values() for info in found.parts]
            if not any(i.state is slurm.JobState.COMPLETING for i in parts) or time.monotonic() > until:
                break
            time.sleep(0.5)
        if any(found.taken for found in known.values()):  # numbers are given anew: what isn't there is lost
            known = {
                claim: replace(found, claim=replace(claim, recorded=None)) for claim, found in known.items()
            }
        return {stage: known[claim] for stage, claim in mine.items() if claim in known}

    def _do(self, action: Action, job: Job, infos: Sequence[JobInfo]) -> Action:
        if action.what in (SUBMIT, REPLACE):
            return self._submit(action, job)
        if action.what == REQUEUE:
            return self._requeue(action, job, infos)
        if action.what == RELEASE:
            self._arm(action, job, infos)
            slurm.release(str(action.job))
            return self._record(action)
        if (
            action.what == KEEP
            and infos
            and all(i.state.is_pending for i in infos)
            and self._arm(action, job, infos)
        ):
            return self._record(Action(stage=action.stage, what=REARM, job=action.job, why=action.why))
        return action

    def _submit(self, action: Action, job: Job) -> Action:
        if action.what == REPLACE and action.job is not None:
            slurm.cancel([action.job])
        number = self._adopt(job) if action.what == SUBMIT and action.job is not None else None
        number = number or submission.send(self.chain, job, self.ids, fresh=self.fresh)
        submission.write_scripts(self.chain, [job])
        self.ids[action.stage] = number
        self.fresh.append(number)
        return self._record(replace(action, job=number))

    def _requeue(self, action: Action, job: Job, infos: Sequence[JobInfo]) -> Action:
        """Back into the queue under the same id; of an array only what did not end well."""
        again = [i.id for i in infos if i.state.is_final and not i.state.is_success]
        again = again or [i.id for i in infos if i.state.is_final]
        after = submission.waiting(job, self._waits(job))
        try:
            for item in again:
                slurm.requeue(item, hold=bool(after))
            self.moved.add(str(action.job))
        except SlurmRefused as error:
            return self._submit(
                Action(stage=action.stage, what=REPLACE, job=action.job, why=f"{action.why}; {error}"), job
            )
        if after:
            slurm.update_dependency(str(action.job), after)
            for item in again:
                slurm.release(item)
        return self._record(action)

    def _arm(self, action: Action, job: Job, infos: Sequence[JobInfo]) -> bool:
        """Give a pending job the dependency it should have; whether it had another.

        A job that waits for one that was queued again just now is always armed anew: Slurm may have judged the old
        end, or be about to.
        """
        waits = self._waits(job)
        has = infos[0].dependency
        in_turn = bool(job.lane) and has.startswith(submission.IN_TURN)
        named = all(w in has for wait in waits for w in wait.split(submission.OR))
        right = named if waits else in_turn or not has
        hopeless = "failed" in has and not (submission.OR in has and "unfulfilled" in has)
        if (
            right
            and not self.moved & set(waits)
            and not hopeless
            and not any(i.reason == "DependencyNeverSatisfied" for i in infos)
        ):
            return False
        slurm.update_dependency(str(action.job), submission.waiting(job, waits))
        return True

    def _waits(self, job: Job) -> list[str]:
        return submission.waits_for(self.chain, job, self.ids, fresh=self.fresh)

    def _record(self, action: Action) -> Action:
        ledger.append(
            self.run, "healed", stage=action.stage, job=action.job, action=action.what, why=action.why
        )
        return action
