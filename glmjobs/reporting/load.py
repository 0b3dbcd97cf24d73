"""Read a run directory into one plain structure. Absent or broken parts become sentences, never errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from glmjobs.run.last_activity import last_activity
from glmjobs.run.reached import of_model
from glmjobs.run.state import STAGES
from glmjobs.text import number, unix_time, visible
from glmjobs.zero import committed
from hpc.core.errors import HpcError

MODELS = ("base", "finetuned")


class GpuSample(NamedTuple):
    """One reading of a GPU: time in Unix seconds, utilisation in percent, memory in bytes, power in watts."""

    time: float
    gpu: str
    utilisation: float | None
    memory: float | None
    power: float | None


@dataclass
class ModelScores:
    """What scoring left for one model: its summary, and its predictions by row id."""

    summary: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class RunFacts:
    """A run directory's content, as plain data. ``missing`` says in sentences what was not there.

    ``last_signs``: the Unix seconds at which each stage last wrote anything.
    """

    path: Path
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    markers: dict[str, dict[str, Any]] = field(default_factory=dict)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    train_log: list[dict[str, Any]] = field(default_factory=list)
    gpu: dict[str, list[GpuSample]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    prepare: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, ModelScores] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    last_signs: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def no_gpus(self) -> bool:
        """True where preflight looked on every node and found no GPU: ranks then ran on CPUs."""
        return bool(self.nodes) and not any(report["gpus"] for report in self.nodes)


def load_facts(path: Path, settings: dict[str, Any] | None = None) -> RunFacts:
    """Read the run directory ``path``; ``settings`` is its parsed ``run.yaml``."""
    facts = RunFacts(path=path, name=path.name, settings=settings or {})
    facts.environment = _document(facts, path / "environment.json", "what it ran on is not known")
    for marker in sorted((path / "stages").glob("*.json")):
        if marker.name.endswith(".progress.json"):
            continue
        content = _document(facts, marker, "this stage's marker is not used")
        if content:
            facts.markers[marker.stem] = content
    facts.ledger = _lines(facts, path / "ledger.jsonl", "attempts and their cost are not known")
    facts.train_log = _lines(facts, path / "checkpoints" / "train_log.jsonl", "there are no training curves")
    if said := of_model(path):
        facts.missing.append(said[0].upper() + said[1:] + ".")
    facts.prepare = _document(facts, path / "data" / "prepare.json", "facts about the data are not shown")
    reports = (read_document(file)[0] for file in sorted((path / "jobs" / "preflight").glob("node-*.json")))
    facts.nodes = [report for report in reports if isinstance(report.get("gpus"), list)]
    facts.gpu = _gpu(facts, path / "gpu")
    for model in MODELS:
        scores = _scores(facts, path / "scores" / model, model)
        if scores is not None:
            facts.scores[model] = scores
    if len(facts.scores) == len(MODELS):
        why = "base and fine-tuned model are not compared row by row"
        facts.comparison = _document(facts, path / "scores" / "comparison.json", why)
    facts.sets = _sets(facts, path / "scores" / "sets")
    facts.model = _model(facts, path / "model")
    facts.checkpoints = _checkpoints(facts, path / "checkpoints")
    newest = {stage: last_activity(path, stage) for stage in STAGES}
    facts.last_signs = {stage: time for stage, time in newest.items() if time is not None}
    return facts


def read_document(path: Path) -> tuple[dict[str, Any], str]:
    """A JSON object from a file, and what is wrong with it (empty: nothing)."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "replace"))
    except FileNotFoundError:
        return {}, "is not there"
    except OSError as error:
        return {}, f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        return {}, "is not valid JSON"
    return (content, "") if isinstance(content, dict) else ({}, "is not a JSON object")


