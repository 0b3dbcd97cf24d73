"""Adapters instead of all weights: what ``train.method: lora`` puts around the base model.

Low-rank updates W + alpha / rank * B A of the family's linear maps (Hu et al. 2021, arXiv:2106.09685); only A and B are
trained. The base model's weights are the same tensors as before, so consolidation merges by name.
"""

from __future__ import annotations

from typing import Any

import torch

from glmjobs.models.family import Family
from glmjobs.recipe.schema import LoraSection
from hpc.core.errors import BadInput, NotFit


def adapt(model: Any, settings: LoraSection, family: Family) -> Any:
    """The model with fresh adapters (B is zero: the same function as before), everything else frozen.

    Args:
        model: of :func:`glmjobs.models.load_model`.
        family: gives the targets where the recipe names none.

    Raises:
        BadInput: ``train.lora.targets`` names something that the model has no linear map for.
        NotFit: the package peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise NotFit("train.method = lora needs the package peft: pip install peft") from None
    targets = check_targets(model, settings.targets or family.lora_targets)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
            target_modules=targets,
        ),
    )  # fmt: skip


def check_targets(model: Any, targets: Any) -> list[str]:
    """The targets, each the name of a linear map of the blocks (not of the output matrix).

    Raises:
        BadInput: naming the target and the model's maps.
    """
    maps = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    for target in targets:
        if target not in maps:
            raise BadInput(
                f"train.lora.targets: this model has no linear map {target!r}; it has {', '.join(sorted(maps))}"
            )
    return list(targets)


def counted(model: Any) -> dict[str, int]:
    """Parameters in all and those that are trained, for the record (under ZeRO-3 the whole, not this rank's part)."""

    def size(parameter: Any) -> int:
        return int(getattr(parameter, "ds_numel", 0) or parameter.numel())

    parameters = list(model.parameters())
    return {
        "parameters": sum(map(size, parameters)),
        "trained_parameters": sum(size(p) for p in parameters if p.requires_grad),
    }
