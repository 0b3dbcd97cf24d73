"""The element-wise work of a model's blocks, fused by torch.compile: norms and MLPs, compiled once for all layers.

Attention stays as it is: its ways have kernels of their own, and examples of a hundred lengths would be as many shapes
to compile for. What is compiled sees whole rows, of one shape in all steps of a training. Evaluation and answering,
whose shapes vary, run what was there before. State dictionaries do not change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PARTS = ("mlp", "norm")
"""How the names of the parts end in all families here."""


def compile_parts(model: nn.Module) -> None:
    """Have a model's norms and MLPs compiled while it trains, each when it first runs."""
    for name, module in model.named_modules():
        if name.endswith(PARTS):
            setattr(module, "forward", _in_training(module))  # noqa: B010 (mypy: a method is not assigned to)


def _in_training(module: nn.Module) -> Any:
    plain = module.forward
    compiled = torch.compile(plain, dynamic=False)

    def forward(*args: Any, **given: Any) -> Any:
        return (compiled if module.training else plain)(*args, **given)

    return forward
