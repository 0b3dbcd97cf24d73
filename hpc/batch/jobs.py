"""What a person asks for: steps make a job, jobs that wait for each other make a chain."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpc.batch.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage's command within a job.

    Attributes:
        command: its words; ``$RUN`` is the run directory, ``python`` that of the profile's environment.
        tasks_per_node: how many of it start on each node (0: no launcher, one process).
        kill_on_bad_exit: a task that fails ends the others of the step.
    """

    stage: str
    command: tuple[str, ...]
    tasks_per_node: int = 0
    kill_on_bad_exit: bool = True


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one job of a chain asks for; its steps run in order.

    Attributes:
        stage: what it is called in the run directory and in ``after``; its last step's stage.
        name: Slurm's name for it; "": the stage's.
        time: limit, in one of Slurm's forms.
        memory: of a node, such as ``64G``; None: Slurm's default.
        array: number of array tasks, counted from 0; None: no array.
        signal_seconds: so long before its time limit it is warned, to save and start again; None: it isn't.
        after: stages whose jobs have to be done first.
        lane: of all your jobs in the lane of this name one runs at a time, in the order of their submission (Slurm's
            "singleton", by the job's name, which is the lane's); "": it is in none. For a job that waits for no other.
        attempts: so many are in the queue from the start, one after the other, each going on where the one before
            stopped; those left over are cancelled. For a site where no job may be queued again. 1: it is queued again.
        attempt_limit: so many attempts in a row without a new checkpoint are one too many.
        settings: where a person sets its time and memory, for messages, such as ``jobs.train``; "": not told.
        advice: what to do where the time limit ends it again and again before it has saved anything; "": in general.
        own_markers: its stages say themselves that they are done (:func:`hpc.chain.ledger.write_marker`, as their last
            act); else each is done when its command ends with 0.
    """

    stage: str
    steps: tuple[Step, ...]
    name: str = ""
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    time: str = "01:00:00"
    memory: str | None = None
    array: int | None = None
    signal_seconds: int | None = None
    after: tuple[str, ...] = ()
    lane: str = ""
    attempts: int = 1
    attempt_limit: int = 3
    settings: str = ""
    advice: str = ""
    own_markers: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1 or (self.attempts > 1 and self.array is not None):
            raise ValueError(f"{self.stage}: attempts is 1 or more, and 1 for an array")

    @property
    def stages(self) -> tuple[str, ...]:
        """Every stage it runs, its own among them."""
        return tuple(dict.fromkeys((*(step.stage for step in self.steps), self.stage)))


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Jobs that wait for each other, and what is the same for all of them.

    Attributes:
        run: the run directory, on a file system that every node sees.
        jobs: in order.
        profile: where they run.
        project: the directory they start in, first on Python's path; None: they start in the run directory, and what
            they run is installed in the profile's environment.
        code: which version of their code the jobs run, where it is kept: another is a reason to submit them anew.
        variables: exported to every job, besides the profile's.
        local: on this machine, without Slurm.
        key: unique, in every job's comment, so that a job can be found again; "": the one of the run's ledger.
        name: whose chain it is: the comment's first word.
        made_by: what the scripts' first line calls their maker; "": the name.
        repair_command: what a person types in front of the run's path to repair it, for messages; "": in Python.
    """

    run: Path
    jobs: tuple[Job, ...]
    profile: Profile = field(default_factory=Profile)
    project: Path | None = field(default_factory=Path.cwd)
    code: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    local: bool = False
    key: str = ""
    name: str = "hpc"
    made_by: str = ""
    repair_command: str = ""

    def __post_init__(self) -> None:
        several = {job.stage for job in self.jobs if job.attempts > 1}
        for job in self.jobs:
            if len(job.after) > 1 and several & set(job.after):
                raise ValueError(f"{job.stage}: a job with queued attempts can be waited for alone only")

    def comment(self, stage: str) -> str:
        """What a job carries so that it can be found again: the chain's name and key, and the stage."""
        return f"{self.name}:{self.key}:{stage}"

    def repair_hint(self) -> str:
        """How a person has the chain repaired."""
        return (
            f"`{self.repair_command} {shlex.quote(str(self.run))}`"
            if self.repair_command
            else "hpc.repair(chain)"
        )

    def before(self, job: Job) -> str | None:
        """The stage that goes out just before ``job``: it is waited for where none of ``after`` is in this chain."""
        index = self.jobs.index(job)
        return self.jobs[index - 1].stage if index else None
