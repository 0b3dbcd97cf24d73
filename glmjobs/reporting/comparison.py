"""Several runs side by side, as one plain document: what differs, what came out, what it cost.

Two runs are compared on the rows that both have scored and marked: a row is the same where id, question and gold answer
are. The p-values of all pairs are corrected together, since one of many pairs soon differs by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from glmjobs.reporting.load import RunFacts
from glmjobs.scoring.statistics import compare, holm
from glmjobs.text import shown
from hpc.core.config_files import flat

Json = dict[str, Any]

MODEL = "finetuned"
"""The model of a run that is held against the others'; the base where it was scored alone."""


@dataclass(frozen=True)
class Compared:
    """A run as it was read.

    Attributes:
        name: unique among those compared.
        document: the report's (:func:`glmjobs.reporting.document.document`).
    """

    name: str
    facts: RunFacts
    document: Json


def comparison(runs: Sequence[Compared]) -> Json:
    """The whole comparison as JSON can hold it.

    Returns:
        ``runs``: a row each; ``differ``: setting → its value by run; ``pairs``: of every two that have common rows;
        ``curves``: name of a curve → points by run; ``notes``: what is not in it and why.
    """
    differ = differences({run.name: _settings(run.document) for run in runs})
    pairs, notes = _pairs(runs)
    for run in runs:
        if not run.document["accuracy"]["models"]:
            notes.append(f"{run.name}: not scored yet")
    return {
        "runs": [_row(run) for run in runs],
        "differ": differ,
        "pairs": pairs,
        "curves": _curves(runs),
        "notes": notes,
    }


def differences(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The settings that are not the same in all runs: name → value by run, as text ("" where a run has none)."""
    names = dict.fromkeys(name for values in settings.values() for name in values)
    found = {}
    for name in names:
        values = {run: shown(own.get(name), 120) for run, own in settings.items()}
        if len(set(values.values())) > 1:
            found[name] = values
    return found


def _settings(document: Json) -> dict[str, Any]:
    shape = document["settings"].get("shape")
    found = flat({**document["recipe"], "shape": shape or {}})
    return {name: value for name, value in found.items() if name != "jobs.lane"}  # a sweep's own means


def _row(run: Compared) -> Json:
    document = run.document
    training, models = document["training"], {m["model"]: m for m in document["accuracy"]["models"]}
    scored = {
        model: {key: models[model][key] for key in ("accuracy", "interval", "correct", "rows")}
        for model in ("base", "finetuned")
        if model in models
    }
    bad = [stage["stage"] for stage in document["stages"] if stage["outcome"] not in ("done", "not run")]
    return {
        "run": run.name,
        "models": scored,
        "steps": training["steps"],
        "epochs": training.get("epochs"),
        "loss": training.get("loss_last"),
        "dev_loss": dev[-1][1] if (dev := training["curves"].get("loss", {}).get("dev")) else None,
        "gpu_hours": document["cost"]["gpu_hours"]["held"],
        "not_done": bad,
    }


def _pairs(runs: Sequence[Compared]) -> tuple[list[Json], list[str]]:
    """Every two runs on their common rows, with Holm's p-values; and remarks."""
    marked = {run.name: _marked(run) for run in runs}
    pairs: list[Json] = []
    notes: list[str] = []
    for first, second in combinations([run.name for run in runs], 2):
        one, two = marked[first], marked[second]
        common = [key for key in one if key in two]
        if not common:
            if one and two:
                notes.append(f"{first} and {second}: no row was scored in both, so nothing is compared")
            continue
        if apart := max(len(one), len(two)) - len(common):
            notes.append(f"{first} and {second}: {apart:,} rows are in one of them only and are left out")
        result = compare((one[key], two[key]) for key in common)
        pairs.append(
            {
                "first": first, "second": second, "rows": result.rows, "only_first": result.only_base,
                "only_second": result.only_finetuned, "difference": result.difference,
                "difference_interval": list(result.difference_interval), "mcnemar_p": result.mcnemar_p,
            }
        )  # fmt: skip
    for pair, corrected in zip(pairs, holm([float(pair["mcnemar_p"]) for pair in pairs]), strict=True):
        pair["holm_p"] = corrected
    return pairs, notes


def _marked(run: Compared) -> dict[tuple[str, str, str], bool]:
    """Row → whether it is right, of the rows that the run's fine-tuned model (else its base) has marked."""
    scores = run.facts.scores.get(MODEL) or run.facts.scores.get("base")
    rows = scores.predictions.values() if scores else ()
    return {
        (str(row.get("id")), str(row.get("question")), str(row.get("gold"))): row.get("correct") is True
        for row in rows
        if row.get("status", "marked") == "marked"
    }


def _curves(runs: Sequence[Compared]) -> dict[str, dict[str, list[list[float]]]]:
    """Curve → run → its points, in the report's order of curves; those that no run has are absent."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for run in runs:
        for key, curve in run.document["training"]["curves"].items():
            found.setdefault(key, {})[run.name] = curve["points"]
            if curve.get("dev"):
                found.setdefault("dev_loss", {})[run.name] = curve["dev"]
    return found
