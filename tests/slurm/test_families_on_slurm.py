"""Every family through submit's chain on a real Slurm, on two ranks; and its checkpoint on another number of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmjobs import reshard, submit
from glmjobs.data.synthetic import write_problems
from glmjobs.run.directory import Run
from glmjobs.run.jobs import CHAIN
from glmjobs.run.state import STAGES
from hpc.devcluster import DevCluster
from tests.support.small_families import SMALL

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.parametrize("family", sorted(SMALL))
def test_the_chain_of_a_family_on_slurm(
    family: str, slurm_env: dict[str, str], cluster: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    clean_queue: Callable[[DevCluster], None], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    clean_queue(cluster)
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    base = SMALL[family](tmp_path / "base")
    write_problems(tmp_path / "problems.jsonl", rows=80)
    recipe: dict[str, Any] = {
        "name": "family",
        "model": {"family": family, "path": str(base)},
        "data": {"path": str(tmp_path / "problems.jsonl"), "dev_rows": "1-20"},
        "train": {
            "learning_rate": 5e-3, "max_steps": 6, "save_steps": 4, "per_device_batch_size": 4, "precision": "fp32",
            "device": "cpu", "pack_length": 256, "activation_checkpointing": False, "logging_steps": 1,
        },
        "consolidate": {"dtype": "float32"},
        "score": {"rows": 6, "max_new_tokens": 8, "dtype": "float32", "shards": 2},
        "jobs": {"signal_seconds": 60} | {stage: {"time": "00:10:00", "cpus_per_task": 1} for stage in CHAIN},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--recipe", str(tmp_path / "recipe.yaml"), "--cluster", "configs/clusters/devcluster.yaml"]
    assert submit.main([*words, "--executor", "slurm", "--gpus", "2", "--name", family, "--follow"]) == 0
    run = Run.open(tmp_path / "runs" / family)
    assert all(run.done(stage) for stage in STAGES)
    document = json.loads((run.report / "report.json").read_text(encoding="utf-8"))
    assert [m["rows"] for m in document["accuracy"]["models"]] == [6, 6]
    losses = document["training"]["curves"]["loss"]["points"]
    assert losses[-1][1] < losses[0][1]
    capsys.readouterr()
    copy = shutil.copytree(
        run.checkpoints / "checkpoint-6", tmp_path / "copy" / "checkpoint-6"
    )  # the run is done
    assert reshard.main([str(copy), "--world-size", "1"]) == 0
    assert any("universal" in path.name for path in copy.rglob("*"))
