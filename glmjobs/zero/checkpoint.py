"""Finding and checking a checkpoint: what it holds, under which names, and whether its files belong together.

``open_checkpoint`` takes what DeepSpeed (0.9 to 0.19, ZeRO-1, 2 and 3), transformers' Trainer or
``save_pretrained`` left behind, and returns one :class:`Checkpoint`: tensors as extents of its files, tied
names, and what to compare them with. Only the small pickles are read here; no number but the optimizer's step
counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glmjobs.zero import committed, layout
from glmjobs.zero.dtypes import FLOATING, SIZE, to_float32
from glmjobs.zero.guarded_files import inside, open_regular, read_json, read_small, reading
from glmjobs.zero.layout import Extent, Tensor
from glmjobs.zero.model_files import WEIGHT_FILES
from glmjobs.zero.safetensors_file import read_tensors
from glmjobs.zero.torch_file import Opaque, TensorRef, TorchFile
from hpc.core.errors import BadInput, WorkFailed

OPTIMIZER_FILE = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: the directory that was opened (checkpoint-N).
        kind: "zero" (sharded training state), "weights" (a plain model) or "adapter" (LoRA weights only).
        tensors: every stored tensor once, in the model's order where it is known.
        aliases: tied names: {other name: name in ``tensors``}.
        comparisons: {name: the same tensor as the checkpoint's own half-precision copy}, for a cross-check.
        frozen: names of parameters that were not trained, where known; ``buffers``: of buffers.
        files: of a sharded training state: the files that were read, all that belong to it.
        suspicion: why its files may be of different steps, in words; for a cross-check.
        zero_stage, world_size, version, step: of the training, where known.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    aliases: dict[str, str] = field(default_factory=dict)
    comparisons: dict[str, Tensor] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    buffers: set[str] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)
    suspicion: str | None = None
    zero_stage: int | None = None
    world_size: int | None = None
    version: str | None = None
    step: int | None = None

    @property
    def numel(self) -> int:
        """Elements stored, tied ones once."""
        return sum(tensor.numel for tensor in self.tensors.values())


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint directory: checkpoint-N, a global_stepN inside one, or a plain model directory.

    Raises:
        BadInput: there is no checkpoint of a known kind at ``path``.
        WorkFailed: there is one, but a file is missing, truncated, of another step or rank, or not plain
            data.
    """
    if not path.is_dir():
        raise BadInput(f"{path}: no such directory; a checkpoint is a folder such as checkpoint-1000")
    opened = _open(path)
    if not opened.numel:
        raise WorkFailed(f"{path}: holds no tensors of a model (a state dict maps names to tensors)")
    for name in (*opened.tensors, *opened.aliases):
        # The safetensors format is UTF-8 and keeps its own notes under the first of these.
        if name == "__metadata__" or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise WorkFailed(f"{path}: a parameter named {name!r}; model files cannot hold that name")
    return opened


def _open(path: Path) -> Checkpoint:
    committed.check(path)
    folder = zero_folder(path)
    if folder is not None:
        opened = _open_zero(path, folder)
        _compare_with_weights(opened)
        return opened
    for names, kind in ((WEIGHT_FILES, "weights"), (ADAPTER_FILES, "adapter")):
        for name in names:
            if (path / name).exists():
                return Checkpoint(path, kind, read_weights(path, name), step=_trainer_step(path))
    raise BadInput(
        f"{path}: neither a DeepSpeed checkpoint (a file 'latest' or *_optim_states.pt) nor a model "
        f"({', '.join(WEIGHT_FILES[:3])})"
    )


def zero_folder(path: Path) -> Path | None:
    """The folder with the optimizer shards, None where ``path`` is not a DeepSpeed checkpoint."""
    if any(OPTIMIZER_FILE.fullmatch(entry.name) for entry in path.iterdir()):
        return path
    latest = path / "latest"
    if not os.path.lexists(latest):
        folders = sorted(p for p in path.glob("global_step*") if p.is_dir())
        if len(folders) > 1:
            raise BadInput(
                f"{path}: several {folders[0].name}-like folders and no file 'latest'; name one of them"
            )
        return folders[0] if folders else None
    with reading(latest, "it should name a folder such as global_step1000"):
        tag = read_small(inside(path, "latest")).decode("utf-8").strip()
    if not tag or "/" in tag or tag in (".", "..") or "\x00" in tag:
        raise WorkFailed(
            f"{latest}: should name a folder beside it, such as global_step1000, not {tag[:80]!r}"
        )
    folder = inside(path, tag)
    if not folder.is_dir():
        raise WorkFailed(f"{folder}: missing, though {latest} names it")
    return folder


