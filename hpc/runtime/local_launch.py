"""The local launch: N processes on this machine, one per rank, each with its own log.

    python -m hpc.runtime.local_launch --nproc N [--log DIR] -- COMMAND …

When one fails, the others are stopped and its exit code is handed on: the counterpart of
``srun --kill-on-bad-exit=1``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hpc.core.errors import BadInput
from hpc.core.launchers import of_a_launcher
from hpc.core.process import die_with_parent
from hpc.runtime import step_output
from hpc.runtime.rendezvous import free_port
from hpc.runtime.stop import EXIT_REQUEUE
from hpc.slurm.variables import OF_A_STEP

KILL_GRACE_SECONDS = 3.0
"""Between asking the other ranks to end and killing them, once one has failed: they can only wait for it."""

STOP_GRACE_SECONDS = 60.0
"""The same once one has stopped on request: the others are about to."""


class LocalLaunch:
    """N ranks of one command on this machine; the local counterpart of ``srun --kill-on-bad-exit=1``."""

    def __init__(self, command: Sequence[str], nproc: int, log: Path | None = None) -> None:
        self.command, self.nproc, self.log = list(command), nproc, log
        self.processes: list[subprocess.Popen[bytes]] = []
        self.told: int | None = None

    def run(self) -> int:
        """Start all, wait for all; the exit code of the first that failed, else 0."""
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._forward)
        signal.signal(signal.SIGINT, self._interrupt)
        port = free_port()
        for rank in range(self.nproc):
            self.processes.append(self._start(rank, port))
        if self.told is not None:  # the signal came while they were being started
            self._send(self.told)
        code = 0
        pending = set(self.processes)
        while pending:
            pid, status = os.waitpid(-1, 0)
            process = next((p for p in pending if p.pid == pid), None)
            if process is None:
                continue
            pending.discard(process)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0 and code == 0:
                code = process.returncode if process.returncode > 0 else 128 - process.returncode
                print(step_output.tell(self.processes.index(process), process.returncode), file=sys.stderr)
                self._stop(STOP_GRACE_SECONDS if code == EXIT_REQUEUE else KILL_GRACE_SECONDS)
        return code

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        env = {  # nor are these ranks of a Slurm step that this process may be in
            **{k: v for k, v in os.environ.items() if not (of_a_launcher(k) or k.startswith(OF_A_STEP))},
            "RANK": str(rank),
            "WORLD_SIZE": str(self.nproc),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(self.nproc),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        null = subprocess.DEVNULL
        if self.log is None:
            return subprocess.Popen(self.command, env=env, stdin=null, preexec_fn=die_with_parent)
        self.log.mkdir(parents=True, exist_ok=True)
        with (self.log / f"rank-{rank}.log").open("ab") as file:
            return subprocess.Popen(
                self.command, env=env, stdin=null, stdout=file, stderr=file, preexec_fn=die_with_parent
            )

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.told = number
        self._send(number)

    def _send(self, number: int) -> None:
        """Not ``Popen.send_signal``: that would reap a rank behind the back of the loop that waits for it."""
        for process in self.processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C: the ranks save and stop; a second one ends them."""
        signal.signal(signal.SIGINT, lambda *_: self._send(signal.SIGKILL))
        self._forward(signal.SIGUSR1, frame)

    def _stop(self, grace: float) -> None:
        """End the other ranks, as srun does: first asked, then, after a grace (seconds), killed."""
        self._send(signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, grace)


def main(argv: list[str] | None = None) -> int:
    """``python -m hpc.runtime.local_launch --nproc N [--log DIR] -- COMMAND …``"""
    parser = argparse.ArgumentParser(
        prog="python -m hpc.runtime.local_launch", description="start N ranks of a command here"
    )
    parser.add_argument("--nproc", type=int, required=True, help="ranks")
    parser.add_argument(
        "--log", type=Path, help="directory for rank-N.log; default: this process's own output"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.nproc < 1:
        raise BadInput("hpc.runtime.local_launch: give --nproc N (at least 1) and a command after --")
    try:
        return LocalLaunch(command, args.nproc, args.log).run()
    except FileNotFoundError as error:  # only the program is looked for by its name
        print(f"error: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    raise SystemExit(main())
