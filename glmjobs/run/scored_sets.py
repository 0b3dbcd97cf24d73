"""What a run's models are scored on: its dev rows and the test sets that its recipe names (``score.sets``), each in a
folder of its own with both models' predictions and their comparison."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from glmjobs.data.mixing import source_of
from glmjobs.recipe.schema import ScoreSection, TestSetSection
from glmjobs.run.directory import Run
from glmjobs.scoring.evaluate import Settings, Work
from glmjobs.scoring.statistics import compare
from glmjobs.scoring.test_sets import QuestionSet, read_set
from hpc.core import hints
from hpc.core.errors import BadInput
from hpc.core.files import read_json

Which = Literal["base", "finetuned"]
MODELS: tuple[Which, ...] = get_args(Which)
DEV = "dev"
BASE_CACHE = ".base-scores"
"""Beside the runs: answers of base models, which every run of the same model and questions would give again."""


def names(score: ScoreSection) -> list[str]:
    """What a run is scored on: its dev rows first."""
    return [DEV, *(given.name for given in score.sets)]


def folder(scores: Path, name: str) -> Path:
    """Where a set's predictions and comparison are, under a run's ``scores/``."""
    return scores if name == DEV else scores / "sets" / name


def read(given: TestSetSection) -> QuestionSet:
    """A set's rows.

    Raises:
        BadInput: as :func:`glmjobs.scoring.test_sets.read_set`.
    """
    return read_set(Path(given.path), given.form, given.rows)


def content(found: QuestionSet) -> str:
    """A digest of a set's questions and gold answers, whatever form their file has."""
    return hashlib.sha256(json.dumps(found.questions, ensure_ascii=False).encode()).hexdigest()[:16]


@cache
def warn(text: str) -> None:
    """A line in the log, once."""
    print(f"warning: {text}", file=sys.stderr)


def work(run: Run, which: Which, name: str = DEV) -> Work:
    """One of a run's models on its first ``score.rows`` dev rows, or on a test set.

    Raises:
        BadInput: the model or the rows are not there.
    """
    score = run.recipe.score
    settings = Settings(
        max_new_tokens=score.max_new_tokens,
        dtype=score.dtype,
        max_source_length=run.recipe.data.max_source_length,
        batch_size=score.batch_size,
    )
    judging, sources = score.judging, None
    if name == DEV:
        questions = read_set(run.data / "dev.jsonl", "alpaca", score.rows).questions
        record = read_json(run.data / "prepare.json") or {}
        if record.get("sources"):
            sources = {question.id: source_of(record, int(question.id)) for question in questions}
    else:
        given = next(one for one in score.sets if one.name == name)
        try:
            found = read(given)
        except BadInput as error:  # it was there when the run was submitted
            again = hints.command("glmjobs.heal", run.path)
            raise BadInput(f"score.sets: {name}: {error}; put it back as it was, then: {again}") from None
        if given.content not in (None, content(found)):
            warn(
                f"score.sets: {name}: {given.path} is not what it was when the run was submitted; its "
                f"{len(found.questions):,} questions of today are scored"
            )
        questions, judging = found.questions, score.judging_of(given, found.form.judge)
    model = run.base_model if which == "base" else run.model
    return Work.of(model, questions, folder(run.scores, name) / which, settings, judging, sources)


def compare_models(there: Path) -> dict[str, Any]:
    """The paired comparison of a set's two models, of the rows that both were marked on."""
    correct: list[dict[Any, bool]] = []
    for which in MODELS:
        with (there / which / "predictions.jsonl").open(encoding="utf-8") as file:
            rows = [row for row in map(json.loads, file) if row.get("status", "marked") == "marked"]
            correct.append({row["id"]: bool(row["correct"]) for row in rows})
    base, finetuned = correct
    return compare((base[id], finetuned[id]) for id in finetuned if id in base).as_dict()
