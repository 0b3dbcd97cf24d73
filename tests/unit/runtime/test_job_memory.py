"""The memory a job takes, read from its control group or summed over its processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.runtime.job_memory import PeakMemory, of_job, own_pages

V1 = "slurm/uid_1000/job_2"
V2 = "system.slice/slurmstepd.scope/job_2"
MIB = 1 << 20


def node(root: Path, belongs: str, group: str, stat: str) -> Path:
    """A node on which this process belongs to a group below ``/sys/fs/cgroup``."""
    for name, text in {"proc/self/cgroup": belongs, f"sys/fs/cgroup/{group}/memory.stat": stat}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("belongs", "group", "before", "after"),
    [
        (f"9:memory:/{V1}/step_batch", f"memory/{V1}", "cache 900\ntotal_cache 900\nrss 1\ntotal_rss 50",
         "total_cache 9999\ntotal_rss 30"),
        (f"0::/{V2}/step_batch/user/task_0", V2, "anon 40\nfile 900\nshmem 10", "anon 20\nfile 9999\nshmem 10"),
    ],
    ids=["version 1", "version 2"],
)  # fmt: skip
def test_a_jobs_group_at_its_fullest(
    tmp_path: Path, belongs: str, group: str, before: str, after: str
) -> None:
    """All steps of the job, whatever step this process is in; files that the kernel keeps don't count."""
    root = node(tmp_path, belongs, group, before)
    peak = PeakMemory("2", root)
    assert peak.bytes is None
    peak.sample()
    node(tmp_path, belongs, group, after)
    peak.sample()
    assert peak.bytes == 50


HOLDER = "import sys; x = bytearray(%d * 2**20); print(flush=True); sys.stdin.read()"


def holder(megabytes: int, **environ: str) -> subprocess.Popen[str]:
    """A process that holds so much memory until its input is closed."""
    words = [sys.executable, "-c", HOLDER % megabytes]
    pipe, env = subprocess.PIPE, {**os.environ, **environ}
    made = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=env)
    assert made.stdout is not None and made.stdout.readline()
    return made


def test_the_processes_of_a_job_without_a_group(tmp_path: Path) -> None:
    """Steps are no children of the batch process: they are known by their environment. Another job's are not ours."""
    number = f"77{os.getpid()}"
    with holder(100, SLURM_JOB_ID=number) as mine, holder(300, SLURM_JOB_ID=number + "1") as other:
        assert set(of_job(number)) == {mine.pid} and set(of_job(number + "1")) == {other.pid}
        peak = PeakMemory(number, tmp_path)
        peak.sample()
        mine.communicate()
        other.communicate()
    assert peak.bytes is not None and 100 * MIB <= peak.bytes < 150 * MIB
    fullest = peak.bytes
    peak.sample()
    assert peak.bytes == fullest, "the most counts, not the last"


def test_on_this_machine_what_was_started_here() -> None:
    alone = own_pages(os.getpid())
    with holder(100) as mine:
        peak = PeakMemory()
        peak.sample()
        mine.communicate()
    assert peak.bytes is not None and peak.bytes >= alone // 2 + 100 * MIB


def test_a_process_that_has_ended_has_none() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert own_pages(child.pid) == 0
