"""A run that is there, and a recipe that was changed since."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmjobs import submit
from glmjobs.recipe import loading
from glmjobs.run.directory import Run, Shape
from glmjobs.run.jobs import CHAIN
from glmjobs.setup.asking import FILE, Answers
from glmjobs.setup.chain_steps import Chains, Submit, how_it_is
from glmjobs.setup.settled import Settled
from hpc.batch import profile as profiles
from hpc.chain import ledger
from tests.support.paths import CONFIGS


def test_a_recipe_changed_since_and_a_run_that_was_cancelled_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLMJOBS_RUNS", raising=False)
    profile = tmp_path / "cluster.yaml"
    profile.write_bytes((CONFIGS / "clusters" / "generic.yaml").read_bytes())
    mine = tmp_path / "mine.yaml"
    mine.write_bytes((CONFIGS / "tiny.yaml").read_bytes())
    shape = Shape(nodes=1, gpus=1)
    recipe = submit.decide(loading.load(mine), profiles.load(profile), shape)
    run = Run.create(tmp_path / "runs" / "one", recipe, profiles.load(profile), shape)
    for stage in CHAIN:
        ledger.append(run.path, "submitted", stage=stage, job="1")

    def found() -> str:
        words = {"recipe": "mine.yaml", "cluster": "cluster.yaml", "nodes": "1", "gpus": "1", "name": "one"}
        Answers(tmp_path / FILE, words).keep(*words)
        settled = Settled(Answers(tmp_path / FILE, words))
        return Submit(settled, Chains(settled)).found()

    assert found() == f"{run.path}: submitted"
    mine.write_text(mine.read_text().replace("learning_rate:", "learning_rate: 1.0e-5  #"))
    assert found().partition("\n")[2] == (
        "note: mine.yaml has another train.learning_rate by now than this run was made of; "
        "a new run of it: --name tiny-1"
    )
    for stage in CHAIN:
        ledger.append(run.path, "cancelled", stage=stage, job="1")
    capsys.readouterr()
    assert how_it_is(run.path, stay=False) == 1
    error, remedy = capsys.readouterr().err.splitlines()
    assert error == f"error: preflight cancelled (logs: {run.jobs('preflight')})"
    assert remedy == "when that is mended: python -m glmjobs.heal one"
