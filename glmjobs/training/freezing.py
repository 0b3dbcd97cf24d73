"""Leave a part of the weights as they are: no gradients, no optimizer states for them (``train.freeze``).

They stay in the checkpoints, in their own type, and so in the model that is made of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from glmjobs.models.frozen import Frozen
from hpc.core.errors import BadInput


def freeze(model: Any, what: Frozen, layers: int) -> None:
    """Freeze these parts of a model.

    Args:
        model: of :func:`glmjobs.models.load_model`.
        layers: how many blocks it has.

    Raises:
        BadInput: the model is not built of that many blocks in one list, with these maps in them.
    """
    blocks = next(
        (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == layers), None
    )
    if blocks is None:
        raise BadInput(f"train.freeze: {type(model).__name__} has no list of {layers} blocks")
    for module in _modules(model, blocks, what):
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def _modules(model: Any, blocks: torch.nn.ModuleList, what: Frozen) -> Iterator[torch.nn.Module]:
    if what.embeddings:  # GLM-10B has tables of positions beside the tokens'
        yield from (module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    if what.output:
        yield model.get_output_embeddings()
    yield from (blocks[layer] for layer in sorted(what.layers))
    for name in sorted(what.maps):
        found = [
            module for path, module in blocks.named_modules()
            if path.rpartition(".")[2] == name and isinstance(module, torch.nn.Linear)
        ]  # fmt: skip
        if len(found) != len(blocks):
            raise BadInput(
                f"train.freeze: {name}: {len(found)} of {len(blocks)} blocks have such a linear map"
            )
        yield from found
