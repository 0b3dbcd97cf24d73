"""Jobs with dependencies: out to Slurm with ``afterok`` edges, or one after the other on this machine.

Every script is kept in the run directory as it was submitted, every submission is in the ledger before the next one
starts, and each job carries the run's key in its comment, so that a submission whose answer was lost can be found.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc.batch.profile import ClusterProfile
from hpc.batch.script import JobRequest, render
from hpc.chain import ledger
from hpc.core.errors import BadInput, HpcError, WorkFailed
from hpc.core.files import Json, exclusive, write_atomic
from hpc.slurm.records import JobInfo

LOOK_UP_PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds between looks for a job whose submission got no answer: a busy controller lists it a little later."""

SUBMIT_TRIES = 3
LOCK_SECONDS = 120.0
"""How long a second submit or heal of the same run waits for the first: a chain goes out in seconds."""


@dataclass(frozen=True)
class Planned:
    """One job, ready to go: its script, and what sbatch is told besides it."""

    request: JobRequest
    script: str

    def options(self, waits: Sequence[str] | dict[str, str], key: str = "KEY") -> list[str]:
        """sbatch's command-line options.

        Args:
            waits: job ids to wait for; or ids by stage, of which those of the request's ``after`` are taken.
            key: the run's, for the comment.
        """
        if isinstance(waits, dict):
            waits = [waits[stage] for stage in self.request.after if stage in waits]
        dependency = [f"--dependency=afterok:{':'.join(waits)}"] if waits else []
        return [f"--comment={comment(key, self.request.stage)}", *dependency]


def comment(key: str, stage: str) -> str:
    """What a job carries so that it can be found again: the run's key and the stage."""
    return f"glmjobs:{key}:{stage}"


def plan(
    requests: Sequence[JobRequest],
    profile: ClusterProfile,
    run: Path,
    project: Path | None,
    *,
    local: bool = False,
) -> list[Planned]:
    """The scripts of a chain; ``project`` as for :func:`hpc.batch.script.render`. Touches nothing."""
    return [Planned(r, render(r, profile, run, project, local=local)) for r in requests]


def write_scripts(run: Path, jobs: Sequence[Planned]) -> None:
    """Keep each script as ``jobs/<stage>/script.sh``, and make the folders its logs go to.

    (Not flushed to disk: Slurm has its own copy, and the text can be made again from ``run.yaml``.)
    """
    for job in jobs:
        for stage in {job.request.stage, *(step.stage for step in job.request.steps)}:
            (run / "jobs" / stage).mkdir(parents=True, exist_ok=True)
        write_atomic(run / "jobs" / job.request.stage / "script.sh", job.script, mode=0o755, durable=False)


def intend(run: Path, stages: Sequence[str], executor: str) -> None:
    """Put on record which jobs the chain is to have, before the first goes out: a hole can then be seen. Once a run."""
    if not ledger.events(run, event="planned"):
        ledger.append(run, "planned", durable=False, stages=list(stages), executor=executor)


def intended(run: Path, events: Sequence[Json] | None = None) -> tuple[tuple[str, ...], str | None]:
    """The jobs the chain is to have, in order, and its executor; () and None where nothing is on record."""
    planned = [e for e in (ledger.read(run) if events is None else events) if e.get("event") == "planned"]
    if not planned:
        return (), None
    return tuple(map(str, planned[-1].get("stages", ()))), planned[-1].get("executor")


def submit(
    run: Path, jobs: Sequence[Planned], key: str, known: dict[str, str] | None = None
) -> dict[str, str]:
    """Submit the jobs to Slurm, in order, each exactly once; stage → job id.

    ``key`` is the run's and goes into each job's comment. ``known``: job ids of stages submitted before, which new
    jobs may wait for. When one is refused, those already accepted are cancelled, so that no half chain is left in the
    queue. What went out before this process was killed, or had no answer, is found by its comment and not sent again.

    Raises:
        JobFailed: sbatch refused; or a job to wait for is gone from Slurm without having done its stage.
        SlurmUnreachable: Slurm is away. What was accepted stays: heal goes on from there.
    """
    from hpc.slurm import client as slurm

    with exclusive(run / "jobs" / "submit.lock", patience=LOCK_SECONDS) as held:
        if not held:
            raise BadInput(
                f"{run}: another submit or heal of this run is at work; try again when it has ended"
            )
        ids = dict(known or {})
        new: list[str] = []
        intend(run, [*ids, *(job.request.stage for job in jobs if job.request.stage not in ids)], "slurm")
        write_scripts(run, jobs)
        for job in jobs:
            stage = job.request.stage
            try:
                ids[stage] = send(run, job, key, ids, fresh=new, before=before(jobs, job))
            except WorkFailed as error:
                if new:
                    slurm.cancel(new)
                    for gone in [s for s, i in ids.items() if i in new]:
                        ledger.append(
                            run,
                            "cancelled",
                            stage=gone,
                            job=ids[gone],
                            why="the chain could not be completed",
                        )
                ledger.append(run, "refused", stage=stage, error=str(error), cancelled=new or None)
                raise
            new.append(ids[stage])
        ledger.flush(run)
        return {job.request.stage: ids[job.request.stage] for job in jobs}


def before(jobs: Sequence[Planned], job: Planned) -> str | None:
    """The stage that goes out just before ``job``: what it waits for when its own forerunner is not in this chain."""
    index = list(jobs).index(job)
    return jobs[index - 1].request.stage if index else None


