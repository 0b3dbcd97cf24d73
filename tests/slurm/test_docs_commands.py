"""The commands of docs/getting-started.md, docs/when-things-fail.md and README.zh.md, typed as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmjobs.run.directory import Run
from hpc.chain import ledger
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.slurm.conftest import require_slurm

pytestmark = pytest.mark.slurm
PAGES = {"start": "docs/getting-started.md", "failing": "docs/when-things-fail.md", "chinese": "README.zh.md"}


@pytest.fixture
def place(repo: Path, tmp_path: Path) -> Path:
    """A directory to type in: the checkout's, without its runs."""
    for name in ("configs", "sbatch"):
        (tmp_path / name).symlink_to(repo / name)
    (tmp_path / "runs").mkdir()
    return tmp_path


def section(repo: Path, page: str, heading: str) -> str:
    """The commands of the bash blocks under a heading, in order, without the make targets."""
    text = (repo / PAGES[page]).read_text(encoding="utf-8")
    under = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = "".join(re.findall(r"```bash\n(.*?)```", under, re.S)).replace("make demo\n", "")
    assert found, f"{PAGES[page]}: no commands under {heading!r}"
    return str(found)


def type_in(repo: Path, place: Path, commands: str, **more: str) -> str:
    """Run them in one bash that ends at the first that fails; what they printed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))} | more
    environ |= {
        "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}",
        "PYTHONPATH": str(repo),
        "HPC_DEVCLUSTER_DIR": str(place / "slurm"),
        "GLMJOBS_RUNS": str(place / "runs"),
    }
    words = ["bash", "-euxc", commands]
    done = subprocess.run(words, cwd=place, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_run_on_this_machine(repo: Path, place: Path) -> None:
    said = type_in(repo, place, section(repo, "start", "A run on this machine"))
    run = Run.open(place / "runs" / "first")
    assert all(run.done(stage) for stage in ("preflight", "train", "consolidate", "score", "report"))
    assert (run.report / "report.html").is_file() and "first" in said
    assert (place / "runs" / "mine").is_dir()


@pytest.mark.slow
def test_from_nothing(repo: Path, place: Path) -> None:
    """It says what the page shows, but for numbers and where it was."""
    require_slurm()
    heading = "From nothing to a scored run"
    commands = section(repo, "start", heading)
    page = (repo / PAGES["start"]).read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    shown = page.split("```")[3]  # the block after the commands
    assert len(told(shown)) > 12
    assert told(shown) == told(type_in(repo, place, commands))


def told(text: str) -> list[str]:
    """Setup's own lines, without numbers and the place of the runs; where the environment is differs."""
    own = [line for line in text.splitlines() if re.match(r"[a-z]* +$", line[:13]) and line[13:].strip()]
    return [re.sub(r"\S*/runs/|\d[\d,.]*", "", line) for line in own if not line.startswith("environment")]


def test_the_same_as_jobs(repo: Path, place: Path) -> None:
    require_slurm()
    type_in(repo, place, section(repo, "start", "The same as jobs"))
    assert ledger.events(place / "runs" / "jobs", event="healed")


def test_the_chinese_rehearsal(repo: Path, place: Path) -> None:
    require_slurm()
    type_in(repo, place, section(repo, "chinese", "在本机演练真正的 Slurm"))
    assert len(ledger.events(place / "runs" / "rehearsal-zh", event="submitted")) == 4


def test_every_remedy(
    repo: Path, place: Path, cluster: DevCluster, slurm_env: dict[str, str],
    clean_queue: Callable[[DevCluster], Any], wait_for: Callable[..., Any],
) -> None:  # fmt: skip
    """Each command about RUN, on a run whose jobs have been cancelled; no job starts, the nodes are drained."""
    clean_queue(cluster)
    text = (repo / PAGES["failing"]).read_text(encoding="utf-8")
    remedies = sorted(set(re.findall(r"python -m glmjobs\.\w+ RUN(?: --set \S+[\w])*", text)))
    remedies.remove("python -m glmjobs.score RUN")  # --rejudge wants answers: typed in tests/unit/scoring
    assert len(remedies) > 8
    made = "python -m glmjobs.submit --recipe configs/tiny.yaml --executor slurm --gpus 2 --name struck"
    made += " --cluster configs/clusters/devcluster.yaml"
    lines = [made, "echo step 1 >runs/struck/jobs/train/rank-0.log"]
    for remedy in remedies:
        lines += ["python -m glmjobs.cancel struck", remedy.replace("RUN", "struck")]
    for node in ("node1", "node2"):
        slurm.update_node(node, "drain", reason="nothing is to start", env=slurm_env)
    try:
        type_in(repo, place, "\n".join(lines), SLURM_CONF=slurm_env["SLURM_CONF"])
    finally:
        for node in ("node1", "node2"):
            slurm.update_node(node, "resume", env=slurm_env)
        idle = lambda: slurm.run(["sinfo", "-h", "-o", "%T"], env=slurm_env).split() == ["idle"]  # noqa: E731
        wait_for(idle, 60.0, "both nodes to be ready again")
    recipe = Run.open(place / "runs" / "struck").recipe
    assert recipe.train.learning_rate == 5e-6 and recipe.consolidate.dtype == "bfloat16"
