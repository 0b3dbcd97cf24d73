"""What stands in code blocks on a page of the documentation, and in the cells of a notebook; and running it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.paths import REPO


def code_blocks(page: Path, language: str = "python") -> list[str]:
    """The blocks in a language, in the page's order; of a notebook, its code cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [str(block) for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def run_python(blocks: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run blocks one after the other, as a reader does who types them: in one new Python, in an empty folder."""
    script = folder / "blocks.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