# --- DeepSpeed ----------------------------------------------------------------------------------------------


@dataclass
class _Rank:
    """One rank's optimizer shard."""

    file: TorchFile
    state: Mapping[Any, Any]

    def extent(self, tensor: Any) -> Extent:
        return extent_of(self.file, tensor, "a flat group")


def _open_zero(path: Path, folder: Path) -> Checkpoint:
    ranks = _optimizer_shards(path, folder)
    first = ranks[0].state
    stage = _whole(first.get("zero_stage"))
    if stage not in (1, 2, 3):
        raise WorkFailed(f"{ranks[0].file.path}: its ZeRO stage is {stage}, this reader knows 1, 2 and 3")
    models = _model_states(path, folder, stage, len(ranks))
    step, suspicion = _same_step(folder, ranks, models)
    model = models[0]
    build = _from_slices if stage == 3 else _from_partitions
    tensors = build(ranks, models)
    opened = Checkpoint(
        path,
        "zero",
        tensors,
        zero_stage=stage,
        world_size=len(ranks),
        step=step,
        files=[*(rank.file.path for rank in ranks), *(model.path for model in models)],
        suspicion=suspicion,
        version=_text(model.value.get("ds_version")),
    )
    _add_module(opened, model)
    return opened


def _optimizer_shards(path: Path, folder: Path) -> list[_Rank]:
    """All ranks' shards in order, each proven to be the file its name says."""
    found: dict[int, str] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("expp_rank") or "_expert_" in entry.name:
            raise WorkFailed(
                f"{entry}: a mixture-of-experts checkpoint; its experts are not consolidated here"
            )
        match = OPTIMIZER_FILE.fullmatch(entry.name)
        if not match:
            continue
        if int(match[2]) != 0:
            raise WorkFailed(
                f"{entry}: tensor-parallel (mp_rank {match[2]}); only data-parallel checkpoints are read"
            )
        if int(match[1]) in found:
            raise WorkFailed(f"{entry}: a second shard of rank {int(match[1])} beside {found[int(match[1])]}")
        found[int(match[1])] = entry.name
    if not found:
        raise WorkFailed(f"{folder}: holds no *_optim_states.pt: the sharded training state is missing")
    ranks = []
    for rank in sorted(found):
        file = _torch_file(inside(path, str((folder / found[rank]).relative_to(path))))
        state = file.value.get("optimizer_state_dict") if isinstance(file.value, dict) else None
        if not isinstance(state, dict) or "zero_stage" not in state:
            raise WorkFailed(f"{file.path}: not a ZeRO optimizer state")
        _check_optimizer_fields(file, state)
        ranks.append(_Rank(file, state))
        _check_same(ranks[0], ranks[-1])
    count = _plain(ranks[0].state.get("partition_count"))
    world = max((n for n in count if isinstance(n, int)), default=0) if isinstance(count, list) else count
    if not isinstance(world, int) or world < 1:
        raise WorkFailed(f"{ranks[0].file.path}: does not say how many ranks there were")
    missing = sorted(set(range(world)) - set(found))
    if missing:
        name = re.sub(r"rank_\d+_mp", f"rank_{missing[0]}_mp", found[min(found)])
        raise WorkFailed(f"{folder / name}: missing; the checkpoint was written by {world} ranks")
    extra = sorted(set(found) - set(range(world)))
    if extra:
        raise WorkFailed(
            f"{folder / found[extra[0]]}: left over; the checkpoint was written by {world} ranks"
        )
    return ranks


def _torch_file(path: Path) -> TorchFile:
    """A file of torch.save whose inner name (taken from the file's) says it was not renamed since."""
    file = TorchFile(path)
    if file.root not in (path.stem, "archive"):
        raise WorkFailed(
            f"{path}: was written as {file.root}.pt: a shard swapped with another rank's, or renamed"
        )
    return file


