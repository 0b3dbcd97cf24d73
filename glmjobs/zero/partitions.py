"""From the flat float32 groups of all ranks to the model's parameters: ZeRO-1 and 2, and ZeRO-3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmjobs.zero import layout
from glmjobs.zero.layout import Extent, Tensor
from glmjobs.zero.shards import OptimizerShard, shape_groups
from glmjobs.zero.torch_file import Opaque, TorchFile
from glmjobs.zero.weights import extent_of, tensor_of
from hpc.core.errors import WorkFailed


def parameters(ranks: list[OptimizerShard], models: list[TorchFile], stage: int) -> dict[str, Tensor]:
    """Every parameter that the shards hold, trained or frozen.

    Raises:
        WorkFailed: a group is missing or too short, or a shard is another rank's.
    """
    tensors = trained(ranks, models, stage)
    _add_frozen(tensors, models, sliced=stage == 3)
    return _by_name(tensors, models[0].path)


def trained(
    ranks: list[OptimizerShard], models: list[TorchFile], stage: int, what: str = "fp32"
) -> list[Tensor]:
    """The trained parameters' float32 weights, or a state that the optimizer has for each, such as ``exp_avg``.

    Raises:
        WorkFailed: as ``parameters``; or there is no such state.
    """
    flats = [rank.flat_groups(what) for rank in ranks]
    groups, where = shape_groups(models[0]), ranks[0].file.path.parent
    if stage == 3:  # each rank has a slice of every parameter
        shapes = {name: shape for group in groups for name, shape in group.items()}
        return layout.sliced_parameters(shapes, flats, where)
    for rank, held in zip(ranks, flats, strict=True):  # each rank has a part of every group
        if len(held) != len(groups):
            raise WorkFailed(
                f"{rank.file.path}: should hold {len(groups)} float32 groups, one a parameter group"
            )
    paddings = ranks[0].state.get("param_alignment_paddings")
    if paddings is not None and len(paddings) != len(groups):
        raise WorkFailed(
            f"{ranks[0].file.path}: alignment paddings of {len(paddings)} groups, not {len(groups)}"
        )
    tensors = layout.flat_partitions(groups, flats, paddings, where)
    # DeepSpeed's notes disregard alignment padding and the reordering of round_robin_gradients.
    if not setting(models[0], "round_robin_gradients") and (paddings is None or not any(map(any, paddings))):
        for index, rank in enumerate(ranks):
            _check_slices(index, rank, groups, flats)
    return tensors


def _check_slices(
    index: int, rank: OptimizerShard, groups: list[layout.Shapes], partitions: list[list[Extent]]
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


def setting(model: TorchFile, name: str) -> Any:
    """A field of the DeepSpeed configuration's zero_optimization, as the checkpoint kept it."""
    config = model.value.get("ds_config")
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    return zero.get(name) if isinstance(zero, dict) else None


def _by_name(tensors: list[Tensor], where: Path) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name in named:
            raise WorkFailed(f"{where}: parameter {tensor.name} is listed twice")
        named[tensor.name] = tensor
    return named
