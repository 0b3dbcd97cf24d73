"""Rank, world size, and where to meet: from a Slurm step, else from the local launch's or torchrun's variables.

No fixed ports: rank 0 holds a free one and publishes its address and port in a file of the run directory that is
named after the job, its restart and its step, so that jobs sharing a node, and attempts of one job, never meet.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpc.core.errors import WorkFailed
from hpc.core.files import Json, read_json, write_json
from hpc.core.launchers import of_a_launcher

MEET_SECONDS = 300.0
"""How long a rank waits for rank 0's address: tasks of one step start within seconds, slow file systems lag."""


@dataclass(frozen=True, kw_only=True)
class Rank:
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
        """Set the variables torch.distributed and DeepSpeed read, and drop what another launcher left in a shell."""
        if of_slurm_step(os.environ):
            for name in [n for n in os.environ if of_a_launcher(n)]:
                del os.environ[name]
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


def discover_rank(meeting: Path, environ: Mapping[str, str] | None = None) -> Rank:
    """This process's ranks.

    In a Slurm step Slurm's variables count: ``RANK``/``WORLD_SIZE``/… may be those of the shell that submitted. Else
    (local launch, torchrun) those; else one rank.

    Args:
        meeting: directory on a file system that all ranks see; the address file is put there.
    """
    env = os.environ if environ is None else environ
    if of_slurm_step(env):
        return _from_slurm(env, meeting)
    if all(name in env for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")):
        size = int(env["WORLD_SIZE"])
        local_size = int(env.get("LOCAL_WORLD_SIZE", size))
        return Rank(
            rank=int(env["RANK"]),
            world_size=size,
            local_rank=int(env.get("LOCAL_RANK", env["RANK"])),
            local_size=local_size,
            node=int(env["RANK"]) // max(1, local_size),
            nodes=max(1, size // max(1, local_size)),
            address=env.get("MASTER_ADDR", "127.0.0.1"),
            port=int(env["MASTER_PORT"]),
        )
    return Rank(rank=0, world_size=1, local_rank=0, local_size=1, port=free_port())


def of_slurm_step(env: Mapping[str, str]) -> bool:
    """Whether this process's place is the one that Slurm's srun gave it.

    A batch script has SLURM_PROCID too, but no step. Under a torchrun that srun started, one a node, torchrun's count:
    then this process is not the task itself, and torchrun's groups are the step's tasks.
    """
    if "SLURM_PROCID" not in env or "SLURM_STEP_ID" not in env:
        return False
    torchrun = "TORCHELASTIC_RUN_ID" in env and env.get("GROUP_WORLD_SIZE") == _tasks(env)
    return not torchrun or env.get("SLURM_TASK_PID") == str(os.getpid())


def _tasks(env: Mapping[str, str]) -> str:
    return env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or "1"


def _from_slurm(env: Mapping[str, str], meeting: Path) -> Rank:
    rank, size = int(env["SLURM_PROCID"]), int(_tasks(env))
    nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
    tag = "-".join((env["SLURM_JOB_ID"], env.get("SLURM_RESTART_COUNT", "0"), env["SLURM_STEP_ID"]))
    file = meeting / f".meet-{tag}.json"
    if rank == 0:
        # The name, not the number: on many nodes the own name resolves to a loopback number that others can't use.
        address = "127.0.0.1" if nodes == 1 else socket.gethostname()
        write_json(file, {"address": address, "port": free_port()})
    place = _await_json(file)
    return Rank(
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


def _await_json(file: Path) -> Json:
    """Rank 0's address file; polled, since no event crosses a shared file system."""
    end = time.monotonic() + MEET_SECONDS
    while time.monotonic() < end:
        found = read_json(file)
        if found:
            return found
        time.sleep(0.05)
    raise WorkFailed(
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


def describe(ranks: Rank) -> str:
    """One line for a log."""
    return json.dumps(
        {k: getattr(ranks, k) for k in ("rank", "world_size", "local_rank", "node", "address", "port")}
    )
