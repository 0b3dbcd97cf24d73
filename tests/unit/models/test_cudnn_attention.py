"""cuDNN's attention is out of the way before training and scoring compute any: it plans anew for each length."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("deepspeed")

import torch

from glmjobs.recipe.schema import TrainSection
from glmjobs.scoring.evaluate import load_engine
from glmjobs.training.session import prepare_libraries
from tests.support.small_families import small_glm


@pytest.mark.skipif(not hasattr(torch.backends.cuda, "enable_cudnn_sdp"), reason="this torch has none")
def test_training_and_scoring_leave_it_out(tmp_path: Path) -> None:
    def scoring() -> None:
        load_engine(small_glm(tmp_path / "glm"), "float16", [1])

    def training() -> None:
        prepare_libraries(TrainSection(precision="fp32"), cuda=False)

    for start in (scoring, training):
        torch.backends.cuda.enable_cudnn_sdp(True)
        start()
        assert not torch.backends.cuda.cudnn_sdp_enabled(), start.__name__
