"""Jobs with dependencies: out to Slurm with ``afterok`` edges, or one after the other on this machine.

Every script is kept in the run directory as it was submitted, every submission is in the ledger before the next one
starts, and each job carries the run's key in its comment, so that a submission whose answer was lost can be found.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hpc.batch import refusals
from hpc.batch.jobs import Chain, Job
from hpc.batch.profile import Profile
from hpc.batch.script import asks, output, render
from hpc.chain import ledger, own_jobs, refused
from hpc.core import timestamps
from hpc.core.errors import BadInput, HpcError, WorkFailed
from hpc.core.files import Json, exclusive, write_atomic
from hpc.slurm import client as slurm
from hpc.slurm.identity import SKEW, Claim, is_ours
from hpc.slurm.job_limits import job_limits
from hpc.slurm.records import JobInfo

LOOK_UP_PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds between looks for a job whose submission got no answer: a busy controller lists it a little later."""

SUBMIT_TRIES = 3
LOCK_SECONDS = 120.0
"""How long a second submit or heal of the same run waits for the first: a chain goes out in seconds."""


def submit(chain: Chain, known: dict[str, str] | None = None) -> dict[str, str]:
    """Start a chain: on Slurm, each job exactly once, or on this machine; stage → job id.

    When a job is refused, those already accepted are cancelled, so that no half chain is left in the queue. What went
    out before this process was killed, or had no answer, is found by its comment and not sent again.

    Args:
        known: job ids of stages submitted before, which new jobs may wait for.

    Raises:
        BadInput: the run is being submitted or healed by another process; or was submitted before.
        WorkFailed: sbatch refused; or a job to wait for is gone from Slurm without having done its stage.
        SlurmUnreachable: Slurm is away. What was accepted stays: healing goes on from there.
    """
    if chain.local:
        return start_here(chain)
    with lock(chain.run):
        chain = identified(chain)
        ids = dict(known or {})
        new: list[str] = []
        for stage, job_id in current_jobs(chain.run).items():
            if stage not in ids and any(job.stage == stage for job in chain.jobs):
                raise BadInput(
                    f"{chain.run}: {stage} was submitted before (job {job_id}); {chain.repair_hint()} goes on with it"
                )
        intend(chain, [*ids, *(job.stage for job in chain.jobs if job.stage not in ids)])
        write_scripts(chain)
        for job in chain.jobs:
            with own_jobs.on_its_cluster(chain.run):  # where sbatch had a choice, the first job has made it
                try:
                    ids[job.stage] = send(chain, job, ids, fresh=new)
                except NoRoom as error:
                    ledger.append(chain.run, "refused", stage=job.stage, error=str(error))
                    raise WorkFailed(f"{error}; {_of_jobs(chain, new)}") from None
                except WorkFailed as error:
                    take_back(chain.run, {s: i for s, i in ids.items() if i in new})
                    ledger.append(
                        chain.run, "refused", stage=job.stage, error=str(error), cancelled=new or None
                    )
                    cancelled = f"; cancelled again: job {', '.join(new)}" if new else ""
                    raise WorkFailed(f"{error}{cancelled}; {refused.stays(chain)}") from None
            new.append(ids[job.stage])
        ledger.flush(chain.run)
        return {job.stage: ids[job.stage] for job in chain.jobs}


class NoRoom(WorkFailed):
    """Slurm takes no more jobs of this user's at present: what it has taken can go on, the rest has to wait."""


def count_jobs(jobs: Sequence[Job]) -> int:
    """How many jobs these are to Slurm's limits: each element of an array is one."""
    return sum(max(job.array or 1, job.attempts) for job in jobs)


def short_of_room(jobs: Sequence[Job], profile: Profile) -> str:
    """What is to be said before jobs go out for which there is no room in the queue; "" where there is, or Slurm does
    not tell."""
    count = count_jobs(jobs)
    try:
        limits = job_limits(profile.account, profile.qos)
    except HpcError:
        return ""
    tight = next((limit for limit in limits if limit.room < count), None)
    if tight is None:
        return ""
    return (
        f"the chain is {count} jobs and finds no room ({tight}): those that do go out, heal submits the rest"
    )


