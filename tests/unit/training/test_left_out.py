"""What is left out of the data is counted, said, and above a share refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from glmjobs.recipe.loading import load
from glmjobs.run.directory import Run, Shape
from glmjobs.run.inputs import ensure
from glmjobs.run.read_state import read_state
from glmjobs.text import left_out_words
from glmjobs.training.train_data import training_data
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core.errors import BadInput
from tests.support.paths import CONFIGS


def make_run(folder: Path, *settings: str) -> Run:
    small = ["data.make.rows=120", "data.dev_rows=1-20", "model.make.vocab_size=500", *settings]
    run = Run.create(
        folder / "run", load(CONFIGS / "tiny.yaml", small), Profile(name="x"), Shape(nodes=1, gpus=1)
    )
    ensure(run)
    return run


def figures(run: Run) -> dict[str, Any]:
    from glmjobs.models import load_tokenizer

    return training_data(run.recipe, run.data, 1, load_tokenizer(run.base_model)).figures


def test_long_answers_are_counted_and_refused_above_the_share(tmp_path: Path) -> None:
    run = make_run(tmp_path, "data.max_target_length=28")
    with pytest.raises(BadInput) as refused:
        figures(run)
    said = re.search(
        r"(\d+) of (\d+) training examples would be left out \(long answer: (\d+)\).*--set (data\.allow_dropped)=(.*)$",
        str(refused.value),
    )
    assert said and said[1] == said[3] and 0 < int(said[1]) < int(said[2])
    allowed = make_run(tmp_path / "allowed", "data.max_target_length=28", f"{said[4]}={said[5]}")
    found = figures(allowed)
    assert found["left_out"] == {"long answer": int(said[1])}
    assert found["examples"] == int(said[2]) - int(said[1])


def test_status_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from glmjobs import status

    run = make_run(tmp_path)
    told = {"examples": 80, "left_out": {"long answer": 12, "without their 'history'": 3}, "cut_questions": 2}
    ledger.append(run.path, "data", stage="train", **told)
    assert read_state(run, ask_slurm=False).data == told
    assert status.main([str(run.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "80 training examples; left out: long answer 12, without their 'history' 3; questions cut" in shown


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, ""),
        ({"left_out": {}, "cut_questions": 0}, ""),
        ({"left_out": {"long answer": 1200}}, "; left out: long answer 1,200"),
        ({"left_out": {"x": "many"}, "cut_questions": "some"}, ""),  # a ledger that somebody wrote in
    ],
)
def test_words(data: dict[str, Any], words: str) -> None:
    assert left_out_words(data) == words
