"""A chain on this machine: the process behind :func:`hpc.chain.submission.start_here`, which outlives the terminal.

    python -m hpc.chain.local RUN STAGE …

Each stage's script runs in turn, until one does not end well. When this process dies, the stage that runs is told to
stop, and saves what it has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hpc.chain import ledger
from hpc.core.errors import BadInput, HpcError
from hpc.core.files import exclusive
from hpc.core.last_words import exit_words, said_in, tail_of
from hpc.core.process import alive, die_with_parent
from hpc.slurm.variables import clean_env

CHAIN_MODULES = frozenset({"hpc.chain.local", "hpc.localchain"})
"""What stands in such a process's command line; the second is its name before the rooms, for one release."""

WAIT_SECONDS = 3600.0
"""A second start of the same run waits for the first to end, and then finds its stages done."""


class LocalChain:
    """The stages of one run, one after the other."""

    def __init__(self, run: Path, stages: Sequence[str]) -> None:
        self.run, self.stages = run, stages
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.written = 0

    def execute(self) -> int:
        """Run all that is not done; the first exit code that is not 0."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with exclusive(self.run / "jobs" / "local.lock", patience=WAIT_SECONDS) as held:
            if not held:
                raise BadInput(f"{self.run}: another chain of this run is still at work here")
            for stage in self.stages:
                code = self._job(stage)
                if code != 0:
                    outcome = "stopped" if self.stopping else "failed"
                    ledger.append(
                        self.run, "chain_ended", outcome=outcome, stage=stage, error=self._said(stage, code)
                    )
                    return code
            ledger.append(self.run, "chain_ended", outcome="done")
            return 0

    def _job(self, stage: str) -> int:
        if self.stopping:
            return 1
        if ledger.is_done(self.run, stage):
            return 0
        folder = self.run / "jobs" / stage
        with (folder / "local.out").open("ab") as log:
            self.written = log.tell()
            self.process = subprocess.Popen(
                ["bash", str(folder / "script.sh")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=clean_env(os.environ), preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )  # fmt: skip
            if self.stopping:  # the signal came between the check above and the start
                self.process.terminate()
            code = self.process.wait()
        return code if code >= 0 else 128 - code

    def _said(self, stage: str, code: int) -> str:
        """Why the stage's script ended: what it wrote since it began."""
        return said_in(tail_of(self.run / "jobs" / stage / "local.out", self.written)) or exit_words(code)

    def _stop(self, *_: object) -> None:
        self.stopping = True
        if self.process is not None:
            self.process.terminate()


def is_local_chain(pid: int) -> bool:
    """Whether the process is such a chain, not another that got its number."""
    import psutil

    try:
        return bool(CHAIN_MODULES & set(psutil.Process(pid).cmdline()))
    except psutil.Error:
        return False


def at_work(job: str) -> bool:
    """Whether the job, ``local-PID``, is a chain that runs on this machine."""
    pid = job.removeprefix("local-")
    return job != pid and pid.isdigit() and alive(int(pid)) and is_local_chain(int(pid))


def main(argv: list[str] | None = None) -> int:
    """Run a local chain's scripts in order."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if len(words) < 2:
            raise BadInput("usage: python -m hpc.chain.local RUN STAGE …")
        return LocalChain(Path(words[0]), words[1:]).execute()
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
