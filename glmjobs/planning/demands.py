"""What a training takes of disk, host memory, GPU memory and time to save, demanded before a GPU is held; each in one
line with what would fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from glmjobs.models.family import family_for
from glmjobs.planning import memory as sizing
from glmjobs.planning.estimate import (
    GB,
    adapters,
    architecture_of,
    changes,
    estimate,
    fastest,
    mapped,
    work_of,
)
from glmjobs.recipe.schema import LONGEST_WARNING, Recipe, TrainSection
from glmjobs.run.directory import Shape
from hpc.batch.profile import Profile
from hpc.core import hints
from hpc.core.errors import NotFit
from hpc.core.room import free_bytes
from hpc.core.sizes import slurm_bytes

MEASURED = "were measured here (cluster.measured)"


@dataclass(frozen=True)
class Demand:
    """What a training takes of one thing, held against what there is; for a line (:attr:`line`) or a table.

    Attributes:
        what: "disk", "host memory", "GPU memory", "a save".
        found, needed: with numbers and units.
        holds: there is enough of it, as far as is known.
        remedy: what would fit, where there isn't, or where it fits less comfortably than asked; else "".
        known: how much there is of it is known before a node is held.
    """

    what: str
    found: str
    needed: str
    holds: bool = True
    remedy: str = ""
    known: bool = True

    @property
    def line(self) -> str:
        """All of it."""
        return f"{self.found}, and {self.needed}" + (f"; {self.remedy}" if self.remedy else "")


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


def check(
    recipe: Recipe, profile: Profile, shape: Shape, where: Path, *, limited: bool = True, there: int = 0
) -> list[str]:
    """Demand what a training takes; remarks for the person where it fits, but not as comfortably as asked.

    Args:
        where: the directory that run directories are made in.
        limited: the job has a time limit, before which the last save has to be done.
        there: as for :func:`disk`.

    Raises:
        NotFit: disk, a node's memory as the recipe asks for it, or a GPU's memory is too small; or a save takes
            longer than there is between warning and time limit, by the rate that a rehearsal has measured.
        BadInput: the model's sizes cannot be read.
    """
    remarks = _check_precision(recipe)
    for demand in held(recipe, profile, shape, where, limited=limited, there=there):
        if not demand.holds:
            raise NotFit(demand.line)
        if demand.remedy:
            remarks.append(demand.line)
    return remarks


def held(
    recipe: Recipe, profile: Profile, shape: Shape, where: Path, *, limited: bool = True, there: int = 0
) -> list[Demand]:
    """All that a training takes against what there is, as far as it is known before a node is held.

    Args:
        where, limited, there: as for :func:`check`.

    Raises:
        BadInput: the model's sizes cannot be read.
    """
    d = demands_of(recipe, shape)
    found = [disk(d, recipe, shape, where, there), host_memory(d, recipe)]
    if recipe.train.device == "cuda":
        found.append(gpu_memory(d, recipe, profile, shape))
    if limited and (rate := measured_rate(profile, shape)):
        found.append(save(d.checkpoint, rate, recipe, shape, MEASURED))
    return found


def disk(d: Demands, recipe: Recipe, shape: Shape, where: Path, there: int = 0) -> Demand:
    """Room for the checkpoints that have to be there together, or for the model beside one.

    Args:
        d: what the recipe takes in this shape.
        there: bytes of checkpoints that are there already, and go when the next is whole.
    """
    free = free_bytes(where)
    found = f"{where}: {_gb(free)} can be written there"
    second = f", of which {d.at_once} have to be there while one is written" if d.at_once > 1 else ""
    had = f", {_gb(there)} of it are there" if there else ""
    needed = (
        f"this training takes {_gb(d.least)} (a checkpoint {_gb(d.checkpoint)}{second}; the model {_gb(d.model)}{had})"
    )
    if free + there < d.least:
        ways = ["make room", "put runs elsewhere (GLMJOBS_RUNS)"]
        lighter, settings = with_lora(recipe, shape)
        if lighter and not there and lighter.least <= free:  # begun, a training keeps its method
            ways.append(settings)
        return Demand("disk", found, needed, False, _or(*ways))
    if free + there < d.whole:
        limit = recipe.train.save_total_limit
        fitting = (free + there - d.model) // d.checkpoint - 1 - (d.keep - limit)
        whole = f"{d.keep} checkpoints of {_gb(d.checkpoint)}, the next one and the model take {_gb(d.whole)}"
        more = hints.setting("train.save_total_limit", fitting) if 1 <= fitting < limit else "or make room"
        return Demand("disk", found, whole, True, f"older ones will go early; {more}")
    return Demand("disk", found, needed)


def host_memory(d: Demands, recipe: Recipe) -> Demand:
    """A node's memory as the training job asks for it; where it asks for all, preflight looks how much that is."""
    asked = slurm_bytes(recipe.jobs.train.memory)
    holds = asked is None or asked >= d.host
    of_node = "all that a node has" if recipe.jobs.train.memory else "the node's share"
    return Demand(
        "host memory",
        f"jobs.train.memory = {of_node if asked is None else recipe.jobs.train.memory}",
        f"this training takes {_gb(d.host)} of a node besides what the libraries take, while weights load and "
        "checkpoints are saved",
        holds,
        "" if holds else hints.setting("jobs.train.memory", f"{-(-d.host * 5 // 4 // (1 << 30))}G"),
        known=asked is not None,
    )


