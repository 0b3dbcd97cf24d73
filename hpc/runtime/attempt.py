"""One attempt at a job: run its stages' commands in order, on the record, and decide what follows.

    python -m hpc.runtime.attempt RUN --stage preflight CMD … --stage train CMD …

This is what a batch script ends in (by ``exec``, so that Slurm's signals to the batch shell arrive here). It

* writes the attempt and its outcome to the ledger, so that nothing depends on Slurm's memory;
* hands a warning signal (USR1 before the time limit, TERM at preemption) on to the running command;
* ends a command one of whose ranks hangs (:mod:`hpc.runtime.heartbeat`), with the stacks in the ranks' logs;
* has the job start again where :mod:`hpc.runtime.retry_policy` says so: requeued under the same id on Slurm, locally
  in place;
* on a failure names the first rank that failed, its node and its error, and keeps the exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import HpcError, NotFit, WorkFailed
from hpc.core.files import Json, exclusive, newest_mtime
from hpc.core.last_words import exit_words, missing_package, one_line, said_in, tail_of
from hpc.core.process import die_with_parent
from hpc.runtime import exclude_nodes, heartbeat, retry_policy, stop
from hpc.runtime.attempt_words import Words, parse
from hpc.runtime.failures import first_failure, lost_a_peer
from hpc.runtime.job_memory import PeakMemory
from hpc.runtime.step_output import StepOutput
from hpc.runtime.stop import EXIT_FATAL, EXIT_REQUEUE
from hpc.runtime.this_job import ThisJob

RIVAL_SECONDS = 180.0
"""How long a job waits for another that is at the same stage of the same run: an earlier start of its own, on a node
that lost touch, needs KillWait and a file server's lease (90 s on NFSv4) until it is gone for certain."""

WATCH_SECONDS = 1.0
"""Between two looks at the heartbeats and the memory in use."""

LOGS_READ = 64
"""Logs that are looked at where no rank recorded why it failed."""

STACKS_SECONDS = 5.0
"""For hanging ranks to write their stacks before they are killed."""


