"""The checkpoint's files while it is read: kept open (up to a number), read by position from any thread.

Plain reads, not a memory map: a file that shrinks underneath is an error and no crash, and its pages are not on our
account.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from glmjobs.zero.guarded_files import open_handle
from glmjobs.zero.layout import Extent
from hpc.core.errors import WorkFailed, of_system

OPEN_FILES = 200


class SourceFiles:
    """Files by path, opened when first read; ``close`` closes all."""

    def __init__(self) -> None:
        self.open: dict[Path, int] = {}
        self.lock = threading.Lock()

    def read(self, extent: Extent, into: memoryview) -> None:
        """Fill ``into`` with the extent's bytes.

        Raises:
            WorkFailed: the file cannot be read, or ends before.
        """
        with self.lock:
            handle = self.open.get(extent.file)
            if handle is None and len(self.open) < OPEN_FILES:
                handle = self.open[extent.file] = _open(extent.file)
        if handle is not None:
            _read_all(handle, into, extent)
            return
        handle = _open(extent.file)
        try:
            _read_all(handle, into, extent)
        finally:
            os.close(handle)

    def close(self) -> None:
        for handle in self.open.values():
            os.close(handle)
        self.open.clear()


def _open(path: Path) -> int:
    try:
        return open_handle(path)
    except OSError as error:
        raise of_system(error, f"{path}: cannot be opened: {error.strerror or error}") from None


def _read_all(handle: int, into: memoryview, extent: Extent) -> None:
    done = 0
    while done < len(into):
        try:
            got = os.preadv(handle, [into[done:]], extent.offset + done)
        except OSError as error:
            raise of_system(error, f"{extent.file}: cannot be read: {error.strerror}") from None
        if got == 0:
            raise WorkFailed(
                f"{extent.file}: truncated, it ends inside a tensor (at byte {extent.offset + done})"
            )
        done += got
