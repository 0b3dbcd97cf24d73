"""LoRA checkpoints: adapters merged into their base model, W + scale * B A, tensor by tensor, in constant
memory; or kept alone, in PEFT's form.

scale is lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1;
Kalajdzievski 2023, arXiv:2312.03732). The sum is made in float32 and rounded once, when the model is written.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glmjobs.zero.checkpoint import Checkpoint, open_checkpoint
from glmjobs.zero.checksums import Checksums
from glmjobs.zero.cross_check import same_values
from glmjobs.zero.directories import CONFIG, NAMES_BASE, is_adapter, with_bases
from glmjobs.zero.guarded_files import inside, read_json, reading
from glmjobs.zero.layout import Extent, Tensor, Vector
from glmjobs.zero.weights import read_directory, read_values
from hpc.core.errors import BadInput, WorkFailed, of_system
from hpc.core.hints import command

STEM = "adapter_model"  # with .safetensors: PEFT's name
# PEFT's names: base_model.model.MODULE.lora_A.ADAPTER.weight; without the adapter's name in its own files.
FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight")
SAVED = re.compile(r"\.modules_to_save\.[^.]+\.(.+)")  # trained whole
COPY = re.compile(r"\.(?:original_module|base_layer)\.([^.]+)")  # the base's own, beside what was trained
ROW_BYTES = 16 << 20  # of the base weight at a time

Floats = npt.NDArray[np.float32]


def has_adapter(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint holds LoRA factors."""
    return any(FACTOR.fullmatch(name) for name in checkpoint.tensors)


def merge(checkpoint: Checkpoint, base: Path | None, scratch: Path) -> Checkpoint:
    """The base model with the checkpoint's LoRA factors merged in.

    Args:
        base: the model directory that was adapted; an adapter's, and its own base is merged first.
        scratch: an empty directory for the merged weights (float32) until they are written; about 4 bytes for
            each element of an adapted weight.

    Raises:
        BadInput: no base given, or it holds no weights.
        WorkFailed: the adapter is of a kind other than plain LoRA, or does not fit the base, or a file is damaged.
    """
    if base is None:
        raise BadInput(
            f"{checkpoint.path}: holds LoRA factors; name the adapted base model (--base DIR) to merge them"
        )
    own = _whole(base, scratch)
    config = settings(checkpoint.path)
    tensors = dict(own)
    sums = Checksums()
    factors, others = _sorted(checkpoint)
    for name, tensor in others.items():
        plain = COPY.sub(r".\1", SAVED.sub(r".\1", name.removeprefix("base_model.model.")))
        known = own.get(plain)
        if known is None:
            if name in checkpoint.frozen | checkpoint.buffers:
                continue  # the base has it under a tied name, or makes it anew
            raise WorkFailed(f"{checkpoint.path}: {name} was trained, but {base} has no {plain}")
        if known.shape != tensor.shape:
            raise WorkFailed(
                f"{checkpoint.path}: {name} is {list(tensor.shape)}, but {list(known.shape)} in {base}"
            )
        if name not in checkpoint.frozen:
            tensors[plain] = replace(tensor, name=plain)
        elif not same_values(known, tensor):
            raise WorkFailed(
                f"{checkpoint.path}: its frozen {name} is not what {base} holds: another base model"
            )
    for index, (module, pair) in enumerate(sorted(factors.items())):
        weight = tensors.get(f"{module}.weight")
        if weight is None or pair.keys() != {"A", "B"}:
            raise WorkFailed(
                f"{checkpoint.path}: LoRA factors of {module}, which {base} does not have (or one is missing)"
            )
        tensors[weight.name] = _merged(
            weight, pair["A"], pair["B"], _scale(config, module, pair["A"]), scratch / str(index), sums
        )
    sums.check()
    return replace(checkpoint, kind="merged", tensors=tensors, aliases={}, comparisons={})


def _whole(base: Path, scratch: Path) -> dict[str, Tensor]:
    """The weights of a base model; of an adapter, its base's with it merged in.

    Raises:
        BadInput: it holds no weights, or an adapter's base is missing.
    """
    chain = with_bases(base)
    if len(chain) > 1:
        below = scratch / "base"
        below.mkdir()
        return merge(open_checkpoint(base), chain[1], below).tensors
    return read_directory(base)


