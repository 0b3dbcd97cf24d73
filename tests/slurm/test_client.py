"""hpc.slurm.client against a real Slurm: jobs, requeue, refusals, accounting, and what happens when it is hurt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from hpc.slurm.client import JobState

pytestmark = pytest.mark.slurm


def test_available_and_gres(cluster: DevCluster) -> None:
    env = cluster.environ()
    assert slurm.available(env)
    assert slurm.gres(env=env) == [("node1", "a100", 8), ("node2", "a100", 8)]
    assert slurm.gres("gpu", env=env) == slurm.gres(env=env)
    with pytest.raises(slurm.SlurmRefused):
        slurm.submit(Path("/nonexistent.sh"), env=env)


def test_jobs_without_accounting(cluster: DevCluster, sbatch: Any, wait_job: Any, clean_queue: Any) -> None:
    clean_queue(cluster)
    env = cluster.environ()
    failed = sbatch(cluster, "exit 3", "--comment=glmjobs key-1 日本")
    wait_job(cluster, failed)
    waiting = sbatch(cluster, "true", dependency=f"afterok:{failed}")
    array = sbatch(cluster, "sleep 600", "--array=0-2", "--comment=glmjobs key-2")
    wait_job(cluster, f"{array}_2", {JobState.RUNNING})
    seen = slurm.jobs([failed, waiting, array, "999999"], env=env)
    assert set(seen) == {failed, waiting, array, *(f"{array}_{i}" for i in range(3))}
    assert (seen[failed].state, seen[failed].exit_code) == (JobState.FAILED, 3)
    assert seen[failed].comment == "glmjobs key-1 日本" and seen[failed].ended is not None
    assert seen[array].state is JobState.RUNNING and seen[array].time_limit == 7 * 86400
    assert seen[waiting].state is JobState.PENDING and seen[waiting].dependency.startswith(
        f"afterok:{failed}"
    )
    assert slurm.jobs(["999999"], env=env) == {}
    assert [job.id for job in slurm.find_by_comment("key-1", env=env)] == [failed]
    assert [job.id for job in slurm.find_by_comment("key-2", env=env)] == [f"{array}_{i}" for i in range(3)]
    assert slurm.find_by_comment("key", env=env) == []


def test_requeue_rearm_cancel_show(
    cluster: DevCluster, sbatch: Any, wait_job: Any, tmp_path: Path, clean_queue: Any
) -> None:
    """A failed parent is requeued under its id, its dependent armed again, and both succeed."""
    clean_queue(cluster)
    env = cluster.environ()
    parent = sbatch(cluster, f"test -e {tmp_path}/mended")
    child = sbatch(cluster, "true", dependency=f"afterok:{parent}")
    assert wait_job(cluster, parent).state is JobState.FAILED
    (tmp_path / "mended").touch()
    slurm.requeue(parent, env=env)
    slurm.update_dependency(child, f"afterok:{parent}", env=env)
    assert wait_job(cluster, parent).state is JobState.COMPLETED
    assert wait_job(cluster, child).state is JobState.COMPLETED
    assert slurm.jobs([parent], env=env)[parent].restarts == 1
    shown = slurm.show(parent, env=env)
    assert shown is not None and shown["JobState"] == "COMPLETED" and shown["Restarts"] == "1"
    assert slurm.show("999999", env=env) is None
    with pytest.raises(slurm.SlurmRefused, match="Invalid job id"):
        slurm.requeue("999999", env=env)
    with pytest.raises(slurm.SlurmRefused):
        slurm.update_dependency("999999", "afterok:1", env=env)
    long = sbatch(cluster, "sleep 600")
    slurm.cancel([long, "999999", parent], env=env)
    assert wait_job(cluster, long).state is JobState.CANCELLED


@pytest.mark.parametrize(
    "option", ["--partition=nope", "--nodes=3", "--gres=gpu:h100:1", "--time=never", "--gres=gpu:a100:9"]
)
def test_slurm_says_no_in_one_line(cluster: DevCluster, tmp_path: Path, option: str) -> None:
    script = tmp_path / "x.sh"
    script.write_text("#!/bin/bash\ntrue\n")
    for ask in (slurm.submit, slurm.test_only):
        with pytest.raises(slurm.SlurmRefused) as caught:
            ask(script, extra=[option], env=cluster.environ())
        assert "\n" not in str(caught.value) and len(str(caught.value)) > 20
    slurm.test_only(script, env=cluster.environ())


def test_a_job_does_not_inherit_the_surrounding_one(
    cluster: DevCluster, tmp_path: Path, sbatch: Any, wait_job: Any
) -> None:
    script = tmp_path / "child.sh"
    script.write_text("#!/bin/bash\nenv | grep -c ^SLURM_MEM_PER_NODE=\ntrue\n")
    env = cluster.environ() | {"SLURM_MEM_PER_NODE": "123", "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "nope"}
    job = slurm.submit(script, extra=[f"--output={tmp_path}/%j.out"], env=env)
    assert wait_job(cluster, job).state is JobState.COMPLETED
    assert (tmp_path / f"{job}.out").read_text().strip() == "0"


def test_sacct_remembers_what_squeue_forgot(
    accounting_cluster: DevCluster, sbatch: Any, wait_for: Any
) -> None:
    env = accounting_cluster.environ()
    job = sbatch(accounting_cluster, "exit 5", "--comment=key-3")

    def forgotten() -> Any:
        info = slurm.jobs([job], env=env).get(job)
        return info if info and info.source == "sacct" and info.state.is_final else None

    info = wait_for(forgotten, 180, "the job leaves slurmctld's memory and stays in sacct")
    assert (info.state, info.exit_code, info.comment, info.node_list) == (
        JobState.FAILED,
        5,
        "key-3",
        "node1",
    )
    assert info.started is not None and info.ended is not None and info.ended >= info.started


def test_preemption_requeues(
    accounting_cluster: DevCluster, sbatch: Any, wait_for: Any, wait_job: Any, clean_queue: Any
) -> None:
    clean_queue(accounting_cluster)
    env = accounting_cluster.environ()
    low = sbatch(accounting_cluster, "sleep 600", "--nodes=2", "--gres=gpu:a100:8", "--requeue")
    wait_job(accounting_cluster, low, {JobState.RUNNING})
    high = sbatch(accounting_cluster, "true", "--partition=high", "--nodes=2", "--gres=gpu:a100:8")
    assert wait_job(accounting_cluster, high).state is JobState.COMPLETED
    wait_for(lambda: slurm.jobs([low], env=env)[low].restarts == 1, 60, "the preempted job starts again")


def test_slurmdbd_gone_is_no_error(make_cluster: Callable[..., Any], sbatch: Any, wait_job: Any) -> None:
    with make_cluster(nodes=1, gpus=1, accounting=True) as own:
        own.kill("slurmdbd")
        job = sbatch(own, "true")
        assert wait_job(own, job).state is JobState.COMPLETED
        assert slurm.jobs(["999999"], env=own.environ()) == {}
        own.restart("slurmdbd")
        assert own.status()["up"]


def test_a_node_dies_and_comes_back(
    make_cluster: Callable[..., Any], sbatch: Any, wait_job: Any, wait_for: Any
) -> None:
    with make_cluster(nodes=2, gpus=1) as own:
        env = own.environ()
        bound = sbatch(own, "sleep 600", "--nodelist=node2", "--no-requeue")
        moves = sbatch(own, "sleep 600", "--nodelist=node2", "--requeue")
        for job in (bound, moves):
            wait_job(own, job, {JobState.RUNNING})
        own.kill_node("node2")
        assert wait_job(own, bound).state is JobState.NODE_FAIL
        wait_job(own, moves, {JobState.PENDING})
        assert slurm.node_states(env=env)["node2"].startswith("down")
        own.restart_node("node2")
        assert wait_job(own, moves, {JobState.RUNNING}).restarts == 1


def test_the_controller_restarts_and_jobs_go_on(
    make_cluster: Callable[..., Any], sbatch: Any, wait_job: Any, tmp_path: Path
) -> None:
    with make_cluster(nodes=1, gpus=1) as own:
        job = sbatch(own, f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done")
        wait_job(own, job, {JobState.RUNNING})
        own.kill_controller()
        with pytest.raises(slurm.SlurmUnreachable):
            slurm.run(["squeue"], env=own.environ(), pauses=())
        own.restart_controller()
        assert wait_job(own, job, {JobState.RUNNING}).restarts == 0
        (tmp_path / "go").touch()
        assert wait_job(own, job).state is JobState.COMPLETED
