"""What a training needs: memory, disk, steps and hours, from its recipe and the base model's config.json alone."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from glmjobs.data.rows import Columns, Row, row_key
from glmjobs.data.sources import open_source
from glmjobs.data.splitting import Part, Split
from glmjobs.data.validating import Validator
from glmjobs.models.architecture import Architecture
from glmjobs.models.family import declared, family_for, read_config
from glmjobs.models.frozen import frozen
from glmjobs.planning import memory as sizing
from glmjobs.planning.memory import Setting
from glmjobs.recipe.deepspeed_config import deepspeed_config
from glmjobs.recipe.schema import DataSection, Recipe, TrainSection
from glmjobs.run.directory import Shape
from glmjobs.run.lengths import Lengths
from glmjobs.run.lengths import estimate as estimate_lengths
from glmjobs.zero.directories import is_model
from hpc.batch.profile import Measured, Profile
from hpc.core.errors import BadInput, HpcError
from hpc.health.gpu_peaks import peak_tflops

ROOM = 0.9


GB = 10**9


FIRST_ROWS = 500
"""So many rows tell how many of them can be used, and how many answers a conversation has."""

BELLE_ROWS, BELLE_TOKENS = 248_481, 140
"""BELLE's school_math_0.25M: its lines, and the tokens of one framed example on average."""


KINDS = {"V100 32 GB": 32, "A100 40 GB": 40, "A100 80 GB": 80, "H100 80 GB": 80, "H200 141 GB": 141}
"""Memory in GB by NVIDIA's data sheets."""


UTILISATION = 0.5
"""Assumed share of a GPU's peak at which it computes, recomputation included, where no rehearsal has measured it."""


@dataclass(frozen=True)
class Work:
    """What is to be trained on.

    Attributes:
        rows: training examples.
        tokens: of one framed example on average.
        known: the rows were counted in the file, not assumed to be BELLE's.
        sources: examples an epoch of each source, where there are several.
    """

    rows: int
    tokens: float
    known: bool
    sources: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """One way to train, and what it takes of a GPU and of time.

    Attributes:
        train: the recipe's section with this way's settings.
        memory: bytes by part, see :func:`glmjobs.planning.memory.memory`.
        moment: of a step, that needs most memory.
    """

    train: TrainSection
    setting: Setting
    memory: dict[str, int]
    moment: str
    steps: int
    hours: float

    @property
    def name(self) -> str:
        """As a person would say it."""
        t = self.train
        words = ["LoRA"] if t.method == "lora" else []
        words += [
            f"ZeRO-{self.setting.stage}",
            "recomputed" if t.activation_checkpointing else "activations kept",
        ]
        return ", ".join([*words, *(["optimizer on the CPU"] if self.setting.offload else [])])

    def fits(self, gigabytes: float) -> bool:
        """Whether a GPU of this memory has room for it."""
        return self.memory["total"] <= ROOM * gigabytes * GB

    @property
    def smallest(self) -> str:
        """The smallest of the listed GPUs that has room; "none" where none has."""
        return next((name for name, size in KINDS.items() if self.fits(size)), "none")


def architecture_of(recipe: Recipe) -> tuple[str, Architecture, bool]:
    """The model's name and sizes, and whether they are read from its directory (or recipe), not assumed.

    Raises:
        BadInput: the directory is there and not readable as a model of the family, or of another; it isn't there, and
            the family has no published sizes.
    """
    model = recipe.model
    if (made := model.make) is not None:
        config = {"vocab_size": made.vocab_size, "hidden_size": made.hidden_size, "num_layers": made.layers}
        return "the recipe's small model", family_for(made.family).architecture(config), True
    family, directory = family_for(model.family), Path(str(model.path))
    if is_model(directory):
        return directory.name, declared(directory, model.family).architecture(read_config(directory)), True
    if family.published is None:
        raise BadInput(
            f"{directory}: no config.json there (model.path); sizes of {family.name} are not known here"
        )
    name, sizes = family.published
    return name, family.architecture(sizes), False


