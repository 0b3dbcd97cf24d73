"""What is typed here and done on a cluster over ssh: where it goes, and each reason why it cannot, in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

from glmjobs import doctor, heal, rehearse, runs, status, submit, sweep
from glmjobs.cli import run_command
from glmjobs.run import elsewhere, locate
from hpc.core import ssh
from hpc.core.files import write_json
from tests.support import sshd
from tests.support.small_there import prefix, profile
from tests.support.sshd import Sshd

TINY = ("--recipe", "configs/tiny.yaml", "--gpus", "1")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("sshd")
    with sshd.running(folder, {"GLMJOBS_RUNS": str(folder / "there")}) as made:
        (folder / "there").mkdir()
        yield made


@pytest.fixture
def here(daemon: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A laptop; ``mine.yaml`` in it is the cluster's profile, ``env`` the environment there."""
    monkeypatch.setenv(ssh.PROGRAM, daemon.client())
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("GLMJOBS_CLUSTER", raising=False)
    profile(tmp_path, prefix(tmp_path / "env"))
    return tmp_path


def refused(main: object, words: list[str], code: int, capfd: pytest.CaptureFixture[str]) -> str:
    assert run_command(main, words) == code  # type: ignore[arg-type]
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1, said.err
    return said.err


def test_each_thing_that_is_not_there(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--cluster", str(here / "mine.yaml"), *TINY]
    error = refused(submit.main, [*words, "--set", "cluster.remote_dir=/no/where"], 3, capfd)
    assert error == (
        "error: cluster: there is no directory /no/where that you can go to; cluster.remote_dir names it\n"
    )
    error = refused(submit.main, [*words, "--set", "cluster.environment.python=/no/env"], 3, capfd)
    assert (
        error
        == "error: cluster: there is no /no/env/bin/python; cluster.environment.python names an environment there\n"
    )
    (here / "empty").mkdir()
    bare = here / "bare" / "bin"
    bare.mkdir(parents=True)
    (bare / "python").write_text("#!/bin/bash\nexit 1\n")
    (bare / "python").chmod(0o755)
    more = ["--set", f"cluster.environment.python={bare.parent}"]
    assert "starts no glmjobs; put the checkout and its environment there" in refused(
        submit.main, [*words, *more], 3, capfd
    )
    assert (
        refused(submit.main, [*words, "--set", "cluster.login=-oProxy"], 2, capfd).count("not a login") == 1
    )
    text = (here / "mine.yaml").read_text().replace("remote_dir", "# remote_dir")
    (here / "mine.yaml").write_text(text)
    assert "name the directory there as well: remote_dir" in refused(submit.main, words, 2, capfd)
    assert not list((here / "runs").glob(".elsewhere/*.json")), "nothing was sent"


def test_what_does_not_go_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = ["--cluster", str(here / "mine.yaml")]
    assert "not over ssh: log in to cluster" in refused(
        sweep.main, [*cluster, *TINY, "--set", "train.learning_rate=1e-5,2e-5"], 2, capfd
    )
    assert "not over ssh: log in to cluster" in refused(rehearse.main, [*cluster, *TINY], 2, capfd)
    assert elsewhere.go("submit", [*cluster, *TINY, "--executor", "local"]) is None
    assert elsewhere.go("submit", ["--help"]) is None
    assert elsewhere.go("submit", list(TINY)) is None, "no profile is named: this machine"
    assert elsewhere.go("status", ["nothing-1"]) is None and elsewhere.go("status", []) is None
    monkeypatch.setenv(elsewhere.THERE, "1")
    assert elsewhere.go("submit", [*cluster, *TINY]) is None, "it has come here, and goes no further"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name", "x;touch /tmp/there/no"], "--name 'x;touch /tmp/there/no': letters, digits"),
        (["--stages", "cook"], "'cook' is not a stage"),
        (["--stages", "score"], "begin with train"),
        (["--nodes", "0"], "--nodes 0"),
        (["--layers", "2"], "--layers: of a rehearsal"),
    ],
)
def test_wrong_words_are_said_before_anybody_is_called(
    more: list[str], said: str, here: Path, capfd: pytest.CaptureFixture[str], daemon: Sshd
) -> None:
    before = daemon.log.read_text()
    words = ["--cluster", str(here / "mine.yaml"), *TINY, *more]
    assert said in refused(submit.main, words, 2, capfd)
    assert said in refused(submit.main, [*words, "--dry-run"], 2, capfd)
    assert daemon.log.read_text() == before and not (here / "runs").exists()


def test_what_needs_the_files_says_where_they_are(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = elsewhere.Place("me@good", "/home/me/glm")
    write_json(locate.sent_record("r1"), {"place": asdict(place), "open": ""})
    for command, words in (
        ("compare", ["r1", "r1"]),
        ("track", ["sync", "r1", "--to", "mlflow"]),
        ("consolidate", ["r1"]),
        ("watch", ["r1"]),
        ("chat", ["r1", "--once", "x"]),
    ):
        said = refused(import_module(f"glmjobs.{command}").main, words, 2, capfd)
        assert said.endswith("r1: this run is on me@good: log in there, and do this in /home/me/glm\n"), (
            command
        )


def test_the_doctor_says_that_the_profile_is_of_another_place(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(doctor.main, ["--cluster", str(here / "mine.yaml"), "--json"]) in (0, 3)
    first = capfd.readouterr().err.splitlines()[0]
    assert first.startswith("note: profile ") and first.endswith("log in to cluster and start doctor there")


def test_another_version_there_is_said(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "env" / "bin" / "python.version").write_text("0.0.1\n")
    monkeypatch.setenv("GLMJOBS_CLUSTER", str(here / "mine.yaml"))
    assert run_command(runs.main, ["--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out) == []
    assert said.err.startswith("note: cluster has glmjobs 0.0.1, this is ")


def test_exit_codes_and_words_of_commands_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the command there says is all that is said, and its code is the code."""
    monkeypatch.setenv("GLMJOBS_CLUSTER", str(here / "mine.yaml"))
    assert "it's none: no run of this name or path" in refused(status.main, ["it's none"], 2, capfd)
    assert "no run of this name" in refused(heal.main, ["$(id)", "--set", "a=b c"], 2, capfd)
    assert "see python -m glmjobs.status --help" in refused(status.main, ["--bogus"], 2, capfd)


def test_a_recipe_that_is_wrong_is_said_by_its_name_here(
    here: Path, capfd: pytest.CaptureFixture[str], daemon: Sshd
) -> None:
    before = daemon.log.read_text()
    (here / "bad.yaml").write_text("model: {family: chatglm}\ntrian: {}\n")
    words = ["--cluster", str(here / "mine.yaml"), "--recipe", str(here / "bad.yaml")]
    assert f"{here}/bad.yaml" in refused(submit.main, words, 2, capfd)
    assert "no such recipe file" in refused(submit.main, [*words[:2], "--recipe", "none.yaml"], 2, capfd)
    assert daemon.log.read_text() == before, "nobody was called for it"
