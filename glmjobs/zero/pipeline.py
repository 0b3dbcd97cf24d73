"""Moving a model's bytes: extents of the checkpoint's files into safetensors files, in constant memory.

The output is cut into blocks at fixed places of each file. Threads take the next block and an empty buffer,
read its extents, round where asked, write it to its place, and pass it on to the file's SHA-256 in order;
whichever thread finds the next block to hash does the hashing. There is a fixed number of buffers, so memory
does not depend on the model. Plain reads (not a memory map) keep a file that shrinks underneath an error
instead of a crash, and pages off our account.

On a local disk the files are written past the page cache (O_DIRECT): the kernel would otherwise spend more
time on finding pages for the output than this program does on all the rest, and would drop the checkpoint's
own pages to do so.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from glmjobs.zero.checksums import Checksums
from glmjobs.zero.dtypes import SIZE, convert
from glmjobs.zero.guarded_files import open_handle
from glmjobs.zero.layout import Extent, Tensor
from hpc.core.errors import WorkFailed

BLOCK_BYTES = 1 << 20  # of output; a multiple of ALIGNMENT and of every element's size
ALIGNMENT = 4096  # what O_DIRECT asks of places, lengths and memory, on any disk of today
PIECE_ELEMENTS = 1 << 18  # rounded at once: a megabyte of float32 fits a core's cache
OPEN_FILES = 200
# File systems on a disk of this machine. Network ones make a round trip of every direct write.
LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs"}
Progress = Callable[[int, int], None]  # bytes read and written by a finished block


@dataclass
class Shard:
    """One file to write: its tensors in order, and where each begins."""

    name: str
    tensors: list[Tensor]
    dtypes: list[str]
    header: bytes = b""
    starts: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.starts[-1]


@dataclass
class Written:
    """What came out: sizes and hashes by file, overflow counts by tensor."""

    files: list[dict[str, str | int]]
    overflow: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of one tensor's elements (or of the header's bytes) and its place in the block."""

    at: int
    name: str
    dtype: str
    extent: Extent | None
    literal: bytes = b""


@dataclass(frozen=True, slots=True)
class _Block:
    """The bytes of one file from ``offset`` on: the ``turn``-th block of it."""

    shard: int
    turn: int
    offset: int
    size: int
    pieces: tuple[_Piece, ...]


