"""Where ranks meet: a port that stays theirs, the step as Slurm describes it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.core.errors import BadInput
from hpc.core.files import read_json, write_json
from hpc.runtime.failures import first_failure, record_failure
from hpc.runtime.rendezvous import discover_rank, free_port
from hpc.slurm.hostlist import expand_hosts


def test_a_port_is_nobody_else_s_until_it_is_listened_on() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    with (
        socket.create_server(("", port)) as server,
        socket.create_connection(("127.0.0.1", port), timeout=10),
    ):
        assert server.accept()[0] is not None


def test_torch_listens_on_a_held_port() -> None:
    pytest.importorskip("torch")
    code = (
        "from hpc.runtime import rendezvous; from torch.distributed import TCPStore; "
        "s = TCPStore('127.0.0.1', rendezvous.free_port(), 1, True); s.set('a', 'b'); print(s.get('a').decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["b"], done.stderr


def test_ports_held_at_once_all_differ() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200


def test_a_steps_ranks_find_rank_0(tmp_path: Path) -> None:
    """Two nodes of 2 and 1 tasks; a restart of the job never takes the address of the start before."""
    step = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
    }  # fmt: skip
    first = discover_rank(tmp_path, {**step, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"})
    last = discover_rank(tmp_path, {**step, "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"})
    assert (last.address, last.port) == (socket.gethostname(), first.port)
    assert (first.local_size, last.local_size, last.node, last.world_size) == (2, 1, 1, 3)
    again = discover_rank(tmp_path, {**step, "SLURM_RESTART_COUNT": "1", "SLURM_PROCID": "0"})
    assert again.port != first.port


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("node1", ["node1"]),
        ("gpu[01-03,7]", ["gpu01", "gpu02", "gpu03", "gpu7"]),
        ("a[1-2],b-[09-10].x,c", ["a1", "a2", "b-09.x", "b-10.x", "c"]),
        ("rack[1-2]node[1-2]", ["rack1node1", "rack1node2", "rack2node1", "rack2node2"]),
    ],
)
def test_hostnames_as_slurm_writes_them(spec: str, names: list[str]) -> None:
    assert expand_hosts(spec) == names


def test_the_first_of_many_failures_is_told(tmp_path: Path) -> None:
    """What it pulled down with it came later, and is not blamed."""
    for rank, at, error in (
        (3, "10:00:01", ValueError("bad row")),
        (0, "10:00:05", ConnectionError("reset by peer")),
    ):
        record_failure(tmp_path, rank, error, host=f"node{rank // 2 + 1}")
        file = tmp_path / f"failed-rank-{rank}.json"
        write_json(file, {**(read_json(file) or {}), "time": f"2026-01-01T{at}+00:00"})
    first = first_failure(tmp_path)
    assert first is not None
    assert (first["rank"], first["host"], first["error"]) == (3, "node2", "ValueError: bad row")
    assert first_failure(tmp_path, since="2026-01-01T10:00:03") == read_json(tmp_path / "failed-rank-0.json")


def test_a_failure_is_recorded_as_one_line_for_people(tmp_path: Path) -> None:
    """An error of the toolkit is its text; the last line of a long message is not what it says."""
    long = ValueError("correct these values:\n- train_batch_size=16 vs 8\nThe easiest method is 'auto'.")
    errors = [
        (BadInput("a.yaml: no such recipe"), "a.yaml: no such recipe"),
        (MemoryError(), "MemoryError: out of host memory"),
        (long, "ValueError: correct these values: - train_batch_size=16 vs 8 The easiest method is 'auto'."),
    ]
    for error, said in errors:
        record_failure(tmp_path, 0, error)
        found = first_failure(tmp_path)
        assert found is not None and found["error"] == said
