"""Commands without the rights of root that no permission stops: the file system's answer is a real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO

WITHOUT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

needs_setpriv = pytest.mark.skipif(
    bool(WITHOUT) and shutil.which("setpriv") is None, reason="no setpriv here to give up root's rights with"
)

ALL = """
import io, json, sys
from contextlib import redirect_stderr
from importlib import import_module
from glmjobs.cli import run_command
for line in json.loads(sys.argv[1]):
    command, *words = line.split()
    said = io.StringIO()
    with redirect_stderr(said):
        code = run_command(import_module(f"glmjobs.{command}").main, words)
    print(json.dumps([line, code, said.getvalue()]))
"""


def said(folder: Path, lines: list[str]) -> list[tuple[str, int, str]]:
    """Each command line, its exit code and what it wrote to stderr; all are started in ``folder``."""
    env = {**os.environ, "PYTHONPATH": str(REPO), "GLMJOBS_RUNS": str(folder / "runs")}
    words = [*WITHOUT, sys.executable, "-c", ALL, json.dumps(lines)]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]
