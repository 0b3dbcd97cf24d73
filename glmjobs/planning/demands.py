"""What a training takes of disk, host memory, GPU memory and time to save, demanded before a GPU is held; each in one
line with what would fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from glmjobs.models.family import family_for
from glmjobs.planning import memory as sizing
from glmjobs.planning.estimate import GB, architecture_of, candidates, changes, estimate, mapped, work_of
from glmjobs.recipe.schema import Recipe
from glmjobs.run.directory import Shape
from hpc.batch.profile import Profile
from hpc.core import hints
from hpc.core.errors import NotFit
from hpc.core.room import free_bytes
from hpc.core.sizes import slurm_bytes


@dataclass(frozen=True)
class Demands:
    """Bytes that a training takes.

    Attributes:
        checkpoint, model: each, on disk.
        at_once: checkpoints that have to be there together: a second one where one is kept while the next is written,
            and the best where that is kept beside them.
        keep: checkpoints that are kept (``train.save_total_limit``, and the best).
        host: of a node's memory.
        gpu: of the fullest GPU.
    """

    checkpoint: int
    model: int
    at_once: int
    keep: int
    host: int
    gpu: int

    @property
    def least(self) -> int:
        """Disk without which the training cannot end: older checkpoints are deleted before the next is written."""
        return max(self.at_once * self.checkpoint, self.checkpoint + self.model)

    @property
    def whole(self) -> int:
        """Disk with all the checkpoints that are to be kept."""
        return (self.keep + 1) * self.checkpoint + self.model


def demands_of(recipe: Recipe, shape: Shape) -> Demands:
    """What a recipe takes on so many nodes and GPUs.

    Raises:
        BadInput: the model's sizes cannot be read.
    """
    _, a, _ = architecture_of(recipe)
    train = recipe.train
    found = estimate(a, recipe, train, shape, work_of(recipe, None), flops=1.0)
    several = train.save_steps == "auto" or found.steps > train.save_steps
    return Demands(
        checkpoint=sizing.checkpoint_bytes(a, found.setting),
        model=a.parameters * (4 if recipe.consolidate.dtype == "float32" else 2),
        at_once=(2 if several else 1) + (train.keep == "best"),
        keep=train.kept_checkpoints,
        host=sizing.host_memory(a, found.setting, shape.gpus, mapped=mapped(recipe)),
        gpu=found.memory["total"],
    )


def check(recipe: Recipe, profile: Profile, shape: Shape, where: Path, *, limited: bool = True) -> list[str]:
    """Demand what a training takes; remarks for the person where it fits, but not as comfortably as asked.

    Args:
        where: the directory that run directories are made in.
        limited: the job has a time limit, before which the last save has to be done.

    Raises:
        NotFit: disk, a node's memory as the recipe asks for it, or a GPU's memory is too small; or a save takes
            longer than there is between warning and time limit, by the rate that a rehearsal has measured.
        BadInput: the model's sizes cannot be read.
    """
    d = demands_of(recipe, shape)
    remarks = [*_check_precision(recipe), *_check_disk(d, where)]
    asked = slurm_bytes(recipe.jobs.train.memory)
    if asked is not None and asked < d.host:
        raise NotFit(
            f"jobs.train.memory = {recipe.jobs.train.memory}: a node needs {_gb(d.host)} besides what the libraries "
            f"take, while weights load and checkpoints are saved; {_memory(d.host)}"
        )
    if recipe.train.device == "cuda" and d.gpu > profile.gpu_memory_gb * GB:
        raise NotFit(
            f"a GPU of {profile.gpu_memory_gb} GB (cluster.gpu_memory_gb): this training takes {_gb(d.gpu)} of it; "
            + _way(recipe, profile, shape)
        )
    if limited:
        _check_save(d, recipe, profile, shape)
    return remarks


def _check_save(d: Demands, recipe: Recipe, profile: Profile, shape: Shape) -> None:
    rates = [m.write_gb_s for m in profile.measured if m.write_gb_s and m.nodes == shape.nodes]
    if not rates:
        return
    seconds, warned = d.checkpoint / (rates[-1] * GB), recipe.jobs.signal_seconds
    if seconds > warned:
        raise NotFit(
            f"jobs.signal_seconds = {warned}: a checkpoint of {_gb(d.checkpoint)} takes {seconds:,.0f} s at the "
            f"{rates[-1]:g} GB/s that was measured here, so the last one would be lost at the time limit; "
            + hints.setting("jobs.signal_seconds", str(math.ceil(1.5 * seconds)))
        )


def _check_precision(recipe: Recipe) -> list[str]:
    family = family_for(recipe.model.family)
    if family.half != "bfloat16" or recipe.train.precision != "fp16":
        return []
    return [
        f"{family.title}'s weights were made in bfloat16; in float16 (train.precision), which ends at 65,504, its "
        "losses can be 0 or NaN; " + hints.setting("train.precision", "bf16")
    ]


def _check_disk(d: Demands, where: Path) -> list[str]:
    free = free_bytes(where)
    if free < d.least:
        second = f", of which {d.at_once} have to be there while one is written" if d.at_once > 1 else ""
        raise NotFit(
            f"{where}: {_gb(free)} can be written there, and this training takes {_gb(d.least)} (a checkpoint "
            f"{_gb(d.checkpoint)}{second}; the model {_gb(d.model)}): make room, put runs elsewhere, or "
            + hints.setting("train.method", "lora")
        )
    if free < d.whole:
        fitting = max(1, (free - d.model) // d.checkpoint - 1)
        return [
            f"{where}: {_gb(free)} can be written there; {d.keep} checkpoints of {_gb(d.checkpoint)}, the next one and "
            f"the model take {_gb(d.whole)}: older ones will go early; "
            + hints.setting("train.save_total_limit", str(min(fitting, d.keep)))
        ]
    return []


def _memory(host: int) -> str:
    return hints.setting("jobs.train.memory", f"{-(-host * 5 // 4 // (1 << 30))}G")


def _way(recipe: Recipe, profile: Profile, shape: Shape) -> str:
    """The fastest way of training that fits such a GPU."""
    _, a, _ = architecture_of(recipe)
    work = work_of(recipe, None)
    for train in candidates(recipe.train):
        if estimate(a, recipe, train, shape, work, flops=1.0).fits(profile.gpu_memory_gb):
            return " ".join(hints.setting(*item.split("=", 1)) for item in changes(train, recipe.train))
    return "more GPUs, or " + hints.setting("train.method", "lora")


def _gb(size: int) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB // 10 else f"{size / 1e6:,.1f} MB"
