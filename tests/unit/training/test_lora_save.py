"""A LoRA's checkpoint holds the adapter; the frozen base model is neither written nor copied for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.small_training import FLOAT16, Training, make_run, shims, small_model

pytest.importorskip("peft")
COPIES = (
    FLOAT16
    + """
class Copies:
    def find_spec(self, name, path=None, target=None):
        if name == "deepspeed.runtime.engine":
            import deepspeed.checkpoint.utils as utils

            def refuse(*args, **kwargs):
                raise AssertionError("the whole model is copied to be saved")

            utils.clone_tensors_for_torch_save = refuse
        return None

sys.meta_path.insert(0, Copies())
"""
)


@pytest.mark.parametrize("stage", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_adapter_alone_is_saved(tmp_path: Path, stage: int) -> None:
    run = make_run(
        tmp_path, "run", small_model(tmp_path), "train.precision=fp32", "train.max_steps=2", "train.method=lora",
        f"train.zero_stage={stage}", gpus=1 if stage == 2 else 2,
    )  # fmt: skip
    with Training(run, limit=1, environ=shims(tmp_path, COPIES)) as training:
        assert training.wait() == 0, training.said()
    saved = run.checkpoints / "checkpoint-2"
    adapter = load_file(saved / "adapter_model.safetensors")
    assert adapter and all(".lora_" in name and tensor.numel() for name, tensor in adapter.items())
    assert not (saved / "model.safetensors").exists()
