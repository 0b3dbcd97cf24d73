"""GPU or CPU: decided before the libraries are imported that look for themselves.

DeepSpeed chooses its accelerator when it is imported, torch sees GPUs from its first call on: import nothing slow
before :func:`choose_device`.
"""

from __future__ import annotations

import os

from glmjobs.recipe.schema import TrainSection
from hpc.core.errors import NotFit
from hpc.runtime.rendezvous import Rank


def choose_device(settings: TrainSection, place: Rank) -> bool:
    """True to train on GPUs; else GPUs are hidden from torch and DeepSpeed.

    Raises:
        NotFit: the recipe wants GPUs and this rank has none.
    """
    cuda = settings.device != "cpu" and _has_gpu(place)
    if not cuda and settings.device == "cuda":
        raise NotFit(
            f"rank {place.rank} finds no GPU {place.local_rank} on {os.uname().nodename}; "
            "train.device: auto lets small recipes run on the CPU"
        )
    if not cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return cuda


def _has_gpu(place: Rank) -> bool:
    import torch  # only here: with train.device: cpu the GPUs are hidden before

    return torch.cuda.is_available() and torch.cuda.device_count() > place.local_rank
