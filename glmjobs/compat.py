"""What differs between the two stacks: torch 2.0.1 with transformers 4, and torch 2.13 with transformers 5.

Everything that asks for a version asks here, and nothing else in the package branches on one.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any


def _release(package: str) -> tuple[int, int]:
    major, minor, *_ = version(package).split("+")[0].split(".")
    return int(major), int(minor)


TRANSFORMERS = _release("transformers")

#: transformers renamed the key-value cache's argument and output field from ``past_key_values`` to ``cache``.
CACHE_NAME = "cache" if TRANSFORMERS >= (5, 24) else "past_key_values"

#: from_pretrained's name for the type of the weights.
DTYPE_NAME = "dtype" if TRANSFORMERS >= (5, 0) else "torch_dtype"


def tied_weights(pairs: dict[str, str]) -> Any:
    """``_tied_weights_keys`` in this release's form: {tied: source}; before 5 only the tied names."""
    return pairs if TRANSFORMERS >= (5, 0) else list(pairs)


def autocast_dtype(device_type: str) -> Any:
    """The type that autocast computes in on ``device_type`` ("cuda", "cpu"), or None where it is off."""
    import torch

    if device_type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def without_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its CPU all-reduce while ranks start.

    torch builds it behind a lock file in the user's cache; a job killed during that minute leaves the lock,
    and every later job of that user waits for it for ever. gloo does the same work, and training on the CPU
    is for rehearsals.
    """
    import deepspeed.ops
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False


#: TrainingArguments' names for activation checkpointing.
CHECKPOINTING_NAME = "activation_checkpointing" if TRANSFORMERS >= (5, 24) else "gradient_checkpointing"


def accepted(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that ``kind``'s constructor takes in this release (arguments come and go)."""
    import inspect

    known = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in values.items() if name in known}
