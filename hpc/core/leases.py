"""Being alone at work where the file system has no locks, as some parallel ones are mounted (flock: ENOSYS, ENOLCK).

A file that only one process can create (O_EXCL) stands for the lock. Its holder touches it all the while; whoever waits
and sees it untouched for :data:`DEAD_SECONDS` takes it over: its holder is gone. Only the waiter's own clock counts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from hpc.core.process import alive

TOUCH_SECONDS = 5.0
DEAD_SECONDS = 30.0
"""So long a holder does not touch its file only when it is gone; a file server may show a touch some seconds late."""


@contextlib.contextmanager
def lease(path: Path, *, patience: float | None = 0.0) -> Iterator[bool]:
    """Hold ``path``, a file that is not there while nobody does; False where another kept it for ``patience`` seconds.

    ``patience`` None waits as long as it takes.
    """
    owner = f"{os.uname().nodename} {os.getpid()} {uuid.uuid4().hex}\n"
    began, seen, since = time.monotonic(), "", time.monotonic()
    while not (held := _create(path, owner)):
        now, sign = time.monotonic(), _sign(path)
        if sign != seen:
            seen, since = sign, now
        if _gone(path) or (seen and now - since > DEAD_SECONDS):
            _take_away(path, seen)
            continue
        if patience is not None and now - began >= patience:
            break
        time.sleep(0.1)
    if not held:
        yield False
        return
    over = threading.Event()
    toucher = threading.Thread(target=_touch, args=(path, over), daemon=True)
    toucher.start()
    try:
        yield True
    finally:
        over.set()
        toucher.join()
        if (
            _words(path) == owner.split()
        ):  # else it was taken for dead: a machine that stood still for so long
            path.unlink(missing_ok=True)


def _create(path: Path, owner: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(owner)
    return True


def _sign(path: Path) -> str:
    """Changes whenever its holder touches it, or is another; "" where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ""
    return f"{status.st_ino} {status.st_mtime_ns}"


def _gone(path: Path) -> bool:
    """Whether its holder was a process of this machine that is no more."""
    words = _words(path)
    return len(words) == 3 and words[0] == os.uname().nodename and not alive(int(words[1]))


def _words(path: Path) -> list[str]:
    """The holder's machine, process and mark; [] where there is none, or it is just being written."""
    try:
        return path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []


def _take_away(path: Path, seen: str) -> None:
    """Remove a dead holder's file, and no other: of several that wait one renames it, and looks at what it has."""
    aside = path.with_name(f"{path.name}.{os.uname().nodename}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if _sign(aside) == seen or _gone(aside):
            aside.unlink()
        else:  # another was faster, and this is the file of a living one: back with it
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()


def _touch(path: Path, over: threading.Event) -> None:
    while not over.wait(TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
