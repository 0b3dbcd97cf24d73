"""Who may look at a run besides its owner: nobody, or the colleagues of a group (``jobs.share``).

A shared run's directories belong to the group and hand it on (the set-group-ID bit), and everybody who writes into the
run does so with a umask that leaves the group its right to read. What a library writes with modes of its own
(temporary directories that are renamed) is put right at the end of every stage.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from pathlib import Path

from hpc.core.errors import BadInput

PRIVATE = "private"
UMASK = 0o027


def group_id(share: str, parent: Path) -> int | None:
    """The group that a run under ``parent`` is shared with; None for a private one.

    ``group`` is the group of the folder where this user is in it (a project's), else the user's own.

    Raises:
        BadInput: no group of that name, or this user is not in it.
    """
    if share == PRIVATE:
        return None
    mine = {os.getegid(), *os.getgroups()}
    name = share.partition(":")[2]
    if not name:
        there = next(p for p in (parent.absolute(), *parent.absolute().parents) if p.exists()).stat().st_gid
        return there if there in mine or os.geteuid() == 0 else os.getegid()
    try:
        gid = grp.getgrnam(name).gr_gid
    except KeyError:
        raise BadInput(
            f"jobs.share = {share}: there is no group {name!r} here; yours: {_names(mine)}"
        ) from None
    if gid not in mine and os.geteuid() != 0:
        raise BadInput(f"jobs.share = {share}: you are not in the group {name!r}; yours: {_names(mine)}")
    return gid


def _names(gids: set[int]) -> str:
    found = []
    for gid in sorted(gids):
        with contextlib.suppress(KeyError):
            found.append(grp.getgrgid(gid).gr_name)
    return ", ".join(found) or "none that has a name"


def write_for(share: str) -> None:
    """From now on this process writes files that the run's readers can read."""
    if share != PRIVATE:
        os.umask(UMASK)


def apply(run: Path, share: str) -> None:
    """Give everything in a run the group and the modes that ``share`` asks for; a private run is closed at its top.

    Raises:
        BadInput: see :func:`group_id`; or the file system does not allow it.
    """
    gid = group_id(share, run.parent)
    if gid is None:
        run.chmod(0o700)
        return
    try:
        _give(run, gid)
        run.chmod(0o2750)
    except OSError as error:
        raise BadInput(f"{run}: cannot be shared (jobs.share = {share}): {error.strerror}") from None
    for folder, folders, files in os.walk(run):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                _give(Path(folder, name), gid)


def _give(path: Path, gid: int) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return
    if found.st_gid != gid:
        os.chown(path, -1, gid)
    wanted = found.st_mode | (0o2050 if stat.S_ISDIR(found.st_mode) else 0o040)
    if found.st_gid != gid or wanted != found.st_mode:  # a change of the group takes the bit away
        path.chmod(stat.S_IMODE(wanted))


def closed_above(run: Path, gid: int) -> Path | None:
    """The first folder on the way to a run into which the group may not go, by its mode; None where all are open."""
    for folder in reversed(run.absolute().parents):
        found = folder.stat()
        way = stat.S_IXGRP if found.st_gid == gid else stat.S_IXOTH
        if not found.st_mode & way:
            return folder
    return None
