"""The files of a sharded training state: all there, each its rank's and its step's, and of DeepSpeed's own form.

Optimizer shards hold the float32 weights; model states say which parameters they are. Only the small pickles are read
here; no number but the optimizer's step counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmjobs.zero import layout
from glmjobs.zero.checksums import check_whole
from glmjobs.zero.guarded_files import inside
from glmjobs.zero.layout import Extent
from glmjobs.zero.torch_file import Opaque, TensorRef, TorchFile
from glmjobs.zero.weights import extent_of, read_values
from hpc.core.errors import WorkFailed

OPTIMIZER_FILE = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")


@dataclass
class OptimizerShard:
    """One rank's optimizer shard."""

    file: TorchFile
    state: Mapping[Any, Any]

    def flat_groups(self, what: str = "fp32") -> list[Extent]:
        """Where the flat groups' numbers are: the float32 weights, or the optimizer's state ``what`` of each.

        Raises:
            WorkFailed: there are none.
        """
        flats = self.state.get("single_partition_of_fp32_groups", self.state.get("fp32_flat_groups"))
        if not isinstance(flats, list):
            raise WorkFailed(f"{self.file.path}: holds no float32 flat groups")
        weights = [extent_of(self.file, flat, "a flat group") for flat in flats]
        if what == "fp32":
            return weights
        found = []
        for index, weight in enumerate(weights):
            held = self.base["state"].get(index)
            ref = held.get(what) if isinstance(held, dict) else None
            if not isinstance(ref, TensorRef) or ref.numel < weight.count:
                raise WorkFailed(
                    f"{self.file.path}: its optimizer has no whole {what} (Adam's) of flat group {index}"
                )
            # ZeRO-1 and 2 save the weights without the padding at the end.
            found.append(extent_of(self.file, ref, what).part(0, weight.count))
        return found

    @property
    def base(self) -> Mapping[str, Any]:
        """What torch's own optimizer saved: ``state`` by the number of a flat group, and ``param_groups``.

        Raises:
            WorkFailed: it is not there, or of DeepSpeed's elastic form.
        """
        base = self.state.get("base_optimizer_state", self.state.get("optimizer_state_dict"))
        kinds = {"state": dict, "param_groups": list}
        if isinstance(base, dict) and all(isinstance(base.get(key), kind) for key, kind in kinds.items()):
            return base
        raise WorkFailed(
            f"{self.file.path}: holds no optimizer's state by group (an elastic_checkpoint has none)"
        )


def optimizer_shards(path: Path, folder: Path) -> list[OptimizerShard]:
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
        ranks.append(OptimizerShard(file, state))
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


def _check_same(first: OptimizerShard, other: OptimizerShard) -> None:
    for what in ("zero_stage", "partition_count", "ds_version"):
        mine, its = _plain(first.state.get(what)), _plain(other.state.get(what))
        if mine != its:
            raise WorkFailed(
                f"{other.file.path}: its {what} is {its!r}, but {mine!r} in "
                f"{first.file.path.name}: shards of different checkpoints"
            )


def model_states(path: Path, folder: Path, stage: int, world: int) -> list[TorchFile]:
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
        if files and shape_groups(file) != shape_groups(files[0]):
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


def shape_groups(model: TorchFile) -> list[layout.Shapes]:
    """Shapes by parameter, a group each, in the order of the flat float32 groups."""
    groups: list[layout.Shapes] = model.value["param_shapes"]
    return groups


def same_step(
    folder: Path, ranks: list[OptimizerShard], models: list[TorchFile]
) -> tuple[int | None, str | None]:
    """The step all files agree on, and what speaks against it without proving it.

    Raises:
        WorkFailed: naming the file that disagrees: a save was interrupted, or files were mixed.
    """
    step = whole_number(models[0].value.get("global_steps"))
    for model in models[1:]:
        its = whole_number(model.value.get("global_steps"))
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
    due = None if step is None else step - (whole_number(models[0].value.get("skipped_steps")) or 0)
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


def _optimizer_step(rank: OptimizerShard) -> float | None:
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
                extent = extent_of(rank.file, step, "step")
                check_whole([extent.member])
                return float(read_values(extent)[0])
            return float(step) if isinstance(step, int | float) else None
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if depth < 4:
            pending += [(child, depth + 1) for child in children]
    return None


def whole_number(value: Any) -> int | None:
    """A whole number, an enumeration\'s too; None for anything else."""
    if isinstance(value, Opaque) and len(value.args) == 1:  # an enum's member: its class and value
        value = value.args[0]
    return value if isinstance(value, int) else None


def text_or_none(value: Any) -> str | None:
    """Text; None for anything else."""
    return value if isinstance(value, str) else None


def _plain(value: Any) -> int | str | list[Any] | None:
    """A whole number, text or list of numbers; None for anything else, which may be endless."""
    if isinstance(value, list | tuple):
        return [whole_number(item) for item in value]
    return text_or_none(value) or whole_number(value)
