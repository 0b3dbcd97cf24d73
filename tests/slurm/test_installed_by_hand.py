"""A batch script out of the wheel, submitted by hand where there is no checkout, trains and submits the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.installation import SMALL, Installation, installed

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
__all__ = ["installed"]


def test_the_template_is_a_whole_chain(
    installed: Installation, make_cluster: Callable[..., Any], wait_for: Any
) -> None:
    run = installed.empty / "runs" / "by-hand"
    settings = {
        "RECIPE": "configs/tiny.yaml", "CLUSTER": "configs/clusters/devcluster.yaml", "MODULES": "", "RUN": str(run),
        "VENV": str(installed.prefix), "SET": " ".join(SMALL), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    script = installed.empty / "mine.sh"
    script.write_text(installed.run("glmjobs", "template", "sbatch/chatglm6b.sh").stdout)
    with make_cluster(nodes=1, gpus=1) as cluster:
        environ = cluster.environ()
        there = {name: environ[name] for name in ("SLURM_CONF", "PATH")}
        small = ("--ntasks-per-node=1", "--cpus-per-task=1", "--gres=gpu:a100:1", "--mem=4G")
        installed.run("sbatch", *small, script.name, **there, **settings)
        wait_for((run / "stages" / "report.json").is_file, 300, "the report's marker")
        state = json.loads(installed.run("glmjobs", "status", "by-hand", "--json", **there).stdout)
    assert {stage["state"] for stage in state["stages"]} == {"done"}
