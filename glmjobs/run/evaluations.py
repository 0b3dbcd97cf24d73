"""What a training's evaluations on dev rows say: the best of them, whose checkpoint becomes the model, when to end.

They are rows of ``checkpoints/train_log.jsonl`` with a ``dev_loss``. Read here for training, consolidation, status and
report, so that all of them mean the same step by "best".
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glmjobs.recipe.schema import TrainSection
from glmjobs.zero import committed
from hpc.core.files import read_jsonl

LOG = "train_log.jsonl"

#: By metric: what it is called, and whether less of it is better.
METRICS = {
    "dev_loss": ("dev loss", True),
    "dev_token_accuracy": ("dev token accuracy", False),
    "dev_answers": ("share of right dev answers", False),
}

Evaluation = Mapping[str, Any]


def is_evaluation(row: Mapping[str, Any]) -> bool:
    """Whether a row of the log is an evaluation's, not a training step's."""
    return "dev_loss" in row and isinstance(row.get("step"), int)


def read(checkpoints: Path) -> list[Evaluation]:
    """The evaluations of a training, by step, on the dev rows that the newest of them was made on: a loss on others
    is not comparable. A step that was evaluated again counts once, as it was last."""
    rows = {int(row["step"]): row for row in read_jsonl(checkpoints / LOG) if is_evaluation(row)}
    return comparable(rows[step] for step in sorted(rows))


def comparable(rows: Iterable[Evaluation]) -> list[Evaluation]:
    """Those on the same dev rows as the last."""
    rows = list(rows)
    return [row for row in rows if row.get("dev_set") == rows[-1].get("dev_set")]


def value(row: Evaluation, metric: str) -> float | None:
    """An evaluation's figure, turned so that less is better; None where it is no number."""
    found = row.get(metric)
    if not isinstance(found, (int, float)) or not math.isfinite(found):
        return None
    return float(found) if METRICS[metric][1] else -float(found)


def best(rows: Iterable[Evaluation], metric: str, steps: Collection[int] | None = None) -> Evaluation | None:
    """The best evaluation, the earliest of equal ones; with ``steps`` of those alone. None where there is none."""
    judged = [(v, row) for row in rows if (v := value(row, metric)) is not None]
    if steps is not None:
        judged = [(v, row) for v, row in judged if int(row["step"]) in steps]
    return min(judged, key=lambda pair: pair[0])[1] if judged else None


def without_gain(rows: Sequence[Evaluation], metric: str) -> int:
    """Evaluations since the best one."""
    top = best(rows, metric)
    return sum(int(row["step"]) > int(top["step"]) for row in rows) if top else len(rows)


def interval(settings: TrainSection, steps: int) -> int:
    """Steps from one evaluation to the next.

    Args:
        steps: of the whole training.
    """
    every = settings.eval_steps
    if every == "auto":
        every = settings.save_steps if isinstance(settings.save_steps, int) else 0.1
    assert every is not None, "asked only where there are evaluations"
    return max(1, round(every * steps)) if isinstance(every, float) else every


class Choice(NamedTuple):
    """The checkpoint that becomes the model, and why that one, in words."""

    path: Path
    why: str


def choose(checkpoints: Path, settings: TrainSection) -> Choice:
    """The checkpoint that becomes the model: by ``train.keep`` the last, or the best of those that were evaluated.

    Raises:
        BadInput: there is none.
        WorkFailed: it does not hold what it committed.
    """
    if settings.keep == "last":
        return Choice(committed.newest_committed(checkpoints), "the last one")
    there = {
        step: path for step, path in committed.folders(checkpoints) if (path / committed.COMMITTED).is_file()
    }
    rows = read(checkpoints)
    top = best(rows, settings.metric, there)
    if top is None:
        why = f"the last one: none was evaluated by {settings.metric}, as train.keep: best wants"
        return Choice(committed.newest_committed(checkpoints), why)
    path = there[int(top["step"])]
    committed.check(path)
    return Choice(path, why_best(top, rows, settings.metric))


def why_best(top: Evaluation, rows: Sequence[Evaluation], metric: str) -> str:
    """Why a checkpoint was chosen, beside the best and the last evaluation of all."""
    name = METRICS[metric][0]
    why = f"best {name}, {top[metric]:.4g}, of {len(rows)} evaluations (train.keep: best)"
    last, first = rows[-1], best(rows, metric)
    if last["step"] != top["step"] and isinstance(last.get(metric), (int, float)):
        why += f"; {last[metric]:.4g} at the last, step {last['step']}"
    if first is not None and first["step"] != top["step"]:
        what = "before training" if first["step"] == 0 else "whose checkpoint is not there"
        why += f"; {first[metric]:.4g} at step {first['step']}, {what}"
    return why