def work_of(recipe: Recipe, tokens: float | None) -> Work:
    """How many examples there are, from the data file where it is here.

    Raises:
        BadInput: the recipe's rows are not in the form of ranges, or the first rows of the data are not of their form.
    """
    heads = [_head(data) for data in recipe.data.apart()]
    asked = {row_key(row) for head in heads for row in head.part("dev")} if recipe.data.deduplicate else set()
    counted = [_counted(head, asked) for head in heads]
    by_source: dict[str, int] = {}
    for (rows, each, _), source in zip(counted, recipe.data.sources, strict=False):
        by_source[source.name] = round((source.rows or round(rows * source.weight)) * each)
    trained = sum(by_source.values()) or round(counted[0][0] * counted[0][1])
    return Work(max(1, trained), tokens or BELLE_TOKENS, all(known for *_, known in counted), by_source)


@dataclass(frozen=True)
class _Head:
    """The first rows of one source.

    Attributes:
        rows: those that can be used.
        read: how many there are of them and of the others; fewer than :data:`FIRST_ROWS`: that is the whole source.
    """

    data: DataSection
    rows: list[Row]
    read: int

    def part(self, which: Part) -> list[Row]:
        """The rows of one part."""
        split = Split.parse(self.data.dev_rows, self.data.train_rows)
        return [row for row in self.rows if split.part(row.id) == which]


def _head(data: DataSection) -> _Head:
    """Read them; none where the data are made by the run, or are not here."""
    if data.path is None or not Path(data.path).exists():
        return _Head(data, [], 0)
    columns = Columns(data.prompt_column, data.query_column, data.response_column)
    check = Validator(open_source(data.path), columns, allowed=1.0, form=data.form)
    rows = [row for row in islice(check.rows_and_problems(FIRST_ROWS), FIRST_ROWS) if isinstance(row, Row)]
    return _Head(data, rows, check.rows)


def _counted(head: _Head, dev: set[bytes]) -> tuple[int, float, bool]:
    """Train rows of one source as ``prepare`` keeps them, the answers of each that are learned, and whether the rows
    were counted, not assumed. Of a long source, the first rows tell which share can be used.

    Args:
        dev: the questions of dev rows, of whichever source, which are not trained on.
    """
    data, rows = head.data, head.rows
    train = [row for row in head.part("train") if row_key(row) not in dev]
    answers = [1 if data.loss_on == "last" else 1 + len(row.history) for row in train or rows]
    each = sum(answers) / len(answers) if answers else 1.0
    if head.read and head.read < FIRST_ROWS:
        return len(train), each, True
    split, path = Split.parse(data.dev_rows, data.train_rows), Path(str(data.path))
    there = data.make.rows if data.make is not None else _rows(path) if path.is_file() else 0
    share = len(rows) / head.read if head.read else 1.0
    return round(split.train_rows(there or BELLE_ROWS) * share), each, bool(there)


def _rows(path: Path) -> int:
    """Rows of a text file; 0 where counting them takes reading all of it (an array over few lines)."""
    if path.suffix in (".csv", ".tsv"):
        return sum(1 for _ in open_source(path).records(None))
    return _lines(path) if path.suffix in (".json", ".jsonl") else 0


