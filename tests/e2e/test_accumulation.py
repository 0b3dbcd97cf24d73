"""At one global batch, gradient accumulation, ZeRO stage and optimizer offload change nothing that is learned.

DeepSpeed 0.16.4, which trains on torch 2.0.1, lost micro-steps under ZeRO-2 with offload (DeepSpeed#7967; see
``glmjobs.compat.keep_offloaded_gradients``) with no error and a falling loss. So every way to take a step's eight rows
is compared with one, in losses, gradient norms and weights. Runs on either stack (``make test-cluster-stack``).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glmjobs.recipe import loading as recipes
from glmjobs.run.directory import Run, Shape
from glmjobs.zero.consolidate import Options, consolidate
from hpc.batch.profile import Profile
from hpc.core.files import read_json, read_jsonl
from tests.support.forked_training import forked
from tests.support.paths import CONFIGS

pytest.importorskip("deepspeed")

GLOBAL_BATCH, STEPS = 8, 4
TOLERANCE = 1e-6
RECIPE: dict[str, Any] = {
    "name": "accumulation",
    "model": {"make": {"hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 500, "max_positions": 256}},
    "data": {"make": {"rows": 80}, "dev_rows": "1-20", "max_source_length": 128, "max_target_length": 128},
    "train": {
        "device": "cpu", "precision": "fp32", "packing": False, "activation_checkpointing": False,
        "learning_rate": 1e-3, "max_steps": STEPS, "logging_steps": 1, "save_steps": 1, "save_total_limit": STEPS,
    },
}  # fmt: skip


class Trained:
    """What a training comes to: a loss and a gradient norm a step, and the weights."""

    def __init__(self, run: Run) -> None:
        folders = [run.checkpoints / f"checkpoint-{step}" for step in range(1, STEPS + 1)]
        # The log's losses are rounded; these are not.
        sums = [0.0, *(read_json(folder / "loop_state_0.json")["total_loss"] for folder in folders)]
        self.losses = [after - before for before, after in pairwise(sums)]
        self.norms = [row["grad_norm"] for row in read_jsonl(run.checkpoints / "train_log.jsonl")]
        consolidate(folders[-1], run.model, Options(dtype="float32", fsync=False), run.base_model)
        self.weights = load_file(run.model / "model.safetensors")

    def differences(self, other: Trained) -> dict[str, float]:
        """The largest of losses, of gradient norms (both relative) and of weights."""
        assert self.weights.keys() == other.weights.keys()
        weights = (float((tensor - other.weights[name]).abs().max()) for name, tensor in self.weights.items())
        return {
            "loss": relative(self.losses, other.losses),
            "norm": relative(self.norms, other.norms),
            "weight": max(weights),
        }


def relative(some: list[float], others: list[float]) -> float:
    """The largest relative difference of two rows of numbers."""
    return max(abs(a / b - 1) for a, b in zip(some, others, strict=True))


def trained(folder: Path, accumulation: int, ranks: int = 1, **settings: Any) -> Trained:
    """The train stage on so many ranks."""
    name = "-".join(map(str, (accumulation, ranks, *settings.values()))).replace("/", "_")
    raw = json.loads(json.dumps(RECIPE))
    raw["train"].update(settings, gradient_accumulation=accumulation)
    raw["train"]["per_device_batch_size"] = GLOBAL_BATCH // accumulation // ranks
    recipe = recipes.parse(raw, "the test")
    run = Run.create(folder / name, recipe, Profile(name="test"), Shape(nodes=1, gpus=ranks))
    assert forked(run) == [0] * ranks, name
    return Trained(run)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All eight rows at once, nothing offloaded: what all others are compared with."""
    reference = trained(tmp_path_factory.mktemp("plain"), 1, zero_stage=2)
    assert reference.losses[-1] < reference.losses[0], "it learns"
    return reference


def same(one: Trained, other: Trained, **way: Any) -> None:
    """Equal to the rounding of float32; the differences are printed."""
    found = one.differences(other)
    print("stack", torch.__version__, *way.items(), *(f"{key} {value:.1e}" for key, value in found.items()))
    assert max(found.values()) <= TOLERANCE, (way, found)


def test_no_micro_step_is_lost(plain: Trained, tmp_path: Path) -> None:
    """The short form, without DeepSpeed's own Adam for offloading: it takes minutes to compile."""
    config = json.loads((CONFIGS / "deepspeed" / "zero2.json").read_text())
    file = tmp_path / "zero2.json"
    file.write_text(json.dumps({**config, "zero_force_ds_cpu_optimizer": False}))
    way = {"deepspeed": str(file), "optimizer_offload": True}
    same(trained(tmp_path, 4, **way), plain, zero=2, offload=True, accumulation=4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_same_at_any_accumulation(
    zero: int, offload: bool, ranks: int, plain: Trained, tmp_path: Path
) -> None:
    for accumulation in (n for n in (1, 2, 4, 8) if n * ranks <= GLOBAL_BATCH):
        one = trained(tmp_path, accumulation, ranks, zero_stage=zero, optimizer_offload=offload)
        same(one, plain, zero=zero, offload=offload, ranks=ranks, accumulation=accumulation)


@pytest.mark.slow
def test_lora_at_its_recipe_s_accumulation(tmp_path: Path) -> None:
    accumulation = recipes.load(CONFIGS / "chatglm6b_lora.yaml").train.gradient_accumulation
    assert accumulation == GLOBAL_BATCH
    at_once = trained(tmp_path, 1, method="lora")
    for offload in (False, True):
        one = trained(tmp_path, accumulation, method="lora", optimizer_offload=offload)
        same(one, at_once, method="lora", offload=offload, accumulation=accumulation)