def read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The JSON objects of a file, one a line; ``None`` for a line that is not one (a write cut short)."""
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else None


def _document(facts: RunFacts, path: Path, consequence: str) -> dict[str, Any]:
    content, problem = read_document(path)
    if problem:
        facts.missing.append(f"{_relative(facts, path)} {problem}: {consequence}.")
    return content


def _lines(facts: RunFacts, path: Path, consequence: str) -> list[dict[str, Any]]:
    try:
        rows = list(read_lines(path))
    except FileNotFoundError:
        facts.missing.append(f"{_relative(facts, path)} is not there: {consequence}.")
        return []
    except OSError as error:
        facts.missing.append(f"{_relative(facts, path)} cannot be read ({error.strerror}): {consequence}.")
        return []
    good = [row for row in rows if row is not None]
    if len(good) < len(rows):
        facts.missing.append(
            f"{_relative(facts, path)}: {len(rows) - len(good)} of {len(rows)} lines are not JSON objects "
            "and were left out."
        )
    if not good:
        facts.missing.append(f"{_relative(facts, path)} is empty: {consequence}.")
    return good


def _relative(facts: RunFacts, path: Path) -> str:
    return visible(str(path.relative_to(facts.path)))


def _gpu(facts: RunFacts, folder: Path) -> dict[str, list[GpuSample]]:
    nodes: dict[str, list[GpuSample]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for row in _lines(facts, file, "this node's GPUs are not shown"):
            if sample := _sample(row):
                nodes.setdefault(str(row.get("node") or file.stem), []).append(sample)
    for samples in nodes.values():
        samples.sort(key=lambda sample: sample.time)
    if not nodes and not facts.no_gpus:
        facts.missing.append(
            "No GPU samples (gpu/ has none): utilisation, memory and power over time are not shown."
        )
    return nodes


def _sample(row: dict[str, Any]) -> GpuSample | None:
    time = unix_time(row.get("time"))
    if time is None:
        return None
    readings = (number(row.get(key)) for key in ("utilisation", "memory", "power"))
    return GpuSample(time, visible(str(row.get("gpu", "")))[:64], *readings)


def _scores(facts: RunFacts, folder: Path, model: str) -> ModelScores | None:
    label = "base" if model == "base" else "fine-tuned"
    if not folder.is_dir():
        facts.missing.append(f"The {label} model was not scored (scores/{model}/ is not there).")
        return None
    summary = _document(facts, folder / "summary.json", f"the {label} model's accuracy is not known")
    rows = _lines(facts, folder / "predictions.jsonl", f"the {label} model's answers are not shown")
    # A row counts once: a rerun may have appended an id again, and the last writing is the one that was
    # counted.
    predictions = {str(row["id"]): row for row in rows if "id" in row}
    return ModelScores(summary, predictions) if summary or predictions else None


def _sets(facts: RunFacts, folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Of every further test set, in the recipe's order: the models' summaries, and their "comparison"."""
    score = (
        facts.settings.get("recipe", {}).get("score")
        if isinstance(facts.settings.get("recipe"), dict)
        else None
    )
    named = score.get("sets") if isinstance(score, dict) else None
    names = [str(given["name"]) for given in named or () if isinstance(given, dict) and "name" in given]
    found = {}
    for name in names:
        there = folder / name
        parts = {
            model: _document(facts, there / model / "summary.json", "")
            for model in MODELS
            if (there / model).is_dir()
        }
        if (there / "comparison.json").is_file():
            parts["comparison"] = _document(facts, there / "comparison.json", "")
        if any(parts.values()):
            found[name] = parts
        elif folder.is_dir():
            facts.missing.append(f"The test set {name} was not scored (scores/sets/{name}/ is not there).")
    return found


def _model(facts: RunFacts, folder: Path) -> dict[str, Any]:
    manifest = _document(facts, folder / "manifest.json", "there is no consolidated model yet")
    files = manifest.get("files")
    if not isinstance(files, list):
        return {}
    sizes = [number(file.get("bytes")) or 0.0 for file in files if isinstance(file, dict)]
    return {"files": len(sizes), "bytes": int(sum(sizes))}


def _checkpoints(facts: RunFacts, folder: Path) -> list[dict[str, Any]]:
    """Committed checkpoints, oldest first: step, world size, bytes."""
    found = []
    for step, path in reversed(committed.folders(folder)):
        try:
            commit = committed.read(path)
        except HpcError:
            marker = _relative(facts, path / committed.COMMITTED)
            facts.missing.append(f"{marker} cannot be used: this checkpoint is not listed.")
            continue
        if commit is not None:
            total = sum(commit.files.values())
            found.append({"step": step, "world_size": commit.world_size, "bytes": total})
    return found
