"""The wheel, built and installed into a new environment, works in an empty directory, with no checkout behind it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile

import glmjobs
from tests.support.installation import SMALL, Installation, installed
from tests.support.paths import REPO

__all__ = ["installed"]

STACK = "centos7-cu117" if sys.version_info < (3, 11) else "current"


def test_the_wheel_carries_every_file_of_the_checkout_that_is_read(installed: Installation) -> None:
    with zipfile.ZipFile(installed.wheel) as file:
        names = set(file.namelist())
        tops = {name.split("/")[0] for name in names}
        assert tops == {"hpc", "glmjobs", f"glmjobs-{glmjobs.__version__}.dist-info"}
        for path in [*REPO.glob("configs/**/*.*"), *REPO.glob("sbatch/*")]:
            relative = path.relative_to(REPO).as_posix()
            inside = "hpc" if relative.startswith(("configs/stacks/", "configs/clusters/")) else "glmjobs"
            assert file.read(f"{inside}/{relative}") == path.read_bytes()
    data = [
        p for top in ("hpc", "glmjobs") for p in (REPO / top).rglob("*") if p.is_file() and p.suffix != ".pyc"
    ]
    assert {p.relative_to(REPO).as_posix() for p in data if p.suffix not in (".md",)} <= names


def test_the_modules_are_the_environments_own(installed: Installation) -> None:
    code = "import glmjobs.reporting, hpc.core, sys; print(glmjobs.__file__, hpc.core.__file__, *sys.path)"
    said = installed.run("python", "-c", code).stdout.split()
    assert all(path.startswith(str(installed.prefix)) for path in said[:2])
    assert str(REPO) not in said
    for words in (("glmjobs", "--version"), ("python", "-m", "glmjobs", "--version")):
        assert installed.run(*words).stdout == f"glmjobs {glmjobs.__version__}\n"


def test_a_dry_run_names_no_checkout(installed: Installation) -> None:
    words = ("glmjobs", "submit", "--executor", "slurm", "--dry-run", "--json", "--name", "first")
    jobs = json.loads(installed.run(*words, codes=(2, 3)).stdout)["jobs"]  # no such model here, nor GPUs
    assert [job["stage"] for job in jobs] == ["train", "consolidate", "score", "report"]
    for job in jobs:
        subprocess.run(["bash", "-n"], input=job["script"], text=True, check=True)
        assert f"RUN={installed.empty}/runs/first\n" in job["script"]
        kept = re.findall(r"^(?:cd |export PYTHONPATH=)([^$ \n]+)", job["script"], re.M)
        assert len(kept) == 2 and all(place.startswith(f"{installed.empty}/runs/.code/") for place in kept)
        assert str(REPO) not in job["script"]
        assert f"use_prefix {installed.prefix}\n" in job["script"]
    assert not list(installed.empty.iterdir())


def test_plan_bootstrap_and_doctor_find_their_files(installed: Installation) -> None:
    plan = json.loads(installed.run("glmjobs", "plan", "--nodes", "1", "--gpus", "8", "--json").stdout)
    assert plan["proposal"]
    assert "usage: python -m hpc.bootstrap" in installed.run("python", "-m", "hpc.bootstrap", "--help").stdout
    known = installed.run(
        "python", "-m", "hpc.bootstrap", "--stack", "nope", "--into", "x", codes=(2,)
    ).stderr
    assert "there are centos7-cu117, current, thudm" in known
    found = installed.run(
        "python", "-c", f"from hpc import bootstrap as b; print(b.read_stack('{STACK}').path)"
    )
    assert found.stdout.startswith(str(installed.prefix))
    words = ("--stack", STACK, "--into", "x", "--dev")
    assert "--dev" in installed.run("python", "-m", "hpc.bootstrap", *words, codes=(2,)).stderr
    doctors = (("python", "-m", "hpc.doctor"), ("glmjobs", "doctor", "--cluster", "devcluster"))
    said = [json.loads(installed.run(*words, "--json", codes=(0, 3)).stdout) for words in doctors]
    assert [document["profile"] for document in said] == ["generic", "devcluster"]
    assert f"stack {STACK}" in {row["what"] for row in said[0]["checks"]}


def test_templates_are_the_checkouts_files(installed: Installation) -> None:
    listed = installed.run("glmjobs", "template").stdout.split()
    assert {"configs/chatglm6b.yaml", "configs/clusters/generic.yaml", "sbatch/chatglm6b.sh"} <= set(listed)
    for name in listed:
        assert installed.run("glmjobs", "template", name).stdout == (REPO / name).read_text(encoding="utf-8")


def test_a_chain_runs_here_and_is_reported(installed: Installation) -> None:
    words = [
        "glmjobs",
        "submit",
        "--recipe",
        "configs/tiny.yaml",
        "--executor",
        "local",
        "--gpus",
        "1",
        "--follow",
    ]
    for item in SMALL:
        words += ["--set", item]
    said = installed.run(*words).stdout
    run = installed.empty / "runs" / "tiny-1"
    assert str(run / "model") in said
    assert json.loads((run / "environment.json").read_text())["code"] == glmjobs.__version__
    (run / "report" / "report.html").unlink()
    installed.run("glmjobs", "report", "tiny-1")
    assert "<style>" in (run / "report" / "report.html").read_text(encoding="utf-8")
    assert '"done"' in installed.run("glmjobs", "status", "tiny-1", "--json").stdout
