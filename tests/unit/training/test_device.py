"""GPU or CPU is decided before the libraries that look for themselves are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Literal

import pytest
import torch

from glmjobs import compat
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
    with pytest.raises(NotFit, match=r"rank 1000 sees 0 GPUs for the 1001 ranks on .*train\.device: auto"):
        choose_device(TrainSection(device="cuda"), FAR)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0", "refused: nothing is changed"
    assert choose_device(TrainSection(device="auto"), FAR) is False
    assert (os.environ["DS_ACCELERATOR"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")


def chosen(device: Literal["cuda", "auto"], ranks: int, visible: int, patch: pytest.MonkeyPatch) -> list[str]:
    """What each rank of a node takes: its GPU, by LOCAL_RANK as torch and DeepSpeed find it; "cpu" or "refused"."""
    patch.setattr(compat, "import_deepspeed", lambda: None)
    patch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    patch.setattr(torch.cuda, "device_count", lambda: visible)
    found = []
    for rank in range(ranks):
        place = Rank(rank=rank, world_size=ranks, local_rank=rank, local_size=ranks)
        for name, value in {**place.variables(), "DS_ACCELERATOR": "", "CUDA_VISIBLE_DEVICES": ""}.items():
            patch.setenv(name, value)
        try:
            cuda = choose_device(TrainSection(device=device), place)
        except NotFit:
            found.append("refused")
            continue
        found.append(os.environ["LOCAL_RANK"] if cuda else os.environ["DS_ACCELERATOR"])
    return found


@pytest.mark.parametrize(
    ("ranks", "visible", "told", "auto"),
    [
        (4, 4, ["0", "1", "2", "3"], ["0", "1", "2", "3"]),
        (4, 8, ["0", "1", "2", "3"], ["0", "1", "2", "3"]),
        (4, 1, ["0"] * 4, ["cpu"] * 4),  # cgroups, --gpus-per-task: each its own; or one for all
        (1, 1, ["0"], ["0"]),
        (4, 3, ["refused"] * 4, ["cpu"] * 4),
        (2, 0, ["refused"] * 2, ["cpu"] * 2),
    ],
)
def test_all_ranks_of_a_node_choose_the_same(
    ranks: int, visible: int, told: list[str], auto: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen("cuda", ranks, visible, monkeypatch) == told
    assert chosen("auto", ranks, visible, monkeypatch) == auto
