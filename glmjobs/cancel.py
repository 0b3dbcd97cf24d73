"""`python -m glmjobs.cancel RUN`: end a run's jobs, all of them. What is on disk stays."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from glmjobs.cli import run_command
from glmjobs.run import sweeps
from glmjobs.run.directory import Run
from glmjobs.run.jobs import CHAIN, chain_of
from glmjobs.run.read_state import read_state
from hpc.chain import ledger, own_jobs, submission
from hpc.chain.local import at_work
from hpc.chain.own_jobs import Found
from hpc.core.errors import HpcError, WorkFailed
from hpc.core.process import alive
from hpc.slurm import client as slurm
from hpc.slurm.identity import Claim
from hpc.slurm.records import JobState

GRACE_SECONDS = 60.0

SLURM_SECONDS = 30.0
"""For Slurm to act on scancel. A job that is being ended (COMPLETING) may take KillWait longer to save."""

HOLDING = (JobState.RUNNING, JobState.CONFIGURING, JobState.SUSPENDED, JobState.STOPPED, JobState.RESIZING)
"""States of a job that nobody has told to end."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.cancel", description="End a run's jobs.")
    p.add_argument("run", help="run directory, its name under runs/, or a sweep's")
    return p


def main(argv: list[str] | None = None) -> int:
    """Cancel; 0 also when nothing was left to cancel.

    Raises:
        NotFit: the jobs are on a cluster that cannot be asked from here.
        WorkFailed: a job or process did not end.
    """
    word = parser().parse_args(argv).run
    several = sweeps.members(word)
    if several is None:
        cancel(Run.open(word))
    for place in reversed(several or []):  # the last first: none is to start because one before it ends
        print(f"{place.path.name}: ", end="", file=sys.stderr)
        cancel(Run.open(place.path))
    return 0


def cancel(run: Run) -> None:
    """End a run's jobs, and say which."""
    state = read_state(run, ask_slurm=False)
    with own_jobs.on_its_cluster(run.path):
        live = on_slurm(run)
        shared = [s for s in state.stages if s.job]
        local = sorted({int(str(s.job).removeprefix("local-")) for s in shared if at_work(str(s.job))})
        told = [(stage, f.claim.job) for stage, f in live]
        told += [(s.stage, str(s.job)) for s in shared if str(s.job) in {f"local-{pid}" for pid in local}]
        for stage, job in told:
            note(run, "cancelled", stage, job)
        if live:
            end_jobs(run, live)
    for pid in local:
        end(pid)
    what = [f"job {f.claim.job}" for _, f in live] + [f"process {pid}" for pid in local]
    print(f"cancelled: {', '.join(what)}" if what else "nothing to cancel", file=sys.stderr)


def on_slurm(run: Run) -> list[tuple[str, Found]]:
    """(stage, job) of every job of the run that Slurm holds: those on record, whichever submission they are of, and
    those that carry the run's comment (of a submit that was killed). What has a number on record and is another's job
    is named, and left alone."""
    if submission.intended(run.path)[1] == "local":
        return []
    recorded = own_jobs.every_claim(ledger.read(run.path))
    wanted = [(stage, claim) for stage, claims in recorded.items() for claim in claims if stage in CHAIN]
    known = own_jobs.certain(claim for _, claim in wanted)
    found = {claim.job: (stage, known[claim]) for stage, claim in wanted if known[claim].parts}
    for stage, claim in wanted:
        if known[claim].taken and claim.job not in found:
            print(f"{stage}: {known[claim].gone()}, which is left alone", file=sys.stderr)
    if slurm.available():
        chain = chain_of(run)
        marks = {chain.comment(stage): stage for stage in CHAIN}
        for info in slurm.find(lambda job: not marks.keys().isdisjoint(job.comment.split())):
            job = info.id.partition("_")[0]
            if job not in found:
                mark = next(word for word in info.comment.split() if word in marks)
                claim = Claim(job=job, comment=mark)
                found[job] = (marks[mark], own_jobs.certain([claim])[claim])
    live = [(stage, f) for stage, f in found.values() if any(not i.state.is_final for i in f.parts)]
    return sorted(live, key=lambda item: int(item[1].claim.job))


def end_jobs(run: Run, live: list[tuple[str, Found]]) -> None:
    """Cancel jobs, and make sure that they are on their way out.

    Raises:
        WorkFailed: some are not: Slurm has not heard, or does not obey.
    """
    try:
        own_jobs.cancel(f for _, f in live)
        until = time.monotonic() + SLURM_SECONDS
        while left := [
            claim.job
            for claim, now in own_jobs.certain(f.claim for _, f in live).items()
            if any(i.state.is_pending or i.state in HOLDING for i in now.parts)
        ]:
            if time.monotonic() > until:
                jobs = ", ".join(left)
                raise WorkFailed(f"{SLURM_SECONDS:.0f} s after scancel Slurm still holds: {jobs}; try again")
            time.sleep(0.2)
    except HpcError:
        for stage, f in live:
            note(run, "not_cancelled", stage, f.claim.job)
        raise


def note(run: Run, event: str, stage: str, job: str) -> None:
    """Put on record what is done, where that can be written: what costs GPU-hours is ended all the same."""
    try:
        ledger.append(run.path, event, stage=stage, job=job)
    except OSError as error:
        print(
            f"note: {stage}: {event}, which is not on record: {error.filename}: {error.strerror}",
            file=sys.stderr,
        )


def end(pid: int) -> None:
    """Ask a local chain to stop (training saves a checkpoint first); kill its session where it doesn't."""
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while alive(pid):
        if time.monotonic() > until:
            import psutil

            for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                process.kill()
            raise WorkFailed(f"process {pid} did not stop within {GRACE_SECONDS:.0f} s and was killed")
        time.sleep(0.1)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
