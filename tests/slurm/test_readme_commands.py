"""README's rehearsal, typed as it stands, ends as README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glmjobs.run.directory import Run
from hpc.chain import ledger
from tests.slurm.conftest import require_slurm
from tests.support.pages import code_blocks

pytestmark = pytest.mark.slurm


def block(repo: Path, having: str) -> str:
    """The code block of README that contains ``having``."""
    (found,) = [block for block in code_blocks(repo / "README.md", "bash") if having in block]
    return found


def test_the_rehearsal(repo: Path, tmp_path: Path) -> None:
    require_slurm()
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    environ |= {
        "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}",
        "HPC_DEVCLUSTER_DIR": str(tmp_path / "slurm"),
        "GLMJOBS_RUNS": str(tmp_path / "runs"),
    }
    commands = block(repo, "hpc.devcluster up").replace(" rehearsal\n", f" {tmp_path}/runs/rehearsal\n")
    commands = commands.replace(f"--name {tmp_path}/runs/rehearsal", "--name rehearsal")
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=repo,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "up: 2 nodes x 8 a100" in done.stdout and "down: " in done.stdout
    run = Run.open(tmp_path / "runs" / "rehearsal")
    submitted = [e["stage"] for e in ledger.events(run.path, event="submitted")]
    assert submitted == ["train", "consolidate", "score", "report"]
    assert ledger.events(run.path, event="cancelled")
    assert run.shape.nodes == 2