class Attempt:
    """The stages of one job, run once. ``job``: its name on record (:class:`hpc.runtime.this_job.ThisJob`)."""

    def __init__(self, words: Words, this: ThisJob) -> None:
        self.words, self.run, self.stages = words, words.run, words.stages
        self.this, self.on_slurm, self.job, self.task = this, this.on_slurm, this.name, this.task
        self.process: subprocess.Popen[bytes] | None = None
        self.memory = PeakMemory(this.number)
        self.stopped: int | None = None
        self.terminated = False

    def execute(self) -> int:
        """Run the stages; the exit code for the batch script."""
        for number in (*stop.SIGNALS, signal.SIGINT):
            signal.signal(number, self._on_signal)
        last = self.stages[-1][0]
        if self.this.dropped(self.run):
            return 0 if ledger.is_done(self.run, last) else 1
        for stage, command in self.stages:
            code = self._stage(stage, command)
            if code != 0:
                return code
        self.this.drop_later(self.run, last)
        return 0

    def _stage(self, stage: str, command: list[str]) -> int:
        """Run a stage until it is done or no attempt follows; the exit code."""
        while True:
            before = self._checkpoint(stage)
            if not self._may_start(stage):
                return 1
            started = self._record_start(stage)
            before_logs = self._log_sizes(stage)
            self.memory.bytes = None
            code, hang, output = self._run(stage, command)
            after = self._checkpoint(stage)
            progressed = after is not None and after > (before or 0)
            asked = code != 0 or self.stopped is not None
            intends = self._intends() if asked else retry_policy.RUNNING
            told = self.stopped is not None or intends not in (retry_policy.RUNNING, retry_policy.UNKNOWN)
            failure = self._failure(stage, started, hang, output, told=told)
            outcome = retry_policy.outcome(
                code, told=told, marked=ledger.is_done(self.run, stage), failed=failure is not None,
                progressed=progressed,
            )  # fmt: skip
            unasked_stop = outcome == retry_policy.FAILED and code == EXIT_REQUEUE
            if unasked_stop:
                failure = failure or output.unasked()
            if outcome == retry_policy.FAILED:
                failure = failure or self._last_words(stage, code, before_logs)
            if failure and (missing := missing_package(failure["error"])) is not None:
                failure |= {"error": missing, "exit_code": NotFit.exit_code}  # no attempt will find it
            first = failure.get("exit_code") if failure else None
            if unasked_stop:  # srun tells the highest code of all ranks
                code = first or 1
            self._record_end(stage, outcome, code, failure, intends)
            if outcome == retry_policy.DONE:
                self._mark(stage, started)
                return 0
            unasked = self.on_slurm and self.stopped is None and intends == retry_policy.RUNNING
            if unasked and exclude_nodes.start_again(self.run, stage, self.this):
                return code
            decided = retry_policy.decide(
                ledger.read(self.run), (stage, self.stages[-1][0]), self.job, outcome, first or code,
                limit=self.words.limit, warned=self.stopped == signal.SIGUSR1, intends=intends,
                progressed=progressed, advice=self.words.advice,
            )  # fmt: skip
            code = code or EXIT_REQUEUE  # srun can end with 0 when its step was ended
            if not decided.again:
                if intends == retry_policy.ENDING and self.on_slurm and decided.reason != "cancelled":
                    ledger.append(self.run, "cancelled", stage=stage, job=self.job)
                self._explain(stage, outcome, code, failure, decided.reason)
                if decided.useless:
                    self.this.drop_later(self.run, stage)
                final = first if first in retry_policy.FINAL_CODES else code
                return 1 if final == EXIT_FATAL else final
            if self.on_slurm:
                self._next(stage, outcome, failure)
                return code  # a code other than 0 keeps afterok dependents waiting
            ledger.append(self.run, "requeued", stage=stage, job=self.job)

    def _may_start(self, stage: str) -> bool:
        """Whether it has not started too often without getting any further; if it has, this is put on record."""
        stages = (stage, self.stages[-1][0])
        step = self._checkpoint(stages[1])
        count, most = (
            retry_policy.starts(ledger.read(self.run), stages, self.job, step),
            retry_policy.STARTS_WITHOUT_PROGRESS,
        )
        if count < max(most, self.words.limit):
            return True
        where = "without a first checkpoint" if step is None else f"from checkpoint {step}"
        advice = self.words.advice or "save more often, or run where jobs are not taken away so soon"
        text = f"started {count} times in a row {where}; {advice}"
        ledger.append(
            self.run, "ended", stage=stage, job=self.job, array_task=self.task, outcome=retry_policy.FAILED,
            exit_code=1, error=text, last_checkpoint=step,
        )  # fmt: skip
        print(f"error: {stage}: {text}", file=sys.stderr)
        return False

    def _mark(self, stage: str, started: str) -> None:
        """Write the marker of a stage that writes none; of an array, once all of its elements have ended well."""
        if not self.words.mark or ledger.is_done(self.run, stage):
            return
        done: set[int | None] = set()
        for event in ledger.events(self.run, stage=stage):
            if event["event"] == "submitted":
                done.clear()
            elif event["event"] == "ended" and event["outcome"] == retry_policy.DONE:
                done.add(event.get("array_task"))
        if self.task is None or len(done) >= int(os.environ["SLURM_ARRAY_TASK_COUNT"]):
            ledger.write_marker(self.run, stage, outcome="done", started=started)

    def _record_start(self, stage: str) -> str:
        env = os.environ
        nodes = env.get("SLURM_JOB_NODELIST") or os.uname().nodename
        before = self._cut_off(stage)
        record = ledger.append(
            self.run, "attempt", stage=stage, job=self.job, nodes=nodes,
            attempt=len(ledger.events(self.run, event="attempt", stage=stage)) + 1,
            gpus=int(env["HPC_JOB_GPUS"]) if env.get("HPC_JOB_GPUS", "").isdigit() else None,
            checkpoint=self._checkpoint(self.stages[-1][0]),
            restart=self.this.restarts if "SLURM_RESTART_COUNT" in env else None,
            array_job=env.get("SLURM_ARRAY_JOB_ID"), before_until=before, array_task=self.task,
        )  # fmt: skip
        return str(record["time"])

    def _cut_off(self, stage: str) -> str | None:
        """When the attempt before this one, whose end nobody could write down, last gave a sign of life; None where
        there is none such. (The new one's ranks will write over its logs.)"""
        kinds = ("attempt", "ended")
        mine = [
            e
            for e in ledger.events(self.run, stage=stage)
            if e["event"] in kinds and e.get("job") == self.job
        ]
        if not mine or mine[-1]["event"] == "ended":
            return None
        logs = self.run / "jobs" / stage
        files = [
            *logs.glob("*.log"),
            *(logs / "heartbeat").glob("*"),
            self.run / "stages" / f"{stage}.progress.json",
        ]
        last = newest_mtime(files)
        return None if last is None else timestamps.stamp(last)

    def _record_end(self, stage: str, outcome: str, code: int, failure: Json | None, intends: str) -> None:
        progress = ledger.progress(self.run, stage)
        ledger.append(
            self.run, "ended", stage=stage, job=self.job, array_task=self.task, outcome=outcome, exit_code=code,
            step=progress.get("step"), last_checkpoint=progress.get("checkpoint"), memory=self.memory.bytes,
            signal=signal.Signals(self.stopped).name if self.stopped else None,
            taken=intends in retry_policy.TAKEN or None, preempted=intends == retry_policy.PREEMPTED or None,
            error=one_line(failure["error"]) if failure else None,
            failed_rank=failure["rank"] if failure else None, failed_node=failure["host"] if failure else None,
        )  # fmt: skip

    def _run(self, stage: str, command: list[str]) -> tuple[int, heartbeat.Hang | None, StepOutput]:
        """Run one command; its exit code (128+N where signal N ended it), the hang that it was ended for, and what its
        launcher said.

        Locally it gets a session of its own, so that a Ctrl-C at the terminal comes only here.
        """
        output = StepOutput(self.run / "jobs" / stage)
        if self.stopped is not None:
            return EXIT_REQUEUE, None, output
        watch = heartbeat.Watch(self.run / "jobs" / stage / "heartbeat")
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, start_new_session=not self.on_slurm, env=self.this.for_steps(),
                stderr=subprocess.PIPE, preexec_fn=None if self.on_slurm else die_with_parent,
            )  # fmt: skip
            assert self.process.stderr is not None
            output.follow(self.process.stderr)
        except OSError as error:
            print(f"error: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
            return 127, None, output
        if self.stopped is not None:  # the signal came between the check above and the start
            self.process.send_signal(signal.SIGUSR1)
        hang = None
        while True:
            try:
                code = self.process.wait(timeout=WATCH_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self.memory.sample()
                if hang is None and (hang := watch.check()) is not None:
                    self._end_hanging(stage, hang)
        self.process = None
        return (code if code >= 0 else 128 - code), hang, output

    def _end_hanging(self, stage: str, hang: heartbeat.Hang) -> None:
        """Have every rank write its stacks to its log, then kill them all."""
        assert self.process is not None
        logs = self.run / "jobs" / stage
        print(f"error: {stage}: {hang}; stacks of all ranks: {logs}/rank-*.log", file=sys.stderr)
        first = hang.behind[0]
        ledger.append(
            self.run, "hung", stage=stage, job=self.job, ranks=[b["rank"] for b in hang.behind],
            node=first["host"], phase=first["phase"], step=first["step"], seconds=round(hang.seconds),
        )  # fmt: skip
        self.process.send_signal(heartbeat.STACKS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=STACKS_SECONDS)
        self._kill()

    def _kill(self) -> None:
        """Kill the running command with all its ranks."""
        if self.process is None or self.process.poll() is not None:
            return
        if not self.on_slurm:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            return
        from hpc.slurm import client as slurm

        try:
            slurm.kill_steps(self.this.number)  # srun ends when its tasks have
        except HpcError as error:
            print(f"error: cannot kill the step: {error}", file=sys.stderr)
            self.process.kill()
        if isinstance(self.process.args, list) and Path(str(self.process.args[0])).name != "srun":
            self.process.kill()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.stopped == signal.SIGINT:
            self._kill()  # whoever presses Ctrl-C twice does not want to wait for a checkpoint
            return
        self.terminated = self.terminated or number == signal.SIGTERM
        if self.stopped != signal.SIGUSR1:  # the time limit's TERM after its warning changes nothing
            self.stopped = number
        if self.process is not None:
            # srun hands USR1 on to every task; TERM would end srun itself.
            self.process.send_signal(signal.SIGUSR1)

    def _checkpoint(self, stage: str) -> int | None:
        step = ledger.progress(self.run, stage).get("checkpoint")
        return int(step) if isinstance(step, int) else None

    def _intends(self) -> str:
        """What is in store for this job: see :func:`hpc.runtime.retry_policy.slurm_intends`."""
        if not self.on_slurm:
            return retry_policy.RUNNING if self.stopped is None else retry_policy.ENDING
        from hpc.slurm import client as slurm

        try:
            return retry_policy.slurm_intends(slurm.show(self.this.slurm_id), self.this.restarts)
        except HpcError:
            return retry_policy.UNKNOWN

    def _failure(
        self, stage: str, started: str, hang: heartbeat.Hang | None, output: StepOutput, *, told: bool
    ) -> Json | None:
        """The first failure of a rank; a hang is one, and what its ranks say when they are killed is not.

        Where all were ``told`` to stop, those that were too slow or lost the others have not failed.
        """
        if hang is not None:
            first = hang.behind[0]
            return {"rank": first["rank"], "host": first["host"], "error": str(hang)}
        logs = self.run / "jobs" / stage
        if told:
            recorded = first_failure(logs, since=started)
            return None if recorded is None or lost_a_peer(recorded) else recorded
        return first_failure(
            logs, since=started, known=heartbeat.read(logs / "heartbeat"), ended=output.first()
        )

    def _log_sizes(self, stage: str) -> dict[Path, int]:
        folders = {self.run / "jobs" / name for name in (stage, self.stages[-1][0])}
        files = [file for folder in folders for kind in ("*.log", "*.out") for file in folder.glob(kind)]
        return {file: file.stat().st_size for file in files}

    def _last_words(self, stage: str, code: int, before: dict[Path, int]) -> Json:
        """What a command that recorded no failure wrote of it; the log that fell silent first is read last."""
        logs = sorted(
            self._log_sizes(stage), key=lambda p: (p.suffix == ".out", p.stat().st_mtime), reverse=True
        )
        said = said_in("\n".join(tail_of(log, before.get(log, 0)) for log in logs[-LOGS_READ:]))
        ended = exit_words(code)
        error = f"{ended}; it wrote: {said}" if said and code > 128 else said or ended
        return {"rank": None, "host": None, "error": error}

    def _next(self, stage: str, outcome: str, failure: Json | None) -> None:
        """Have the next attempt come, on the record first: Slurm may end this very process before a call returns."""
        ledger.append(self.run, "requeued", stage=stage, job=self.job, array_task=self.task)
        self.terminated = False
        why = self.this.again()
        if not why or self.terminated or self._intends() == retry_policy.LOST:
            return  # also where it was heard: Slurm is ending this job's processes, scontrol among them
        step = self._checkpoint(stage)
        kept = f"checkpoint {step} is kept" if step is not None else "nothing is saved yet"
        had = one_line(failure["error"]) if failure else f"stopped: {kept}"
        text = f"{had}; {why}: `heal` goes on from there"
        print(f"{'error: ' if failure else ''}{stage}: {text}", file=sys.stderr)
        ledger.append(
            self.run,
            "not_requeued",
            stage=stage,
            job=self.job,
            array_task=self.task,
            outcome=outcome,
            error=text,
        )

    def _explain(self, stage: str, outcome: str, code: int, failure: Json | None, reason: str) -> None:
        logs = self.run / "jobs" / stage
        if outcome == retry_policy.STOPPED:
            text = f"{stage} stopped at checkpoint {self._checkpoint(stage)}: {reason}; run it again to go on"
            print(text, file=sys.stderr)
            return
        text = f"{stage} failed with exit code {code}"
        if failure is not None and failure["rank"] is None:
            text = f"{stage} failed: {failure['error']}"
        elif failure is not None:
            text = (
                f"{stage} failed: rank {failure['rank']} on {failure['host']} was first: {failure['error']}"
            )
        print(f"error: {text} ({reason}; logs: {logs})", file=sys.stderr)


def work_lock(run: Path, stage: str, task: int | None) -> Path:
    """The file that an attempt holds locked while it works: never two of one stage (or piece of an array) of a run."""
    return run / "jobs" / stage / ("work.lock" if task is None else f"work-{task}.lock")


def main(argv: list[str] | None = None) -> int:
    """The batch process of a job."""
    try:
        words = parse(sys.argv[1:] if argv is None else argv)
        stage, this = words.stages[-1][0], ThisJob.here(queued=words.queued)
        with exclusive(work_lock(words.run, stage, this.task), patience=RIVAL_SECONDS) as alone:
            if not alone:
                raise WorkFailed(f"{stage} of {words.run} is at work in another job: this one does nothing")
            return Attempt(words, this).execute()
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
