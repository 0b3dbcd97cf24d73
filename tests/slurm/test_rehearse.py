"""A rehearsal on a real Slurm: a rank really dies, the training goes on, the profile gets its line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc.batch import profile as profiles
from hpc.chain import ledger
from hpc.devcluster import DevCluster
from tests.support.paths import CONFIGS, REPO

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SMALL = (
    "data.make.rows=400", "data.dev_rows=1-40", "score.max_new_tokens=12", "score.shards=2", "model.make.layers=2",
    "model.make.hidden_size=64",
)  # fmt: skip


def test_on_two_nodes(
    slurm_env: dict[str, str], cluster: DevCluster, tmp_path: Path, clean_queue: Callable[[DevCluster], None]
) -> None:
    clean_queue(cluster)
    profile = tmp_path / "ours.yaml"
    profile.write_text((CONFIGS / "clusters/devcluster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    words = [sys.executable, "-m", "glmjobs.rehearse", "--recipe", "configs/tiny.yaml", "--executor", "slurm"]
    words += ["--cluster", str(profile), "--nodes", "2", "--gpus", "1", "--name", "before"]
    words += [word for item in SMALL for word in ("--set", item)]
    environment = {**os.environ, **slurm_env, "GLMJOBS_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        words, cwd=REPO, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("all that was measured holds"), done.stdout
    run = tmp_path / "runs" / "before"
    attempts = ledger.events(run, event="attempt", stage="train")
    assert [a.get("checkpoint") for a in attempts] == [None, 10]
    ended = ledger.events(run, event="ended", stage="train")
    assert [e["outcome"] for e in ended] == ["failed", "done"]
    [measured] = profiles.load(profile).measured
    assert (measured.nodes, measured.gpus) == (2, 1) and measured.tokens_per_s and measured.load_seconds
