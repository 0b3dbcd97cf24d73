"""Preflight on a real Slurm with four nodes whose GPUs are pretended by an nvidia-smi of the test's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs.recipe import loading as recipes
from glmjobs.run.directory import Run, Shape
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Measured, Profile
from hpc.chain import ledger, submission
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from hpc.slurm.client import JobInfo, JobState
from tests.support.paths import REPO

pytestmark = pytest.mark.slurm

NVIDIA_SMI = """#!/bin/bash
# Two A100s on each node; on the node that $BAD names, what $ILL says.
node=${{SLURMD_NODENAME:-login}} ecc=0 used=3
case " $(cat {ill}/ecc 2>/dev/null) " in *" $node "*) ecc=4 ;; esac
driver=$(cat {ill}/driver 2>/dev/null || echo 515.65.01)
case $1 in
    --query-gpu=*) for i in 0 1; do
        echo "$i, NVIDIA A100-SXM4-80GB, 81920, $driver, GPU-$node-$i, $ecc, $used"; done ;;
    --query-compute-apps=*)
        case " $(cat {ill}/leftover 2>/dev/null) " in *" $node "*) echo "4711, python, 30517, GPU-$node-0" ;; esac ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def four(make_cluster: Callable[..., Any]) -> Iterator[DevCluster]:
    with make_cluster(nodes=4, gpus=2) as made:
        yield made


class Case:
    """A run whose train job checks the nodes and then leaves the list of its nodes."""

    def __init__(self, folder: Path, cluster: DevCluster, **floor: Any) -> None:
        self.ill = folder / "ill"
        self.ill.mkdir()
        self.cluster = cluster
        bin_ = folder / "bin"
        bin_.mkdir()
        (bin_ / "nvidia-smi").write_text(NVIDIA_SMI.format(ill=self.ill))
        (bin_ / "nvidia-smi").chmod(0o755)
        (bin_ / "dmesg").write_text("#!/bin/sh\nexit 1\n")
        (bin_ / "dmesg").chmod(0o755)
        path = cluster.environ()["PATH"]
        self.profile = Profile.model_validate(
            {
                "name": "four", "gpu_type": "a100",
                "environment": {"variables": {"PATH": f"{bin_}:{path}", "OMP_NUM_THREADS": "1"}},
                "preflight": {"libraries": False, "wait_seconds": 20, "driver": "515.65.01", **floor},
            }
        )  # fmt: skip

    def submit(self, folder: Path, nodes: int, gpus: int = 2) -> tuple[Run, str]:
        base = folder / "base"  # of which preflight reads the sizes alone
        base.mkdir(exist_ok=True)
        sizes = {"model_type": "chatglm", "hidden_size": 64, "num_layers": 2, "vocab_size": 800}
        (base / "config.json").write_text(json.dumps(sizes))
        recipe = recipes.load(
            REPO / "configs/tiny.yaml",
            [
                "train.device=cuda",
                "data.make.rows=200",
                "data.dev_rows=1-20",
                "model.make=null",
                f"model.path={base}",
            ],
        )
        run = Run.create(folder / "run", recipe, self.profile, Shape(nodes=nodes, gpus=gpus))
        done = (
            "import sys; from pathlib import Path; from hpc.chain import ledger; from hpc.core.timestamps import now; "
            "ledger.write_marker(Path(sys.argv[1]), 'train', outcome='done', started=now())"
        )
        request = Job(
            stage="train", name="four-train", nodes=nodes, tasks_per_node=gpus, gpus_per_node=gpus, time="00:10:00",
            steps=(
                Step(stage="preflight", command=("python", "-m", "glmjobs.preflight", "$RUN"), tasks_per_node=1,
                     kill_on_bad_exit=False),
                Step(stage="train", command=(sys.executable, "-c", done, "$RUN")),
            ),
        )  # fmt: skip
        chain = Chain(run=run.path, jobs=(request,), profile=self.profile, project=REPO, key=run.file.key)
        return run, submission.submit(chain)["train"]


