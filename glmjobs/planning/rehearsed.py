"""What a rehearsal has shown against what the long job asks for: a line each, and what to change where it won't do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from glmjobs.planning.demands import save
from glmjobs.planning.estimate import GB, plan
from glmjobs.recipe.schema import Recipe
from glmjobs.run.directory import Run, Shape
from glmjobs.run.rehearsal import SAVE_STEP, Rehearsal
from glmjobs.text import duration
from hpc.batch.profile import Measured
from hpc.chain import ledger
from hpc.core import hints, timestamps
from hpc.core.errors import BadInput
from hpc.core.files import Json, read_json
from hpc.core.room import free_bytes

FULL = 0.95
"""Of a GPU's memory: above it, a row that is a little longer, or a buffer of NCCL's, may be one too many."""


@dataclass(frozen=True)
class Line:
    """One thing that was measured.

    Attributes:
        found, needed: for people, with their units.
        holds: whether it is enough for the long job; None: nothing is asked of it.
        remedy: what to do where it isn't.
    """

    what: str
    found: str
    needed: str = ""
    holds: bool | None = None
    remedy: str = ""


def lines(run: Run, of: Rehearsal) -> list[Line]:
    """What the rehearsal ``run`` has shown of the long job. Its chain is done.

    Raises:
        BadInput: the model of a few layers is gone.
    """
    planned = plan(of.recipe, run.cluster, run.shape)
    train = _of_all_layers(run, of, planned)
    return [
        *_layers(of, planned),
        _resume(run),
        *_speed(train, planned, of.recipe),
        *_memory(run, train, planned),
        *_saves(train, of.recipe, run.shape),
        _disk(run, train, of.recipe, planned),
        *_network(run),
        Line("loading", f"{train['load_seconds']:g} s", "from a process' start to its first step"),
        *_stages(run),
    ]


def measured(run: Run, of: Rehearsal) -> Measured:
    """The same for the cluster profile."""
    planned = plan(of.recipe, run.cluster, run.shape, utilisation=1.0)
    train = _of_all_layers(run, of, planned)
    on_gpu, step = train.get("peak_gpu_bytes"), train.get("step_seconds")
    at_peak = planned["setting"]["step_seconds"]
    write = train["checkpoint_bytes"] / train["save_seconds"] if train.get("save_seconds") else None
    return Measured(
        time=timestamps.now(), what=planned["model"]["name"], nodes=run.shape.nodes, gpus=run.shape.gpus,
        layers=of.layers,
        utilisation=_rounded(min(1.0, at_peak / step)) if on_gpu and step and at_peak else None,
        mfu=train.get("mfu"), tokens_per_s=train.get("tokens_per_s"),
        peak_gpu_gb=_rounded(on_gpu / GB) if on_gpu else None, load_seconds=train.get("load_seconds"),
        write_gb_s=_rounded(write / GB) if write else None, allreduce_gb_s=_allreduce(run),
    )  # fmt: skip


def _figures(run: Run, stage: str) -> Json:
    return dict((ledger.marker(run.path, stage) or {}).get("figures", {}))


def _of_all_layers(run: Run, of: Rehearsal, all_: Json) -> Json:
    """What training measured; where only the first layers ran, what all would take: more by as much as by plan.

    Args:
        all_: plan's document of the whole model.
    """
    train = _figures(run, "train")
    if of.layers is None:
        return train
    ran = of.recipe.model_copy(update={"model": run.recipe.model})
    few = plan(ran, run.cluster, run.shape, utilisation=all_["utilisation"])
    if not few["model"]["read"]:
        raise BadInput(
            f"{run.recipe.model.path}: gone, and without it nothing is known of all layers; rehearse again"
        )

    def scale(by: float, *names: str) -> None:
        train.update({name: train[name] * by for name in names if train.get(name)})

    step = all_["setting"]["step_seconds"] / few["setting"]["step_seconds"]
    checkpoint = all_["checkpoint_bytes"] / few["checkpoint_bytes"]
    scale(step, "step_seconds")
    scale(1 / step, "tokens_per_s")
    scale(all_["setting"]["memory"]["total"] / few["setting"]["memory"]["total"], "peak_gpu_bytes")
    scale(all_["host_bytes_per_node"] / few["host_bytes_per_node"], "peak_host_bytes")
    scale(checkpoint, "checkpoint_bytes", "save_seconds")
    return train


def _layers(of: Rehearsal, planned: Json) -> list[Line]:
    if of.layers is None:
        return []
    found = f"the first {of.layers} of {planned['model']['layers']} ran"
    return [Line("layers", found, "below, what all would take: step, memory and saves grow as by plan")]


def _size(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1e6:.1f} MB"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _resume(run: Run) -> Line:
    """The killed rank's attempt, and the one that went on from the checkpoint before."""
    attempts = ledger.events(run.path, event="attempt", stage="train")
    again = any(event.get("checkpoint") == SAVE_STEP for event in attempts[1:])
    found = f"{len(attempts)} attempts" + (f", gone on from step {SAVE_STEP}" if again else "")
    return Line("a rank killed", found, f"goes on from step {SAVE_STEP}", again, f"see {run.jobs('train')}")


