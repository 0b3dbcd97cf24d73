"""train.freeze: what is frozen stays as it was to the last bit, in checkpoints and in the model that is made of one;
the rest learns; a training that is killed ends as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glmjobs import consolidate
from glmjobs.models import load_model
from glmjobs.reshard import move_run
from glmjobs.run.directory import Run, rewrite
from glmjobs.zero.torch_file import TorchFile
from glmjobs.zero.universal_form import reshard
from tests.support.small_training import Training, differences, kill, logged, make_run, small_model

PRECISION = "bf16" if hasattr(torch, "get_default_device") else "fp32"
"""gloo of torch 2.0 sends no bfloat16."""

NAMES = (
    "train.max_steps=8", "train.save_steps=3", "train.logging_steps=1", "train.epochs=50",
    f"train.precision={PRECISION}", "train.freeze=[embeddings,layers.0]", "consolidate.dtype=float32",
)  # fmt: skip


def check_model(base: Path, made: Path) -> None:
    """Embeddings and the first layer are the base model's as it was loaded; all others are not."""
    before = dict(load_model(base, {"bf16": "bfloat16", "fp32": "float32"}[PRECISION]).named_parameters())
    after = load_file(made / "model.safetensors")
    for name, weight in before.items():
        same = torch.equal(weight.float(), after[name])
        assert same == ("embeddings" in name or ".layers.0." in name), name


def shapes(checkpoint: Path) -> tuple[set[str], set[str]]:
    """Names of what the optimizer has, and of what is frozen."""
    file = TorchFile(next(checkpoint.glob("global_step*/*model_states.pt"))).value
    trained = {name for group in file["param_shapes"] for name in group}
    # ZeRO-1 notes none apart: they are among the module's own
    return trained, set(file["frozen_param_shapes"] or file["module"].keys() - trained)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_frozen_weights(zero: int, tmp_path: Path) -> None:
    model = small_model(tmp_path)
    names = (*NAMES, f"train.zero_stage={zero}", f"train.activation_checkpointing={str(zero == 3).lower()}")
    whole, broken = (make_run(tmp_path, name, model, *names) for name in ("whole", "broken"))
    with Training(whole, limit=3) as training:
        assert training.wait() == 0, training.said()
    with Training(broken, limit=3) as training:
        ranks = training.until(lambda: training.ranks() if training.step() >= 5 else None)
        assert ranks, training.said()
        kill(ranks[1])
        assert training.wait() == 0, training.said()
        assert len(training.events("attempt")) == 2
    last = [run.checkpoints / "checkpoint-8" for run in (whole, broken)]
    assert differences(*last) == [] and logged(whole) == logged(broken)
    trained, frozen = shapes(last[0])
    assert frozen and not trained & frozen
    tied = {"lm_head.weight"} if zero == 1 else set()
    assert all("embeddings" in name or ".layers.0." in name for name in frozen - tied)
    assert not any("embeddings" in name or ".layers.0." in name for name in trained)
    for run in (whole, broken):
        assert consolidate.main([str(run.path)]) == 0
        check_model(model, run.model)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("zero", [2, 3])
def test_on_another_number_of_ranks(zero: int, tmp_path: Path) -> None:
    """Two ranks up to a checkpoint, then one."""
    if zero == 3 and PRECISION == "fp32":
        pytest.skip(
            "under ZeRO-3 DeepSpeed 0.16.4 loads one group of parameters alone, frozen or not"
        )
    model = small_model(tmp_path)
    run = make_run(tmp_path, "run", model, *NAMES, f"train.zero_stage={zero}", "train.max_steps=3")
    with Training(run) as training:
        assert training.wait() == 0, training.said()
    reshard(run.checkpoints / "checkpoint-3", 1)
    (run.path / "stages" / "train.json").unlink()
    move_run(run, 1)
    longer = run.recipe.train.model_copy(update={"max_steps": 5, "gradient_accumulation": 4})
    moved = Run.open(run.path)
    moved = rewrite(moved, moved.recipe.model_copy(update={"train": longer}), moved.cluster)
    with Training(moved) as training:
        assert training.wait() == 0, training.said()
    assert [row["step"] for row in logged(moved)] == [1, 2, 3, 4, 5]
    assert consolidate.main([str(moved.path)]) == 0
    check_model(model, moved.model)
