"""GPU or CPU is decided before the libraries that look for themselves are imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from glmjobs.recipe.schema import TrainSection
from glmjobs.training.device import choose_device
from hpc.core.errors import NotFit
from hpc.runtime.rendezvous import Rank

FAR = Rank(rank=1_000, world_size=1_001, local_rank=1_000, local_size=1_001)
"""A rank for which no node has a GPU."""

CPU = """
import os, sys
import glmjobs.train
from glmjobs.recipe.schema import TrainSection
from glmjobs.training.device import choose_device
from hpc.runtime.rendezvous import Rank

cuda = choose_device(TrainSection(device="cpu"), Rank(rank=0, world_size=1, local_rank=0, local_size=1))
heavy = {"torch", "transformers", "deepspeed"} & set(sys.modules)
print(cuda, os.environ["DS_ACCELERATOR"], repr(os.environ["CUDA_VISIBLE_DEVICES"]), heavy)
"""


def test_on_the_cpu_gpus_are_hidden_before_torch_is_there() -> None:
    env = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    done = subprocess.run([sys.executable, "-c", CPU], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=3) == ["False", "cpu", "''", "set()\n"]


def test_rank_without_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.device_count() <= FAR.local_rank
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(NotFit, match=r"rank 1000 finds no GPU 1000 on .*train\.device: auto"):
        choose_device(TrainSection(device="cuda"), FAR)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0", "refused: nothing is changed"
    assert choose_device(TrainSection(device="auto"), FAR) is False
    assert (os.environ["DS_ACCELERATOR"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
