"""A site whose GPUs are no ``gpu`` to Slurm but, here, ``dcu``: found, asked for, trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import submit
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from glmjobs.run.state import STAGES
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core.errors import NotFit
from hpc.devcluster import DevCluster
from hpc.doctor import draft, scheduler
from hpc.slurm import client as slurm
from tests.support import clusters
from tests.support.small_chain import ids, words

pytestmark = pytest.mark.slurm

DCU = "cluster.gpu_gres=dcu"


@pytest.fixture(scope="module")
def with_dcus(make_cluster: Callable[..., Any]) -> Iterator[DevCluster]:
    with make_cluster(nodes=1, gpus=2, gpu_gres="dcu") as made:
        yield made


@pytest.fixture
def there(with_dcus: DevCluster, monkeypatch: pytest.MonkeyPatch, clean_queue: Any, tmp_path: Path) -> Path:
    clean_queue(with_dcus)
    clusters.enter(with_dcus, monkeypatch)
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_it_is_found_and_named(there: Path) -> None:
    assert slurm.gres_names() == ["dcu"] and slurm.gres(name="dcu") == [("node1", "a100", 2)]
    assert "# gpu_gres: dcu   # if this is the site's name for GPUs" in draft.slurm_lines()
    [row] = scheduler.check_gres(Profile(gpu_type="a100"))
    assert row.state == "bad" and row.mend.startswith("gpu_gres: dcu, if that is the site's name for GPUs")
    with pytest.raises(NotFit, match=r"its GRES are dcu: cluster\.gpu_gres") as refused:
        submit.main(words("unnamed"))
    assert "\n" not in str(refused.value) and not slurm.run(["squeue", "-h"]).strip()

    fit = Profile(gpu_gres="dcu", gpu_type="a100")
    rows = [*scheduler.check_gres(fit), *scheduler.check_request(fit)]
    assert [row.state for row in rows] == ["ok", "ok", "ok"]


@pytest.mark.slow
def test_a_training_on_them(there: Path) -> None:
    settings = (
        "data.make.rows=120", "data.dev_rows=1-20", "train.max_steps=6", "train.save_steps=3", "score.rows=6",
        "score.max_new_tokens=8", "score.shards=2", "model.make.layers=2", "model.make.hidden_size=64",
    )  # fmt: skip
    line = words("dcus", DCU, gpus=2, settings=settings)
    assert submit.main([*line, "--follow"]) == 0
    run = Run.open(there / "dcus")
    assert all(run.done(stage) for stage in STAGES)
    held = {stage: slurm.shown(job)[0].id for stage, job in ids(run).items()}
    shown = {stage: slurm.show(job) or {} for stage, job in held.items()}
    assert "dcu:a100:2" in shown["train"]["TresPerNode"] and "dcu:a100:1" in shown["score"]["TresPerNode"]
    assert not [stage for stage, fields in shown.items() if "gpu:" in fields.get("TresPerNode", "")]
    [attempt] = ledger.events(run.path, event="attempt", stage="train")
    assert attempt["gpus"] == 2 and read_state(run).gpu_hours
