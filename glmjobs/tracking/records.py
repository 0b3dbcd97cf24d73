"""What a run directory has to tell a tracker: figures by step, figures of the whole, its settings."""

from __future__ import annotations

from typing import Any, NamedTuple

from glmjobs.run import evaluations, scored_sets
from glmjobs.run.directory import Run
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.files import read_json, read_jsonl

TRAIN = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu", "epoch", "tokens")
"""Of a training step, under ``train/``."""

DEV = {"dev_loss": "loss", "dev_token_accuracy": "token_accuracy", "dev_answers": "answers"}
"""Of an evaluation, under ``dev/``: the same names as in TensorBoard."""

COST = ("tokens_per_s", "mfu", "step_seconds", "peak_gpu_bytes", "peak_host_bytes")
"""Of the whole training, as last measured; memory is the most of any rank."""


class Step(NamedTuple):
    """All figures of one step. ``time``: Unix seconds."""

    step: int
    time: float
    values: dict[str, float]


def steps(run: Run, *, ended: bool = False) -> list[Step]:
    """The steps in order, each once and whole.

    The newest is held back while training is not done: its evaluation may be still to come, and no tracker takes
    figures of a step that it has left. ``ended``: nothing is to come, for the run was cancelled or has failed.
    """
    found: dict[int, Step] = {}
    for row in read_jsonl(run.checkpoints / evaluations.LOG):
        step, time = row.get("step"), row.get("time")
        if not isinstance(step, int) or not isinstance(time, str):
            continue
        when = timestamps.parse_time(time).timestamp()
        values = found[step].values if step in found else {}
        found[step] = Step(step, when, values | _values(row))
    ordered = [found[step] for step in sorted(found)]
    return ordered if ended or run.done("train") else ordered[:-1]


def _values(row: dict[str, Any]) -> dict[str, float]:
    if evaluations.is_evaluation(row):
        pairs = {f"dev/{name}": row.get(key) for key, name in DEV.items()}
    else:
        pairs = {f"train/{name}": row.get(name) for name in TRAIN}
    return {name: float(value) for name, value in pairs.items() if isinstance(value, (int, float))}


def summary(run: Run) -> dict[str, float]:
    """What the training took, and base and fine-tuned accuracy on dev rows and test sets, as far as they are known."""
    measured = ledger.events(run.path, event="measured", stage="train")
    found = {f"cost/{name}": measured[-1].get(name) for name in COST} if measured else {}
    for name in scored_sets.names(run.recipe.score):
        folder = scored_sets.folder(run.scores, name)
        for which in scored_sets.MODELS:
            record = read_json(folder / which / "summary.json") or {}
            found[f"score/{name}/{which}"] = record.get("accuracy")
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def config(run: Run) -> dict[str, Any]:
    """Every setting of the run: the resolved recipe, and nodes and GPUs."""
    return {**run.recipe.model_dump(mode="json"), "shape": run.shape.model_dump(mode="json"), "run": run.name}
