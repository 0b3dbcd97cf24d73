"""What an image lacks is said in one line, with what to do, by the job that finds out; by a stand-in for apptainer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.batch.script import render
from hpc.chain import ledger
from tests.support.paths import REPO

APPTAINER = f"""#!/bin/bash
while [ "$1" != --pwd ]; do shift; done
image=$3
if [ ! -e "$image" ]; then echo "FATAL:   could not open image $image: no such file or directory" >&2; exit 255; fi
shift 4
exec {sys.executable} -S "$@"
"""
"""Its image has this Python, and of its packages only what PYTHONPATH names."""


def ended(folder: Path, image: str, command: tuple[str, ...], tasks: int) -> tuple[str, list[str]]:
    """What a job in a container says, and the errors that it leaves on record."""
    (folder / "good.sif").touch()
    profile = Profile.model_validate(
        {"name": "x", "environment": {"container": {"runtime": "apptainer", "image": str(folder / image)}}}
    )
    (folder / "jobs" / "work").mkdir(parents=True)
    job = Job(
        stage="work", steps=(Step(stage="work", command=command, tasks_per_node=tasks),), attempt_limit=3
    )
    chain = Chain(run=folder, name="x", jobs=(job,), profile=profile, project=REPO, local=True)
    env = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}
    return run(job, chain, env), [str(event["error"]) for event in ledger.events(folder, event="ended")]


def run(job: Job, chain: Chain, env: dict[str, str]) -> str:
    """The last line that a job writes, into the file that a chain on this machine gives it."""
    script, log = render(job, chain), chain.run / "jobs" / "work" / "local.out"
    with log.open("wb") as file:
        assert subprocess.run(
            ["bash", "-c", script], env=env, stdout=file, stderr=file, timeout=60
        ).returncode
    return log.read_text().splitlines()[-1]


@pytest.fixture
def apptainer(tmp_path: Path) -> Path:
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("tasks", [0, 1])
@pytest.mark.parametrize(
    ("command", "missing"),
    [(("python", "-m", "absent.stage"), "absent"), (("python", "-c", "import torch"), "torch")],
)
def test_a_package_that_is_not_in_the_image(
    command: tuple[str, ...], missing: str, tasks: int, apptainer: Path
) -> None:
    said, errors = ended(apptainer, "good.sif", command, tasks)
    words = (
        f"the image {apptainer}/good.sif has no Python package {missing}: install it there, or name another"
    )
    assert words in said
    assert len(errors) == 1 and errors[0].startswith(words), "trying again cannot help"


@pytest.mark.parametrize("tasks", [0, 1])
def test_an_image_that_is_not_there(tasks: int, apptainer: Path) -> None:
    said, errors = ended(apptainer, "absent.sif", ("python", "-c", ""), tasks)
    assert f"could not open image {apptainer}/absent.sif: no such file" in said
    assert all("could not open image" in error for error in errors)


@pytest.mark.parametrize("tasks", [0, 1])
def test_a_machine_without_the_runtime(tasks: int, apptainer: Path) -> None:
    (apptainer / "bin" / "apptainer").unlink()
    said, errors = ended(apptainer, "good.sif", ("python", "-c", ""), tasks)
    assert "cannot start apptainer: No such file or directory" in said
    assert all("cannot start apptainer: No such file or directory" in error for error in errors)


def test_without_a_container_the_environment_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "work").mkdir(parents=True)
    job = Job(
        stage="work", steps=(Step(stage="work", command=("python", "-c", "import absent")),), attempt_limit=3
    )
    chain = Chain(run=tmp_path, name="x", jobs=(job,), profile=Profile(name="x"), project=REPO, local=True)
    said = run(job, chain, dict(os.environ))
    assert f"the Python environment {sys.prefix} has no Python package absent" in said
