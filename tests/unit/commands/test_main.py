"""``glmjobs``: its list of commands is whole, it has a version, and what is missing is one line."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest

import glmjobs
from glmjobs.__main__ import main
from glmjobs.cli import COMMANDS, run_command
from tests.support.paths import REPO

BY_JOBS = {"preflight", "train", "attach"}
"""Commands that nobody types."""


def test_the_list_has_every_module_with_a_main_and_each_has_a_parser() -> None:
    found = {}
    package = REPO / "glmjobs"
    for path in sorted([*package.glob("*.py"), *package.glob("*/__main__.py")]):
        defined = {
            n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)
        }
        if "main" in defined and path.stem != "__main__":
            found[path.stem] = "parser" in defined
        elif "main" in defined and path.parent != package:
            found[path.parent.name] = "parser" in defined
    assert found == dict.fromkeys(COMMANDS, True)


def test_readme_explains_what_people_type() -> None:
    table = re.findall(
        r"^\| `python -m glmjobs\.(\w+)", (REPO / "README.md").read_text(encoding="utf-8"), re.M
    )
    assert table == [name for name in COMMANDS if name not in BY_JOBS]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"glmjobs {glmjobs.__version__}\n"


def test_an_environment_without_the_dependencies_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "glmjobs", "submit"], cwd=REPO, capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 3
    assert "is not installed in" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prepare", "a", "b"], "unrecognized arguments: b; see python -m glmjobs.prepare --help"),
        (["status", "--bogus"], "unrecognized arguments: --bogus; see python -m glmjobs.status --help"),
        (["score", "m", "d", "--rows", "0"], "argument --rows: '0': a whole number above 0; see"),
        (["submit", "--executor", "x"], "argument --executor: invalid choice: 'x'"),
        (["convert", "--bogus"], "see python -m glmjobs.convert"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As all bad input is; --help still shows the usage."""
    assert run_command(main, words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        run_command(main, [words[0], "--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m glmjobs.{words[0]}")