def _check_same(first: _Rank, other: _Rank) -> None:
    for what in ("zero_stage", "partition_count", "ds_version"):
        mine, its = _plain(first.state.get(what)), _plain(other.state.get(what))
        if mine != its:
            raise WorkFailed(
                f"{other.file.path}: its {what} is {its!r}, but {mine!r} in "
                f"{first.file.path.name}: shards of different checkpoints"
            )


def _model_states(path: Path, folder: Path, stage: int, world: int) -> list[TorchFile]:
    """The model state files: one for ZeRO-1 and 2, one a rank for ZeRO-3."""
    if stage == 3:
        names = [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(world)]
    else:
        names = ["mp_rank_00_model_states.pt"]
    if any(folder.glob("mp_rank_01_model_states.pt")) or any(folder.glob("layer_*-model_states.pt")):
        raise WorkFailed(
            f"{folder}: a tensor- or pipeline-parallel checkpoint; only data-parallel ones are read"
        )
    files: list[TorchFile] = []
    for name in names:
        file = _torch_file(inside(path, str((folder / name).relative_to(path))))
        if not isinstance(file.value, dict) or not isinstance(file.value.get("param_shapes"), list):
            raise WorkFailed(f"{file.path}: not a model state of a ZeRO checkpoint (no param_shapes)")
        _check_model_fields(file)
        if files and _shape_groups(file) != _shape_groups(files[0]):
            raise WorkFailed(
                f"{file.path}: lists other parameters than {files[0].path.name}: of another checkpoint"
            )
        files.append(file)
    return files


def _check_model_fields(file: TorchFile) -> None:
    """That the fields of a model state that are used here are of the types DeepSpeed gives them."""

    def shapes(value: Any) -> bool:
        return isinstance(value, dict) and all(
            isinstance(name, str)
            and isinstance(shape, tuple)
            and all(type(n) is int and n >= 0 for n in shape)
            for name, shape in value.items()
        )

    def texts(value: Any) -> bool:
        return all(isinstance(text, str) for text in value)

    tests: dict[str, Callable[[Any], bool]] = {
        "param_shapes": lambda value: isinstance(value, list) and all(map(shapes, value)),
        "frozen_param_shapes": shapes,
        "frozen_param_fragments": lambda value: isinstance(value, dict),
        "shared_params": lambda value: isinstance(value, dict) and texts([*value, *value.values()]),
        "buffer_names": lambda value: isinstance(value, list) and texts(value),
        "module": lambda value: isinstance(value, dict),
    }
    _check_fields(file, file.value, tests)


def _check_optimizer_fields(file: TorchFile, state: Mapping[Any, Any]) -> None:
    """The same of an optimizer shard."""

    def paddings(value: Any) -> bool:
        return isinstance(value, list) and all(
            isinstance(group, list) and all(type(n) is int and n >= 0 for n in group) for group in value
        )

    tests: dict[str, Callable[[Any], bool]] = {
        "param_alignment_paddings": paddings,
        "param_slice_mappings": lambda value: (
            isinstance(value, list) and all(isinstance(group, dict) for group in value)
        ),
    }
    _check_fields(file, state, tests)


def _check_fields(
    file: TorchFile, state: Mapping[Any, Any], tests: Mapping[str, Callable[[Any], bool]]
) -> None:
    for name, right in tests.items():
        value = state.get(name)
        if value is not None and not right(value):
            raise WorkFailed(f"{file.path}: damaged, its {name} is not what DeepSpeed writes there")


