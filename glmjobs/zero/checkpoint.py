"""Finding and checking a checkpoint: what it holds, under which names, and whether its files belong together.

``open_checkpoint`` takes what DeepSpeed (0.9 to 0.19, ZeRO-1, 2 and 3), transformers' Trainer or
``save_pretrained`` left behind, and returns one :class:`Checkpoint`: tensors as extents of its files, tied
names, and what to compare them with. Only the small pickles are read here; no number but the optimizer's step
counts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmjobs.zero import committed
from glmjobs.zero.directories import FILES as ADAPTER_FILES
from glmjobs.zero.directories import WEIGHT_FILES
from glmjobs.zero.dtypes import FLOATING
from glmjobs.zero.guarded_files import inside, read_json, read_small, reading
from glmjobs.zero.layout import Tensor
from glmjobs.zero.partitions import parameters
from glmjobs.zero.shards import (
    OPTIMIZER_FILE,
    OptimizerShard,
    model_states,
    optimizer_shards,
    same_step,
    text_or_none,
    whole_number,
)
from glmjobs.zero.torch_file import TensorRef, TorchFile
from glmjobs.zero.weights import read_weights, tensor_of
from hpc.core.errors import BadInput, HpcError, WorkFailed


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
        ranks, models: of a sharded training state: its optimizer shards and model states, all that belong to it.
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
    ranks: list[OptimizerShard] = field(default_factory=list)
    models: list[TorchFile] = field(default_factory=list)
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
        what = "a file" if path.exists() else "no such directory"
        raise BadInput(f"{path}: {what}; a checkpoint is a folder such as checkpoint-1000")
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


def _open_zero(path: Path, folder: Path) -> Checkpoint:
    ranks = optimizer_shards(path, folder)
    first = ranks[0].state
    stage = whole_number(first.get("zero_stage"))
    if stage not in (1, 2, 3):
        raise WorkFailed(f"{ranks[0].file.path}: its ZeRO stage is {stage}, this reader knows 1, 2 and 3")
    models = model_states(path, folder, stage, len(ranks))
    step, suspicion = same_step(folder, ranks, models)
    model = models[0]
    opened = Checkpoint(
        path,
        "zero",
        parameters(ranks, models, stage),
        zero_stage=stage,
        world_size=len(ranks),
        step=step,
        ranks=ranks,
        models=models,
        suspicion=suspicion,
        version=text_or_none(model.value.get("ds_version")),
    )
    _add_module(opened, model)
    return opened


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


def _trainer_step(path: Path) -> int | None:
    try:
        with reading(path / "trainer_state.json", "it should hold global_step"):
            step = read_json(inside(path, "trainer_state.json"))["global_step"]
    except HpcError:
        return None
    return step if isinstance(step, int) else None
