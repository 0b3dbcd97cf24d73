"""A chain in trouble goes on where it stands: what Slurm still holds keeps its job id, the rest is submitted anew.

For each job of the chain, in order, :func:`decide` says what it needs, from the run directory (is the stage done?) and
from Slurm (does it know the job, and how is it?); :class:`ChainRepair` does it. A job is put back into the queue before
its dependents are re-armed: Slurm refuses to wait for a job that has failed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpc.batch.jobs import Chain, Job
from hpc.batch.script import render
from hpc.chain import ledger, submission
from hpc.chain.local import at_work
from hpc.slurm import client as slurm
from hpc.slurm import reasons
from hpc.slurm.client import SlurmRefused
from hpc.slurm.records import JobInfo

KEEP, REARM, RELEASE, REQUEUE, REPLACE, SUBMIT, START, DONE = (
    "keep", "re-arm", "release", "requeue", "replace", "submit", "start", "done",
)  # fmt: skip
SETTLE_SECONDS = 60.0
"""A job that is ending (COMPLETING) can be judged only afterwards; KillWait is 30 s by default."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """What was done about one job of the chain: how, under which id, and why."""

    stage: str
    what: str
    job: str | None = None
    why: str = ""


def decide(stage: str, job: str | None, done: bool, infos: Sequence[JobInfo], same_script: bool) -> Action:
    """What one job of a chain needs.

    Args:
        job: its id on record; None: it was never submitted.
        infos: what Slurm knows of it, one record (or one an array element); none: nothing any more.
        same_script: the job would be submitted today as it was.
    """
    if done:
        return Action(stage=stage, what=DONE, job=job)
    if job is None:
        return Action(stage=stage, what=SUBMIT, why="it was never submitted")
    if not infos:
        return Action(stage=stage, what=SUBMIT, why=f"Slurm has forgotten job {job}")
    if any(i.state.is_active for i in infos):
        return Action(stage=stage, what=KEEP, job=job, why="it runs")
    if not same_script:
        return Action(stage=stage, what=REPLACE, job=job, why="its script has changed")
    if any(i.state.is_final for i in infos):
        bad = next((i for i in infos if i.state.is_final and not i.state.is_success), None)
        return Action(
            stage=stage, what=REQUEUE, job=job, why=reasons.ending(bad) if bad else "it left no result"
        )
    if any(reasons.held_reason(i) for i in infos):
        return Action(stage=stage, what=RELEASE, job=job, why="it is held")
    return Action(stage=stage, what=KEEP, job=job, why=reasons.waiting(infos[0]) or "it waits")


def repair(chain: Chain, why: Mapping[str, str] | None = None) -> list[Action]:
    """Let a chain that failed, was cut off or has a hole go on; what was done, a line a job. Twice is as once.

    Args:
        why: stage → what went wrong, for the record of a local chain.

    Raises:
        BadInput: the run is being submitted or repaired by another process.
        SlurmUnreachable: Slurm is away; call again.
        WorkFailed: sbatch refused a job.
    """
    if chain.local:
        return start_again(chain, why or {})
    with submission.lock(chain.run):
        if not chain.key:
            chain = submission.identified(chain)
            submission.intend(chain, [job.stage for job in chain.jobs])
        return ChainRepair(chain).repair()


def start_again(chain: Chain, why: Mapping[str, str]) -> list[Action]:
    """Start a chain again on this machine, with what is missing."""
    missing = tuple(job for job in chain.jobs if not ledger.is_done(chain.run, job.stage))
    done = [Action(stage=job.stage, what=DONE) for job in chain.jobs if job not in missing]
    submitted = submission.current_jobs(chain.run).values()
    busy = next((job for job in submitted if at_work(job)), None)
    if busy is not None:
        said = f"process {busy.removeprefix('local-')} is at work"
        return [*done, *(Action(stage=j.stage, what=KEEP, job=busy, why=said) for j in missing)]
    for job in missing:
        ledger.append(chain.run, "healed", stage=job.stage, action=START, why=why.get(job.stage) or None)
    ids = submission.submit(replace(chain, jobs=missing)) if missing else {}
    return [*done, *(Action(stage=s, what=START, job=i, why=why.get(s, "")) for s, i in ids.items())]


class ChainRepair:
    """Repairs one chain on Slurm: the whole of it, as it would be submitted today."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.run = chain, chain.run
        self.ids: dict[str, str] = {}
        self.fresh: list[str] = []
        self.moved: set[str] = set()

    def repair(self) -> list[Action]:
        """Do what is needed, job by job."""
        self._find_lost()
        self.ids = {s: j for s, j in submission.current_jobs(self.run).items() if j.isdigit()}
        known = self._settled()
        taken = []
        for job in self.chain.jobs:
            number = self.ids.get(job.stage)
            infos = elements(known, number)
            done = ledger.is_done(self.run, job.stage)
            taken.append(self._do(decide(job.stage, number, done, infos, self._same_script(job)), job, infos))
        return taken

    def _same_script(self, job: Job) -> bool:
        """Whether the job would go out as it did. (One that was submitted by hand has no script on record.)"""
        path = submission.script_file(self.run, job.stage)
        return not path.is_file() or path.read_text(encoding="utf-8") == render(job, self.chain)

    def _find_lost(self) -> None:
        """Jobs whose submission got no answer, or whose submitter was killed before it wrote the answer down."""
        have = submission.current_jobs(self.run)
        for job in self.chain.jobs:
            stage = job.stage
            lost = submission.unanswered(self.run, stage)
            if stage not in have or lost:
                found = submission.look_up(self.run, stage, self.chain.comment(stage))
                if found is not None:
                    ledger.append(
                        self.run, "submitted", stage=stage, job=found, executor="slurm", found_by_comment=True
                    )
                elif lost:
                    ledger.append(self.run, "not_submitted", stage=stage)

    def _settled(self) -> dict[str, JobInfo]:
        """What Slurm knows of the chain's jobs, once none of them is on its way out."""
        ids = [self.ids[job.stage] for job in self.chain.jobs if job.stage in self.ids]
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            known = slurm.jobs(ids)
            leaving = [i for i in known.values() if i.state is slurm.JobState.COMPLETING]
            if not leaving or time.monotonic() > until:
                return known
            time.sleep(0.5)

    def _do(self, action: Action, job: Job, infos: Sequence[JobInfo]) -> Action:
        if action.what in (SUBMIT, REPLACE):
            return self._submit(action, job)
        if action.what == REQUEUE:
            return self._requeue(action, job, infos)
        if action.what == RELEASE:
            self._arm(action, job, infos)
            slurm.release(str(action.job))
            return self._record(action)
        if action.what == KEEP and all(i.state.is_pending for i in infos) and self._arm(action, job, infos):
            return self._record(Action(stage=action.stage, what=REARM, job=action.job, why=action.why))
        return action

    def _submit(self, action: Action, job: Job) -> Action:
        if action.what == REPLACE and action.job is not None:
            slurm.cancel([action.job])
        number = submission.send(self.chain, job, self.ids, fresh=self.fresh)
        submission.write_scripts(self.chain, [job])
        self.ids[action.stage] = number
        self.fresh.append(number)
        return self._record(replace(action, job=number))

    def _requeue(self, action: Action, job: Job, infos: Sequence[JobInfo]) -> Action:
        """Back into the queue under the same id; of an array only what did not end well."""
        again = [i.id for i in infos if i.state.is_final and not i.state.is_success]
        again = again or [i.id for i in infos if i.state.is_final]
        waits = self._waits(job)
        try:
            for item in again:
                slurm.requeue(item, hold=bool(waits))
            self.moved.add(str(action.job))
        except SlurmRefused as error:
            return self._submit(
                Action(stage=action.stage, what=REPLACE, job=action.job, why=f"{action.why}; {error}"), job
            )
        if waits:
            slurm.update_dependency(str(action.job), f"afterok:{':'.join(waits)}")
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
        right = all(w in has for w in waits) if waits else not has
        if (
            right
            and not self.moved & set(waits)
            and "failed" not in has
            and not any(i.reason == "DependencyNeverSatisfied" for i in infos)
        ):
            return False
        slurm.update_dependency(str(action.job), f"afterok:{':'.join(waits)}" if waits else "")
        return True

    def _waits(self, job: Job) -> list[str]:
        return submission.waits_for(self.chain, job, self.ids, fresh=self.fresh)

    def _record(self, action: Action) -> Action:
        ledger.append(
            self.run, "healed", stage=action.stage, job=action.job, action=action.what, why=action.why
        )
        return action


def elements(known: dict[str, JobInfo], job: str | None) -> list[JobInfo]:
    """A job's records: one, or one for each element of an array."""
    if job is None:
        return []
    parts = [info for name, info in known.items() if name.startswith(f"{job}_")]
    return parts or ([known[job]] if job in known else [])