def _same_step(folder: Path, ranks: list[_Rank], models: list[TorchFile]) -> tuple[int | None, str | None]:
    """The step all files agree on, and what speaks against it without proving it.

    Raises:
        WorkFailed: naming the file that disagrees: a save was interrupted, or files were mixed.
    """
    step = _whole(models[0].value.get("global_steps"))
    for model in models[1:]:
        its = _whole(model.value.get("global_steps"))
        if its != step:
            raise WorkFailed(
                f"{model.path}: is of step {its}, but {models[0].path.name} of step {step}: mixed-step checkpoint"
            )
    named = re.fullmatch(r"global_step(\d+)", folder.name)
    if named and step is not None and int(named[1]) != step:
        raise WorkFailed(
            f"{models[0].path}: is of step {step}, but lies in {folder.name}: mixed-step checkpoint"
        )
    made = {rank.file.path: own for rank in ranks if (own := _optimizer_step(rank)) is not None}
    # Steps skipped for overflow count as the model's, not as the optimizer's.
    due = None if step is None else step - (_whole(models[0].value.get("skipped_steps")) or 0)
    if len(set(made.values())) > 1:
        right = due if due in made.values() else next(iter(made.values()))
        good = next(path for path, own in made.items() if own == right)
        odd = next(path for path, own in made.items() if own != right)
        raise WorkFailed(
            f"{odd}: its optimizer made {made[odd]:g} steps, but {right:g} in {good.name}: mixed-step checkpoint"
        )
    for path, own in made.items():
        # One more: older releases (0.9) make a step on zeros when they start, which torch's optimizers count.
        if due is not None and own not in (due, due + 1):
            return step, (
                f"{path}: its optimizer made {own:g} steps, but {models[0].path.name} is of step {step} with "
                f"{due} made: mixed-step checkpoint, or one of a training that began anew from weights only "
                "(consolidate --no-cross-check takes it)"
            )
    return step, None


def _optimizer_step(rank: _Rank) -> float | None:
    """How many steps the shard's optimizer made, None where it does not say."""
    direct = rank.state.get("base_optimizer_state_step")
    if isinstance(direct, int):
        return float(direct)
    pending: list[tuple[Any, int]] = [
        (rank.state.get("base_optimizer_state"), 0),
        (rank.state.get("optimizer_state_dict"), 0),
    ]
    while pending:
        value, depth = pending.pop(0)
        if isinstance(value, dict) and "step" in value:
            step = value["step"]
            if isinstance(step, TensorRef) and step.numel == 1:
                return float(read_values(extent_of(rank.file, step, "step"))[0])
            return float(step) if isinstance(step, int | float) else None
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if depth < 4:
            pending += [(child, depth + 1) for child in children]
    return None


def _from_partitions(ranks: list[_Rank], models: list[TorchFile]) -> dict[str, Tensor]:
    """ZeRO-1 and 2."""
    groups = _shape_groups(models[0])
    partitions = []
    for rank in ranks:
        flats = rank.state.get("single_partition_of_fp32_groups")
        if not isinstance(flats, list) or len(flats) != len(groups):
            raise WorkFailed(
                f"{rank.file.path}: should hold {len(groups)} float32 groups, one a parameter group"
            )
        partitions.append([rank.extent(flat) for flat in flats])
    paddings = ranks[0].state.get("param_alignment_paddings")
    if paddings is not None and len(paddings) != len(groups):
        raise WorkFailed(
            f"{ranks[0].file.path}: alignment paddings of {len(paddings)} groups, not {len(groups)}"
        )
    tensors = layout.flat_partitions(groups, partitions, paddings, ranks[0].file.path.parent)
    # DeepSpeed's notes disregard alignment padding and the reordering of round_robin_gradients.
    if not _setting(models[0], "round_robin_gradients") and (paddings is None or not any(map(any, paddings))):
        for index, rank in enumerate(ranks):
            _check_slices(index, rank, groups, partitions)
    _add_frozen(tensors, models, sliced=False)
    return _by_name(tensors, models[0].path)


def _check_slices(
    index: int, rank: _Rank, groups: list[layout.Shapes], partitions: list[list[Extent]]
) -> None:
    """DeepSpeed notes in every shard which parameters it holds: finds shards swapped between ranks."""
    noted = rank.state.get("param_slice_mappings")
    if not isinstance(noted, list) or len(noted) != len(groups) or len(partitions) == 1:
        return
    for group, (shapes, mapping) in enumerate(zip(groups, noted, strict=True)):
        length = partitions[0][group].count
        expected = layout.slices(shapes, index * length, length)
        found = {
            name: (address.state.get("start"), address.state.get("numel"))
            for name, address in mapping.items()
            if isinstance(address, Opaque) and isinstance(address.state, dict)
        }
        if len(found) == len(mapping) and found != expected:
            raise WorkFailed(
                f"{rank.file.path}: holds other parameters than rank {index} does: a shard swapped with "
                "another rank's, or of another checkpoint"
            )


