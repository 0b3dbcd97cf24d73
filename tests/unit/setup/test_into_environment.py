"""The environment: found, made by hpc.bootstrap, entered; with nothing but the standard library to begin with."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from glmjobs.setup import into_environment
from glmjobs.setup.asking import FILE, Answers
from glmjobs.setup.into_environment import NEEDED, IntoEnvironment, directory, enter
from hpc import bootstrap
from hpc.core.errors import BadInput, NotFit
from hpc.core.resources import default_stack
from tests.support.paths import REPO


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without packages, as somebody's own."""
    place = tmp_path_factory.mktemp("bare") / "env"
    venv.create(place, symlinks=True)
    return place


def step(tmp_path: Path, **options: str) -> IntoEnvironment:
    return IntoEnvironment(Answers(tmp_path / FILE, options, yes=True))


def test_this_python_is_taken_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    found = step(tmp_path).found()
    assert found.startswith(sys.prefix) and "torch" in found


def test_it_is_made_by_bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[list[str], str | None]] = []
    monkeypatch.setattr(bootstrap, "main", lambda words: called.append((words, os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", "/another/environment")
    place = tmp_path / "new"
    making = step(tmp_path, environment=str(place))
    assert making.found() == ""
    making.ask()
    making.do()
    assert called == [(["--stack", default_stack(), "--into", str(place)], None)]
    assert os.environ["PYTHONPATH"] == "/another/environment"
    assert making.by_hand() == f"python -m hpc.bootstrap --stack {default_stack()} --into {place}"
    offline = step(tmp_path, environment=str(place), stack="current", wheelhouse="/wheels")
    offline.ask()
    offline.do()
    assert called[1][0] == [
        "--stack",
        "current",
        "--into",
        str(place),
        "--wheelhouse",
        "/wheels",
        "--offline",
    ]


def test_an_environment_that_was_not_made_here_is_left_alone(bare: Path, tmp_path: Path) -> None:
    making = step(tmp_path, environment=str(bare))
    assert making.found() == ""
    making.ask()
    with pytest.raises(NotFit, match=f"{bare}: it lacks {NEEDED[0]}.*was not made here"):
        making.do()


def test_a_place_for_it(tmp_path: Path, bare: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for wrong in ("", str(tmp_path / "file"), str(tmp_path / "full")):
        with pytest.raises(BadInput):
            directory(wrong)
    (tmp_path / "full" / ".bootstrap.lock").touch()
    for right in (tmp_path / "new", tmp_path / "full", bare):
        assert directory(str(right)) == right


def test_it_goes_on_in_it(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[tuple[Path, list[str], dict[str, str]]] = []
    monkeypatch.setattr(into_environment.os, "execve", lambda *words: entered.append(words))
    enter(Path(sys.prefix), ["--yes"])
    assert entered == []
    enter(bare, ["--yes"])
    [(python, words, environ)] = entered
    assert python == bare / "bin" / "python" and words[1:] == ["-m", "glmjobs.setup", "--yes"]
    assert environ["PYTHONPATH"].split(os.pathsep)[0] == str(REPO)


def test_nothing_is_needed_to_begin(bare: Path, tmp_path: Path) -> None:
    """A Python without a package: it says what it would make; without Slurm, that."""
    words = [bare / "bin" / "python", "-m", "glmjobs.setup", "--dry-run", "--environment", tmp_path / "new"]
    (tmp_path / "bin").mkdir()
    environ = {"PYTHONPATH": str(REPO), "PATH": str(tmp_path / "bin")}
    said = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr.count("\n")) == (3, 1) and "no Slurm here" in said.stderr
    (tmp_path / "bin" / "sbatch").touch(mode=0o755)
    said = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert f"would make {tmp_path}/new" in said.stdout and "when it is there" in said.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin"]


def test_from_a_bare_python_into_the_environment_that_is_there(bare: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    (tmp_path / "sbatch").touch(mode=0o755)
    words = [
        bare / "bin" / "python",
        "-m",
        "glmjobs.setup",
        "--dry-run",
        "--environment",
        sys.prefix,
        "--recipe",
        "no.yaml",
    ]
    environ = {"PYTHONPATH": str(REPO), "PATH": str(tmp_path)}
    said = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert said.returncode == 2 and "no such recipe" in said.stderr
