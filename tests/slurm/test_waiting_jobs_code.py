"""What was submitted runs: a checkout edited while the job waits changes nothing, until heal is told to take it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glmjobs.run import kept_code
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from hpc.chain import ledger, submission
from hpc.core.files import read_json
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support.paths import REPO

pytestmark = pytest.mark.slurm

EDIT = "import sys\nsys.exit('error: this code was edited')\n"


def test_a_checkout_edited_while_the_job_waits(
    slurm_env: dict[str, str], cluster: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    clean_queue: Callable[[DevCluster], None], wait_for: Callable[..., object],
) -> None:  # fmt: skip
    clean_queue(cluster)
    checkout = tmp_path / "checkout"
    for name in kept_code.FOLDERS:
        shutil.copytree(REPO / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, **slurm_env, "GLMJOBS_RUNS": str(tmp_path / "runs"), "PYTHONPATH": ""}

    def type_(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    settings = ["data.make.rows=100", "data.dev_rows=1-20", "cluster.sbatch=[--hold]"]
    type_(
        "glmjobs.submit", "--recipe", "configs/tiny.yaml", "--cluster", "configs/clusters/devcluster.yaml",
        "--gpus", "1", "--executor", "slurm", "--name", "waits",
        *(word for item in settings for word in ("--set", item)),
    )  # fmt: skip
    run = Run.open(tmp_path / "runs" / "waits")
    jobs = submission.current_jobs(run.path)
    for name in ("preflight", "train"):
        (checkout / "glmjobs" / f"{name}.py").write_text(EDIT, encoding="utf-8")
    slurm.release(jobs["train"])
    wait_for(lambda: read_json(run.path / "stages" / "preflight.json"), 90)  # the old code's, whole
    slurm.cancel(list(jobs.values()))
    wait_for(lambda: read_state(run).ended, 60)
    assert "edited" not in (run.jobs("train") / f"{jobs['train']}.out").read_text()

    type_("glmjobs.heal", "waits", "--set", "cluster.sbatch=[]")
    again = submission.current_jobs(run.path)
    assert [Path(e["path"]) for e in ledger.events(run.path, event="code")] == [kept_code.kept(run.path)]
    slurm.cancel(list(again.values()))
    wait_for(lambda: read_state(run).ended, 60)

    said = type_("glmjobs.heal", "waits", "--update-code")
    assert said.startswith("code         today: "), said
    wait_for(lambda: read_state(run).get("train").error, 60)
    assert "this code was edited" in str(read_state(run).get("train").error)
    slurm.cancel(list(submission.current_jobs(run.path).values()))