def _from_slices(ranks: list[_Rank], models: list[TorchFile]) -> dict[str, Tensor]:
    """ZeRO-3."""
    shapes = {name: shape for group in _shape_groups(models[0]) for name, shape in group.items()}
    flats = []
    for rank in ranks:
        groups = rank.state.get("fp32_flat_groups")
        if not isinstance(groups, list):
            raise WorkFailed(f"{rank.file.path}: holds no float32 flat groups")
        flats.append([rank.extent(flat) for flat in groups])
    tensors = layout.sliced_parameters(shapes, flats, ranks[0].file.path.parent)
    _add_frozen(tensors, models, sliced=True)
    return _by_name(tensors, models[0].path)


def _add_frozen(tensors: list[Tensor], models: list[TorchFile], sliced: bool) -> None:
    shapes = models[0].value.get("frozen_param_shapes") or {}
    for name, shape in shapes.items():
        held = [(model.value.get("frozen_param_fragments") or {}).get(name) for model in models]
        if sliced:
            what = f"the frozen parameter {name}"
            fragments = [extent_of(model, ref, what) for model, ref in zip(models, held, strict=True)]
            tensors.append(layout.sliced_frozen(name, shape, fragments, models[0].path.parent))
        else:
            whole = tensor_of(models[0], name, held[0])
            tensors.append(layout.checked(Tensor(name, shape, whole.extents), models[0].path))


def _add_module(opened: Checkpoint, model: TorchFile) -> None:
    """What the model state holds: buffers, tied names, parameters no optimizer owns, copies to compare."""
    module: dict[Any, Any] = model.value.get("module") or {}
    shared = model.value.get("shared_params") or {}
    opened.buffers.update(model.value.get("buffer_names") or [])
    opened.frozen.update(model.value.get("frozen_param_shapes") or {})
    for other, name in shared.items():
        if other in opened.tensors:
            raise WorkFailed(
                f"{model.path}: says that {other} is tied to {name}, but it has values of its own"
            )
    opened.aliases.update({other: name for other, name in shared.items() if name in opened.tensors})
    by_place = {
        _place(ref): name
        for name, ref in module.items()
        if name in opened.tensors and isinstance(ref, TensorRef)
    }
    for name, ref in module.items():
        if not isinstance(ref, TensorRef) or not isinstance(name, str):
            continue
        known = opened.tensors.get(opened.aliases.get(name, name))
        if known is not None:
            if ref.shape == known.shape and ref.dtype in FLOATING and ref.numel and ref.contiguous:
                opened.comparisons[name] = tensor_of(model, name, ref)
        elif _place(ref) in by_place:
            opened.aliases[name] = by_place[_place(ref)]
        elif ref.numel or opened.zero_stage != 3 or name in opened.buffers:
            opened.tensors[name] = tensor_of(model, name, ref)
            if name not in opened.buffers:
                opened.frozen.add(name)
        elif name in shared and any(".lora_A." in other for other in module):
            continue  # tied to a frozen parameter, which the Trainer leaves out: the base model has it
        else:
            raise WorkFailed(f"{model.path}: parameter {name} is in the model but no shard holds its values")


def _place(ref: TensorRef) -> tuple[Any, ...]:
    return ref.storage.key, ref.offset, ref.shape


def _compare_with_weights(opened: Checkpoint) -> None:
    """The Trainer leaves a half-precision copy beside the shards; ZeRO-3 has no other to compare with."""
    for name in WEIGHT_FILES[:2]:
        if (opened.path / name).exists() and not opened.comparisons:
            for key, tensor in read_weights(opened.path, name).items():
                known = opened.tensors.get(opened.aliases.get(key, key))
                if known is not None and known.shape == tensor.shape and tensor.dtype in FLOATING:
                    opened.comparisons[key] = tensor


