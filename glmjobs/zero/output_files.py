"""Files of a known size, written at any place by any thread; on a local disk past the page cache (O_DIRECT).

The kernel would otherwise spend more time on finding pages for the output than consolidation does on all the rest, and
would drop the checkpoint's own pages to do so.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

ALIGNMENT = 4096  # what O_DIRECT asks of places, lengths and memory, on any disk of today
# File systems on a disk of this machine. Network ones make a round trip of every direct write.
LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs"}


class OutputFile:
    """A new file of ``size`` bytes; ``direct``: past the page cache, if this mount has that.

    Raises:
        OSError: it exists, or the disk is full.
    """

    def __init__(self, path: Path, size: int, *, direct: bool) -> None:
        self.size, self.direct = size, direct
        self.handle = self._open(path)
        try:
            self._reserve()
        except BaseException:
            os.close(self.handle)
            raise

    def _open(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        if self.direct:
            try:
                return os.open(path, flags | os.O_DIRECT, 0o644)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.direct = False  # this mount has no direct writing after all
                path.unlink(missing_ok=True)
        return os.open(path, flags, 0o644)

    def _reserve(self) -> None:
        """Make the file as long as it will be; on a local disk its blocks are then its own already."""
        if self.direct:
            try:
                os.posix_fallocate(self.handle, 0, self.size)
                return
            except OSError as error:
                # A file system without it: glibc then writes single bytes, which O_DIRECT refuses.
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
        os.ftruncate(self.handle, self.size)

    def write(self, buffer: memoryview, size: int, offset: int) -> None:
        """Write the first ``size`` bytes of a buffer (see :func:`buffers`) at a multiple of ALIGNMENT."""
        if self.direct:
            padding = -size % ALIGNMENT
            buffer[size : size + padding] = bytes(padding)
            size += padding
        data = buffer[:size]
        while data:
            done = os.pwrite(self.handle, data, offset)
            data, offset = data[done:], offset + done

    def finish(self, fsync: bool) -> None:
        """All is written: cut off what the last block was padded with, and wait for the disk if asked."""
        if self.direct:
            os.ftruncate(self.handle, self.size)
        if fsync:
            os.fsync(self.handle)

    def close(self) -> None:
        os.close(self.handle)


def buffers(count: int, size: int) -> list[memoryview]:
    """Memory to write from, as O_DIRECT wants it; in huge pages where there are some: the kernel looks up each page."""
    # Private: shared memory has its own setting for huge pages, which is off.
    memory = mmap.mmap(-1, count * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return [memoryview(memory)[n * size : (n + 1) * size] for n in range(count)]


def is_local(directory: Path) -> bool:
    """Whether a directory lies on a disk of this machine, by the kernel's table of mounts."""
    try:
        device = directory.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                # Fields: proc(5), /proc/pid/mountinfo.
                before, _, after = line.partition(" - ")
                if before.split()[2] == number:
                    return after.split()[0] in LOCAL_FILE_SYSTEMS
    except (OSError, IndexError):
        pass
    return False
