"""GPU or CPU, and which GPU: decided before the libraries are imported that look for themselves.

DeepSpeed chooses its accelerator when it is imported, torch sees GPUs from its first call on: import nothing slow
before :func:`choose_device`.
"""

from __future__ import annotations

import os

from glmjobs import compat
from glmjobs.recipe.schema import TrainSection
from hpc.core.errors import NotFit
from hpc.health.gpus import device_of
from hpc.runtime.rendezvous import Rank


def choose_device(settings: TrainSection, place: Rank) -> bool:
    """True to train on GPUs; else GPUs are hidden from torch and DeepSpeed. All ranks of a node choose the same.

    ``LOCAL_RANK`` becomes the number of this rank's device among those that it sees: torch, accelerate and DeepSpeed
    take it for that. A task that was given one GPU alone sees it as device 0, whatever its rank.

    Raises:
        NotFit: the recipe wants GPUs and there is not one for each rank of this node.
    """
    seen = _visible() if settings.device != "cpu" else 0
    device = device_of(place.local_rank, place.local_size, seen)
    if settings.device == "auto" and seen < place.local_size:
        device = None  # one GPU seen by several ranks may be the same one: a small recipe need not find out
    if device is None and settings.device == "cuda":
        raise NotFit(
            f"rank {place.rank} sees {seen} GPUs for the {place.local_size} ranks on {os.uname().nodename}: it needs "
            "one for each, or its own alone; train.device: auto lets small recipes run on the CPU"
        )
    if device is None:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return False
    os.environ["LOCAL_RANK"] = str(device)
    compat.import_deepspeed()
    return True


def _visible() -> int:
    import torch  # only here: with train.device: cpu the GPUs are hidden before

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
