"""The warning before a time limit has to leave some time before it."""

from __future__ import annotations

import pytest

from glmjobs.recipe.schema import JobsSection, TrainLimits
from glmjobs.run.submit_checks import check_warning
from hpc.core.errors import BadInput


def test_a_warning_that_comes_at_once_is_refused() -> None:
    short = JobsSection(train=TrainLimits(time="00:10:00"))
    with pytest.raises(BadInput, match=r"jobs.train.time = 00:10:00: 600 s before its end .* so at once"):
        check_warning(short)
    check_warning(short.model_copy(update={"signal_seconds": 60}))
