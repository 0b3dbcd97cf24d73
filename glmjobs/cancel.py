"""`python -m glmjobs.cancel RUN`: end a run's jobs, all of them. What is on disk stays."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from glmjobs.run.jobs import CHAIN, chain_of
from glmjobs.run.read_state import read_state
from hpc.chain import ledger
from hpc.chain.local import at_work
from hpc.core.errors import HpcError, WorkFailed
from hpc.core.process import alive

GRACE_SECONDS = 60.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.cancel", description="End a run's jobs.")
    p.add_argument("run", help="run directory, or its name under runs/")
    return p


def main(argv: list[str] | None = None) -> int:
    """Cancel; 0 also when nothing was left to cancel."""
    run = Run.open(parser().parse_args(argv).run)
    state = read_state(run)
    open_stages = [s for s in state.stages if s.job]
    slurm_jobs = sorted({str(s.job) for s in open_stages if str(s.job).isdigit()} | unrecorded(run), key=int)
    local = sorted(
        {int(str(s.job).removeprefix("local-")) for s in open_stages if str(s.job).startswith("local-")}
    )
    if slurm_jobs:
        from hpc.slurm import client as slurm

        known = slurm.jobs(slurm_jobs)
        held = {name.partition("_")[0] for name, info in known.items() if not info.state.is_final}
        slurm_jobs = [job for job in slurm_jobs if job in held]
    local = [pid for pid in local if at_work(f"local-{pid}")]
    going = [*slurm_jobs, *(f"local-{pid}" for pid in local)]
    open_stages = [s for s in open_stages if s.job in going]
    for stage in open_stages:
        ledger.append(run.path, "cancelled", stage=stage.stage, job=stage.job)
    if slurm_jobs:
        try:
            slurm.cancel(slurm_jobs)
        except HpcError:
            for stage in open_stages:
                if stage.job in slurm_jobs:
                    ledger.append(run.path, "not_cancelled", stage=stage.stage, job=stage.job)
            raise
    for pid in local:
        end(pid)
    what = [f"job {job}" for job in slurm_jobs] + [f"process {pid}" for pid in local]
    print(f"cancelled: {', '.join(what)}" if what else "nothing to cancel", file=sys.stderr)
    return 0


def unrecorded(run: Run) -> set[str]:
    """Jobs that carry the run's comment; those of a submit that was killed are in no line of the ledger."""
    from hpc.chain import submission
    from hpc.slurm import client as slurm

    if submission.intended(run.path)[1] == "local" or not slurm.available():
        return set()
    marks = [chain_of(run).comment(stage) for stage in CHAIN]
    return {info.id.partition("_")[0] for mark in marks for info in slurm.find_by_comment(mark)}


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
