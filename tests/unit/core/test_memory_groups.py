"""The memory a job may use, read from the control groups of every kind of machine, made under a root of one's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from hpc.core.process import alive, available_memory, memory_limit

UNLIMITED_V1 = 9223372036854771712  # what the kernel writes for "no limit": the largest multiple of a page
JOB = "slurm/uid_1000/job_2"
SCOPE = "system.slice/slurmstepd.scope/job_2"


def machine(root: Path, belongs: str, files: dict[str, object]) -> Path:
    """A machine on which this process belongs to these groups; ``files`` below /sys/fs/cgroup."""
    for name, content in {
        "proc/self/cgroup": belongs,
        **{f"sys/fs/cgroup/{k}": v for k, v in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n" if content != "" else "")
    return root


def v1(group: str, limit: int, used: int | None = None) -> dict[str, object]:
    below = f"memory/{group}/" if group else "memory/"
    usage = {} if used is None else {f"{below}memory.usage_in_bytes": used}
    return {f"{below}memory.limit_in_bytes": limit, **usage}


def v2(group: str, limit: int | str, used: int | None = None) -> dict[str, object]:
    below = f"{group}/" if group else ""
    usage = {} if used is None else {f"{below}memory.current": used}
    return {f"{below}memory.max": limit, **usage}


def test_version_1_as_on_centos_7(tmp_path: Path) -> None:
    """Slurm limits the job, not the step; groups of other controllers say nothing about memory."""
    belongs = (
        f"10:cpuset:/{JOB}/step_0\n9:memory:/{JOB}/step_0\n4:cpuacct,cpu:/\n1:name=systemd:/system.slice"
    )
    files = {
        **v1("", UNLIMITED_V1, 50_000_000), **v1("slurm", UNLIMITED_V1, 3_000_000), **v1(JOB, 2_000_000, 500_000),
        **v1(f"{JOB}/step_0", UNLIMITED_V1, 400_000), "cpuset/memory.limit_in_bytes": 1, "memory.max": 1,
    }  # fmt: skip
    root = machine(tmp_path, belongs, files)
    assert memory_limit(root) == 2_000_000
    assert available_memory(root) == 1_500_000


def test_version_1_with_controllers_mounted_together(tmp_path: Path) -> None:
    root = machine(tmp_path, f"8:hugetlb,memory:/{JOB}", v1(JOB, 3_000_000, 1_000_000))
    assert (memory_limit(root), available_memory(root)) == (3_000_000, 2_000_000)


def test_version_2_limits_a_group_above(tmp_path: Path) -> None:
    """A step's own file says "max"; its job's does not."""
    files = {
        **v2(f"{SCOPE}/step_0/user/task_0", "max", 100), **v2(f"{SCOPE}/step_0", "max", 1000),
        **v2(SCOPE, 4_000_000, 1_000_000), **v2("system.slice", "max", 9_000_000),
    }  # fmt: skip
    root = machine(tmp_path, f"0::/{SCOPE}/step_0/user/task_0", files)
    assert (memory_limit(root), available_memory(root)) == (4_000_000, 3_000_000)


def test_hybrid_has_its_memory_in_version_1(tmp_path: Path) -> None:
    """systemd's hybrid: an empty version 2 tree stands beside version 1's controllers."""
    belongs = f"9:memory:/{JOB}\n0::/system.slice/slurmd.service"
    files = {**v1(JOB, 2_000_000, 0), "unified/system.slice/slurmd.service/cgroup.procs": 1}
    assert memory_limit(machine(tmp_path, belongs, files)) == 2_000_000


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_several_limits_counts(tmp_path: Path, version: int) -> None:
    """The smallest limit, and the least room: they need not be the same group's."""
    if version == 1:
        root = machine(
            tmp_path, "9:memory:/a/b", {**v1("a", 9_000_000, 8_900_000), **v1("a/b", 5_000_000, 1_000_000)}
        )
    else:
        root = machine(
            tmp_path, "0::/a/b", {**v2("a", 9_000_000, 8_900_000), **v2("a/b", 5_000_000, 1_000_000)}
        )
    assert (memory_limit(root), available_memory(root)) == (5_000_000, 100_000)


@pytest.mark.parametrize(
    ("belongs", "files"),
    [
        ("0::/a/b", {**v2("a", "max"), **v2("a/b", "max")}),
        ("9:memory:/a", {**v1("", UNLIMITED_V1), **v1("a", UNLIMITED_V1)}),
        ("0::/a", {}),
        ("4:cpu:/a", v1("a", 1)),
        ("", {}),
    ],
    ids=["v2 max", "v1 no limit", "no files", "no memory controller", "no groups"],
)
def test_no_limit(tmp_path: Path, belongs: str, files: dict[str, object]) -> None:
    root = machine(tmp_path, belongs, files)
    assert memory_limit(root) is None
    assert 0 < available_memory(root) <= psutil.virtual_memory().total


def test_no_proc_here(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total


@pytest.mark.parametrize("path", ["/docker/0a1b2c", "/../../kubepods/pod7", "/"])
def test_a_container_that_hides_its_groups_path(tmp_path: Path, path: str) -> None:
    """The process is told the host's path, and sees its own group at the top."""
    assert memory_limit(machine(tmp_path / "1", f"9:memory:{path}", v1("", 2_000_000))) == 2_000_000
    assert memory_limit(machine(tmp_path / "2", f"0::{path}", v2("", 3_000_000))) == 3_000_000


def test_use_beyond_the_limit_and_use_unknown(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path / "1", "0::/a", v2("a", 1_000, 2_000))) == 0
    assert available_memory(machine(tmp_path / "2", "0::/a", v2("a", 1_000))) == 1_000


def test_this_machine() -> None:
    limit = memory_limit()
    assert limit is None or limit > 0
    assert available_memory() > 0


def test_a_zombie_is_not_alive() -> None:
    assert alive(os.getpid())
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
        assert not alive(child.pid)
    assert not alive(child.pid)
