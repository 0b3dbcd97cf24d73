"""Jobs with dependencies: out to Slurm with ``afterok`` edges, or one after the other on this machine.

Every script is kept in the run directory as it was submitted, every submission is in the ledger before the next one
starts, and each job carries the run's key in its comment, so that a submission whose answer was lost can be found.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc import ledger
from hpc.cluster import ClusterProfile
from hpc.errors import HpcError, JobFailed
from hpc.script import JobRequest, render


@dataclass(frozen=True)
class Planned:
    """One job, ready to go: its script, and what sbatch is told besides it."""

    request: JobRequest
    script: str

    def options(self, ids: dict[str, str], key: str = "KEY") -> list[str]:
        """sbatch's command-line options. ``ids``: job ids of the stages before; ``key``: the run's, for the comment."""
        waits = [ids[stage] for stage in self.request.after if stage in ids]
        dependency = [f"--dependency=afterok:{':'.join(waits)}"] if waits else []
        return [f"--comment={comment(key, self.request.stage)}", *dependency]


def comment(key: str, stage: str) -> str:
    """What a job carries so that it can be found again: the run's key and the stage."""
    return f"glmjobs:{key}:{stage}"


def plan(
    requests: Sequence[JobRequest], profile: ClusterProfile, run: Path, project: Path, *, local: bool = False
) -> list[Planned]:
    """The scripts of a chain. Touches nothing."""
    return [Planned(r, render(r, profile, run, project, local=local)) for r in requests]


def write_scripts(run: Path, jobs: Sequence[Planned]) -> None:
    """Keep each script as ``jobs/<stage>/script.sh``, and make the folders its logs go to."""
    for job in jobs:
        for stage in {job.request.stage, *(step.stage for step in job.request.steps)}:
            (run / "jobs" / stage).mkdir(parents=True, exist_ok=True)
        ledger.write_atomic(run / "jobs" / job.request.stage / "script.sh", job.script, mode=0o755)


def submit(
    run: Path, jobs: Sequence[Planned], key: str, known: dict[str, str] | None = None
) -> dict[str, str]:
    """Submit the jobs to Slurm, in order; stage → job id.

    ``key`` is the run's and goes into each job's comment. ``known``: job ids of stages submitted before, which new
    jobs may wait for. When one is refused, those already accepted are cancelled, so that no half chain is left in the
    queue.
    """
    from hpc import executor, slurm

    ids = dict(known or {})
    new: list[str] = []
    write_scripts(run, jobs)
    for job in jobs:
        stage = job.request.stage
        ledger.append(run, "submitting", stage=stage, comment=comment(key, stage))
        try:
            ids[stage] = executor.to_slurm(
                job.script, job.options(ids, key), run / "jobs" / stage / "submitit"
            )
        except HpcError as error:
            if new:
                slurm.cancel(new)
            ledger.append(run, "refused", stage=stage, error=str(error), cancelled=new or None)
            raise
        new.append(ids[stage])
        ledger.append(
            run, "submitted", stage=stage, job=ids[stage], executor="slurm",
            dependency=[ids[s] for s in job.request.after if s in ids] or None,
        )  # fmt: skip
    return {job.request.stage: ids[job.request.stage] for job in jobs}


def start_here(run: Path, jobs: Sequence[Planned], python: str = sys.executable) -> str:
    """Run the jobs one after the other on this machine, detached from the terminal; the process id."""
    from hpc import executor

    write_scripts(run, jobs)
    stages = [job.request.stage for job in jobs]
    log = run / "jobs" / "local.out"
    process = executor.here([python, "-m", "hpc.chain", str(run), *stages], log, run / "jobs" / "submitit")
    for stage in stages:
        ledger.append(run, "submitted", stage=stage, job=f"local-{process}", executor="local")
    return process


class LocalChain:
    """The process behind :func:`start_here`: each stage's script in turn, until one does not end well."""

    def __init__(self, run: Path, stages: Sequence[str]) -> None:
        self.run, self.stages = run, stages
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False

    def execute(self) -> int:
        """Run all; the first exit code that is not 0."""
        lock = (self.run / "jobs" / "local.lock").open("a")
        ledger._lock(
            lock.fileno()
        )  # two starts of one run wait for each other, and the second finds all done
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for stage in self.stages:
            code = self._job(stage)
            if code != 0:
                ledger.append(
                    self.run, "chain_ended", outcome="stopped" if self.stopping else "failed", stage=stage
                )
                return code
        ledger.append(self.run, "chain_ended", outcome="done")
        return 0

    def _job(self, stage: str) -> int:
        if self.stopping:
            return 1
        folder = self.run / "jobs" / stage
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))
        }
        with (folder / "local.out").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", str(folder / "script.sh")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
            code = self.process.wait()
        return code if code >= 0 else 128 - code

    def _stop(self, *_: object) -> None:
        self.stopping = True
        if self.process is not None:
            self.process.terminate()


def main(argv: list[str] | None = None) -> int:
    """``python -m hpc.chain RUN STAGE …``: run a local chain's scripts in order."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) < 2:
        raise JobFailed("usage: python -m hpc.chain RUN STAGE …")
    return LocalChain(Path(words[0]), words[1:]).execute()


if __name__ == "__main__":
    raise SystemExit(main())