def _sorted(checkpoint: Checkpoint) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """(LoRA factors by module and letter; all other tensors by name).

    Raises:
        WorkFailed: naming a tensor of a kind of LoRA that is not merged here, or of a second adapter.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        if match := FACTOR.fullmatch(name):
            pair = factors.setdefault(match[1], {})
            if match[2] in pair:
                raise WorkFailed(f"{checkpoint.path}: {name} belongs to a second adapter; only one is merged")
            pair[match[2]] = tensor
        elif ".lora_" in name:
            raise WorkFailed(f"{checkpoint.path}: {name} cannot be merged; only plain LoRA on linear maps is")
        elif ".original_module." not in name or name in checkpoint.frozen:
            others[name] = tensor
    return factors, others


def keep(checkpoint: Checkpoint, base: Path | None, into: Path) -> Checkpoint:
    """The LoRA factors alone, under the names that PEFT gives them in a file of its own.

    Args:
        base: the model directory that was adapted; written into ``into``'s adapter_config.json by its path.
        into: where adapter_config.json is written.

    Raises:
        BadInput: no base given, or one that is an adapter itself.
        WorkFailed: the checkpoint's adapter_config.json is missing or of a kind other than plain LoRA.
    """
    if base is None:
        raise BadInput(f"{checkpoint.path}: holds LoRA factors; name the base model they adapt (--base DIR)")
    if is_adapter(base):
        merged = f"{base.name}-merged"
        raise BadInput(
            f"{base}: an adapter itself, which PEFT cannot take for a base; merge it, and name what comes out: "
            + command("glmjobs.consolidate", base, merged)
        )
    config = {
        **settings(checkpoint.path),
        NAMES_BASE: str(base.absolute()),
        "inference_mode": True,
    }
    (into / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    factors, others = _sorted(checkpoint)
    for name in others:
        base_own = name in checkpoint.frozen | checkpoint.buffers or checkpoint.kind == "weights"
        if ".modules_to_save." in name or not base_own:
            raise WorkFailed(
                f"{checkpoint.path}: {name} was trained whole; only LoRA factors are kept alone, merge this one "
                "(--adapter merge)"
            )
    tensors = {}
    for module, pair in factors.items():
        for letter, tensor in pair.items():
            plain = f"base_model.model.{module}.lora_{letter}.weight"
            tensors[plain] = replace(tensor, name=plain)
    return replace(checkpoint, kind="adapter", tensors=tensors, aliases={}, comparisons={})


def settings(path: Path) -> dict[str, Any]:
    """An adapter's adapter_config.json.

    Raises:
        WorkFailed: it is missing, damaged, or of a kind other than plain LoRA.
    """
    file = inside(path, CONFIG)
    with reading(file, "it says how the LoRA factors are scaled"):
        config = read_json(file)
        fits = (
            config["peft_type"] == "LORA" and not config.get("use_dora") and not config.get("fan_in_fan_out")
        )
        alpha = float(config["lora_alpha"])
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            _alpha_pattern(pattern)
            fits = fits and math.isfinite(float(value))
    if not fits or not math.isfinite(alpha):
        raise WorkFailed(
            f"{file}: only plain LoRA on linear maps is merged (no DoRA, no fan_in_fan_out, a finite lora_alpha)"
        )
    return dict(config)


def _scale(config: dict[str, Any], module: str, down: Tensor) -> float:
    """lora_alpha over the rank; the first pattern of alpha_pattern that names the module overrides it.

    Patterns are regular expressions, matched as PEFT does (peft/utils/other.py, get_pattern_key).
    """
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if _alpha_pattern(pattern).match(module):
            alpha = float(value)
            break
    rank = down.shape[0]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _alpha_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _values(tensor: Tensor, sums: Checksums, start: int = 0, count: int | None = None) -> Floats:
    pieces = Vector(tensor.extents).cut(start, tensor.numel - start if count is None else count)
    return np.concatenate([read_values(piece, sums) for piece in pieces]).astype(np.float32, copy=False)


def _merged(weight: Tensor, down: Tensor, up: Tensor, scale: float, scratch: Path, sums: Checksums) -> Tensor:
    """W + scale * B A, by blocks of rows, into a scratch file."""
    matrices = len(weight.shape) == len(down.shape) == len(up.shape) == 2
    if not matrices or weight.shape != (up.shape[0], down.shape[1]) or not 0 < up.shape[1] == down.shape[0]:
        raise WorkFailed(
            f"{down.extents[0].file}: LoRA factors {list(up.shape)} x {list(down.shape)} do not fit "
            f"{weight.name} {list(weight.shape)}"
        )
    rows, columns = weight.shape
    a, b = _values(down, sums).reshape(down.shape), _values(up, sums).reshape(up.shape)
    step = max(1, ROW_BYTES // (4 * columns))
    try:
        with scratch.open("wb", buffering=0) as file:
            for first in range(0, rows, step):
                count = min(step, rows - first)
                block = _values(weight, sums, first * columns, count * columns).reshape(count, columns)
                block = block + np.float32(scale) * (b[first : first + count] @ a)
                file.write(block.tobytes())
    except OSError as error:
        raise of_system(error, f"{scratch}: cannot be written: {error.strerror}") from None
    return Tensor(weight.name, weight.shape, (Extent(scratch, 0, weight.numel, "F32"),))
