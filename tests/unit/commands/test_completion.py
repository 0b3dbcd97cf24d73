"""The Tab key after ``glmjobs``, in real shells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from glmjobs.cli import COMMANDS
from tests.support.paths import REPO
from tests.support.tab_key import Shell


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with the completion, in a folder with a run and some files."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    folder = tmp_path_factory.mktemp(request.param)
    for name in ("runs/chatglm6b-1", "runs/no-run", "models/base"):
        (folder / name).mkdir(parents=True)
    for name in ("runs/chatglm6b-1/run.yaml", "mine.yaml", "rows.json"):
        (folder / name).touch()
    script = folder / "script"
    with script.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "glmjobs", "completion", request.param],
            stdout=file, stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\| +(torch|transformers|deepspeed|datasets)$", done.stderr, re.M), (
        "it has to be quick"
    )
    environ = {k: v for k, v in os.environ.items() if k not in ("GLMJOBS_RUNS", "BASH_ENV", "ENV")}
    opened = Shell(request.param, script, folder, {**environ, "PATH": "/usr/bin:/bin"})
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("glmjobs ", set(COMMANDS), {"adopt", "mine.yaml"}),
        ("glmjobs sub", {"submit"}, {"status"}),
        ("glmjobs submit --e", {"--executor"}, {"--name"}),
        ("glmjobs submit --executor ", {"auto", "slurm", "local"}, {"mine.yaml"}),
        ("glmjobs submit --gpus 8 --follow --re", {"--recipe"}, {"--gpus=8"}),
        ("glmjobs submit --recipe ", {"mine.yaml"}, {"--cluster"}),
        ("glmjobs submit --recipe configs/ti", {"configs/tiny.yaml"}, {"mine.yaml"}),
        (
            "glmjobs plan --cluster configs/clusters/g",
            {"configs/clusters/generic.yaml"},
            {"configs/tiny.yaml"},
        ),
        ("glmjobs status ", {"chatglm6b-1", "mine.yaml"}, {"no-run"}),
        ("glmjobs logs chatglm6b-1 --stage ", {"preflight", "train", "score"}, {"chatglm6b-2"}),
        ("glmjobs score chatglm6b-1 --which ", {"base", "finetuned", "both"}, {"rows.json"}),
        ("glmjobs prepare r", {"rows.json"}, {"mine.yaml"}),
        ("glmjobs convert ", {"merge", "split"}, {"rows.json"}),
        ("glmjobs fetch ", {"model", "data"}, {"rows.json"}),
        (
            "glmjobs template configs/clusters/ce",
            {"configs/clusters/centos7-a100.yaml"},
            {"configs/tiny.yaml"},
        ),
        ("glmjobs completion ", {"bash", "zsh"}, {"fish"}),
    ],
)
def test_the_tab_key(shell: Shell, line: str, offered: set[str], not_offered: set[str]) -> None:
    shown = shell.tab(line)
    assert offered <= shown and not shown & not_offered
