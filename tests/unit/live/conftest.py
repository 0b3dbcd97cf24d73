"""A run with everything a page can show."""

from __future__ import annotations

from pathlib import Path

import pytest

import tests.support.report_sample as sample
from glmjobs.run.directory import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return sample.make_run(tmp_path)