def output(run: Run, job: str) -> str:
    return (run.jobs("train") / f"{job}.out").read_text()


def test_a_bad_node_is_recorded_and_the_job_goes_on_without_it(
    tmp_path: Path, four: DevCluster, slurm_of: Callable[[DevCluster], None], wait_job: Callable[..., JobInfo]
) -> None:
    slurm_of(four)
    case = Case(tmp_path, four)
    (case.ill / "ecc").write_text("node2")
    run, job = case.submit(tmp_path, nodes=3, gpus=1)
    info = wait_job(four, job, timeout=120)
    said = output(run, job)
    assert info.state is JobState.COMPLETED, said
    assert "starting again without node2 (1 of 3)" in said
    line = next(line for line in said.splitlines() if "node2" in line and "│" in line)
    assert "uncorrected ECC errors" in line and "GPU 0: 4" in line
    # Under load Slurm can start the job again before it hears whom to leave out: then node2 is found once more.
    bad = ledger.events(run.path, event="bad_node")
    assert {(e["node"], *e["reasons"]) for e in bad} == {
        ("node2", "uncorrected ECC errors: found GPU 0: 4, needed 0")
    }
    attempts = [e["nodes"] for e in ledger.events(run.path, event="attempt", stage="preflight")]
    assert slurm.expand_hosts(attempts[0]) == ["node1", "node2", "node3"]
    assert slurm.expand_hosts(attempts[-1]) == ["node1", "node3", "node4"]
    assert len(attempts) == len(bad) + 1
    failed = ledger.events(run.path, event="ended", stage="preflight")[0]
    assert failed["failed_node"] == "node2" and "uncorrected ECC" in failed["error"]
    assert run.done("preflight") and run.done("train")


def test_a_node_that_cannot_start_python_is_named(
    tmp_path: Path,
    four: DevCluster,
    slurm_of: Callable[[DevCluster], None],
    wait_for: Callable[..., Any],
    clean_queue: Callable[[DevCluster], None],
) -> None:
    """As one that does not see the project or the run directory."""
    slurm_of(four)
    clean_queue(four)
    case = Case(tmp_path, four, wait_seconds=10)
    blind = tmp_path / "sitecustomize.py"
    blind.write_text(
        "import os\nif os.environ.get('SLURMD_NODENAME') == 'node3' and 'SLURM_STEP_ID' in os.environ: os._exit(1)\n"
    )
    profile = case.profile.model_dump(mode="json")
    profile["environment"]["variables"]["PYTHONPATH"] = str(tmp_path)
    case.profile = Profile.model_validate(profile)
    run, job = case.submit(tmp_path, nodes=3)
    wait_for(lambda: len(ledger.events(run.path, event="attempt")) > 1, 120, "a second attempt")
    said = output(run, job)
    assert [(e["node"], e["reasons"]) for e in ledger.events(run.path, event="bad_node")] == [
        ("node3", ["report: found none within 10 s, needed one"])
    ]
    assert "starting again without node3" in said
    second = ledger.events(run.path, event="attempt")[1]["nodes"]
    assert slurm.expand_hosts(second) == ["node1", "node2", "node4"]


def test_with_too_few_nodes_left_the_job_ends_with_a_table(
    tmp_path: Path, four: DevCluster, slurm_of: Callable[[DevCluster], None], wait_job: Callable[..., JobInfo]
) -> None:
    slurm_of(four)
    case = Case(tmp_path, four)
    (case.ill / "leftover").write_text("node4")
    run, job = case.submit(tmp_path, nodes=4)
    info = wait_job(four, job, timeout=120)
    said = output(run, job)
    assert info.state is JobState.FAILED and info.exit_code == 3
    assert "the job needs 4 nodes; without node4 there are 3" in said
    assert "GPU 0: process 4711 (python), 29.8 GiB" in " ".join(said.split())
    assert not ledger.events(run.path, event="requeued")


