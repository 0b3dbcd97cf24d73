"""A run at a hostile path, on a real Slurm: its logs lie where they should, its chain runs, and nothing is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel
from glmjobs.run.read_state import read_state
from glmjobs.run.state import FAILED
from hpc.core.errors import BadInput
from hpc.devcluster import DevCluster
from tests.support.small_chain import done, healed, ids, start, tell

pytestmark = pytest.mark.slurm
NAMES = ["we ird $(touch canary) 'q' %j", "-rf `touch canary`; touch canary", "模型 é 😀 * ~ #"]


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_at_a_hostile_path(
    small: Path, slurm_env: dict[str, str], cluster: DevCluster, clean_queue: Any, wait_for: Any,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, name: str,
) -> None:  # fmt: skip
    clean_queue(cluster)
    folder = tmp_path / name
    monkeypatch.setenv("GLMJOBS_RUNS", str(folder))
    run = start(folder, "run", score="fail 7")
    wait_for(lambda: read_state(run).state == FAILED and read_state(run).ended, 60)
    assert (run.jobs("train") / f"{ids(run)['train']}.out").is_file()
    tell(run.path, score="ok")
    healed(capsys, run)
    wait_for(lambda: done(run), 90)
    assert cancel.main([str(run.path)]) == 0
    assert not list(tmp_path.rglob("canary")) and not Path("canary").exists()


def test_paths_slurm_cannot_take_are_refused(
    small: Path, slurm_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("line\nbreak", 'double"quote', "back\\slash"):
        monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / name))
        with pytest.raises(BadInput, match="Slurm cannot take a log path"):
            start(tmp_path / name, "run")
