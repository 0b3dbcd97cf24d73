"""`make docs` builds the site without a warning, and every link of it leads somewhere (where .venv-docs is made)."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.paths import REPO

MKDOCS = REPO / ".venv-docs" / "bin" / "mkdocs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode."""
    if not MKDOCS.is_file():
        pytest.skip("no mkdocs: make docs installs it into .venv-docs")
    folder = tmp_path_factory.mktemp("site")
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [MKDOCS, "build", "--strict", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=REPO, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return folder


def test_links_stay_inside_and_lead_somewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 15
    for page in pages:
        for target in re.findall(r'(?:href|src)="?([^"\s>#]+)', page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                found = (page.parent / unquote(target)).resolve()
                assert found.is_relative_to(site), f"{page.relative_to(site)}: {target}"
                assert found.is_file() or (found / "index.html").is_file(), (
                    f"{page.relative_to(site)}: {target}"
                )


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("marking", "glmjobs.marking.judge.judge"),
        ("models", "glmjobs.models.loading.load_model"),
        ("data", "glmjobs.data.prepared.prepare"),
        ("consolidate", "glmjobs.zero.consolidate.consolidate"),
        ("hpc", "hpc.batch.jobs.Chain"),
    ],
)
def test_the_reference_is_rendered(site: Path, page: str, name: str) -> None:
    assert f'id="{name}"' in (site / "docs" / "api" / page / "index.html").read_text(encoding="utf-8")


def test_no_role_of_sphinx_is_left(site: Path) -> None:
    for page in (site / "docs" / "api").rglob("*.html"):
        assert not re.search(r":(?:mod|class|func|meth|data):", page.read_text(encoding="utf-8")), page
