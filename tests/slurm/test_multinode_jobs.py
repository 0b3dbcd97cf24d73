"""Many jobs on one node, and many ranks of which one fails, on a real Slurm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glmjobs import logs
from glmjobs.recipe import loading as recipes
from glmjobs.run.directory import Run, Shape
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.chain import ledger, submission
from hpc.devcluster import DevCluster
from hpc.slurm.client import JobInfo, JobState
from tests.support.paths import REPO, SUPPORT

pytestmark = pytest.mark.slurm

JOBS = 20


@pytest.fixture
def empty(
    cluster: DevCluster, slurm_env: dict[str, str], clean_queue: Callable[[DevCluster], None]
) -> Iterator[DevCluster]:
    clean_queue(cluster)
    yield cluster


def test_twenty_jobs_on_one_node_meet_at_ports_of_their_own(
    empty: DevCluster, tmp_path: Path, sbatch: Callable[..., str], wait_job: Callable[..., JobInfo]
) -> None:
    meet = SUPPORT.joinpath("meeting.py")
    command = f"{sys.executable} {meet} {tmp_path} {JOBS}"
    body = f"cd {REPO}\nexport PYTHONPATH={REPO}\nexec srun --kill-on-bad-exit=1 {command}"
    options = ("--nodelist=node1", "--ntasks=2", "--mem=64M", "--time=10")
    jobs = [sbatch(empty, body, *options) for _ in range(JOBS)]
    for job in jobs:
        info = wait_job(empty, job, timeout=300)
        assert info.state is JobState.COMPLETED, (tmp_path / f"{job}.out").read_text()
    found = [(tmp_path / f"found-{job}").read_text().split() for job in jobs]
    assert [job for job, _ in found] == jobs
    assert len({port for _, port in found}) == JOBS


FAILING = """
import os, sys
from pathlib import Path
from hpc import WorkFailed, discover_rank, record_failure
folder = Path(sys.argv[1]) / "jobs/train"
place = discover_rank(folder)
if place.rank == 2:
    print("batch 7 of rank 2", file=sys.stderr)
    error = WorkFailed("the loss is not a number at step 7")
    record_failure(folder, place.rank, error)
    sys.exit(1)
os.read(os.pipe()[0], 1)  # waits for the failed one, as in a collective operation, until srun ends it
"""


def test_the_first_rank_that_failed_is_named_with_its_node(
    empty: DevCluster, tmp_path: Path, wait_job: Callable[..., JobInfo], capsys: pytest.CaptureFixture[str]
) -> None:
    """Four ranks on two nodes; the third fails and the others only wait: one line says so, not four tracebacks."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    profile = Profile.model_validate({"name": "two", "environment": {"variables": {"PYTHONPATH": str(REPO)}}})
    recipe = recipes.load(REPO / "configs/tiny.yaml", [])
    run = Run.create(tmp_path / "run", recipe, profile, Shape(nodes=2, gpus=2))
    request = Job(
        stage="train", name="two-train", nodes=2, tasks_per_node=2, time="00:10:00", memory="256M", attempt_limit=1,
        steps=(Step(stage="train", command=(sys.executable, str(script), "$RUN"), tasks_per_node=2),),
    )  # fmt: skip
    chain = Chain(run=run.path, jobs=(request,), profile=profile, project=REPO, key=run.file.key)
    job = submission.submit(chain)["train"]
    info = wait_job(empty, job, timeout=180)
    said = (run.jobs("train") / f"{job}.out").read_text()
    assert info.state is JobState.FAILED and info.exit_code != 0, said
    told = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "train failed: rank 2 on node2 was first: " in told[0]
    assert "the loss is not a number at step 7" in told[0] and "Traceback" not in said
    (ended,) = ledger.events(run.path, event="ended", stage="train")
    assert (ended["failed_rank"], ended["failed_node"]) == (2, "node2")
    capsys.readouterr()
    assert logs.main([str(run.path), "--stage", "train"]) == 0
    shown = capsys.readouterr().out
    headings = [line for line in shown.splitlines() if line.startswith("==> ")]
    assert headings == [f"==> jobs/train/{job}.out <==", "==> jobs/train/rank-2.log <=="]
    assert "batch 7 of rank 2" in shown
