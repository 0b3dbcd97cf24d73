"""The scripts in sbatch/ ask for what submit asks for, and are scripts bash can run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from glmjobs.recipe.loading import load_both
from glmjobs.run.directory import Shape
from glmjobs.run.jobs import make_chain
from hpc.batch import profile as profiles
from hpc.batch import script
from tests.support.paths import REPO

SCRIPTS = sorted((REPO / "sbatch").glob("*.sh"))


def directives_of(text: str) -> dict[str, str]:
    """The #SBATCH options of a script."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.M)
    assert len({name for name, _ in found}) == len(found), "each option once"
    return dict(found)


@pytest.mark.parametrize(
    ("name", "recipe", "stage"),
    [
        ("chatglm6b.sh", "chatglm6b.yaml", "train"),
        ("glm10b.sh", "glm10b.yaml", "train"),
        ("consolidate.sh", "chatglm6b.yaml", "consolidate"),
        ("score.sh", "chatglm6b.yaml", "score"),
    ],
)
def test_directives_are_those_that_submit_produces(name: str, recipe: str, stage: str) -> None:
    loaded, profile = load_both(f"configs/{recipe}", "configs/clusters/centos7-a100.yaml", [], "slurm")
    chain = make_chain(Path("/runs/x"), "key", loaded, profile, Shape(nodes=1, gpus=8), (stage,))
    submitted = directives_of(script.render(chain.jobs[0], chain))
    by_hand = directives_of((REPO / "sbatch" / name).read_text())
    # Where the output goes is the one difference: the run directory of a script does not exist yet when it is queued.
    assert Path(submitted.pop("output")).name.split("_")[0] in ("%j.out", "%A")
    assert by_hand.pop("output").startswith("%x-")
    assert by_hand == submitted
    if stage == "train":
        assert submitted["gres"] == "gpu:a100:8" and submitted["ntasks-per-node"] == "8"
        assert submitted["signal"].startswith("B:USR1@")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_bash_reads_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    assert "set -euo pipefail" in text
    assert re.search(r"^exec ", text, re.M), (
        "the last command is exec: signals and the exit code are the work's own"
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_what_runs_is_written_in_one_place(path: Path) -> None:
    """No srun line of its own: attach runs what submit's script ends in."""
    commands = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert commands[-1].startswith('exec python -m glmjobs.attach "$RUN" --exec')
    assert not any("srun" in line or "hpc.runtime" in line for line in commands)


@pytest.mark.parametrize("stage", ["train", "consolidate", "score"])
def test_attach_runs_the_end_of_submits_script(stage: str, tmp_path: Path) -> None:
    recipe, profile = load_both("configs/chatglm6b.yaml", "configs/clusters/centos7-a100.yaml", [], "slurm")
    chain = make_chain(tmp_path / "r 1%", "KEY", recipe, profile, Shape(nodes=1, gpus=8), (stage,))
    [job] = chain.jobs
    named, _, run = script.command(job, chain).partition("\nexec ")
    whole = script.render(job, chain)
    assert whole.endswith(f"\n\nexec {run}\n") and f"\n{named}\ncd " in whole


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_modules_are_the_profiles(path: Path) -> None:
    profile = profiles.load(REPO / "configs" / "clusters" / "centos7-a100.yaml")
    assert f"${{MODULES-{' '.join(profile.environment.modules)}}}" in path.read_text()


def test_the_two_training_scripts_differ_in_the_model_only() -> None:
    one = (REPO / "sbatch" / "chatglm6b.sh").read_text()
    other = (REPO / "sbatch" / "glm10b.sh").read_text()
    assert one.replace("chatglm6b", "glm10b").replace("ChatGLM-6B", "GLM-10B") == other


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ({}, "8"),
        ({"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}, "8"),
        ({"SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "2"}, "3"),
    ],
    ids=["nothing", "no SLURM_NTASKS", "all"],
)
def test_it_needs_little_of_slurms_variables(
    path: Path, given: dict[str, str], gpus: str, tmp_path: Path
) -> None:
    """Which of them a job has differs between releases and ways to ask: SLURM_NTASKS only where --ntasks was given."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text('#!/bin/bash\necho "gpus=${HPC_JOB_GPUS-} $*"\n')
    program.chmod(0o755)
    environ = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(REPO), "MODULES": "",
               "VENV": str(tmp_path), "RUN": str(tmp_path / "run"), **given}  # fmt: skip
    done = subprocess.run(["bash", str(path)], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held = {"consolidate.sh": "", "score.sh": "1"}.get(path.name, gpus)
    assert done.stdout.startswith(f"gpus={held} -m glmjobs.attach {tmp_path}/run --exec"), done.stdout