class _Hash:
    """A file's SHA-256, fed in order by whichever thread comes."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.turn = 0
        self.busy = False
        self.waiting: dict[int, tuple[memoryview, int]] = {}


class Pipeline:
    """Writes ``shards`` into the directory ``into`` with ``workers`` threads (twice as many where writes go
    past the page cache, since half of them then wait for the disk).
    """

    def __init__(
        self, shards: Sequence[Shard], into: Path, workers: int, fsync: bool, progress: Progress | None
    ) -> None:
        self.shards, self.into, self.fsync, self.progress = shards, into, fsync, progress
        self.direct = is_local(into)
        self.threads = 2 * workers if self.direct else workers
        self.lock = threading.Lock()
        # None in place of a buffer: something failed, stop.
        self.buffers: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(2 * self.threads + 2):
            self.buffers.put(memoryview(mmap.mmap(-1, BLOCK_BYTES)))  # page-aligned, as O_DIRECT wants
        self.blocks = self._interleaved(workers)
        self.hashes = [_Hash() for _ in shards]
        self.targets: list[int] = []
        self.sources = _Sources()
        self.sums = Checksums()
        self.overflow: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> Written:
        """Write everything.

        Raises:
            WorkFailed: a source file is shorter than planned, cannot be read or lacks the checksums noted in it,
                or the disk is full.
        """
        try:
            for shard in self.shards:
                self.targets.append(self._create(self.into / shard.name, shard.size))
            threads = [
                threading.Thread(target=self._work, name=f"write-{n}", daemon=True)
                for n in range(self.threads)
            ]
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            except BaseException as error:  # Ctrl-C: threads finish their block before files are closed
                self._fail(error)
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()
                if isinstance(error, RuntimeError):
                    raise WorkFailed(
                        f"{self.threads} threads cannot be started here; take fewer: --workers 1"
                    ) from None
            if self.failure is not None:
                raise self.failure
            self.sums.check()
            for target, shard in zip(self.targets, self.shards, strict=True):
                if self.direct:
                    os.ftruncate(target, shard.size)  # the last block was written to a full ALIGNMENT
                if self.fsync:
                    os.fsync(target)
        except OSError as error:
            raise WorkFailed(
                f"{self.into}: cannot write here: {error.strerror}"
                + (" (the disk is full)" if error.errno == errno.ENOSPC else "")
            ) from None
        finally:
            for target in self.targets:
                os.close(target)
            self.sources.close()
        files: list[dict[str, str | int]] = [
            {"path": shard.name, "bytes": shard.size, "sha256": digest.sha.hexdigest()}
            for shard, digest in zip(self.shards, self.hashes, strict=True)
        ]
        return Written(files, dict(sorted(self.overflow.items())))

    def _create(self, path: Path, size: int) -> int:
        """A new file of this size, open for writing; on a local disk with its blocks already its own."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        if self.direct:
            try:
                handle = os.open(path, flags | os.O_DIRECT, 0o644)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.direct = False  # this mount has no direct writing after all
                path.unlink(missing_ok=True)
        if not self.direct:
            handle = os.open(path, flags, 0o644)
        try:
            if self.direct:
                try:
                    os.posix_fallocate(handle, 0, size)
                except OSError as error:
                    # A file system without it: glibc then writes single bytes, which O_DIRECT refuses.
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                        raise
                    os.ftruncate(handle, size)
            else:
                os.ftruncate(handle, size)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _interleaved(self, side_by_side: int) -> Iterator[_Block]:
        """The blocks of all files, a few files at a time: as many hashes run side by side."""
        for first in range(0, len(self.shards), side_by_side):
            running = [
                _blocks_of(index, self.shards[index])
                for index in range(first, min(first + side_by_side, len(self.shards)))
            ]
            while running:
                for blocks in list(running):
                    block = next(blocks, None)
                    if block is None:
                        running.remove(blocks)
                    else:
                        yield block

    def _work(self) -> None:
        try:
            scratch = memoryview(bytearray(PIECE_ELEMENTS * max(SIZE.values())))
            while True:
                # Before the block is taken: the earliest block always has a buffer, so nothing waits forever.
                buffer = self.buffers.get()
                if buffer is None:
                    return
                with self.lock:
                    block = next(self.blocks, None)
                if block is None:
                    self.buffers.put(buffer)
                    return
                read = sum(self._fill(piece, buffer, scratch) for piece in block.pieces)
                size = block.size
                if self.direct:
                    size += -size % ALIGNMENT
                    buffer[block.size : size] = bytes(size - block.size)
                _write_all(self.targets[block.shard], buffer[:size], block.offset)
                if self.progress is not None:
                    self.progress(read, block.size)
                self._hash(block, buffer)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self.lock:
            self.failure = self.failure or error
            self.blocks = iter(())
        for _ in range(self.threads):
            self.buffers.put(None)

    def _fill(self, piece: _Piece, buffer: memoryview, scratch: memoryview) -> int:
        """Put a piece in its place, rounded; the bytes read."""
        if piece.extent is None:
            buffer[piece.at : piece.at + len(piece.literal)] = piece.literal
            return 0
        kind, count = piece.extent.dtype, piece.extent.count
        size = count * SIZE[kind]
        if kind == piece.dtype:
            self.sources.read(piece.extent, buffer[piece.at : piece.at + size])
            self.sums.add(piece.extent, buffer[piece.at : piece.at + size])
            return size
        raw = scratch[:size]
        self.sources.read(piece.extent, raw)
        self.sums.add(piece.extent, raw)
        values, overflow = convert(np.frombuffer(raw, np.uint8), kind, piece.dtype)
        np.frombuffer(buffer, np.uint8)[piece.at : piece.at + values.nbytes] = values.view(np.uint8)
        if overflow:
            with self.lock:
                self.overflow[piece.name] += overflow
        return size

    def _hash(self, block: _Block, buffer: memoryview) -> None:
        """Leave the block for hashing, and hash what is next in line unless another thread is at it."""
        digest = self.hashes[block.shard]
        with self.lock:
            digest.waiting[block.turn] = buffer, block.size
            if digest.busy:
                return
            digest.busy = True
        while True:
            with self.lock:
                following = digest.waiting.pop(digest.turn, None)
                if following is None:
                    digest.busy = False
                    return
                digest.turn += 1
            digest.sha.update(following[0][: following[1]])
            self.buffers.put(following[0])


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


def _pieces(shard: Shard) -> Iterator[_Piece]:
    """All of a file in order, in pieces that cross no block's edge."""
    place = 0
    while place < len(shard.header):
        at = place % BLOCK_BYTES
        literal = shard.header[place : place + BLOCK_BYTES - at]
        yield _Piece(at, "", "U8", None, literal)
        place += len(literal)
    for tensor, dtype in zip(shard.tensors, shard.dtypes, strict=True):
        for extent in tensor.extents:
            start = 0
            while start < extent.count:
                at = place % BLOCK_BYTES
                # Every tensor starts at a multiple of its element's size, so no element crosses an edge.
                take = min((BLOCK_BYTES - at) // SIZE[dtype], extent.count - start, PIECE_ELEMENTS)
                yield _Piece(at, tensor.name, dtype, extent.part(start, take))
                start += take
                place += take * SIZE[dtype]


def _blocks_of(index: int, shard: Shard) -> Iterator[_Block]:
    turn = 0
    held: list[_Piece] = []
    for piece in _pieces(shard):
        if piece.at == 0 and held:
            yield _Block(index, turn, turn * BLOCK_BYTES, BLOCK_BYTES, tuple(held))
            turn, held = turn + 1, []
        held.append(piece)
    offset = turn * BLOCK_BYTES
    yield _Block(index, turn, offset, shard.size - offset, tuple(held))


class _Sources:
    """The checkpoint's files, kept open (up to a number) and read by position."""

    def __init__(self) -> None:
        self.open: dict[Path, int] = {}
        self.lock = threading.Lock()

    def read(self, extent: Extent, into: memoryview) -> None:
        """Fill ``into`` with the extent's bytes."""
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
        raise WorkFailed(f"{path}: cannot be opened: {error.strerror or error}") from None


def _read_all(handle: int, into: memoryview, extent: Extent) -> None:
    done = 0
    while done < len(into):
        try:
            got = os.preadv(handle, [into[done:]], extent.offset + done)
        except OSError as error:
            raise WorkFailed(f"{extent.file}: cannot be read: {error.strerror}") from None
        if got == 0:
            raise WorkFailed(
                f"{extent.file}: truncated, it ends inside a tensor (at byte {extent.offset + done})"
            )
        done += got


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done
