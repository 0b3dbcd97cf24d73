"""What can still be written below a directory: free space of its file system, and within the quotas that can be asked.

``statvfs`` knows nothing of a user's or a group's quota on NFS and Lustre. Lustre's ``lfs quota`` and the ``quota`` of
the Linux quota tools (which asks an NFS server's rquotad) do; where neither is installed, the file system's word
counts.
"""

from __future__ import annotations

import getpass
import grp
import os
import re
import shutil
import subprocess
from pathlib import Path

from hpc.core.process import captured

SECONDS = 10.0


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write below ``path``, which need not be there yet."""
    while not path.exists():
        path = path.parent
    return max(0, min([_disk(path), *_quota_rooms(path)]))


def _disk(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def _quota_rooms(path: Path) -> list[int]:
    """What each quota that applies leaves, in bytes."""
    point, kind = _mount(path)
    if kind == "lustre" and shutil.which("lfs"):
        owners = [["-u", getpass.getuser()], ["-g", grp.getgrgid(path.stat().st_gid).gr_name]]
        texts = [_said(["lfs", "quota", "-q", *owner, str(path)]) for owner in owners]
    elif shutil.which("quota"):
        texts = [_said(["quota", "--no-wrap", "--raw-grace", *owner]) for owner in (["-u"], ["-g"])]
        point = _source(point)
    else:
        return []
    return [room for text in texts for room in rooms(text, point)]


def rooms(text: str, file_system: str) -> list[int]:
    """Kilobyte lines ``file system, used, soft limit, hard limit, …`` of either command, as bytes that are left.

    >>> rooms("/lustre 83886080* 94371840 104857600 - 12 0 0 -", "/lustre")
    [21474836480]
    """
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*(\S+)\s+(\d+)\*?\s+(\d+)\s+(\d+)(?:\s|$)", line)
        if match and match[1] == file_system:
            used, soft, hard = (int(match[n]) for n in (2, 3, 4))
            if limit := hard or soft:  # 0: none
                found.append((limit - used) * 1024)
    return found


def _mount(path: Path) -> tuple[str, str]:
    """Mount point and type of the file system that holds ``path``."""
    found = ("/", "")
    for _, point, kind in _mounts():
        if path.resolve().is_relative_to(point) and len(point) >= len(found[0]):
            found = point, kind
    return found


def _source(point: str) -> str:
    return next((source for source, at, _ in reversed(_mounts()) if at == point), point)


def _mounts() -> list[tuple[str, str, str]]:
    """(device or server, mount point, type) of every mount."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(f[0], f[1], f[2]) for line in lines if len(f := line.split()) >= 3]


def _said(command: list[str]) -> str:
    try:
        return captured(command, SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
