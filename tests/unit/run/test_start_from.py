"""train.init_from: the model of an earlier run is where a new one starts, and that is on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmjobs import submit
from glmjobs.recipe.loading import load
from glmjobs.recipe.schema import Recipe
from glmjobs.run import start_from, submit_checks
from glmjobs.run.directory import Run, Shape
from glmjobs.run.inputs import ensure
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import BadInput
from tests.support.paths import CONFIGS
from tests.support.small_families import small_chatglm

SMALL = ["data.make.rows=60", "data.dev_rows=1-5"]


def recipe(*settings: str) -> Recipe:
    return load(CONFIGS / "tiny.yaml", [*SMALL, *settings])


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that has made a model."""
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    run = Run.create(tmp_path / "first", recipe(), Profile(name="x"), Shape(nodes=1, gpus=1))
    small_chatglm(run.model)
    (run.model / "manifest.json").write_text("{}")
    outputs = [run.model / "manifest.json"]
    run.mark("consolidate", started=timestamps.now(), outputs=outputs, figures={"step": 36})
    return run


def test_it_starts_from_that_runs_model(
    earlier: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for named in ("first", str(earlier.path)):
        found = submit_checks.check(
            recipe(f"train.init_from={named}"), Profile(name="x"), Shape(nodes=1, gpus=1), ("train",), "local"
        )
        assert found.model.path == str(earlier.model) and found.model.make is None
        assert found.train.init_from == str(earlier.path)
    again = start_from.resolve(found)
    assert again == found and capsys.readouterr().err == ""
    run = Run.create(tmp_path / "second", found, Profile(name="x"), Shape(nodes=1, gpus=1))
    for _ in range(2):
        ensure(run)
    assert run.base_model == earlier.model and not (run.path / "base").exists()
    (event,) = ledger.events(run.path, event="starts_from")
    assert (event["earlier"], event["key"], event["checkpoint"]) == (str(earlier.path), earlier.file.key, 36)
    assert event["model"][0]["sha256"] == ledger.marker(earlier.path, "consolidate")["outputs"][0]["sha256"]  # type: ignore[index]


def test_model_path_gives_way_and_that_is_said(earlier: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = start_from.resolve(recipe("train.init_from=first", "model.path=/elsewhere", "model.make=null"))
    assert found.model.path == str(earlier.model) and "not from model.path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gone", r"train.init_from: first: no run of this name"),
        ("no model", r"train.init_from: .*first has no model yet"),
        ("other family", r"train.init_from: .*family chatglm, the recipe says model.family = glm"),
        ("broken", r"train.init_from: .*run.yaml"),
    ],
)
def test_what_cannot_be_started_from(change: str, said: str, earlier: Run, tmp_path: Path) -> None:
    wanted = recipe("train.init_from=first")
    if change == "gone":
        earlier.path.rename(tmp_path / "moved")
    elif change == "no model":
        (earlier.path / "stages" / "consolidate.json").unlink()
    elif change == "broken":
        (earlier.path / "run.yaml").write_text(json.dumps({"name": 3}))
    else:
        wanted = wanted.model_copy(update={"model": wanted.model.model_copy(update={"family": "glm"})})
    with pytest.raises(BadInput, match=said) as refused:
        start_from.resolve(wanted)
    assert "\n" not in str(refused.value)


def test_submit_says_it_in_a_line_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    words = ["--recipe", "configs/tiny.yaml", "--gpus", "1", "--executor", "local"]
    for setting, said in (
        ("train.init_from=none", "no run of this name"),
        ("train.freeze=head", "this model has"),
    ):
        with pytest.raises(BadInput, match=said):
            submit.main([*words, "--set", setting])
    assert not (tmp_path / "runs").exists()
