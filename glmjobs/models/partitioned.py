"""Weights under ZeRO-3: each rank reads its own part of them from the files, parameter by parameter.

transformers has rank 0 read each parameter, all ranks gather it, and DeepSpeed send it to all of them: of a
vocabulary's embedding that is two whole ones beside the rank's part of the model. Here nothing is gathered or sent.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from glmjobs.compat import DTYPE_NAME, unfilled_partitions
from glmjobs.zero import layout
from glmjobs.zero.dtypes import SIZE, TORCH_NAME
from glmjobs.zero.weights import read_directory

_TYPES = {
    **TORCH_NAME, "F64": "float64", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
"""safetensors' names of types to torch's."""


def load_partitioned(kind: Any, config: Any, directory: Path, dtype: str | None) -> tuple[Any, dict[str, Any]]:
    """A model of ``directory`` in DeepSpeed's partitions; to be called by all ranks together.

    Args:
        kind: the model's class.
        config: None: the directory's.
        dtype: named in the model's configuration; the weights have DeepSpeed's. None: as the directory says.

    Returns:
        The model; ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys`` (name, shape found, shape wanted), as
        transformers' ``output_loading_info`` has them.

    Raises:
        BadInput: there are no weights.
        WorkFailed: a weight file is damaged.
    """
    if config is None:
        config = kind.config_class.from_pretrained(directory, local_files_only=True)
    with unfilled_partitions():
        model = kind._from_config(config, **({DTYPE_NAME: dtype} if dtype else {}))
    _give_back()
    model.tie_weights()
    model.config.name_or_path = str(directory)
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
    info = _fill(model, read_directory(directory))
    _give_back()
    return model, info


def _give_back() -> None:
    """Have the C library (glibc) give freed memory back: holes between a rank's parts, where parameters were whole."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _fill(model: Any, tensors: dict[str, layout.Tensor]) -> dict[str, Any]:
    """Give weights and buffers their values; what did not fit."""
    wanted: dict[str, Tensor] = model.state_dict(keep_vars=True)  # tied ones under each of their names
    inner = f"{model.base_model_prefix}."
    found = {inner + name if inner + name in wanted else name: tensor for name, tensor in tensors.items()}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    filled: set[int] = set()
    mismatched = []
    for name, target in wanted.items():
        if name not in found or id(target) in filled:
            continue
        shape = tuple(getattr(target, "ds_shape", target.shape))
        if found[name].shape != shape:
            mismatched.append((name, list(found[name].shape), list(shape)))
        elif hasattr(target, "ds_tensor"):
            _fill_partition(target, found[name])
        else:
            _copy(layout.Vector(found[name].extents).cut(0, found[name].numel), target.data.view(-1))
        filled.add(id(target))
    return {
        "missing_keys": [name for name, target in wanted.items() if id(target) not in filled],
        "unexpected_keys": [
            name for name in found if name not in wanted and not any(p.search(name) for p in ignored)
        ],
        "mismatched_keys": mismatched,
    }


def _fill_partition(parameter: Any, tensor: layout.Tensor) -> None:
    """Have DeepSpeed partition anew a parameter of which this rank has read what it keeps.

    The rest of the whole parameter is never touched, so that on a CPU no memory stands for it.
    """
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    whole = torch.empty(parameter.ds_shape, dtype=parameter.dtype, device=parameter.device)
    size, start = parameter.ds_tensor.ds_numel, 0
    if getattr(parameter, "ds_secondary_tensor", None) is not None:  # ZeRO++ keeps other parts, too
        size = tensor.numel
    else:
        start = size * deepspeed.comm.get_rank(parameter.ds_process_group)
    count = max(0, min(size, tensor.numel - start))
    if count:  # the last ranks may keep nothing of a small one
        _copy(layout.Vector(tensor.extents).cut(start, count), whole.view(-1)[start:])
    if parameter.ds_tensor.final_location is not None:  # on NVMe: DeepSpeed writes only what it has brought back
        parameter.all_gather()
    parameter.data = whole
    parameter.ds_status = ZeroParamStatus.AVAILABLE
    parameter.partition(has_been_updated=True)


@torch.no_grad()
def _copy(extents: list[layout.Extent], flat: Tensor) -> None:
    """The extents' numbers to the beginning of ``flat``, mapped from their files and in its type."""
    at = 0
    for extent in extents:
        size = extent.count * SIZE[extent.dtype]
        mapped = torch.from_numpy(np.memmap(extent.file, np.uint8, "c", extent.offset, (size,)))
        flat[at : at + extent.count].copy_(mapped.view(getattr(torch, _TYPES[extent.dtype])))
        at += extent.count
