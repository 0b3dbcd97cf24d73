"""Sweeps: which runs they have, what is refused before any is made, and a sweep's name in place of a run's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmjobs import cancel, compare, heal, save, status, submit, sweep
from glmjobs.cli import run_command
from glmjobs.run import sweeps
from glmjobs.run.directory import Run
from glmjobs.run.sweeps import Sweep, combinations
from hpc.chain import submission
from hpc.core.errors import WorkFailed

TINY = ["--recipe", "configs/tiny.yaml", "--cluster", "configs/clusters/devcluster.yaml", "--gpus", "1"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for runs; it does not exist yet."""
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("GLMJOBS_CLUSTER", raising=False)
    return tmp_path / "runs"


def test_combinations_change_the_last_field_fastest() -> None:
    found = combinations(["train.epochs=1, 2", "train.seed=3", "data.dev_rows=1-5,7-9"])
    assert found == (
        ("train.epochs=1", "train.seed=3", "data.dev_rows=1-5"),
        ("train.epochs=1", "train.seed=3", "data.dev_rows=7-9"),
        ("train.epochs=2", "train.seed=3", "data.dev_rows=1-5"),
        ("train.epochs=2", "train.seed=3", "data.dev_rows=7-9"),
    )


def test_commas_in_lists_and_mappings_belong_to_the_value() -> None:
    assert combinations(["a.b=[x,y],[z]", "a.c={k: 1, l: 2}"]) == (
        ("a.b=[x,y]", "a.c={k: 1, l: 2}"),
        ("a.b=[z]", "a.c={k: 1, l: 2}"),
    )


