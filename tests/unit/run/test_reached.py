"""A model is of its training's end, or it is said of which step it is; once training has got on it is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal
from glmjobs.recipe.loading import load
from glmjobs.run import start_from
from glmjobs.run.directory import Run, Shape
from glmjobs.run.reached import behind, of_model
from glmjobs.run.read_state import read_state
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import BadInput
from tests.support.paths import CONFIGS
from tests.support.small_families import small_chatglm

FOLLOWING = ("consolidate", "score", "report")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Training has got to checkpoint 21 of 60; a model of it was made, scored and reported by hand."""
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    small = ["data.make.rows=120", "data.dev_rows=1-20", "train.precision=fp32"]
    run = Run.create(tmp_path / "first", load(CONFIGS / "tiny.yaml", small), Profile(name="x"), Shape(gpus=1))
    ledger.write_progress(run.path, "train", step=21, of=60, epoch=1.0, checkpoint=21)
    done(run, "consolidate", step=21, chosen="the last one", trained=21)
    done(run, "score")
    done(run, "report")
    return run


def done(run: Run, stage: str, **figures: Any) -> None:
    run.mark(stage, started=timestamps.now(), figures=figures)


def states(run: Run) -> dict[str, tuple[str, str]]:
    return {s.stage: (s.state, s.reason) for s in read_state(run, ask_slurm=False).stages}


def test_of_a_training_that_is_not_finished_it_counts_and_that_is_said(run: Run) -> None:
    assert behind(run.path) == ""
    said = "the model is of step 21: training isn't finished, 60 steps are wanted"
    assert states(run)["consolidate"] == ("done", said)
    assert states(run)["score"] == ("done", "")


@pytest.mark.parametrize("older", [False, True], ids=["", "marker without how far training was"])
@pytest.mark.parametrize("ended", [False, True], ids=["training runs", "training is done"])
def test_once_training_has_got_further_it_counts_no_more(run: Run, ended: bool, older: bool) -> None:
    if older:
        done(run, "consolidate", step=21, chosen="the last one")
    ledger.write_progress(run.path, "train", step=60, of=60, epoch=2.0, checkpoint=60)
    if ended:
        ledger.append(run.path, "planned", stages=["train", *FOLLOWING], executor="local")
        for stage in ("train", *FOLLOWING):
            ledger.append(run.path, "submitted", stage=stage, job="local-4194305")  # a chain that has ended
        done(run, "preflight")
        done(run, "train", step=60, epoch=2.0)
    said = "the model is of step 21, training has got to step 60 since"
    found = states(run)
    assert found["consolidate"] == ("waiting", said)
    assert {found[stage][0] for stage in FOLLOWING} == {"waiting"}
    whole = read_state(run, ask_slurm=False)
    assert whole.state != "done"
    if ended:
        assert whole.ended and whole.trouble is not None and whole.trouble.stage == "consolidate"
    small_chatglm(run.model)
    with pytest.raises(BadInput, match=rf"{said}; first: .*glmjobs\.heal"):
        start_from.resolve(load(CONFIGS / "tiny.yaml", ["train.init_from=first"]))


def test_the_best_of_a_training_may_be_of_an_earlier_step(run: Run) -> None:
    why = "best dev loss, 1.2, of 6 evaluations (train.keep: best)"
    done(run, "train", step=60, epoch=2.0)
    for figures in ({"step": 40, "chosen": why, "trained": 60}, {"step": 40, "chosen": why}):
        done(run, "consolidate", **figures)
        assert of_model(run.path) == "" and states(run)["consolidate"] == ("done", "")
    done(run, "consolidate", step=15, chosen=why, trained=21)
    assert behind(run.path) == "the model is of step 15, training has got to step 60 since"


def test_what_is_left_where_the_last_checkpoint_is_gone(run: Run) -> None:
    """Said, and not made again and again."""
    done(run, "train", step=60, epoch=2.0)
    done(run, "consolidate", step=40, chosen="the last one", trained=60)
    assert behind(run.path) == ""
    said = "the model is of step 40: training has ended at step 60, whose checkpoint was not there"
    assert states(run)["consolidate"] == ("done", said)


@pytest.mark.parametrize("train_done", [False, True])
def test_heal_does_it_again_with_all_that_follows(
    run: Run, train_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(heal, "executor", lambda run: "local")
    monkeypatch.setattr(heal, "repair", lambda chain, *_, **__: started.append(tuple(j.stage for j in chain.jobs)))
    done(run, "preflight")
    if train_done:
        done(run, "train", step=60, epoch=2.0)
    heal.heal(run, ["consolidate.dtype=bfloat16"], heal.Said(run, quiet=True))
    assert len(started) == 1 and not any(run.done(stage) for stage in FOLLOWING)
    told = {e["stage"]: e["why"] for e in ledger.events(run.path, event="reopened")}
    why = "the model is of step 21, training has got to step 60 since" if train_done else "training goes on"
    assert told == dict.fromkeys(FOLLOWING, why)
    assert Run.open(run.path).recipe.consolidate.dtype == "bfloat16"


def test_a_change_that_is_refused_reopens_nothing(run: Run) -> None:
    with pytest.raises(BadInput, match="a run keeps its name"):
        heal.heal(run, ["name=other"], heal.Said(run, quiet=True))
    assert all(run.done(stage) for stage in FOLLOWING)
