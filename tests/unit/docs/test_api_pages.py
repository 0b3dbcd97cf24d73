"""docs/api/ and its notebook do what they show: every block runs, in a new Python and an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.pages import code_blocks, run_python
from tests.support.paths import REPO

FOLDER = REPO / "docs" / "api"
PAGES = [page for page in sorted(FOLDER.iterdir()) if page.suffix in (".md", ".ipynb") and code_blocks(page)]


def test_every_page_has_an_example() -> None:
    assert {page.stem for page in PAGES} == {p.stem for p in FOLDER.iterdir()} - {"index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_blocks_run(page: Path, tmp_path: Path) -> None:
    blocks = code_blocks(page)
    assert any("assert " in block for block in blocks), "an example shows what comes out"
    done = run_python(blocks, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", FOLDER.glob("*.ipynb"), ids=lambda p: p.name)
def test_notebooks_are_kept_without_output(page: Path) -> None:
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
