"""Ctrl-C before a command has begun: one word, and the end a shell shows as 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO


@pytest.mark.parametrize("module", ["glmjobs.status", "hpc.lint"])
def test_while_it_is_imported(module: str, tmp_path: Path) -> None:
    """A module that everything imports says that it is being imported, and waits for ever."""
    (tmp_path / "argparse.py").write_text(
        "import time\nprint('importing', flush=True)\nwhile True: time.sleep(1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}
    process = subprocess.Popen(
        [sys.executable, "-m", module], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said == "interrupted\n" and process.returncode == -signal.SIGINT


def test_a_program_that_uses_the_package_keeps_its_own_way(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("import sys, glmjobs, hpc\nassert sys.excepthook is sys.__excepthook__\n")
    subprocess.run([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(REPO)}, check=True)
