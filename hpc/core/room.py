"""What can still be written below a directory: free space of its file system, and within the quotas that can be asked.

``statvfs`` knows nothing of quotas on Lustre, GPFS and NFS, and nothing of a user's or a group's anywhere. Lustre's
``lfs quota`` (user, group and project), GPFS's ``mmlsquota`` (user, group and fileset) and the ``quota`` of the Linux
quota tools (local file systems; of NFS it asks the server's rquotad) do. Of a project's quota on XFS and ext4 the
kernel lets nobody but root ask, and tells of it itself: ``statvfs`` of a directory whose new files belong to a project
answers within that project's limit (``xfs_qm_statvfs``, ``ext4_statfs_project``). What cannot be asked is said
(:attr:`Quotas.unasked`).
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from hpc.core.process import captured

SECONDS = 10.0
"""For one command: a file system that hangs holds nobody up."""

MMFS = "/usr/lpp/mmfs/bin"
"""Where GPFS's commands are; few sites have it on PATH."""

TELL_NOTHING = ("beegfs", "panfs", "wekafs", "ceph", "fuse.glusterfs", "afs")
"""File systems whose quotas are not asked here."""


@dataclass(frozen=True)
class Quota:
    """One quota, in bytes; a limit of 0: none.

    Attributes:
        what: whose: "user anna", "group lab", "project 1001", "fileset lab".
    """

    what: str
    used: int
    soft: int
    hard: int

    @property
    def limit(self) -> int:
        """Nothing is written beyond the hard one; where there is none, beyond the soft one for a grace period only."""
        return self.hard or self.soft

    @property
    def left(self) -> int:
        """Bytes that can still be written within it."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True)
class Quotas:
    """The quotas with a limit that apply below a directory.

    Attributes:
        unasked: what could not be asked, and why; "" where nothing is left to be asked.
    """

    found: tuple[Quota, ...] = ()
    unasked: str = ""


def free_bytes(path: Path, asked: Quotas | None = None) -> int:
    """Bytes that this user can still write below ``path``, which need not be there yet.

    Args:
        asked: what :func:`quotas` said of it, where that is known; None: it is asked.
    """
    path = there(path)
    asked = quotas(path) if asked is None else asked
    return max(0, min([_disk(path), *(quota.left for quota in asked.found)]))


def quotas(path: Path) -> Quotas:
    """The quotas that apply below ``path``, which need not be there yet."""
    path = there(path)
    source, point, kind = _mount(path)
    if kind == "lustre":
        return _asked("lfs", kind, lambda lfs: _lustre(lfs, path, point))
    if kind == "gpfs":
        return _asked("mmlsquota", kind, lambda tool: _gpfs(tool, path, source.removeprefix("/dev/")))
    if kind in ("nfs", "nfs4") or (kind not in TELL_NOTHING and _found("quota")):
        return _asked("quota", kind, lambda tool: _linux(tool, path, source))
    return Quotas(unasked=f"quotas of {kind} are not asked here" if kind in TELL_NOTHING else "")


def there(path: Path) -> Path:
    """The path, or what of it is there."""
    while not path.exists():
        path = path.parent
    return path


def _disk(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def _asked(tool: str, kind: str, ask: Callable[[str], list[Quota | str]]) -> Quotas:
    """What the command tells: quotas, or in words why one is not known."""
    found = _found(tool)
    if found is None:
        return Quotas(unasked=f"quotas of {kind} cannot be asked: no {tool} here")
    answers = ask(found)
    words = [answer for answer in answers if isinstance(answer, str)]
    limited = tuple(a for a in answers if isinstance(a, Quota) and a.limit)
    return Quotas(limited, "; ".join(words))


def _found(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path=MMFS)


def _owners(path: Path) -> tuple[str, str]:
    """Names, else numbers, of the user and the group that new files below a directory belong to."""
    about = path.stat()
    group = about.st_gid if about.st_mode & stat.S_ISGID else os.getegid()
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    try:
        return user, grp.getgrgid(group).gr_name
    except KeyError:
        return user, str(group)


def _lustre(lfs: str, path: Path, point: str) -> list[Quota | str]:
    """``lfs quota -q`` prints the path that it was given, on a line of its own where it is long (lfs.c, print_quota):
    the mount point is given, which has the quotas of all of the file system."""
    user, group = _owners(path)
    asked = [("user", "-u", user), ("group", "-g", group)]
    project = _said([lfs, "project", "-d", str(path)])
    if match := re.match(r"\s*(\d+)\s+[P-]\s", project[0]):
        # 0 is no project; without the P of inheritance new files belong to none
        asked += [("project", "-p", match[1])] if match[1] != "0" and " P " in project[0] else []
    found: list[Quota | str] = [] if match else [f"the project of {path} is not known: {project[1]}"]
    for what, option, name in asked:
        text, why = _said([lfs, "quota", "-q", option, name, point])
        found.append(kilobytes(text, point, f"{what} {name}") or f"the quota of {what} {name} is not known: {why}")
    return found


def _linux(tool: str, path: Path, source: str) -> list[Quota | str]:
    """The quota tools name a file system by its device, or SERVER:PATH; they say nothing of one without a quota, and
    end with 1 where one is exceeded."""
    user, group = _owners(path)
    found: list[Quota | str] = []
    for what, option, name in (("user", "-u", user), ("group", "-g", group)):
        text, why = _said([tool, "--no-wrap", "--raw-grace", option, name])
        if quota := kilobytes(text, source, f"{what} {name}"):
            found.append(quota)
        elif why:
            found.append(f"the quota of {what} {name} is not known: {why}")
    return found


def kilobytes(text: str, file_system: str, what: str) -> Quota | None:
    """``FILE_SYSTEM USED SOFT HARD …`` in KiB, as lfs and quota print it; USED with a star where it is too much, in
    brackets where a server of Lustre's did not answer.

    >>> kilobytes("/lustre 83886080* 94371840 104857600 - 12 0 0 -", "/lustre", "user anna").left
    21474836480
    """
    match = re.search(rf"(?<!\S){re.escape(file_system)}\s+\[?(\d+)\]?\*?\s+\[?(\d+)\]?\s+\[?(\d+)\]?(?!\S)", text)
    return Quota(what, *(int(number) << 10 for number in match.groups())) if match else None


def _gpfs(tool: str, path: Path, device: str) -> list[Quota | str]:
    text, why = _said([_found("mmlsattr") or "mmlsattr", "-L", str(path)])
    match = re.search(r"^fileset name:\s*(\S+)", text, re.M)
    asked = [["-j", match[1]]] if match and match[1] != "root" else []
    found: list[Quota | str] = [] if match else [f"the fileset of {path} is not known: {why}"]
    for words in ([], *asked):
        text, why = _said([tool, "-Y", *words, device])
        rows = gpfs_rows(text, device, match[1] if match else "")
        if rows is None:
            whose = f"fileset {words[1]}" if words else "user and group"
            found.append(f"the quota of {whose} is not known: {why}")
        found += rows or []
    return found


def gpfs_rows(text: str, device: str, fileset: str) -> list[Quota] | None:
    """The rows of ``mmlsquota -Y`` that apply to a fileset; None where it is no such table. Sizes are in KiB; what is
    in doubt counts as used, as GPFS itself counts it."""
    lines = [[unquote(word) for word in line.split(":")] for line in text.splitlines() if line.startswith("mmlsquota:")]
    heads = [words for words in lines if words[2:3] == ["HEADER"]]
    if not heads:
        return None
    rows = (dict(zip(heads[0], words, strict=False)) for words in lines if words not in heads)
    kinds = {"USR": "user", "GRP": "group", "FILESET": "fileset"}
    found = []
    for row in rows:
        # Where each fileset has users' and groups' quotas of its own, a row tells whose it is.
        of = row.get("name") if row.get("quotaType") == "FILESET" else row.get("filesetname")
        if row.get("filesystemName") == device and of in ("", fileset) and row.get("quotaType") in kinds:
            used, doubt, soft, hard = (
                int(row.get(name) or 0) << 10 for name in ("blockUsage", "blockInDoubt", "blockQuota", "blockLimit")
            )
            found.append(Quota(f"{kinds[row['quotaType']]} {row.get('name')}", used + doubt, soft, hard))
    return found


def _mount(path: Path) -> tuple[str, str, str]:
    """Device or server, mount point and type of the file system that holds ``path``."""
    found, path = ("", "/", ""), path.resolve()
    for mount in _mounts():
        if path.is_relative_to(mount[1]) and len(mount[1]) >= len(found[1]):
            found = mount
    return found


def _mounts() -> list[tuple[str, str, str]]:
    """(device or server, mount point, type) of every mount."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(f[0], _plain(f[1]), f[2]) for line in lines if len(f := line.split()) >= 3]


def _plain(point: str) -> str:
    """Blanks in a mount point are written as ``\\040`` (proc_pid_mounts(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def _said(command: list[str]) -> tuple[str, str]:
    """What a command wrote; and its complaint, "" where it has none."""
    try:
        done = captured(command, SECONDS)
    except subprocess.TimeoutExpired:
        return "", f"{Path(command[0]).name} gave no answer within {SECONDS:g} s"
    except OSError as error:
        return "", f"{Path(command[0]).name}: {error.strerror}"
    last = next(iter(reversed(done.stderr.splitlines())), "").strip()[:200]
    return done.stdout, f"{Path(command[0]).name} says: {last}" if last else ""
