"""The warning before a time limit has to leave some time before it."""

from __future__ import annotations

import pytest

from glmjobs.recipe.loading import load
from glmjobs.recipe.schema import JobsSection, TrainLimits
from glmjobs.run.submit_checks import check_warning
from hpc.core.errors import BadInput
from tests.support.paths import CONFIGS


def test_a_warning_that_comes_at_once_is_refused() -> None:
    short = JobsSection(train=TrainLimits(time="00:10:00"))
    with pytest.raises(BadInput, match=r"jobs.train.time = 00:10:00: 600 s before its end .* so at once"):
        check_warning(short)
    check_warning(short.model_copy(update={"signal_seconds": 60}))


def test_sbatch_takes_no_warning_longer_than_that() -> None:
    assert JobsSection(signal_seconds=65_535)
    with pytest.raises(BadInput, match=r"jobs\.signal_seconds = 65536: .*65535$"):
        load(CONFIGS / "tiny.yaml", ["jobs.signal_seconds=65536"])


@pytest.mark.parametrize(
    ("item", "most"),
    [("train.epochs=1e308", "100000"), ("data.make.rows=999999999999", "1000000")],
)
def test_what_no_training_is_is_refused(item: str, most: str) -> None:
    with pytest.raises(BadInput, match=rf"{item.split('=')[0]}.*{most}$"):
        load(CONFIGS / "tiny.yaml", [item])
