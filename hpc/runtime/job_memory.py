"""How much memory of its node a job takes at most, measured while it runs: needs neither sacct nor a plugin of Slurm's.

What is counted cannot be given back: memory that programs have written to, theirs alone or shared (tmpfs), and not the
pages of files that the kernel keeps as long as there is room, which fill every job's limit sooner or later.

It is read from the job's control group, all of its steps on this node, where Slurm puts jobs into one; else it is
summed over the job's processes (each one's resident pages that no file is behind). Sampled, so that a peak between two
samples is missed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hpc.core.process import memory_groups

COUNTED = {True: ("total_rss", "total_shmem"), False: ("anon", "shmem")}
"""Lines of a group's memory.stat, by whether it is of version 1 (Linux, Documentation/admin-guide/cgroup-v1/memory.rst
and cgroup-v2.rst)."""

PAGE = os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """The most memory, in bytes, that a job had at any sample; None while there is none.

    Args:
        job: Slurm's number of it; "": this process and those that it has started.
    """

    def __init__(self, job: str = "", root: Path = Path("/")) -> None:
        self.job, self.root = job, root
        self.bytes: int | None = None
        self._group = group_of(job, root) if job else None

    def sample(self) -> None:
        """Look once."""
        used = in_group(*self._group) if self._group else None
        if used is None:
            used = sum(map(own_pages, of_job(self.job) if self.job else below(os.getpid())))
        if used:
            self.bytes = max(self.bytes or 0, used)


def group_of(job: str, root: Path = Path("/")) -> tuple[Path, bool] | None:
    """The control group of a job on this node (its folder, and whether it is of version 1); None: it has none that
    counts memory."""
    for folder, first in memory_groups(root):
        if folder.name == f"job_{job}" and in_group(folder, first) is not None:
            return folder, first
    return None


def in_group(folder: Path, first: bool) -> int | None:
    """Bytes in use by a control group; None where it doesn't tell."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return None
    found = [stat[name] for name in COUNTED[first] if name in stat]
    return sum(found) if found else None


def of_job(job: str) -> Iterator[int]:
    """This user's processes on this node that Slurm has started for a job."""
    mark = f"SLURM_JOB_ID={job}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # another user's, or it has just ended
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def below(process: int) -> list[int]:
    """A process and all that it has started."""
    import psutil

    try:
        return [process, *(p.pid for p in psutil.Process(process).children(recursive=True))]
    except psutil.Error:
        return []


def own_pages(process: int) -> int:
    """Bytes of a process's resident pages that no file is behind (proc(5), statm); 0 where it has ended."""
    try:
        words = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
        return max(0, int(words[1]) - int(words[2])) * PAGE
    except (OSError, ValueError, IndexError):
        return 0
