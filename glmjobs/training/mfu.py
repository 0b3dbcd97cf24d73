"""Model FLOPs utilisation: how much of what the GPUs could compute went into the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from glmjobs.models.family import family_for, read_config
from glmjobs.models.frozen import frozen
from glmjobs.recipe.schema import TrainSection
from glmjobs.training.train_data import Reading
from hpc.core.errors import BadInput
from hpc.health.gpu_peaks import peak_tflops


@dataclass(frozen=True)
class Peak:
    """What the GPUs of a training could do.

    Attributes:
        tokens_per_s: real tokens a second of all GPUs together, if they did nothing but the model's own products at
            their peak.
    """

    tokens_per_s: float

    def mfu(self, tokens_per_s: float) -> float:
        """Observed tokens a second over those at the peak (PaLM, Chowdhery et al. 2022, appendix B).

        6 N + 12 L H Q T operations a token (:meth:`glmjobs.models.architecture.Architecture.flops_per_token`; 4 N where
        the weights are frozen, in between where some are): what recomputation and padding cost is not in it, so both
        lower it.
        """
        return float(f"{tokens_per_s / self.tokens_per_s:.4g}")


def peak(
    settings: TrainSection, base_model: Path, reading: Reading, ranks: int, device: torch.device
) -> Peak | None:
    """Of ``ranks`` GPUs as this one; None on a CPU, in float32, and where the GPU's or the family's figures aren't
    known."""
    if device.type != "cuda" or settings.precision == "fp32":
        return None
    tflops = peak_tflops(torch.cuda.get_device_name())
    if tflops is None:
        return None
    try:
        architecture = family_for(base_model).architecture(read_config(base_model))
    except BadInput:
        return None
    flops = architecture.flops_per_token(reading.attended, trained=settings.method == "full")
    if settings.freeze:
        flops *= frozen(settings.freeze, architecture).passes / 3
    return Peak(ranks * tflops * 1e12 / flops)
