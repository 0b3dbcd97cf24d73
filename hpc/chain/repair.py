"""A chain in trouble, mended on Slurm: what Slurm still holds keeps its job id, the rest is submitted anew.

For each job of the chain, in order, :func:`decide` says what it needs, from the run directory (is the stage done?) and
from Slurm (does it know the job, and how is it?); :class:`Mender` does it. A job is put back into the queue before its
dependents are re-armed: Slurm refuses to wait for a job that has failed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc.chain import ledger, submission
from hpc.chain.submission import Planned
from hpc.slurm import client as slurm
from hpc.slurm import reasons
from hpc.slurm.client import SlurmRefused
from hpc.slurm.records import JobInfo

KEEP, REARM, RELEASE, REQUEUE, REPLACE, SUBMIT, DONE = (
    "keep", "re-arm", "release", "requeue", "replace", "submit", "done",
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


class ChainRepair:
    """Mends one run's chain.

    Args:
        jobs: the whole chain as it would be submitted today, in order.
        key: the run's.
        same_script: stage → whether its script is the one on record.
        say: told of every action taken.
    """

    def __init__(
        self, run: Path, jobs: Sequence[Planned], key: str, same_script: dict[str, bool],
        say: Callable[[Action], None] = lambda action: None,
    ) -> None:  # fmt: skip
        self.run, self.jobs, self.key, self.same_script, self.say = run, list(jobs), key, same_script, say
        self.ids: dict[str, str] = {}
        self.fresh: list[str] = []
        self.moved: set[str] = set()

    def mend(self) -> list[Action]:
        """Do what is needed; what was done, a line a job.

        Raises:
            SlurmUnreachable: Slurm is away; call again.
            JobFailed: sbatch refused a job.
        """
        self._find_lost()
        self.ids = {s: j for s, j in submission.current_jobs(self.run).items() if j.isdigit()}
        known = self._settled()
        taken = []
        for job in self.jobs:
            stage = job.request.stage
            infos = elements(known, self.ids.get(stage))
            action = decide(
                stage, self.ids.get(stage), self._done(stage), infos, self.same_script.get(stage, True)
            )
            action = self._do(action, job, infos)
            taken.append(action)
            self.say(action)
        return taken

    def _find_lost(self) -> None:
        """Jobs whose submission got no answer, or whose submitter was killed before it wrote the answer down."""
        have = submission.current_jobs(self.run)
        for job in self.jobs:
            stage = job.request.stage
            if stage not in have or submission.unanswered(self.run, stage):
                found = submission.look_up(self.run, stage, submission.comment(self.key, stage))
                if found is not None:
                    ledger.append(
                        self.run, "submitted", stage=stage, job=found, executor="slurm", found_by_comment=True
                    )
                elif submission.unanswered(self.run, stage):
                    ledger.append(self.run, "not_submitted", stage=stage)

    def _settled(self) -> dict[str, JobInfo]:
        """What Slurm knows of the chain's jobs, once none of them is on its way out."""
        ids = [self.ids[j.request.stage] for j in self.jobs if j.request.stage in self.ids]
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            known = slurm.jobs(ids)
            leaving = [i for i in known.values() if i.state is slurm.JobState.COMPLETING]
            if not leaving or time.monotonic() > until:
                return known
            time.sleep(0.5)

    def _done(self, stage: str) -> bool:
        marker = ledger.marker(self.run, stage)
        return marker is not None and marker.get("outcome") == "done"

    def _do(self, action: Action, job: Planned, infos: Sequence[JobInfo]) -> Action:
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

    def _submit(self, action: Action, job: Planned) -> Action:
        if action.what == REPLACE and action.job is not None:
            slurm.cancel([action.job])
        ids = submission.send(self.run, job, self.key, self.ids, fresh=self.fresh, before=self._before(job))
        self.ids[action.stage] = ids
        self.fresh.append(ids)
        return self._record(Action(stage=action.stage, what=action.what, job=ids, why=action.why))

    def _requeue(self, action: Action, job: Planned, infos: Sequence[JobInfo]) -> Action:
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

    def _arm(self, action: Action, job: Planned, infos: Sequence[JobInfo]) -> bool:
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

    def _waits(self, job: Planned) -> list[str]:
        return submission.waits_for(
            self.run, job.request, self.ids, fresh=self.fresh, before=self._before(job)
        )

    def _before(self, job: Planned) -> str | None:
        return submission.before(self.jobs, job)

    def _record(self, action: Action) -> Action:
        ledger.append(
            self.run, "healed", stage=action.stage, job=action.job, action=action.what, why=action.why
        )
        return action


def bases(dependency: str) -> set[str]:
    """The jobs that a dependency names, arrays by their own id.

    >>> sorted(bases("afterok:12_*(unfulfilled),afterok:13_4(failed)"))
    ['12', '13']
    """
    return set(re.findall(r"(?<![\d_])(\d+)", dependency))


def elements(known: dict[str, JobInfo], job: str | None) -> list[JobInfo]:
    """A job's records: one, or one for each element of an array."""
    if job is None:
        return []
    parts = [info for name, info in known.items() if name.startswith(f"{job}_")]
    return parts or ([known[job]] if job in known else [])