def _shape_groups(model: TorchFile) -> list[layout.Shapes]:
    groups: list[layout.Shapes] = model.value["param_shapes"]
    return groups


def _by_name(tensors: list[Tensor], where: Path) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name in named:
            raise WorkFailed(f"{where}: parameter {tensor.name} is listed twice")
        named[tensor.name] = tensor
    return named


# --- plain weights ------------------------------------------------------------------------------------------


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a weight file or index (safetensors, or torch's .bin without unpickling)."""
    if name.endswith(".index.json"):
        with reading(path / name, "it should map tensors to files"):
            mapping = read_json(inside(path, name))["weight_map"]
            files = sorted({str(file) for file in mapping.values()})
        if any(file.endswith(".index.json") for file in files):
            raise WorkFailed(f"{path / name}: damaged; it should map tensors to files, not to another index")
        found: dict[str, Tensor] = {}
        for file in files:
            found.update(read_weights(path, file))
        missing = sorted(set(mapping) - set(found))
        if missing:
            raise WorkFailed(
                f"{path / mapping[missing[0]]}: lacks {missing[0]!r}, which {name} says it holds"
            )
        return found
    target = inside(path, name)
    if name.endswith(".safetensors"):
        return read_tensors(target)
    saved = TorchFile(target)
    if not isinstance(saved.value, dict):
        raise WorkFailed(f"{target}: not a state dict")
    return {
        str(key): tensor_of(saved, str(key), ref)
        for key, ref in saved.value.items()
        if isinstance(ref, TensorRef)
    }


def _trainer_step(path: Path) -> int | None:
    try:
        with reading(path / "trainer_state.json", "it should hold global_step"):
            step = read_json(inside(path, "trainer_state.json"))["global_step"]
    except WorkFailed:
        return None
    return step if isinstance(step, int) else None


# --- small helpers ------------------------------------------------------------------------------------------


def extent_of(file: TorchFile, ref: Any, what: str) -> Extent:
    """The extent of a tensor of a torch file.

    Raises:
        WorkFailed: it is no tensor, not contiguous, or outside its storage.
    """
    if not isinstance(ref, TensorRef):
        raise WorkFailed(f"{file.path}: {what} is not a tensor")
    offset, _ = file.byte_range(ref, what)
    return Extent(file.path, offset, ref.numel, ref.dtype)


def tensor_of(file: TorchFile, name: str, ref: Any) -> Tensor:
    """A whole tensor of a torch file.

    Raises:
        WorkFailed: it is no tensor, outside its storage, or of a type or layout that is not read.
    """
    if not isinstance(ref, TensorRef):
        raise WorkFailed(f"{file.path}: {name} is not a tensor")
    extents = (Extent(file.path, offset, count, ref.dtype) for offset, count in file.runs(ref, name))
    return Tensor(name, ref.shape, tuple(extents))


def read_values(extent: Extent) -> np.ndarray[Any, Any]:
    """A small extent's numbers: floats as float32, others in their own type.

    Raises:
        WorkFailed: the file ends before.
    """
    size = SIZE[extent.dtype] * extent.count
    try:
        with open_regular(extent.file) as file:
            file.seek(extent.offset)
            raw = np.frombuffer(file.read(size), np.uint8)
    except OSError as error:
        raise WorkFailed(f"{extent.file}: cannot be read: {error.strerror or error}") from None
    if raw.size != size:
        raise WorkFailed(f"{extent.file}: truncated, it ends inside a tensor")
    if extent.dtype in FLOATING:
        return to_float32(raw, extent.dtype)
    return raw.view({"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}.get(extent.dtype, "u1"))


def _setting(model: TorchFile, name: str) -> Any:
    """A field of the DeepSpeed configuration's zero_optimization, as the checkpoint kept it."""
    config = model.value.get("ds_config")
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    return zero.get(name) if isinstance(zero, dict) else None


def _whole(value: Any) -> int | None:
    if isinstance(value, Opaque) and len(value.args) == 1:  # an enum's member: its class and value
        value = value.args[0]
    return value if isinstance(value, int) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _plain(value: Any) -> int | str | list[Any] | None:
    """A whole number, text or list of numbers; None for anything else, which may be endless."""
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return _text(value) or _whole(value)
