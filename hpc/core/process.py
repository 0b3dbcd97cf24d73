"""This machine's processes, and the memory that a job may use on it."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NO_LIMIT = 1 << 60
"""Version 1 of control groups writes "no limit" as a number of this size (the largest multiple of a page)."""


def alive(pid: int) -> bool:
    """True while the process runs (a zombie doesn't)."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def captured(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command without input; its exit code and what it wrote, as text whatever its bytes are.

    Raises:
        OSError: it cannot be started.
        TimeoutExpired: it took longer.
    """
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds,
        check=False,
    )  # fmt: skip


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process ``number`` when its parent is gone (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the job's control groups allow; None where there is no limit to be seen."""
    return min((limit for limit, _ in _memory_groups(root)), default=None)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still have: of the machine, and within each of the job's control groups."""
    import psutil

    rooms = [limit - used for limit, used in _memory_groups(root)]
    return max(0, min([int(psutil.virtual_memory().available), *rooms]))


def _memory_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of every control group with a limit that this process is in.

    A group's own files can say "max" while one above it is limited, so all of them up to the top are read.
    """
    for folder, first in memory_groups(root):
        limit, usage = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
        )
        with contextlib.suppress(OSError, ValueError):  # "max", or a container that hides its group's path
            allowed = int((folder / limit).read_text(encoding="ascii"))
            if allowed < _NO_LIMIT:
                yield allowed, _usage(folder / usage)


def memory_groups(root: Path = Path("/")) -> Iterator[tuple[Path, bool]]:
    """The folder of every control group for memory that this process is in, innermost first, and whether it is of
    version 1 (CentOS 7)."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield group, bool(controllers)
            if group == top:
                break


def _usage(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
