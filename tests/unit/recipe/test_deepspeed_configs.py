"""The DeepSpeed configurations that come with the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmjobs.recipe.deepspeed_config import deepspeed_config
from glmjobs.recipe.schema import TrainSection
from hpc.core.errors import BadInput


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_are_not_sent_while_their_buckets_fill(stage: int) -> None:
    """DeepSpeed 0.16.4, of the older stack, loses gradients with both under ZeRO-1 and 2 (DeepSpeed#5347, #7188)."""
    zero = deepspeed_config(TrainSection(zero_stage=stage))["zero_optimization"]
    assert zero["stage"] == stage
    assert stage == 3 or not (zero["overlap_comm"] and zero["contiguous_gradients"])


@pytest.mark.parametrize("text", ["{", '{"a": ' + "[" * 100_000, '{"a": ' + "9" * 10_000 + "}"])
def test_a_file_that_is_no_json_is_bad_input(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"own\.json: not valid JSON \(train\.deepspeed\): "):
        deepspeed_config(TrainSection(deepspeed=str(tmp_path / "own.json")))
