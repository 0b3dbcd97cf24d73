"""Moving a model's bytes: extents of the checkpoint's files into safetensors files, in constant memory.

The output is cut into blocks at fixed places of each file. Threads take the next block and an empty buffer,
read its extents, round where asked, write it to its place, and pass it on to the file's hash in order;
whichever thread finds the next block to hash does the hashing. There is a fixed number of buffers, so memory
does not depend on the model.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glmjobs.zero.blocks import BLOCK_BYTES, PIECE_ELEMENTS, Block, Piece, Shard, interleaved
from glmjobs.zero.checksums import Checksums
from glmjobs.zero.dtypes import FLOATING, SIZE, convert, not_finite
from glmjobs.zero.file_hashes import HASHES
from glmjobs.zero.output_files import OutputFile, buffers, is_local
from glmjobs.zero.source_files import SourceFiles
from hpc.core.errors import WorkFailed, of_system

Progress = Callable[[int, int], None]  # bytes read and written by a finished block


@dataclass
class Written:
    """What came out: sizes and hashes by file; by tensor how many finite values became infinite, and how many were NaN
    or infinite before."""

    files: list[dict[str, str | int]]
    overflow: dict[str, int]
    not_finite: dict[str, int]


class _OrderedHash:
    """A file's hash, fed in order by whichever thread comes."""

    def __init__(self, kind: str) -> None:
        self.digest = HASHES[kind]()
        self.turn = 0
        self.busy = False
        self.waiting: dict[int, tuple[memoryview, int]] = {}


class Pipeline:
    """Writes ``shards`` into the directory ``into`` with ``workers`` threads (twice as many where writes go
    past the page cache, since half of them then wait for the disk), and hashes them as ``hash_kind`` says.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        into: Path,
        workers: int,
        *,
        fsync: bool,
        hash_kind: str,
        progress: Progress | None,
    ) -> None:
        self.shards, self.into, self.fsync, self.progress = shards, into, fsync, progress
        self.direct, self.hash_kind = is_local(into), hash_kind
        self.threads = 2 * workers if self.direct else workers
        self.lock = threading.Lock()
        # None in place of a buffer: something failed, stop.
        self.buffers: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for buffer in buffers(self.threads + 1, BLOCK_BYTES):
            self.buffers.put(buffer)
        self.blocks = interleaved(shards, workers)
        self.hashes = [_OrderedHash(hash_kind) for _ in shards]
        self.targets: list[OutputFile] = []
        self.sources = SourceFiles()
        self.sums = Checksums()
        self.overflow: Counter[str] = Counter()
        self.not_finite: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> Written:
        """Write everything.

        Raises:
            WorkFailed: a source file is shorter than planned, cannot be read or lacks the checksums noted in it,
                or the disk is full.
        """
        try:
            for shard in self.shards:
                self.targets.append(OutputFile(self.into / shard.name, shard.size, direct=self.direct))
            self._run_threads()
            if self.failure is not None:
                raise self.failure
            self.sums.check()
            for target in self.targets:
                target.finish(self.fsync)
        except OSError as error:
            full = " (the disk is full)" if error.errno == errno.ENOSPC else ""
            raise of_system(error, f"{self.into}: cannot write here: {error.strerror}{full}") from None
        finally:
            for target in self.targets:
                target.close()
            self.sources.close()
        files: list[dict[str, str | int]] = [
            {"path": shard.name, "bytes": shard.size, self.hash_kind: found.digest.hexdigest()}
            for shard, found in zip(self.shards, self.hashes, strict=True)
        ]
        return Written(files, dict(sorted(self.overflow.items())), dict(sorted(self.not_finite.items())))

    def _run_threads(self) -> None:
        threads = [
            threading.Thread(target=self._work, name=f"write-{n}", daemon=True) for n in range(self.threads)
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
                self.targets[block.shard].write(buffer, block.size, block.offset)
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

    def _fill(self, piece: Piece, buffer: memoryview, scratch: memoryview) -> int:
        """Put a piece in its place, rounded; the bytes read."""
        if piece.extent is None:
            buffer[piece.at : piece.at + len(piece.literal)] = piece.literal
            return 0
        kind, count = piece.extent.dtype, piece.extent.count
        size = count * SIZE[kind]
        if kind == piece.dtype:
            self.sources.read(piece.extent, buffer[piece.at : piece.at + size])
            self.sums.add(piece.extent, buffer[piece.at : piece.at + size])
            if kind in FLOATING:
                self._count(
                    piece, 0, not_finite(np.frombuffer(buffer[piece.at : piece.at + size], np.uint8), kind)
                )
            return size
        raw = scratch[:size]
        self.sources.read(piece.extent, raw)
        self.sums.add(piece.extent, raw)
        into = buffer[piece.at : piece.at + count * SIZE[piece.dtype]]
        half = np.frombuffer(into, np.uint16) if SIZE[piece.dtype] == 2 else None
        values, overflow, bad = convert(np.frombuffer(raw, np.uint8), kind, piece.dtype, half)
        if half is None:
            into[:] = values.view(np.uint8).data
        self._count(piece, overflow, bad)
        return size

    def _count(self, piece: Piece, overflow: int, bad: int) -> None:
        for counts, found in ((self.overflow, overflow), (self.not_finite, bad)):
            if found:
                with self.lock:
                    counts[piece.name] += found

    def _hash(self, block: Block, buffer: memoryview) -> None:
        """Leave the block for hashing, and hash what is next in line unless another thread is at it."""
        file = self.hashes[block.shard]
        with self.lock:
            file.waiting[block.turn] = buffer, block.size
            if file.busy:
                return
            file.busy = True
        while True:
            with self.lock:
                following = file.waiting.pop(file.turn, None)
                if following is None:
                    file.busy = False
                    return
                file.turn += 1
            file.digest.update(following[0][: following[1]])
            self.buffers.put(following[0])
