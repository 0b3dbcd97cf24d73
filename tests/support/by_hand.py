"""A small training by the project's own batch script, as a person would submit it; nodes that refuse commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.paths import REPO

ON_A_NODE = """#!/bin/bash
case $(hostname) in
node*) {what} ;;
esac
exec {real} "$@"
"""


def sbatch_training(
    run: Path, settings: Sequence[str], out: Path, environ: Mapping[str, str], *options: str
) -> str:
    """Submit sbatch/chatglm6b.sh with the tiny recipe on two pretended GPUs; the job's id.

    Args:
        settings: words of ``--set``.
        out: folder of the job's output, ``<job>.out``.
        environ: of a process that talks to the rehearsal cluster.
        options: more for sbatch.
    """
    words = {
        "RECIPE": "configs/tiny.yaml", "CLUSTER": "configs/clusters/devcluster.yaml", "MODULES": "", "RUN": str(run),
        "VENV": sys.prefix, "SET": " ".join(settings), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    done = subprocess.run(
        ["sbatch", "--parsable", "--ntasks-per-node=2", "--cpus-per-task=1", "--gres=gpu:a100:2", "--mem=4G",
         *options, f"--output={out}/%j.out", "sbatch/chatglm6b.sh"],
        cwd=REPO, env={**environ, **words}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def on_nodes(folder: Path, command: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the command does ``what`` on the nodes, and on the login node what it always does."""
    real = shutil.which(command)
    (folder / "bin").mkdir(exist_ok=True)
    shim = folder / "bin" / command
    shim.write_text(ON_A_NODE.format(what=what, real=real))
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
