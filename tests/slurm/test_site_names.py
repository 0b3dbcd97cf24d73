"""What a profile says about its site, judged by Slurm itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpc.batch.jobs import Job, Step
from hpc.batch.profile import Profile
from hpc.batch.script import directives
from hpc.core.errors import HpcError
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from hpc.slurm import maintenance


def asked(folder: Path, profile: Profile, env: dict[str, str], **fields: Any) -> None:
    """Have Slurm say whether a job of this profile could run.

    Raises:
        HpcError: it says no.
    """
    shape = {"gpus_per_node": 1, "tasks_per_node": 1, "memory": "1G", **fields}
    job = Job(stage="work", steps=(Step(stage="work", command=("true",)),), **shape)  # type: ignore[arg-type]
    script = folder / "asked.sh"
    script.write_text("#!/bin/bash\nexit 0\n", encoding="utf-8")
    slurm.test_only(script, extra=directives(job, profile, folder), env=env)


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("constraint", "fits"),
    [
        ("a100", True), ("a100&hbm80g", True), ("rack1|rack2", True), ("(rack1|rack2)&hbm80g", True),
        ("[rack1|rack2]", True), ("[rack1*1&rack2*1]", True), ("a100&h100", False), ("none", False),
    ],
)  # fmt: skip
def test_constraints(constraint: str, fits: bool, cluster: DevCluster, tmp_path: Path) -> None:
    env = cluster.environ()
    for node, rack in (("node1", "rack1"), ("node2", "rack2")):
        features = f"a100,hbm80g,{rack}"
        slurm.run(["scontrol", "update", f"NodeName={node}", f"AvailableFeatures={features}",
                   f"ActiveFeatures={features}"], env=env)  # fmt: skip
    profile = Profile(constraint=constraint)
    nodes = 2 if "*" in constraint else 1
    if fits:
        asked(tmp_path, profile, env, nodes=nodes)
    else:
        with pytest.raises(HpcError, match=r"feature|configuration"):
            asked(tmp_path, profile, env, nodes=nodes)


@pytest.mark.slurm
@pytest.mark.parametrize("how", ["mem", "mem-per-cpu", "mem-per-gpu", "none"])
def test_memory(how: Any, cluster: DevCluster, tmp_path: Path) -> None:
    asked(
        tmp_path,
        Profile(memory_request=how),
        cluster.environ(),
        tasks_per_node=2,
        cpus_per_task=2,
        gpus_per_node=2,
    )


@pytest.mark.slurm
def test_a_site_without_gres_and_a_maintenance(
    make_cluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_cluster(nodes=1, gpus=0) as made:
        env = made.environ()
        with pytest.raises(HpcError):
            asked(tmp_path, Profile(gpu_type="a100"), env)
        asked(tmp_path, Profile(gpu_type="a100", gpu_request="none"), env)

        begins = datetime.now().replace(microsecond=0) + timedelta(hours=1)
        words = ["scontrol", "create", "reservation", "ReservationName=works", f"StartTime={begins.isoformat()}",
                 "Duration=02:00:00", "Users=root", "Flags=MAINT,IGNORE_JOBS", "Nodes=ALL"]  # fmt: skip
        slurm.run(words, env=env)
        script = tmp_path / "long.sh"
        script.write_text("#!/bin/bash\nexit 0\n", encoding="utf-8")
        job = slurm.submit(script, extra=["--time=05:00:00", f"--output={tmp_path}/x"], env=env)
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, env[name])
        wait_until(lambda: "maintenance" in slurm.jobs([job], env=env)[job].reason)
        said = maintenance.waiting(slurm.jobs([job], env=env)[job])
        assert (
            f"reserved for maintenance from {begins:%Y-%m-%d %H:%M}" in said and "it asks for 300 min" in said
        )
        slurm.cancel([job], env=env)


def wait_until(true: Callable[[], bool]) -> None:
    from tests.slurm.conftest import _wait_for

    _wait_for(true, 60.0, "Slurm's reason")
