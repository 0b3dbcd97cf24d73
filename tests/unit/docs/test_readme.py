"""README and docs are true: their links lead somewhere, their commands exist; tests/slurm and tests/e2e run them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO

PAGES = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    *sorted((REPO / "docs").rglob("*.md")),
    *REPO.glob("README.zh.md"),
    *REPO.glob("hpc/README.md"),
]


def commands(page: Path) -> list[str]:
    """Every command a page shows: in code blocks and between backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:bash|sh|console)?\n(.*?)```", text, re.S))
    indented = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    inline = "\n".join(re.findall(r"`([^`\n]+)`", text))
    lines = f"{blocks}\n{indented}\n{inline}".replace("\\\n", " ").splitlines()
    start = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*python\S*|make|sbatch|bash) ")
    return sorted(
        {line.strip().removeprefix("$ ") for line in lines if start.match(line.strip().removeprefix("$ "))}
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page: Path) -> None:
    for line in commands(page):
        for target in re.findall(r"\bmake ([a-z][a-z-]*)", line):
            done = subprocess.run(
                ["make", "-n", target], cwd=REPO, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page.name}: {line}: {done.stderr}"
        for module in re.findall(r"-m ((?:glmjobs|hpc)(?:\.\w+)*)", line):
            path = REPO / Path(*module.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), (
                f"{page.name}: {line}"
            )
        for path in re.findall(r"(?<![\w/.-])((?:sbatch|configs|benchmarks|tests)/[\w/.-]+)", line):
            made = f"`{path}`" in page.read_text(encoding="utf-8")  # the page has its reader write this file
            assert made or (REPO / path).exists(), f"{page.name}: {line}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_options_are_known(page: Path) -> None:
    """Every ``--option`` after a command of ours is in that command's --help."""
    seen: dict[str, str] = {}
    for line in commands(page):
        match = re.search(r"-m ((?:glmjobs|hpc)(?:\.\w+)+)(.*)", line)
        if match is None:
            continue
        module, rest = match.group(1), re.split(r"[|;&>]|\s#", match.group(2))[0]
        try:
            words = shlex.split(rest)
        except ValueError:
            words = rest.split()
        verb = [w for w in words[:1] if re.fullmatch(r"[a-z]+", w) and module == "hpc.devcluster"]
        key = " ".join([module, *verb])
        if key not in seen:
            seen[key] = subprocess.run(
                [sys.executable, "-m", module, *verb, "--help"],
                cwd=REPO,
                capture_output=True,
                text=True,
                check=False,
            ).stdout
        known = set(re.findall(r"--[a-z][a-z-]*", seen[key]))
        for word in words:
            if word == "--":
                break
            if re.fullmatch(r"--[a-z][a-z-]+(=.*)?", word):
                assert word.split("=")[0] in known, f"{page.name}: {line}: {key} has no {word}"
