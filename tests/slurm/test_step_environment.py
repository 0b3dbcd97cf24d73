"""Whatever the submitting shell holds: a step's ranks, GPUs and PATH are those that its own job gives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc.devcluster import DevCluster
from tests.support.paths import REPO

pytestmark = pytest.mark.slurm

TELL = """
import json, os, sys
from pathlib import Path
from hpc.runtime.rendezvous import discover_rank
run = Path(sys.argv[1])
place = discover_rank(run)
place.export()
told = {"rank": place.rank, "of": place.world_size, "RANK": os.environ["RANK"], "port": place.port,
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "own": os.environ.get("OWN"),
        "torchrun": os.environ.get("TORCHELASTIC_RUN_ID"), "array": os.environ.get("SLURM_ARRAY_TASK_ID")}
(run / f"rank-{os.environ['SLURM_PROCID']}.json").write_text(json.dumps(told))
"""
SCRIPT = """#!/bin/bash
#SBATCH --nodes=1 --ntasks-per-node=8 --gres=gpu:a100:8 --mem=8G
export PATH={bin}:$PATH PYTHONPATH={repo} OWN=kept
exec python -m hpc.runtime.attempt {run} --limit 1 --mark --stage tell \\
    srun --ntasks=8 --ntasks-per-node=8 --kill-on-bad-exit=1 --output={run}/%t.log python {run}/tell.py {run}
"""
TORCHRUN = {
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMI_RANK": "0",
}  # fmt: skip


@pytest.fixture
def tell(
    tmp_path: Path, slurm_env: dict[str, str], cluster: DevCluster, clean_queue: Any
) -> Callable[..., list[Any]]:
    """``tell("salloc", …, VARIABLE="…", sbatch=["--export=NONE"])``: what the 8 ranks of a script found."""
    clean_queue(cluster)
    (tmp_path / "tell.py").write_text(TELL)
    (tmp_path / "job.sh").write_text(SCRIPT.format(bin=Path(sys.executable).parent, repo=REPO, run=tmp_path))

    def submit(*before: str, sbatch: tuple[str, ...] = (), **shell: str) -> list[Any]:
        words = [*before, "sbatch", "--wait", f"--output={tmp_path}/out", *sbatch, str(tmp_path / "job.sh")]
        done = subprocess.run(words, env={**os.environ, **shell}, capture_output=True, text=True, check=False)
        said = done.stderr + (tmp_path / "out").read_text()
        assert done.returncode == 0, said
        return [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank-*.json"))]

    return submit


def right(found: list[Any]) -> None:
    """Eight ranks that see eight GPUs and nothing of another launcher."""
    assert [(f["rank"], f["of"], f["RANK"]) for f in found] == [(n, 8, str(n)) for n in range(8)]
    assert {f["gpus"] for f in found} == {"0,1,2,3,4,5,6,7"}
    assert len({f["port"] for f in found}) == 1 and found[0]["port"] != 29500
    assert {(f["own"], f["torchrun"]) for f in found} == {("kept", None)}


def test_from_the_shell_of_an_allocation(tell: Any) -> None:
    right(tell("salloc", "-n1", "--gpus=1", "--mem=1G"))


def test_from_the_shell_of_a_torchrun(tell: Any) -> None:
    right(tell(**TORCHRUN, CUDA_VISIBLE_DEVICES="3", SLURM_CPU_BIND="rank", SLURM_NTASKS_PER_TRES="1"))


@pytest.mark.parametrize(
    "way",
    ["NONE", "MODULES=", *(pytest.param(way, marks=pytest.mark.slow) for way in ("NIL", "SBATCH_EXPORT"))],
)
def test_without_the_shells_variables(tell: Any, way: str) -> None:
    """srun would take the export that sbatch was given for its own, and keep PATH from the steps."""
    right(tell(SBATCH_EXPORT="NONE") if way == "SBATCH_EXPORT" else tell(sbatch=(f"--export={way}",)))


def test_srun_by_hand(tmp_path: Path, slurm_env: dict[str, str], cluster: DevCluster) -> None:
    """Without the batch process before it, too."""
    (tmp_path / "tell.py").write_text(TELL)
    words = ["srun", "-n2", sys.executable, str(tmp_path / "tell.py"), str(tmp_path)]
    subprocess.run(words, env={**os.environ, **TORCHRUN, "PYTHONPATH": str(REPO)}, check=True)
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank-*.json"))]
    assert [(f["rank"], f["of"], f["RANK"], f["torchrun"]) for f in found] == [
        (0, 2, "0", None),
        (1, 2, "1", None),
    ]