def test_a_bad_configuration_ends_with_one_table_and_no_requeue(
    tmp_path: Path, four: DevCluster, slurm_of: Callable[[DevCluster], None], wait_job: Callable[..., JobInfo]
) -> None:
    slurm_of(four)
    case = Case(tmp_path, four)
    (case.ill / "driver").write_text("470.82.01")
    run, job = case.submit(tmp_path, nodes=2)
    info = wait_job(four, job, timeout=120)
    said = output(run, job)
    assert info.state is JobState.FAILED and info.exit_code == 3
    assert said.count("preflight: 2 nodes") == 1 and "470.82.01" in said and "515.65.01 or newer" in said
    assert not ledger.events(run.path, event="requeued") and not ledger.events(run.path, event="bad_node")


def test_a_save_that_does_not_fit_before_the_time_limit_is_said(
    tmp_path: Path, four: DevCluster, slurm_of: Callable[[DevCluster], None], wait_job: Callable[..., JobInfo]
) -> None:
    """By what the nodes have just written it does; by the profile's figure, which counts for more, it does not."""
    slurm_of(four)
    case = Case(tmp_path, four)
    run, job = case.submit(tmp_path, nodes=1)
    assert wait_job(four, job, timeout=120).state is JobState.COMPLETED, output(run, job)
    said = "".join(file.read_text() for file in run.jobs("preflight").glob("*.log"))
    assert "│ a save " in said and "that this node" in said, said
    (tmp_path / "slow").mkdir()
    slow = Case(tmp_path / "slow", four)
    figure = {"time": "2026-01-01", "what": "base", "nodes": 2, "gpus": 2, "write_gb_s": 1e-6}
    slow.profile = slow.profile.model_copy(update={"measured": (Measured.model_validate(figure),)})
    run, job = slow.submit(tmp_path / "slow", nodes=2)
    assert wait_job(four, job, timeout=120).exit_code == 3
    error = next(e["error"] for e in ledger.events(run.path, event="ended", stage="preflight"))
    assert "a save: found a checkpoint of " in error and "that were measured here (cluster.measured)" in error
    assert "needed the last one has 60 s before the time limit" in error
    assert " --set jobs.signal_seconds=" in error and not ledger.events(run.path, event="bad_node")


def test_it_starts_again_so_often_and_no_more(
    tmp_path: Path, four: DevCluster, slurm_of: Callable[[DevCluster], None], wait_job: Callable[..., JobInfo]
) -> None:
    slurm_of(four)
    case = Case(tmp_path, four, requeues=2)
    (case.ill / "ecc").write_text("node1 node2 node3 node4")
    run, job = case.submit(tmp_path, nodes=1)
    info = wait_job(four, job, timeout=180)
    said = output(run, job)
    assert info.state is JobState.FAILED and info.exit_code == 3
    assert [e["node"] for e in ledger.events(run.path, event="bad_node")] == ["node1", "node2", "node3"]
    assert "started again 2 times without bad nodes already" in said


def test_all_ranks_measure_their_all_reduce(
    tmp_path: Path, four: DevCluster, slurm_of: Callable[[DevCluster], None], wait_job: Callable[..., JobInfo]
) -> None:
    """Over gloo here; a floor that nothing reaches ends the job."""
    slurm_of(four)
    case = Case(tmp_path, four, allreduce_gb_s=1e6, allreduce_mb=4)
    run, job = case.submit(tmp_path, nodes=2, gpus=1)
    info = wait_job(four, job, timeout=180)
    said = output(run, job)
    assert info.state is JobState.FAILED and info.exit_code == 3, said
    assert "all-reduce, 2 nodes" in said and "GB/s (gloo)" in said and "1e+06 GB/s" in said
    figures = json.loads((run.jobs("preflight") / "allreduce-0.json").read_text())
    assert figures["backend"] == "gloo" and figures["all_gb_s"] > 0 and figures["node_gb_s"] is None


@pytest.fixture
def slurm_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[DevCluster], None]:
    """Puts this process on a cluster."""

    def put(on: DevCluster) -> None:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, on.environ()[name])

    return put
