"""Rank, world size, and where to meet: from a Slurm step, from a local launch, or from torchrun's variables.

No fixed ports: rank 0 holds a free one and publishes its address and port in a file of the run directory that is
named after the job, its restart and its step, so that jobs sharing a node, and attempts of one job, never meet.

``python -m hpc.ranks --nproc N [--log DIR] -- COMMAND …`` is the local launch: N processes, one per rank, each with
its own log; when one fails, the others are stopped and its exit code is handed on.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hpc import ledger
from hpc.errors import BadInput, JobFailed
from hpc.preempt import STOPPED

MEET_SECONDS = 300.0
"""How long a rank waits for rank 0's address: tasks of one step start within seconds, slow file systems lag."""

KILL_GRACE_SECONDS = 3.0
"""Between asking the other ranks to end and killing them, once one has failed: they can only wait for it."""

STOP_GRACE_SECONDS = 60.0
"""The same once one has stopped on request: the others are about to."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One process's place among all ranks of a step."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    def export(self) -> None:
        """Set the variables torch.distributed and DeepSpeed read."""
        os.environ.update(self.variables())

    def variables(self) -> dict[str, str]:
        """The variables torch.distributed and DeepSpeed read."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def find(meeting: Path, environ: Mapping[str, str] | None = None) -> Ranks:
    """This process's ranks.

    ``RANK``/``WORLD_SIZE``/… win where set (local launch, torchrun); then a Slurm step's variables; else one rank.

    Args:
        meeting: directory on a file system that all ranks see; the address file is put there.
    """
    env = os.environ if environ is None else environ
    if "RANK" in env and "MASTER_PORT" in env:
        size = int(env["WORLD_SIZE"])
        local_size = int(env.get("LOCAL_WORLD_SIZE", size))
        return Ranks(
            rank=int(env["RANK"]),
            world_size=size,
            local_rank=int(env.get("LOCAL_RANK", env["RANK"])),
            local_size=local_size,
            node=int(env["RANK"]) // max(1, local_size),
            nodes=max(1, size // max(1, local_size)),
            address=env.get("MASTER_ADDR", "127.0.0.1"),
            port=int(env["MASTER_PORT"]),
        )
    if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env:
        return _from_slurm(env, meeting)
    return Ranks(rank=0, world_size=1, local_rank=0, local_size=1, port=free_port())


def _from_slurm(env: Mapping[str, str], meeting: Path) -> Ranks:
    rank, size = int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"])
    nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
    tag = "-".join((env["SLURM_JOB_ID"], env.get("SLURM_RESTART_COUNT", "0"), env["SLURM_STEP_ID"]))
    file = meeting / f".meet-{tag}.json"
    if rank == 0:
        # The name, not the number: on many nodes the own name resolves to a loopback number that others can't use.
        address = "127.0.0.1" if nodes == 1 else socket.gethostname()
        ledger.write_json(file, {"address": address, "port": free_port()})
    place = _await_json(file)
    return Ranks(
        rank=rank,
        world_size=size,
        local_rank=int(env.get("SLURM_LOCALID", "0")),
        local_size=tasks_on_node(
            env.get("SLURM_STEP_TASKS_PER_NODE", ""), int(env.get("SLURM_NODEID", "0")), size
        ),
        node=int(env.get("SLURM_NODEID", "0")),
        nodes=nodes,
        address=str(place["address"]),
        port=int(str(place["port"])),
    )


def _await_json(file: Path) -> ledger.Json:
    """Rank 0's address file; polled, since no event crosses a shared file system."""
    end = time.monotonic() + MEET_SECONDS
    while time.monotonic() < end:
        found = ledger.read_json(file)
        if found:
            return found
        time.sleep(0.05)
    raise JobFailed(
        f"{file}: rank 0 did not publish its address within {MEET_SECONDS:.0f} s; is this path shared?"
    )


def tasks_on_node(spec: str, node: int, default: int) -> int:
    """Tasks on one node, from Slurm's ``4(x2),3`` form.

    >>> tasks_on_node("4(x2),3", 2, 0)
    3
    """
    counts: list[int] = []
    for part in filter(None, spec.split(",")):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[node] if node < len(counts) else default


_HELD: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of this node that nobody else gets as long as this process lives.

    Between being chosen and being listened on lies the import of torch: seconds in which another job, or one of NCCL's
    own sockets, could be given a port that was merely found free. So it stays bound here, without listening: the kernel
    gives it to nobody who asks for any port, and with SO_REUSEADDR (socket(7)), which torch's and Python's servers set,
    it can be listened on all the same.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("", 0))
    _HELD.append(held)
    return int(held.getsockname()[1])


def record_failure(folder: Path, rank: int, error: BaseException, *, host: str | None = None) -> None:
    """Leave word of this rank's failure, so that the first of many can be told from those it pulled down.

    ``host``: the node to blame, where it is not this one.
    """
    last = "".join(traceback.format_exception_only(type(error), error)).strip()
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    record = {
        "time": ledger.now(),
        "rank": rank,
        "host": host or socket.gethostname(),
        "error": last,
        "exit_code": getattr(error, "exit_code", None),
        "trace": trace[-8000:],
    }
    try:
        ledger.write_json(folder / f"failed-rank-{rank}.json", record)
    except OSError as problem:
        print(f"cannot record the failure of rank {rank}: {problem}", file=sys.stderr)


_LOST_A_PEER = (
    "reset by peer",
    "closed by peer",
    "broken pipe",
    "remote process exited",
    "connection refused",
)


def first_failure(folder: Path, since: str = "", known: Sequence[ledger.Json] = ()) -> ledger.Json | None:
    """The earliest failure that ranks recorded in ``folder`` at or after the time ``since``.

    A rank that was killed records nothing; where the others only say that they lost a connection, it is the one of
    the ``known`` ranks (``rank``, ``host``) that is silent.
    """
    found = [
        r for p in folder.glob("failed-rank-*.json") if (r := ledger.read_json(p)) and str(r["time"]) >= since
    ]
    silent = [k for k in known if k["rank"] not in {r["rank"] for r in found}]
    if found and silent and all(any(sign in str(r["error"]).lower() for sign in _LOST_A_PEER) for r in found):
        error = "died without a word (killed; out of memory?); the other ranks lost their connection to it"
        return {"rank": silent[0]["rank"], "host": silent[0]["host"], "error": error}
    return min(found, key=lambda r: str(r["time"]), default=None)


def die_with_parent() -> None:
    """For ``preexec_fn``: the kernel kills this child when its parent is gone (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


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
                self._stop(STOP_GRACE_SECONDS if code == STOPPED else KILL_GRACE_SECONDS)
        return code

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
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
    """``python -m hpc.ranks --nproc N [--log DIR] -- COMMAND …``"""
    parser = argparse.ArgumentParser(
        prog="python -m hpc.ranks", description="start N ranks of a command here"
    )
    parser.add_argument("--nproc", type=int, required=True, help="ranks")
    parser.add_argument(
        "--log", type=Path, help="directory for rank-N.log; default: this process's own output"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.nproc < 1:
        raise BadInput("hpc.ranks: give --nproc N (at least 1) and a command after --")
    return LocalLaunch(command, args.nproc, args.log).run()


def describe(ranks: Ranks) -> str:
    """One line for a log."""
    return json.dumps(
        {k: getattr(ranks, k) for k in ("rank", "world_size", "local_rank", "node", "address", "port")}
    )


if __name__ == "__main__":
    raise SystemExit(main())