def _lines(path: Path) -> int:
    """Lines of a file; 0 where it is an array over few lines."""
    with path.open("rb") as file:
        if file.read(1) == b"[":
            return 0
        file.seek(0)
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def estimate(
    a: Architecture, recipe: Recipe, train: TrainSection, shape: Shape, work: Work, flops: float
) -> Estimate:
    """What one way of training takes.

    Args:
        flops: floating-point operations a second that a GPU really does.
    """
    zero = deepspeed_config(train).get("zero_optimization", {})
    stage = int(zero.get("stage", train.zero_stage))
    if train.packing:
        rows_each = max(1, round(train.per_device_batch_size * work.tokens / train.pack_length))
        length, examples = train.pack_length, train.pack_length / work.tokens
    else:
        rows_each, examples = train.per_device_batch_size, 1.0
        length = recipe.data.max_source_length + recipe.data.max_target_length + 2
    positions = rows_each * length
    fixed = frozen(train.freeze, a) if train.freeze and train.method == "full" else None
    lora = train.lora
    targets = tuple(lora.targets) if lora.targets else None
    setting = Setting(
        precision=train.precision, stage=stage, world_size=shape.world_size, positions=positions,
        targets=max(1, positions // 2), checkpointing=train.activation_checkpointing is not False,
        offload="offload_optimizer" in zero, trained=a.lora(lora.rank, targets) if train.method == "lora" else None,
        frozen=fixed,
        reduce_bucket=_elements(zero.get("reduce_bucket_size"), a.hidden * a.hidden if stage == 3 else 500_000_000),
        live=_elements(zero.get("stage3_max_live_parameters"), 1_000_000_000),
        accumulates=train.gradient_accumulation > 1,
    )  # fmt: skip
    moments = sizing.moments(a, setting)
    moment = max(moments, key=lambda name: moments[name]["total"])
    a_step = rows_each * examples * shape.world_size * train.gradient_accumulation
    steps = train.max_steps if train.max_steps > 0 else math.ceil(train.epochs * work.rows / a_step)
    # Padding to the longest of a batch is not known before: without packing the time is that of the tokens alone.
    computed = positions if train.packing else round(rows_each * work.tokens)
    forward = a.flops_per_token(work.tokens) / 3
    passes = 2 if train.method == "lora" else fixed.passes if fixed else 3
    passes += 1 if train.activation_checkpointing else 0
    seconds = forward * passes * computed * train.gradient_accumulation / flops
    return Estimate(train, setting, moments[moment], moment, steps, steps * seconds / 3600)


def decided(recipe: Recipe, profile: Profile, shape: Shape) -> tuple[Recipe, str]:
    """The recipe with ``train.activation_checkpointing: auto`` made yes or no, and why in words ("": it said so, or it
    may be trained on the CPU).

    Activations are kept where a GPU of the profile has room for them. Decided once, when a run is made: it holds for
    every rank, and after every interruption.

    Raises:
        BadInput: see :func:`architecture_of` and :func:`work_of`.
    """
    if recipe.train.activation_checkpointing != "auto":
        return recipe, ""
    _, a, _ = architecture_of(recipe)
    found = _lengths(recipe)
    return _decided(a, recipe, profile, shape, work_of(recipe, found.tokens if found else None))


def _decided(
    a: Architecture, recipe: Recipe, profile: Profile, shape: Shape, work: Work
) -> tuple[Recipe, str]:
    kept = recipe.train.model_copy(update={"activation_checkpointing": False})
    needs = estimate(a, recipe, kept, shape, work, flops=1.0)
    recompute = not needs.fits(profile.gpu_memory_gb)
    train = recipe.train.model_copy(update={"activation_checkpointing": recompute})
    if recipe.train.device != "cuda":  # a small recipe, maybe on the CPU: a GPU's memory decides nothing
        return recipe.model_copy(update={"train": train}), ""
    words = (
        f"activations are {'recomputed' if recompute else 'kept'} (train.activation_checkpointing: auto): kept, a GPU "
        f"needs {needs.memory['total'] / GB:.1f} of its {profile.gpu_memory_gb} GB"
    )
    return recipe.model_copy(update={"train": train}), words


def gpu_memory_needed(recipe: Recipe, profile: Profile, shape: Shape) -> int:
    """Bytes of a GPU on which the recipe fits.

    Raises:
        BadInput: see :func:`decided`.
    """
    recipe, _ = decided(recipe, profile, shape)
    _, a, _ = architecture_of(recipe)
    found = _lengths(recipe)
    work = work_of(recipe, found.tokens if found else None)
    return math.ceil(estimate(a, recipe, recipe.train, shape, work, flops=1.0).memory["total"] / ROOM)


def _elements(value: Any, otherwise: int) -> int:
    return int(float(value)) if isinstance(value, (int, float)) else otherwise


def variants(train: TrainSection) -> Iterator[TrainSection]:
    """The ways that are compared: the recipe's batch with all weights and LoRA, ZeRO-2 and 3, kept and recomputed."""
    for method, stage, kept, offload in (
        ("full", 2, True, False), ("full", 2, False, False), ("full", 3, True, False), ("full", 3, False, False),
        ("full", 2, False, True), ("lora", 2, True, False), ("lora", 2, False, False), ("lora", 3, False, False),
    ):  # fmt: skip
        yield train.model_copy(update={
            "method": method, "zero_stage": stage, "activation_checkpointing": not kept,
            "optimizer_offload": offload, "deepspeed": None,
        })  # fmt: skip


def candidates(train: TrainSection) -> Iterator[TrainSection]:
    """The recipe's method and examples a step in other ways, the fastest first.

    The order: the optimizer stays on the GPU (its step on the CPU is the slowest part by far); nothing is computed
    twice (a third more work); as few micro-batches as possible (ZeRO sends gradients with each); ZeRO-2 before 3
    (half as much again is sent, Rajbhandari et al. 2020, section 7).
    """
    batch = train.per_device_batch_size
    splits = [n for n in (1, 2, 4, 8, 16) if batch % n == 0]
    stages = (2,) if train.compile is True else (2, 3)  # what the schema refuses is not offered
    for offload in (False, True):
        for kept in (True, False):
            for split in splits:
                for stage in stages:
                    yield train.model_copy(update={
                        "zero_stage": stage, "activation_checkpointing": not kept, "optimizer_offload": offload,
                        "per_device_batch_size": batch // split,
                        "gradient_accumulation": train.gradient_accumulation * split, "deepspeed": None,
                    })  # fmt: skip


def fastest(train: TrainSection, of: Callable[[TrainSection], Estimate], gigabytes: float) -> Estimate | None:
    """The fastest way of the recipe's method that a GPU of this memory has room for; None where none has.

    Args:
        of: what a way takes.
    """
    return next((e for e in map(of, candidates(train)) if e.fits(gigabytes)), None)


def adapters(train: TrainSection) -> TrainSection | None:
    """The same training, of a LoRA alone; None where it is one already."""
    if train.method == "lora":
        return None
    return train.model_copy(update={"method": "lora", "freeze": ()})


def changes(wanted: TrainSection, given: TrainSection) -> list[str]:
    """What to say to ``--set`` to get one from the other."""
    fields = (
        "method", "freeze", "zero_stage", "activation_checkpointing", "optimizer_offload", "per_device_batch_size",
        "gradient_accumulation", "deepspeed",
    )  # fmt: skip
    pairs = [(name, getattr(wanted, name), getattr(given, name)) for name in fields]
    return [
        f"train.{name}={new if isinstance(new, str) else json.dumps(new)}"
        for name, new, old in pairs
        if new != old
    ]


def plan(
    recipe: Recipe,
    profile: Profile,
    shape: Shape,
    *,
    tokens: float | None = None,
    utilisation: float | None = None,
) -> dict[str, Any]:
    """Everything that is printed, as one JSON-able document; memory and disk in bytes. ``with_lora``: where nothing of
    the recipe's method fits, the settings with which a LoRA does.

    Args:
        utilisation: share of a GPU's peak; None: what a rehearsal of this model in this shape has measured, by the
            profile, else :data:`UTILISATION`.

    Raises:
        BadInput: see :func:`architecture_of` and :func:`work_of`; a LoRA target that the model has not.
    """
    name, a, read = architecture_of(recipe)
    found = _lengths(recipe)
    too_long = {"too_long": words} if found and (words := found.words()) else {}
    work = work_of(recipe, tokens or (found.tokens if found else None))
    if recipe.train.activation_checkpointing == "auto":
        recipe, _ = _decided(a, recipe, profile, shape, work)
    kind, peak = _gpu(profile)
    measured = _measured(profile, name, shape) if utilisation is None else None
    share = utilisation or (measured.utilisation if measured else None) or UTILISATION
    flops = share * peak * 1e12

    def of(train: TrainSection) -> Estimate:
        return estimate(a, recipe, train, shape, work, flops)

    given = of(recipe.train)
    best = fastest(recipe.train, of, profile.gpu_memory_gb)
    lora = None if best else adapters(recipe.train)
    lighter = fastest(lora, of, profile.gpu_memory_gb) if lora else None
    checkpoint = sizing.checkpoint_bytes(a, given.setting)
    width = 4 if recipe.consolidate.dtype == "float32" else 2
    model = a.parameters * width
    keep = recipe.train.kept_checkpoints + 1  # the next one is whole before the oldest goes
    return {
        "recipe": recipe.name,
        "model": {"name": name, "parameters": a.parameters, "layers": a.layers, "read": read},
        "trained_parameters": given.setting.trains(a),
        "shape": {"nodes": shape.nodes, "gpus": shape.gpus},
        "gpu": {"kind": kind, "memory_gb": profile.gpu_memory_gb, "peak_tflops": peak, "room": ROOM},
        "data": {
            "rows": work.rows,
            "tokens_per_example": work.tokens,
            "tokens_from": "given" if tokens else "measured" if found else "assumed",
            "counted": work.known,
            **too_long,
            "sources": work.sources,
        },
        "utilisation": share,
        "utilisation_from": "given" if utilisation else measured.time if measured else "assumed",
        "setting": _document(given, profile),
        "settings": [_document(e, profile) for e in map(of, variants(recipe.train))],
        "proposal": {**_document(best, profile), "set": changes(best.train, recipe.train)} if best else None,
        "with_lora": changes(lighter.train, recipe.train) if lighter else None,
        "checkpoint_bytes": checkpoint,
        "model_bytes": model,
        "disk_bytes": keep * checkpoint + model,
        "host_bytes_per_node": sizing.host_memory(a, given.setting, shape.gpus, mapped=mapped(recipe)),
    }


def mapped(recipe: Recipe) -> bool:
    """Whether the base model's weights are safetensors; where it is not here, as fetch would form them."""
    return recipe.model.path is None or not any(Path(recipe.model.path).glob("pytorch_model*.bin*"))


def _lengths(recipe: Recipe) -> Lengths | None:
    """Of the data, where they and the tokenizer are here and good; what is wrong with them is submit's to say."""
    with contextlib.suppress(HpcError, OSError):
        return estimate_lengths(recipe)
    return None


def _measured(profile: Profile, model: str, shape: Shape) -> Measured | None:
    """The newest rehearsal of the model in this shape that measured how fast a GPU computes."""
    found = [
        m for m in profile.measured
        if m.utilisation and (m.what, m.nodes, m.gpus) == (model, shape.nodes, shape.gpus)
    ]  # fmt: skip
    return found[-1] if found else None


def _gpu(profile: Profile) -> tuple[str, float]:
    """The profile's GPU, and the peak of its kind in TFLOPS; an A100 where it names none that is known.

    A GRES type is a site's own word (``a100l``, ``h100-sxm``): it need only hold a kind's name.
    """
    wanted = (profile.gpu_type or "a100").upper()
    kind = next((name for name in ("V100", "A100", "A800", "H100", "H800", "H200") if name in wanted), "A100")
    peak = peak_tflops(kind)
    assert peak is not None, kind
    return kind, peak


def _document(e: Estimate, profile: Profile) -> dict[str, Any]:
    t = e.train
    return {
        "name": e.name, "method": t.method, "zero_stage": e.setting.stage,
        "activation_checkpointing": t.activation_checkpointing, "optimizer_offload": e.setting.offload,
        "per_device_batch_size": t.per_device_batch_size, "gradient_accumulation": t.gradient_accumulation,
        "positions": e.setting.positions, "memory": e.memory, "moment": e.moment,
        "fits": e.fits(profile.gpu_memory_gb), "smallest_gpu": e.smallest, "steps": e.steps, "hours": round(e.hours, 3),
        "step_seconds": 3600 * e.hours / max(1, e.steps),
    }  # fmt: skip
