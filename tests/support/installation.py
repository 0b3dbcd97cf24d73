"""The wheel, alone in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import REPO

PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "hpc", "glmjobs", "configs", "sbatch")
SMALL = (
    "data.make.rows=300", "data.dev_rows=1-20", "train.epochs=1", "train.max_steps=2", "score.rows=8", "score.shards=1",
    "score.max_new_tokens=8", "model.make.layers=1", "model.make.hidden_size=64",
)  # fmt: skip
"""The tiny recipe, made smaller still: seconds."""


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel in it, and an empty directory to stand in."""

    prefix: Path
    wheel: Path
    empty: Path

    def run(
        self, *words: str, codes: tuple[int, ...] = (0,), **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """A command, typed in the empty directory with the environment's programs first on PATH."""
        own = ("PYTHONPATH", "GLMJOBS_RUNS", "GLMJOBS_CLUSTER")
        kept = {k: v for k, v in os.environ.items() if k not in own and not k.startswith("SLURM_")}
        kept |= environ
        path = f"{self.prefix / 'bin'}:{kept['PATH']}"
        done = subprocess.run(
            [shutil.which(words[0], path=path) or words[0], *words[1:]], cwd=self.empty, capture_output=True,
            text=True, check=False, env={**kept, "PATH": path}, timeout=300,
        )  # fmt: skip
        assert done.returncode in codes, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel that ``python -m build`` makes (by way of the sdist), alone in a new environment.

    torch and the other dependencies are those of the environment that runs the tests, by a ``.pth`` file.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source, prefix, empty = folder / "source", folder / "env", folder / "empty"
    for made in (source, empty):
        made.mkdir()
    for name in PARTS:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / name, source / name)
    quiet = {"capture_output": True, "text": True, "cwd": source}
    built = subprocess.run([sys.executable, "-m", "build", "--no-isolation"], check=False, **quiet)
    assert built.returncode == 0, built.stdout + built.stderr
    assert list((source / "dist").glob("*.tar.gz"))
    (wheel,) = (source / "dist").glob("*.whl")
    venv.create(prefix, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, **quiet)
    (site,) = prefix.glob("lib/python3.*/site-packages")
    shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "of-the-tests.pth").write_text("\n".join(shared) + "\n")
    return Installation(prefix, wheel, empty)