def _of_jobs(chain: Chain, new: Sequence[str]) -> str:
    """How many jobs a chain is, and how it goes on where Slurm takes no more."""
    count = count_jobs(chain.jobs)
    stay = f"job {', '.join(new)} stays; " if new else ""
    counted = f"the chain is {count} jobs (each element of an array is one)"
    return f"{counted}; {stay}when there is room: {chain.repair_hint()}"


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold the run's jobs: of two that submit or repair at the same time, the second waits for the first.

    Raises:
        BadInput: the other is not done within :data:`LOCK_SECONDS`.
    """
    with exclusive(run / "jobs" / "submit.lock", patience=LOCK_SECONDS) as held:
        if not held:
            raise BadInput(
                f"{run}: another submit or heal of this run is at work; try again when it has ended"
            )
        yield


def identified(chain: Chain) -> Chain:
    """The chain with its key: its own, else that of the run's ledger, else a new one."""
    recorded = (str(e["key"]) for e in ledger.events(chain.run, event="planned") if "key" in e)
    return replace(chain, key=chain.key or next(recorded, uuid.uuid4().hex[:16]))


def take_back(run: Path, accepted: dict[str, str]) -> None:
    """Cancel what Slurm accepted of a chain of which it refused another job; stage → job id."""
    if accepted:
        slurm.cancel(list(accepted.values()))
    for stage, job in accepted.items():
        ledger.append(run, "cancelled", stage=stage, job=job, why="the chain could not be completed")


def write_scripts(chain: Chain, jobs: Sequence[Job] | None = None) -> None:
    """Keep each script as ``jobs/<stage>/script.sh``.

    (Not flushed to disk: Slurm has its own copy, and the text can be made again.)

    Args:
        jobs: those of the chain to write; None: all.
    """
    chosen = chain.jobs if jobs is None else jobs
    scripts = [render(job, chain) for job in chosen]
    for job, script in zip(chosen, scripts, strict=True):
        make_folders(chain.run, job)
        write_atomic(script_file(chain.run, job.stage), script, mode=0o755, durable=False)


def make_folders(run: Path, job: Job) -> None:
    """The folders a job's logs go to: Slurm makes none."""
    for stage in job.stages:
        (run / "jobs" / stage).mkdir(parents=True, exist_ok=True)


def script_file(run: Path, stage: str) -> Path:
    """Where a job's script is kept."""
    return run / "jobs" / stage / "script.sh"


def intend(chain: Chain, stages: Sequence[str]) -> None:
    """Put on record which jobs the chain is to have, before the first goes out: a hole can then be seen. Once a run."""
    if not ledger.events(chain.run, event="planned"):
        executor = "local" if chain.local else "slurm"
        ledger.append(
            chain.run, "planned", durable=False, stages=list(stages), executor=executor, key=chain.key or None
        )


def intended(run: Path, events: Sequence[Json] | None = None) -> tuple[tuple[str, ...], str | None]:
    """The jobs the chain is to have, in order, and its executor; () and None where nothing is on record."""
    planned = [e for e in (ledger.read(run) if events is None else events) if e.get("event") == "planned"]
    if not planned:
        return (), None
    return tuple(map(str, planned[-1].get("stages", ()))), planned[-1].get("executor")


def options(chain: Chain, job: Job, waits: Sequence[str]) -> list[str]:
    """sbatch's command-line options for a job. ``waits``: ids of the jobs to wait for."""
    dependency = [f"--dependency={text}"] if (text := waiting(job, waits)) else []
    return [f"--comment={chain.comment(job.stage)}", *dependency]


def waiting(job: Job, waits: Sequence[str]) -> str:
    """Slurm's word for what a job waits for: other jobs to be done, or its turn in its lane; "" for nothing."""
    return after_ok(waits) or (IN_TURN if job.lane else "")


IN_TURN = "singleton"

OR = "?"
"""Between the attempts of a job that is waited for: one of them has to end well."""


def after_ok(waits: Sequence[str]) -> str:
    """Slurm's word for jobs to wait for; "" for none.

    It takes commas for "all of these" or question marks for "one of these", never both (sbatch's manual,
    --dependency): :class:`hpc.batch.jobs.Chain` sees to it that a job with queued attempts is waited for alone.
    """
    if any(OR in job for job in waits):
        return OR.join(f"afterok:{attempt}" for job in waits for attempt in job.split(OR))
    return f"afterok:{':'.join(waits)}" if waits else ""


def to_be_waited_for(number: str, job: Job) -> str:
    """A job that has just gone out, as :func:`after_ok` takes it: its id; of queued attempts, any of them."""
    return OR.join(f"{number}_{n}" for n in range(job.attempts)) if job.attempts > 1 else number