def gpu_memory(d: Demands, recipe: Recipe, profile: Profile, shape: Shape) -> Demand:
    """A GPU's memory as the profile says it."""
    holds = d.gpu <= profile.gpu_memory_gb * GB
    return Demand(
        "GPU memory",
        f"a GPU of {profile.gpu_memory_gb} GB (cluster.gpu_memory_gb)",
        f"this training takes {_gb(d.gpu)} of it",
        holds,
        "" if holds else way(recipe, profile, shape),
    )


def measured_rate(profile: Profile, shape: Shape) -> float | None:
    """Bytes a second at which a checkpoint was last written from as many nodes; None where none was measured."""
    rates = [m.write_gb_s for m in profile.measured if m.write_gb_s and m.nodes == shape.nodes]
    return rates[-1] * GB if rates else None


def save(size: int, rate: float, recipe: Recipe, shape: Shape, how: str, step: float = 0.0) -> Demand:
    """A save, held against the time between warning and time limit. The heartbeat asks nothing of it: a save that grows
    counts as alive, however long it takes (:mod:`hpc.runtime.heartbeat`).

    Args:
        size: of the checkpoint, in bytes.
        rate: at which all nodes together write it, in bytes a second.
        how: goes on after "the N GB/s that".
        step: seconds of the step that is ended first.
    """
    seconds, warned = size / rate, recipe.jobs.signal_seconds
    takes = f"{seconds:,.{0 if seconds >= 10 else 1}f} s at the {_gb(round(rate))}/s"
    holds = seconds + step <= warned
    return Demand(
        "a save",
        f"a checkpoint of {_gb(size)} takes {takes} that {how}",
        f"the last one {'and a step have' if step else 'has'} {warned} s before the time limit (jobs.signal_seconds)",
        holds,
        "" if holds else _time_to_save(seconds + step, rate, recipe, shape),
    )


def _time_to_save(seconds: float, rate: float, recipe: Recipe, shape: Shape) -> str:
    """What would let a last save of so long be done: an earlier warning, in a job at least twice as long, or less to
    write."""
    ways = []
    if seconds <= LONGEST_WARNING:
        warning = min(math.ceil(1.5 * seconds), LONGEST_WARNING)
        earlier = hints.setting("jobs.signal_seconds", warning)
        if 2 * warning <= recipe.jobs.train.seconds:
            return earlier
        minutes = math.ceil(2 * warning / 60)
        longer = hints.setting("jobs.train.time", f"{minutes // 60:02}:{minutes % 60:02}:00")
        ways = [f"a longer job that is warned earlier: {earlier} {longer}"]
    lighter, settings = with_lora(recipe, shape)
    if lighter and lighter.checkpoint / rate <= recipe.jobs.signal_seconds:
        ways.append(f"fewer bytes: {settings}")
    return _or("a faster disk", *ways)


def _check_precision(recipe: Recipe) -> list[str]:
    family = family_for(recipe.model.family)
    if family.half != "bfloat16" or recipe.train.precision != "fp16":
        return []
    return [
        f"{family.title}'s weights were made in bfloat16; in float16 (train.precision), which ends at 65,504, its "
        "losses can be 0 or NaN; " + hints.setting("train.precision", "bf16")
    ]


def way(recipe: Recipe, profile: Profile, shape: Shape) -> str:
    """The fastest way of training that fits such a GPU, as settings; where none does, one of a LoRA."""
    _, a, _ = architecture_of(recipe)
    work, gigabytes = work_of(recipe, None), profile.gpu_memory_gb

    def settings(train: TrainSection | None) -> str | None:
        if train is None:
            return None
        found = fastest(train, lambda t: estimate(a, recipe, t, shape, work, flops=1.0), gigabytes)
        return hints.settings(changes(found.train, recipe.train)) if found else None

    own = settings(recipe.train)
    if own is not None:
        return own
    return _or("more GPUs", settings(adapters(recipe.train)) or "GPUs with more memory")


def with_lora(recipe: Recipe, shape: Shape) -> tuple[Demands | None, str]:
    """What the recipe takes of a LoRA alone, and the settings for it; None where it is one already."""
    train = adapters(recipe.train)
    if train is None:
        return None, ""
    lighter = recipe.model_copy(update={"train": train})
    return demands_of(lighter, shape), hints.settings(changes(train, recipe.train))


def _or(*ways: str) -> str:
    *first, last = ways
    return ", ".join(first) + (", or " if first else "") + last


def _gb(size: int) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB // 10 else f"{size / 1e6:,.1f} MB"