def waits_for(
    run: Path,
    request: JobRequest,
    ids: dict[str, str],
    *,
    fresh: Sequence[str] = (),
    before: str | None = None,
) -> list[str]:
    """Job ids that a job has to wait for: those of its forerunners which are not done.

    Slurm starts a child of ``afterok:N`` at once when it knows no N (any more). So a stage that the run directory
    calls done is not waited for, and a job that Slurm has forgotten is an error, not a dependency.

    Args:
        ids: job ids by stage.
        fresh: ids that were accepted just now; Slurm need not be asked about them.
        before: a stage to wait for where none of the forerunners belongs to the chain.
    """
    from hpc.slurm import client as slurm

    stages = [s for s in request.after if s in ids] or ([before] if before in ids and before else [])
    found = []
    for stage in stages:
        marker = ledger.marker(run, stage)
        if marker is not None and marker.get("outcome") == "done":
            continue
        if ids[stage] in fresh:
            found.append(ids[stage])
            continue
        known = slurm.jobs([ids[stage]])
        if ids[stage] not in known:
            raise WorkFailed(
                f"job {ids[stage]} ({stage}) is gone from Slurm and {stage} is not done: nothing may wait for it; "
                f"`python -m glmjobs.heal {run}` submits it again"
            )
        found += to_wait_for(ids[stage], known)
    return found


def to_wait_for(job: str, known: dict[str, JobInfo]) -> list[str]:
    """The ids to name in ``afterok``: the job; of an array that is on its way, each element that has not ended well.

    Slurm keeps the worst exit code of an array for ever (observed on 22.05): after one element failed and was queued
    again, ``afterok:ARRAY`` is never satisfied, however well the element then ends. ``afterok:ARRAY_3`` is.
    """
    parts = [info for name, info in known.items() if name.startswith(f"{job}_")]
    if not any(info.restarts or info.state.is_final for info in parts):
        return [job]
    return [info.id for info in parts if not info.state.is_success] or [job]


def send(
    run: Path,
    job: Planned,
    key: str,
    ids: dict[str, str],
    *,
    fresh: Sequence[str] = (),
    before: str | None = None,
) -> str:
    """Submit one job and record it, or find the one that an unanswered submission left; its id.

    Arguments as for :func:`waits_for`.
    """
    from hpc.slurm import client as slurm
    from hpc.slurm import executor

    waits = waits_for(run, job.request, ids, fresh=fresh, before=before)
    stage, mark = job.request.stage, comment(key, job.request.stage)
    found = look_up(run, stage, mark) if unanswered(run, stage) else None
    for last in [n == SUBMIT_TRIES - 1 for n in range(SUBMIT_TRIES)]:
        if found is not None:
            break
        # Lost in a power cut, this line is not missed: heal asks Slurm for the comment of every job it has no id of.
        ledger.append(run, "submitting", durable=False, stage=stage, comment=mark)
        try:
            accepted = executor.to_slurm(
                job.script, job.options(waits, key), run / "jobs" / stage / "submitit"
            )
            return _record(run, stage, accepted, waits)
        except slurm.SubmitUncertain:
            found = look_up(run, stage, mark, pauses=LOOK_UP_PAUSES)
            if found is None and last:
                raise
        except HpcError:
            ledger.append(run, "not_submitted", stage=stage)
            raise
    assert found is not None
    return _record(run, stage, found, waits, found=True)


def _record(run: Path, stage: str, job: str, waits: Sequence[str], *, found: bool = False) -> str:
    ledger.append(
        run, "submitted", durable=False, stage=stage, job=job, executor="slurm", dependency=list(waits) or None,
        found_by_comment=found or None,
    )  # fmt: skip
    return job


def unanswered(run: Path, stage: str) -> bool:
    """Whether the stage's newest submission has no known outcome: its process was killed, or sbatch timed out."""
    kinds = ("submitting", "submitted", "not_submitted")
    last = [e["event"] for e in ledger.events(run, stage=stage) if e["event"] in kinds]
    return bool(last) and last[-1] == "submitting"


def look_up(run: Path, stage: str, mark: str, pauses: Sequence[float] = (0.0,)) -> str | None:
    """The job that carries ``mark`` and is in no line of the ledger, or None; of several all but the first are ended.

    Raises:
        SlurmUnreachable: nothing can be said.
    """
    from hpc.slurm import client as slurm

    recorded = {str(e["job"]) for e in ledger.events(run, event="submitted") if "job" in e}
    for pause in pauses:
        time.sleep(pause)
        ids = [info.id.partition("_")[0] for info in slurm.find_by_comment(mark)]
        strangers = [job for job in dict.fromkeys(ids) if job not in recorded]
        if strangers:
            slurm.cancel(strangers[1:])
            return strangers[0]
    return None


def current_jobs(run: Path) -> dict[str, str]:
    """Stage → the job that is to do it, or has done it: of its newest submission, or its newest attempt where the
    submission was never recorded."""
    found: dict[str, str] = {}
    for event in ledger.read(run):
        stage = event.get("stage")
        if event.get("event") == "submitted" and stage:
            found[str(stage)] = str(event["job"])
        elif event.get("event") == "attempt" and stage:
            found.setdefault(str(stage), str(event.get("array_job") or event.get("job")))
    return found


def start_here(run: Path, jobs: Sequence[Planned], python: str = sys.executable) -> str:
    """Run the jobs one after the other on this machine, detached from the terminal; the process id."""
    from hpc.slurm import executor

    stages = [job.request.stage for job in jobs]
    intend(run, stages, "local")
    write_scripts(run, jobs)
    log = run / "jobs" / "local.out"
    process = executor.here(
        [python, "-m", "hpc.chain.local", str(run), *stages], log, run / "jobs" / "submitit"
    )
    for stage in stages:
        ledger.append(run, "submitted", stage=stage, job=f"local-{process}", executor="local")
    return process
