"""One attempt at a job: run its stages' commands in order, on the record, and decide what follows.

    python -m hpc.attempt RUN --stage preflight CMD … --stage train CMD …

This is what a batch script ends in (by ``exec``, so that Slurm's signals to the batch shell arrive here). It

* writes the attempt and its outcome to the ledger, so that nothing depends on Slurm's memory;
* hands a warning signal (USR1 before the time limit, TERM at preemption) on to the running command;
* when a command exits with :data:`hpc.preempt.STOPPED`, or died although it had got further than the attempt before,
  requeues the job under the same id (on Slurm) or starts it again (locally);
* ends the run when so many attempts in a row got nowhere;
* on a failure names the first rank that failed, its node and its error, and keeps the exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hpc import ledger, preempt, ranks
from hpc.errors import BadInput, HpcError, JobFailed

FINAL_CODES = (2, 3)
"""Bad input, and a machine not fit: trying again cannot help."""

ATTEMPTS_WITHOUT_PROGRESS = 3

RIVAL_SECONDS = 180.0
"""How long a job waits for another that is at the same stage of the same run: an earlier start of its own, on a node
that lost touch, needs KillWait and a file server's lease (90 s on NFSv4) until it is gone for certain."""


class Attempt:
    """The stages of one job, run once. ``job`` is Slurm's job id, or ``local-PID``."""

    def __init__(self, run: Path, stages: Sequence[tuple[str, list[str]]], limit: int) -> None:
        self.run, self.stages, self.limit = run, list(stages), limit
        env = os.environ
        self.on_slurm = "SLURM_JOB_ID" in env
        self.job = env.get("SLURM_JOB_ID") or f"local-{os.getpid()}"
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped: int | None = None

    def execute(self) -> int:
        """Run the stages; the exit code for the batch script."""
        for number in preempt.SIGNALS:
            signal.signal(number, self._on_signal)
        for stage, command in self.stages:
            code = self._stage(stage, command)
            if code != 0:
                return code
        return 0

    def _stage(self, stage: str, command: list[str]) -> int:
        while True:
            before = self._step(stage)
            started = self._record_start(stage)
            code = self._run(command)
            after = self._step(stage)
            outcome = self._outcome(stage, code)
            failure = (
                ranks.first_failure(self.run / "jobs" / stage, since=started) if outcome == "failed" else None
            )
            ledger.append(
                self.run, "ended", stage=stage, job=self.job, outcome=outcome, exit_code=code,
                step=ledger.progress(self.run, stage).get("step"),
                last_checkpoint=ledger.progress(self.run, stage).get("checkpoint"),
                signal=signal.Signals(self.stopped).name if self.stopped else None,
                error=failure["error"].splitlines()[-1][:500] if failure else None,
                failed_rank=failure["rank"] if failure else None, failed_node=failure["host"] if failure else None,
            )  # fmt: skip
            if outcome == "done":
                return 0
            if not self._again(stage, outcome, code, progressed=after is not None and after > (before or 0)):
                self._explain(stage, outcome, code, failure)
                return code
            if self.on_slurm:
                return self._requeue(stage, code)
            ledger.append(self.run, "requeued", stage=stage, job=self.job)

    def _record_start(self, stage: str) -> str:
        env = os.environ
        nodes = env.get("SLURM_JOB_NODELIST") or os.uname().nodename
        record = ledger.append(
            self.run, "attempt", stage=stage, job=self.job, nodes=nodes,
            attempt=len(ledger.events(self.run, event="attempt", stage=stage)) + 1,
            gpus=int(env["HPC_JOB_GPUS"]) if env.get("HPC_JOB_GPUS", "").isdigit() else None,
            restart=int(env["SLURM_RESTART_COUNT"]) if env.get("SLURM_RESTART_COUNT", "").isdigit() else None,
            array_job=env.get("SLURM_ARRAY_JOB_ID"),
            array_task=int(env["SLURM_ARRAY_TASK_ID"]) if env.get("SLURM_ARRAY_TASK_ID", "").isdigit() else None,
        )  # fmt: skip
        return str(record["time"])

    def _run(self, command: list[str]) -> int:
        """Run one command in a process group of its own; its exit code, 128+N where signal N ended it."""
        if self.stopped is not None:
            return preempt.STOPPED
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, start_new_session=not self.on_slurm
            )
        except OSError as error:
            print(f"error: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
            return 127
        if self.stopped is not None:  # the signal came between the check above and the start
            self.process.send_signal(signal.SIGUSR1)
        code = self.process.wait()
        self.process = None
        return code if code >= 0 else 128 - code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopped != signal.SIGUSR1:  # the time limit's TERM after its warning changes nothing
            self.stopped = number
        if self.process is not None:
            self.process.send_signal(
                signal.SIGUSR1
            )  # srun hands USR1 on to every task; TERM would end srun itself

    def _step(self, stage: str) -> int | None:
        step = ledger.progress(self.run, stage).get("checkpoint")
        return int(step) if isinstance(step, int) else None

    def _outcome(self, stage: str, code: int) -> str:
        if code == 0:
            return "done"
        if code == preempt.STOPPED or self.stopped is not None:
            return "stopped"
        return "failed"

    def _again(self, stage: str, outcome: str, code: int, *, progressed: bool) -> bool:
        """Another attempt? Stopped on Slurm's request: yes. Failed: while attempts get somewhere, or fewer than
        ``limit`` in a row got nowhere."""
        if code in FINAL_CODES:
            return False
        if outcome == "stopped":
            # Only the warning before the time limit is ours to answer with a requeue. TERM means that Slurm requeues
            # the job itself (preemption), or that somebody wants it to end.
            return self.on_slurm and self.stopped == signal.SIGUSR1 and not self._cancelled()
        return not self._cancelled() and (progressed or self._fruitless(stage) < self.limit)

    def _cancelled(self) -> bool:
        """Somebody cancelled this job since it last started."""
        mine = [e for e in ledger.read(self.run) if e.get("job") in (self.job, None)]
        last = next((e["event"] for e in reversed(mine) if e["event"] in ("cancelled", "attempt")), "")
        return last == "cancelled"

    def _fruitless(self, stage: str) -> int:
        """Failed attempts of this stage in a row, newest backwards, that made no checkpoint. A heal starts afresh."""
        count, newest = 0, None
        for event in reversed(ledger.events(self.run)):
            if event["event"] == "healed" and event.get("stage") in (stage, self.stages[-1][0]):
                break
            if event["event"] != "ended" or event.get("stage") != stage:
                continue
            if event.get("outcome") != "failed" or event.get("job") != self.job:
                break
            step = event.get("last_checkpoint")
            if count and step != newest:
                break
            newest = step
            count += 1
        return count

    def _requeue(self, stage: str, code: int) -> int:
        from hpc import slurm

        try:
            slurm.requeue(self.job)
        except HpcError as error:
            print(f"error: {stage} has more to do, but requeue failed: {error}", file=sys.stderr)
            return code
        ledger.append(self.run, "requeued", stage=stage, job=self.job)
        return code  # Slurm ends this attempt itself; a code other than 0 keeps afterok dependents waiting

    def _explain(self, stage: str, outcome: str, code: int, failure: ledger.Json | None) -> None:
        if outcome == "stopped":
            print(
                f"{stage} stopped on request at checkpoint {self._step(stage)}; run it again to go on",
                file=sys.stderr,
            )
            return
        if failure is not None:
            text = (
                f"{stage} failed: rank {failure['rank']} on {failure['host']} was first: {failure['error']}"
            )
        else:
            text = f"{stage} failed with exit code {code}"
        print(f"error: {text} (logs: {self.run / 'jobs' / stage})", file=sys.stderr)


def parse(argv: list[str]) -> tuple[Path, list[tuple[str, list[str]]], int]:
    """Split ``RUN [--limit N] --stage NAME CMD … --stage NAME CMD …``."""
    usage = "python -m hpc.attempt RUN [--limit N] --stage NAME COMMAND … [--stage NAME COMMAND …]"
    if len(argv) < 4 or argv[0].startswith("--"):
        raise BadInput(f"usage: {usage}")
    run, rest, limit = Path(argv[0]).absolute(), argv[1:], ATTEMPTS_WITHOUT_PROGRESS
    if rest[0] == "--limit":
        if not rest[1].isdigit():
            raise BadInput(f"--limit {rest[1]}: a number of attempts; usage: {usage}")
        limit, rest = int(rest[1]), rest[2:]
    stages: list[tuple[str, list[str]]] = []
    for word in rest:
        if word == "--stage":
            stages.append(("", []))
        elif not stages:
            raise BadInput(f"{word}: expected --stage; usage: {usage}")
        elif not stages[-1][0]:
            stages[-1] = (word, [])
        else:
            stages[-1][1].append(word)
    if not stages or not all(name and command for name, command in stages):
        raise BadInput(f"every --stage needs a name and a command; usage: {usage}")
    if not (run / "run.yaml").is_file():
        raise BadInput(f"{run}: no run directory (no run.yaml there)")
    return run, stages, limit


def work_lock(run: Path, stage: str) -> Path:
    """The file that an attempt holds locked while it works: never two of one stage (or array element) of a run."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return run / "jobs" / stage / (f"work-{task}.lock" if task else "work.lock")


def main(argv: list[str] | None = None) -> int:
    """The batch process of a job."""
    try:
        run, stages, limit = parse(sys.argv[1:] if argv is None else argv)
        with ledger.exclusive(work_lock(run, stages[-1][0]), patience=RIVAL_SECONDS) as alone:
            if not alone:
                raise JobFailed(f"{stages[-1][0]} of {run} is at work in another job: this one does nothing")
            return Attempt(run, stages, limit).execute()
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