def _speed(train: Json, planned: Json, recipe: Recipe) -> list[Line]:
    step, tokens, mfu = (train.get(name) for name in ("step_seconds", "tokens_per_s", "mfu"))
    if not step:
        return []
    hours = planned["setting"]["steps"] * step / 3600
    limit = recipe.jobs.train.seconds / 3600
    jobs = max(1, math.ceil(hours / limit))
    in_jobs = f"{jobs} job{'s' * (jobs > 1)} of {recipe.jobs.train.time}"
    on_gpu = train.get("peak_gpu_bytes") is not None  # what plan says is a GPU's time
    by_plan = (
        f"{duration(3600 * planned['setting']['hours'])} by plan, at {planned['utilisation']:.0%} of the peak"
    )
    return [
        Line("a step", f"{step:.4g} s, {tokens:,.0f} tokens/s{f', MFU {mfu:.1%}' if mfu else ''}"),
        Line("the whole training", f"{duration(3600 * hours)}, in {in_jobs}", by_plan if on_gpu else ""),
    ]


def _memory(run: Run, train: Json, planned: Json) -> list[Line]:
    found = []
    if peak := train.get("peak_gpu_bytes"):
        size = run.cluster.gpu_memory_gb
        need = f"{planned['setting']['memory']['total'] / GB:.1f} GB by plan, of {size}"
        recomputed = planned["setting"]["activation_checkpointing"]
        remedy = (
            "more GPUs, or GPUs with more memory"
            if recomputed
            else hints.setting("train.activation_checkpointing", "true")
        )
        found.append(Line("GPU memory", f"{peak / GB:.1f} GB", need, peak <= FULL * size * GB, remedy))
    host = train.get("peak_host_bytes")
    if host:
        by_plan = planned["host_bytes_per_node"]
        found.append(
            Line("host memory", f"{_size(host)} a rank, shared pages counted", f"{_size(by_plan)} a node by plan")
        )  # fmt: skip
    return found


def _saves(train: Json, recipe: Recipe, shape: Shape) -> list[Line]:
    seconds, size = train.get("save_seconds"), train["checkpoint_bytes"]
    if not seconds:
        return []
    step = train.get("step_seconds") or 0.0
    saved = save(size, size / seconds, recipe, shape, "it wrote", step)
    beat = recipe.jobs.heartbeat_seconds
    return [
        Line(saved.what, saved.found, saved.needed, saved.holds, saved.remedy),
        Line("the longest silence", f"{step:.1f} s, a step; a save that grows is none",
             f"within the {beat} s of the heartbeat", step <= beat,
             hints.setting("jobs.heartbeat_seconds", str(math.ceil(1.5 * step)))),
    ]  # fmt: skip


def _disk(run: Run, train: Json, recipe: Recipe, planned: Json) -> Line:
    """Room for the checkpoints that are kept, one more while it is written, and the model."""
    model = planned["model_bytes"]
    keep = recipe.train.kept_checkpoints + 1
    need = keep * train["checkpoint_bytes"] + model
    least = need - (recipe.train.save_total_limit - 1) * train["checkpoint_bytes"]
    free = free_bytes(run.path)
    needed = f"{_size(need)}: {keep} checkpoints, the model"
    remedy = f"make room in {run.path.parent}"
    if least < need and least <= free:
        remedy += f", or {hints.setting('train.save_total_limit', '1')}"
    return Line("disk", f"{_size(free)} free", needed, free >= need, remedy)


def _allreduce(run: Run) -> float | None:
    found = read_json(run.jobs("preflight") / "allreduce-0.json") or {}
    return found.get("all_gb_s") or found.get("node_gb_s")


def _network(run: Run) -> list[Line]:
    rate = _allreduce(run)
    return [Line("all-reduce", f"{rate:g} GB/s")] if rate else []


def _stages(run: Run) -> list[Line]:
    """What came after training: the model, and the answers."""
    seconds = (ledger.marker(run.path, "consolidate") or {}).get("seconds")
    found = [Line("consolidate", f"{seconds:.1f} s")] if seconds is not None else []
    for which in ("base", "finetuned"):
        summary: dict[str, Any] = read_json(run.scores / which / "summary.json") or {}
        if summary:
            rate = f"{summary['tokens_per_s']:,.0f} tokens/s" if summary.get("tokens_per_s") else ""
            found.append(
                Line(f"answers, {which}", f"{summary['answers']} in {summary['seconds']:.1f} s", rate)
            )
    return found