def waits_for(chain: Chain, job: Job, ids: dict[str, str], *, fresh: Sequence[str] = ()) -> list[str]:
    """Job ids that a job has to wait for: those of its forerunners which are not done.

    Slurm starts a child of ``afterok:N`` at once when it knows no N (any more). So a stage that the run directory
    calls done is not waited for, and a job that Slurm has forgotten is an error, not a dependency.

    Args:
        ids: job ids by stage.
        fresh: ids that were accepted just now; Slurm need not be asked about them.
    """
    before = chain.before(job)
    stages = [s for s in job.after if s in ids] or ([before] if before in ids and before else [])
    found, records = [], own_jobs.of_run(chain.run)
    for stage in stages:
        if ledger.is_done(chain.run, stage):
            continue
        if ids[stage] in fresh:
            before_it = next(j for j in chain.jobs if j.stage == stage)
            found.append(to_be_waited_for(ids[stage], before_it))
            continue
        claim = records.get(stage)
        if claim is None or claim.job != ids[stage]:
            claim = Claim(job=ids[stage], comment=chain.comment(stage))
        known = own_jobs.certain([claim])[claim]
        if not known.parts:
            gone = known.gone() if known.taken else f"job {claim.job} ({stage}) is gone from Slurm"
            raise WorkFailed(
                f"{gone} and {stage} is not done: nothing may wait for it; {chain.repair_hint()} submits it again"
            )
        found += to_wait_for(claim, known.parts)
    return found


def to_wait_for(claim: Claim, parts: Sequence[JobInfo]) -> list[str]:
    """The ids to name in ``afterok``: the job; of an array that is on its way, each element that has not ended well; of
    queued attempts, those that have not failed, any one of which is enough.

    Slurm keeps the worst exit code of an array for ever (observed on 22.05): after one element failed and was queued
    again, ``afterok:ARRAY`` is never satisfied, however well the element then ends. ``afterok:ARRAY_3`` is.
    """
    job = claim.job
    if claim.attempts > 1:
        able = [info.id for info in parts if info.state.is_success or not info.state.is_final]
        return [OR.join(able)] if able else [job]
    if parts[0].id == job or not any(info.restarts or info.state.is_final for info in parts):
        return [job]
    return [info.id for info in parts if not info.state.is_success] or [job]


def send(chain: Chain, job: Job, ids: dict[str, str], *, fresh: Sequence[str] = ()) -> str:
    """Submit one job and record it, or find the one that an unanswered submission left; its id.

    Arguments as for :func:`waits_for`.
    """
    from hpc.slurm import executor

    run, stage, mark = chain.run, job.stage, chain.comment(job.stage)
    waits = waits_for(chain, job, ids, fresh=fresh)
    make_folders(run, job)
    found = look_up(chain, job) if unanswered(run, stage) else None
    for last in [n == SUBMIT_TRIES - 1 for n in range(SUBMIT_TRIES)]:
        if found is not None:
            break
        # Lost in a power cut, this line is not missed: heal asks Slurm for the comment of every job it has no id of.
        ledger.append(run, "submitting", durable=False, stage=stage, comment=mark)
        try:
            folder = run / "jobs" / stage / "submitit"
            number, cluster = executor.to_slurm(render(job, chain), options(chain, job, waits), folder)
            return record(chain, job, number, waits, cluster=cluster)
        except slurm.SubmitUncertain:
            found = look_up(chain, job, pauses=LOOK_UP_PAUSES)
            if found is None and last:
                raise
        except WorkFailed as error:
            ledger.append(run, "not_submitted", stage=stage)
            if refusals.no_room(str(error)):
                raise NoRoom(str(error)) from None
            raise WorkFailed(refused.with_mend(str(error), chain, job)) from None
        except HpcError:
            ledger.append(run, "not_submitted", stage=stage)
            raise
    assert found is not None
    return record(chain, job, found.id, waits, cluster=found.cluster, found=True)


