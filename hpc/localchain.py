"""A chain on this machine: the process behind :func:`hpc.chain.start_here`, which outlives the terminal.

    python -m hpc.localchain RUN STAGE …

Each stage's script runs in turn, until one does not end well. When this process dies, the stage that runs is told to
stop, and saves what it has.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hpc import ledger
from hpc.errors import BadInput, HpcError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
WAIT_SECONDS = 3600.0
"""A second start of the same run waits for the first to end, and then finds its stages done."""


class LocalChain:
    """The stages of one run, one after the other."""

    def __init__(self, run: Path, stages: Sequence[str]) -> None:
        self.run, self.stages = run, stages
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False

    def execute(self) -> int:
        """Run all that is not done; the first exit code that is not 0."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with ledger.exclusive(self.run / "jobs" / "local.lock", patience=WAIT_SECONDS) as held:
            if not held:
                raise BadInput(f"{self.run}: another chain of this run is still at work here")
            for stage in self.stages:
                code = self._job(stage)
                if code != 0:
                    outcome = "stopped" if self.stopping else "failed"
                    ledger.append(self.run, "chain_ended", outcome=outcome, stage=stage)
                    return code
            ledger.append(self.run, "chain_ended", outcome="done")
            return 0

    def _job(self, stage: str) -> int:
        if self.stopping:
            return 1
        marker = ledger.marker(self.run, stage)
        if marker is not None and marker.get("outcome") == "done":
            return 0
        folder = self.run / "jobs" / stage
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))
        }
        with (folder / "local.out").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", str(folder / "script.sh")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, preexec_fn=_stop_with_parent,
            )  # fmt: skip
            if self.stopping:  # the signal came between the check above and the start
                self.process.terminate()
            code = self.process.wait()
        return code if code >= 0 else 128 - code

    def _stop(self, *_: object) -> None:
        self.stopping = True
        if self.process is not None:
            self.process.terminate()


def _stop_with_parent() -> None:
    """In the child, before it starts: SIGTERM when the chain's process dies, so that no stage goes on alone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Run a local chain's scripts in order."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if len(words) < 2:
            raise BadInput("usage: python -m hpc.localchain RUN STAGE …")
        return LocalChain(Path(words[0]), words[1:]).execute()
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