def test_names_have_as_many_digits_as_they_need(tmp_path: Path) -> None:
    names = list(Sweep("s", tmp_path, tuple((f"a={n}",) for n in range(10))).runs)
    assert names[0] == "s-01" and names[-1] == "s-10"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a sweep needs a field with several values"),
        (["--set", "train.epochs=1"], "a sweep needs a field with several values"),
        (["--set", "train.epochs"], "write section.field=value,value"),
        (["--set", "train.epochs=1,,2"], "a value between the commas is empty"),
        (["--set", "train.epochs=1,1"], "a value is given twice"),
        (["--set", "train.epochs=1,2", "--set", "train.epochs=3"], "train.epochs is given twice"),
        (["--set", "train.epoch=1,2"], "unknown field train.epoch; did you mean train.epochs?"),
        (["--set", "train.epochs=1,x"], "train.epochs = 'x'"),
        (["--set", "train.epochs=1,2", "--name", "a/b"], "--name 'a/b'"),
        (["--set", "train.epochs=1,2", "--at-once", "0"], "a whole number above 0"),
        (["--set", "train.epochs=1,2", "--at-once", "2", "--executor", "local"], "runs follow one another"),
        (["--set", f"train.seed={','.join(map(str, range(1001)))}"], "1,000 runs at most"),
        (["--from", "no.yaml"], "no.yaml: no such sweep file"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line_and_nothing_is_made(
    runs: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run_command(sweep.main, [*TINY, "--executor", "slurm", *words])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not runs.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("set: {train.epochs: 1}", "set.train.epochs: a list of values"),
        ("train.epochs: [1, 2]", "unknown field train.epochs; a sweep is set:"),
        ("set: {train.seed: [1, 2]}\nfoo: 3", "unknown field foo; a sweep is set:"),
        ("set: 3", "set is no mapping; a sweep is set:"),
        ("set: {}", "sweep.yaml: a sweep is set:"),
    ],
)
def test_a_file_of_another_form_is_one_line(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    assert run_command(sweep.main, ["--from", str(tmp_path / "sweep.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_file_gives_the_same_as_the_command_line(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "set:\n  train.learning_rate: [1e-5, 2.0e-5]\n  train.epochs: [1, 2]\n"
    )
    told = ["--set", "train.learning_rate=1e-5,2e-05", "--set", "train.epochs=1,2"]
    shown = []
    for words in (["--from", str(tmp_path / "sweep.yaml")], told):
        assert run_command(sweep.main, [*TINY, "--executor", "local", "--dry-run", "--json", *words]) == 0
        shown.append([run["set"] for run in json.loads(capsys.readouterr().out)["runs"]])
    assert shown[0] == shown[1] and len(shown[0]) == 4
    assert not runs.exists(), "a dry run makes nothing"


def planned(runs: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """A sweep of four on the cluster, its jobs not really sent."""
    sent: list[Path] = []

    def send(chain: object, known: object = None) -> dict[str, str]:
        sent.append(chain.run)  # type: ignore[attr-defined]
        return {"train": str(len(sent))}

    monkeypatch.setattr(submission, "submit", send)
    monkeypatch.setattr("glmjobs.submit.checked", lambda recipe, *_: recipe)
    words = ["--set", "train.learning_rate=1e-5,2e-5", "--set", "train.epochs=1,2", *more]
    return run_command(sweep.main, [*TINY, "--executor", "slurm", "--name", "four", *words])


def test_each_run_has_its_settings_and_its_lane(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(runs, monkeypatch, "--at-once", "2") == 0
    made = [Run.open(runs / f"four-{n}") for n in range(1, 5)]
    assert [(r.recipe.train.learning_rate, r.recipe.train.epochs) for r in made] == [
        (1e-5, 1.0), (1e-5, 2.0), (2e-5, 1.0), (2e-5, 2.0),
    ]  # fmt: skip
    assert [r.recipe.jobs.lane for r in made] == ["four-lane-1", "four-lane-2"] * 2
    found = sweeps.members("four")
    assert found is not None and [run.path.name for run in found] == ["four-1", "four-2", "four-3", "four-4"]


def test_a_name_of_other_settings_or_of_a_run_is_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "four-3").mkdir(parents=True)
    assert planned(runs, monkeypatch) == 2
    assert "four-3 is there and of no sweep" in capsys.readouterr().err
    (runs / "four-3").rmdir()
    assert planned(runs, monkeypatch) == 0
    assert planned(runs, monkeypatch, "--set", "train.seed=1,2") == 2
    assert "a sweep of this name is there with other settings" in capsys.readouterr().err


def test_a_broken_off_sweep_is_gone_on_with(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Run.create

    def refuse(path: Path, *rest: object) -> Run:
        if path.name == "four-3":
            raise WorkFailed("the disk is full")
        return made(path, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Run, "create", refuse)
        assert planned(runs, patch) == 1
    assert sorted(p.name for p in runs.glob("four-*")) == ["four-1", "four-2"]
    monkeypatch.setattr(submit, "repair", lambda chain: [])  # the first two have no jobs on record here
    assert planned(runs, monkeypatch) == 0
    assert len(list(runs.glob("four-*/run.yaml"))) == 4


def test_status_heal_cancel_and_compare_take_a_sweeps_name(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(runs, monkeypatch) == 0
    capsys.readouterr()
    assert run_command(status.main, ["four", "--json"]) == 0
    assert [s["name"] for s in json.loads(capsys.readouterr().out)] == [f"four-{n}" for n in range(1, 5)]
    ended: list[str] = []
    monkeypatch.setattr(cancel, "cancel", lambda run: ended.append(run.path.name))
    assert run_command(cancel.main, ["four"]) == 0
    assert ended == ["four-4", "four-3", "four-2", "four-1"], "none is to start because one before it ends"
    healed: list[str] = []
    monkeypatch.setattr(heal, "heal_one", lambda run, args: healed.append(run.path.name) or 0)
    assert run_command(heal.main, ["four"]) == 0 and healed == ended[::-1]
    assert run_command(compare.main, ["four", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["differ"]) == ["train.learning_rate", "train.epochs"]
    assert run_command(heal.main, ["four", "--follow"]) == 2


def test_a_run_that_is_gone_is_said_and_a_run_takes_no_sweeps_name(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(runs, monkeypatch) == 0
    (runs / "four-2").rename(runs / "elsewhere")
    capsys.readouterr()
    assert run_command(status.main, ["four", "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 3 and "note: four-2 of the sweep four: not there" in said.err
    assert run_command(submit.main, [*TINY, "--executor", "local", "--name", "four"]) == 2
    assert run_command(save.main, ["four"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        any("a sweep has this name" in line for line in lines) and "four: a sweep; name one of" in lines[-1]
    )


def test_a_broken_record_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.mkdir()
    (runs / "four.sweep.json").write_text("{")
    assert run_command(status.main, ["four"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no sweep's record" in line
