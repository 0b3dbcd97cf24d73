"""`python -m glmjobs.save RUN` asks a training that runs, and refuses where none does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glmjobs import save
from glmjobs.recipe.loading import load
from glmjobs.run.directory import Run, Shape
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core.errors import BadInput
from tests.support.paths import CONFIGS


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(
        tmp_path / "run", load(CONFIGS / "tiny.yaml", []), Profile(name="x"), Shape(nodes=1, gpus=1)
    )


def test_a_training_that_runs_is_asked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.append(run.path, "attempt", stage="train", job=f"local-{os.getpid()}", attempt=1, pid=os.getpid())
    for _ in range(2):
        assert save.main([str(run.path)]) == 0
        assert run.save_request.is_file() and "after the next step" in capsys.readouterr().err


def test_none_runs(run: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="train is waiting: only a training that runs can save"):
        save.main([str(run.path)])
    assert not run.save_request.exists()
    with pytest.raises(BadInput):
        save.main([str(tmp_path / "none")])
