"""The job that a batch process is of: what it is called in Slurm and on record, and how its next attempt comes.

A job's next attempt is, in this order of what is asked for: the next element of its array, where its attempts are in
the queue from the start (:attr:`hpc.batch.jobs.Job.attempts`); the job itself, queued again under its id. Where neither
can be had, the work so far is kept, and a repair of the chain goes on with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpc.chain import ledger
from hpc.core.errors import HpcError
from hpc.slurm.variables import for_steps

DROPPED = "attempts_dropped"
"""The event after which no further queued attempt of a job does anything."""


@dataclass(frozen=True, kw_only=True)
class ThisJob:
    """Who this process works for.

    Attributes:
        name: on record: Slurm's job id (of queued attempts, the array's), or ``local-PID``.
        number: Slurm's own number of what runs now.
        slurm_id: what Slurm's commands take for it: an element of an array by its place, as its own number may mean the
            whole array.
        task: its place in an array of pieces of work; None: it is none.
        later: Slurm's name for the attempts that are in the queue behind this one; "": there are none.
        queued: its attempts are in the queue from the start.
        restarts: how often Slurm had started it again before.
    """

    name: str
    on_slurm: bool = False
    number: str = ""
    slurm_id: str = ""
    task: int | None = None
    later: str = ""
    queued: bool = False
    restarts: int = 0

    @classmethod
    def here(cls, *, queued: bool = False, environ: Mapping[str, str] | None = None) -> ThisJob:
        """Of this process's environment. ``queued``: the elements of its array, if it has one, are attempts."""
        env = os.environ if environ is None else environ
        number = env.get("SLURM_JOB_ID", "")
        restarts, task = env.get("SLURM_RESTART_COUNT", ""), env.get("SLURM_ARRAY_TASK_ID", "")
        array = env.get("SLURM_ARRAY_JOB_ID", number)
        in_turn = queued and task.isdigit()
        last = int(env.get("SLURM_ARRAY_TASK_MAX") or task) if in_turn else 0
        return cls(
            name=(array if in_turn else number) or f"local-{os.getpid()}",
            on_slurm=bool(number),
            number=number,
            slurm_id=f"{array}_{task}" if task.isdigit() else number,
            task=int(task) if task.isdigit() and not in_turn else None,
            later=f"{array}_[{int(task) + 1}-{last}]" if in_turn and int(task) < last else "",
            queued=in_turn,
            restarts=int(restarts) if restarts.isdigit() else 0,
        )

    def for_steps(self) -> dict[str, str]:
        """The environment of its commands: of queued attempts each is the whole job."""
        found = for_steps(os.environ)
        return {n: v for n, v in found.items() if not (self.queued and n.startswith("SLURM_ARRAY_"))}

    def dropped(self, run: Path) -> bool:
        """Whether this is an attempt that was left over: the work is done, or no attempt can help."""
        return self.queued and any(e.get("job") == self.name for e in ledger.events(run, event=DROPPED))

    def drop_later(self, run: Path, stage: str) -> None:
        """Have the attempts that are still in the queue do nothing: cancelled, or each ends as soon as it starts."""
        if not self.later:
            return
        from hpc.slurm import client as slurm

        ledger.append(run, DROPPED, stage=stage, job=self.name)
        try:
            slurm.cancel([self.later])
        except HpcError as error:
            print(
                f"note: {self.later} could not be cancelled ({error}): it ends as it starts", file=sys.stderr
            )

    def again(self) -> str:
        """Have the next attempt come; why none does, "" where one does.

        Slurm may end this very process before a requeue returns.
        """
        from hpc.slurm import client as slurm

        if self.queued:
            return "" if self.later else "no queued attempt is left"
        try:
            slurm.requeue(self.slurm_id)
        except HpcError as error:
            return f"it could not be queued again from {os.uname().nodename} ({error})"
        return ""
