"""A program as two ranks of one training, on this machine and its CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import REPO


class Said(NamedTuple):
    """How a rank ended, and what it wrote."""

    code: int
    out: str
    err: str


def two_ranks(program: str, *words: str, cwd: Path, seconds: float) -> list[Said]:
    """Run ``python program words`` as ranks 0 and 1; none is left behind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    ranks = [
        subprocess.Popen(
            [sys.executable, program, *words], env={**here, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=cwd,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=seconds) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [Said(rank.returncode, out, err) for rank, (out, err) in zip(ranks, said, strict=True)]