def record(
    chain: Chain, job: Job, number: str, waits: Sequence[str] = (), *, cluster: str = "", found: bool = False
) -> str:
    """Put an accepted job on record, with what proves later that a job of this number is the same one; its id.

    Args:
        cluster: as sbatch named it.
        found: it was looked up, since sbatch's answer was lost.

    Raises:
        SubmitUncertain: the controller shows another's job under this number: it was no answer of sbatch's.
    """
    clusters = cluster or os.environ.get("SLURM_CLUSTERS", "")
    named = bool(clusters) and not slurm.several_clusters({"SLURM_CLUSTERS": clusters})
    env = {**os.environ, "SLURM_CLUSTERS": clusters} if named else None
    claim = Claim(job=number, comment=chain.comment(job.stage), output=output(chain, job))
    shown = _shown(number, env)
    if shown is not None and not is_ours(shown, replace(claim, submitted=shown.submitted)):
        raise slurm.SubmitUncertain(
            f"sbatch's answer reads like job {number}, which is another ({shown.name})"
        )
    ledger.append(
        chain.run, "submitted", durable=False, stage=job.stage, job=number, executor="slurm",
        dependency=list(waits) or None, found_by_comment=found or None, comment=claim.comment, output=claim.output,
        name=shown.name if shown else None, submit_time=_submit_time(shown),
        cluster=(clusters if named else slurm.cluster_name()) or None, named=named or None, asks=asks(job, chain),
        attempts=job.attempts if job.attempts > 1 else None,
    )  # fmt: skip
    return number


def attach(run: Path, stage: str, number: str) -> None:
    """Put on record that the job this process runs in, which was submitted by hand, does a stage of the run."""
    shown = _shown(number)
    ledger.append(
        run, "submitted", stage=stage, job=number, executor="slurm", name=shown.name if shown else None,
        output=shown.output if shown else None, submit_time=_submit_time(shown),
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
    )  # fmt: skip


def _shown(number: str, env: Mapping[str, str] | None = None) -> JobInfo | None:
    """A job as the controller shows it; None where it does not: what it says is worth having, and can be done
    without."""
    with contextlib.suppress(HpcError):
        return next(iter(slurm.shown(number, env=env, pauses=())), None)
    return None


def _submit_time(shown: JobInfo | None) -> str | None:
    return shown.submitted.isoformat() if shown and shown.submitted else None


def unanswered(run: Path, stage: str) -> bool:
    """Whether the stage's newest submission has no known outcome: its process was killed, or sbatch timed out."""
    kinds = ("submitting", "submitted", "not_submitted")
    last = [e["event"] for e in ledger.events(run, stage=stage) if e["event"] in kinds]
    return bool(last) and last[-1] == "submitting"


def look_up(chain: Chain, job: Job, pauses: Sequence[float] = (0.0,)) -> JobInfo | None:
    """The job that is this one of the chain and is on record nowhere, or None; of several all but the first are ended.

    It is known by its comment; where the site strips that, by its output, and that it came after we asked for it.

    Raises:
        SlurmUnreachable: nothing can be said.
    """
    events = ledger.events(chain.run, stage=job.stage)
    recorded = {str(e["job"]) for e in events if e["event"] == "submitted" and "job" in e}
    asked = [timestamps.parse_time(str(e["time"])) for e in events if e["event"] == "submitting"]
    claim = Claim(job="", comment=chain.comment(job.stage), output=output(chain, job))

    def wanted(info: JobInfo) -> bool:
        if claim.comment in info.comment.split():
            return True
        late = bool(asked and info.submitted and info.submitted >= asked[-1] - SKEW)
        return late and is_ours(info, replace(claim, submitted=info.submitted))

    for pause in pauses:
        time.sleep(pause)
        strangers: dict[str, JobInfo] = {}
        for info in slurm.find(wanted, thorough=True):
            number = info.id.partition("_")[0]
            if number not in recorded:
                strangers.setdefault(number, replace(info, id=number))
        if strangers:
            first, *others = strangers.values()
            slurm.cancel([info.id for info in others])
            return first if slurm.several_clusters(os.environ) else replace(first, cluster="")
    return None


def current_jobs(run: Path) -> dict[str, str]:
    """Stage → its job on record, of a run directory: see :func:`hpc.chain.own_jobs.newest_jobs`."""
    return own_jobs.newest_jobs(ledger.read(run))


def start_here(chain: Chain, python: str = sys.executable) -> dict[str, str]:
    """Run the jobs one after the other on this machine, detached from the terminal; stage → ``local-PID``."""
    from hpc.slurm import executor

    run, stages = chain.run, [job.stage for job in chain.jobs]
    run.mkdir(parents=True, exist_ok=True)
    intend(chain, stages)
    write_scripts(chain)
    command = [python, "-m", "hpc.chain.local", str(run), *stages]
    process = executor.here(command, run / "jobs" / "local.out", run / "jobs" / "submitit")
    for stage in stages:
        ledger.append(run, "submitted", stage=stage, job=f"local-{process}", executor="local")
    return dict.fromkeys(stages, f"local-{process}")
