"""Writing safetensors files out of extents: constant memory, several threads, hashed on the way.

The output is cut into blocks of a megabyte in file order. Worker threads take the next block, read its
extents, round where asked, write it to its place in a file of final size, and pass it on to the file's
SHA-256 in order; whichever thread finds the next block to hash does the hashing. Blocks in flight are
bounded, so memory does not depend on the model. Plain reads (not a memory map) keep a file that shrinks
underneath an error instead of a crash, and pages off our account.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from glmjobs.errors import BadInput, NotFit, WorkFailed
from glmjobs.zero.dtypes import FLOATING, SIZE, round_to, to_float32
from glmjobs.zero.layout import Extent, Tensor
from glmjobs.zero.safefile import make_header

BLOCK_BYTES = 1 << 20  # of input: fits a core's cache, so that hashing and rounding don't wait for memory
OPEN_FILES = 200
Progress = Callable[[int, int], None]  # bytes read and written by a finished block

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def parse_size(text: str) -> int:
    """Bytes of a size such as "5GB", "500MB" or "2GiB" (GB is 10^9, as transformers counts).

    Raises:
        BadInput: not a size above zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        raise BadInput(f"shard size {text!r}: write a number and a unit, such as 5GB or 500MB")
    return size


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


def out_dtype(tensor: Tensor, dtype: str) -> str:
    """Floating tensors take the chosen type; whole numbers and booleans keep theirs."""
    return dtype if tensor.dtype in FLOATING else tensor.dtype


def plan_shards(tensors: Iterable[Tensor], dtype: str, limit: int, stem: str = "model") -> list[Shard]:
    """Distribute tensors over files of at most ``limit`` bytes (a larger tensor has a file to itself).

    Wider types come first, so that every tensor starts aligned to its element.
    """
    ordered = sorted(tensors, key=lambda tensor: -SIZE[out_dtype(tensor, dtype)])
    groups: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in ordered:
        size = tensor.numel * SIZE[out_dtype(tensor, dtype)]
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    shards = []
    for index, group in enumerate(groups, 1):
        name = (
            f"{stem}.safetensors"
            if len(groups) == 1
            else f"{stem}-{index:05d}-of-{len(groups):05d}.safetensors"
        )
        kinds = [out_dtype(tensor, dtype) for tensor in group]
        header, starts = make_header((t.name, kind, t.shape) for t, kind in zip(group, kinds, strict=True))
        shards.append(Shard(name, group, kinds, header, starts))
    return shards


def check_space(directory: Path, needed: int) -> None:
    """Say before starting that the disk is too full.

    Raises:
        NotFit: fewer than ``needed`` bytes (and a little) are free.
    """
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    needed += needed // 200 + (1 << 20)
    if free < needed:
        raise NotFit(f"{directory}: {needed / 1e9:.2f} GB are needed here, {free / 1e9:.2f} GB are free")


def write_shards(
    shards: Sequence[Shard], into: Path, *, workers: int, fsync: bool = True, progress: Progress | None = None
) -> Written:
    """Write the files (and the index, where there are several) into an existing directory.

    Raises:
        WorkFailed: a source file is shorter than planned, or the disk is full; the directory is then
            incomplete.
    """
    written = _Pipeline(shards, into, max(1, workers), fsync, progress).run()
    if len(shards) > 1:
        written.files.append(_write_index(shards, into))
    return written


def _write_index(shards: Sequence[Shard], into: Path) -> dict[str, str | int]:
    stem = shards[0].name.split("-00001-of-")[0]
    total = sum(shard.size - len(shard.header) for shard in shards)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {tensor.name: shard.name for shard in shards for tensor in shard.tensors},
    }
    path = into / f"{stem}.safetensors.index.json"
    text = (json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    path.write_bytes(text)
    return {"path": path.name, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


@dataclass(frozen=True, slots=True)
class _Block:
    """A run of one tensor's elements: where they come from and where they go."""

    shard: int
    turn: int  # its place in the order in which the shard is hashed
    offset: int
    name: str
    dtype: str
    extents: tuple[Extent, ...]


class _Hash:
    """A file's SHA-256, fed in order by whichever thread comes."""

    def __init__(self, header: bytes) -> None:
        self.sha = hashlib.sha256(header)
        self.turn = 0
        self.busy = False
        self.waiting: dict[int, memoryview] = {}


class _Pipeline:
    def __init__(
        self, shards: Sequence[Shard], into: Path, workers: int, fsync: bool, progress: Progress | None
    ) -> None:
        self.shards, self.into, self.workers, self.fsync, self.progress = (
            shards,
            into,
            workers,
            fsync,
            progress,
        )
        self.lock = threading.Lock()
        self.room = threading.Semaphore(2 * workers + 2)
        self.blocks = self._interleaved()
        self.hashes = [_Hash(shard.header) for shard in shards]
        self.targets: list[int] = []
        self.sources = _Sources()
        self.overflow: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> Written:
        try:
            for shard in self.shards:
                self.targets.append(
                    os.open(self.into / shard.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                )
                os.ftruncate(self.targets[-1], shard.size)
                _write_all(self.targets[-1], memoryview(shard.header), 0)
            threads = [
                threading.Thread(target=self._work, name=f"write-{n}", daemon=True)
                for n in range(self.workers)
            ]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except (
                BaseException
            ) as error:  # Ctrl-C: let the threads finish their block before files are closed
                self._fail(error)
                for thread in threads:
                    thread.join()
            if self.failure is not None:
                raise self.failure
            if self.fsync:
                for target in self.targets:
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

    def _interleaved(self) -> Iterator[_Block]:
        """The blocks of all files, a few files at a time: as many hashes run side by side as threads."""
        for first in range(0, len(self.shards), self.workers):
            running = [
                _blocks_of(index, self.shards[index])
                for index in range(first, min(first + self.workers, len(self.shards)))
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
            scratch = memoryview(bytearray(BLOCK_BYTES))
            while self.failure is None:
                # Before the block is taken: the earliest block always has room, so nothing waits forever.
                self.room.acquire()
                with self.lock:
                    block = next(self.blocks, None)
                if block is None or self.failure is not None:
                    self.room.release()
                    return
                self._hash(block, self._move(block, scratch))
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self.lock:
            self.failure = self.failure or error
        self.room.release(self.workers)  # wake those who wait for room

    def _move(self, block: _Block, scratch: memoryview) -> memoryview:
        """Read, round and write one block; its bytes as written."""
        kind = block.extents[0].dtype
        count = sum(extent.count for extent in block.extents)
        keep = kind == block.dtype
        raw = memoryview(bytearray(count * SIZE[kind])) if keep else scratch[: count * SIZE[kind]]
        self.sources.read(block.extents, raw)
        if keep:
            data = raw
        else:
            values, overflow = round_to(to_float32(np.frombuffer(raw, np.uint8), kind), block.dtype)
            data = memoryview(values.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
            if overflow:
                with self.lock:
                    self.overflow[block.name] += overflow
        _write_all(self.targets[block.shard], data, block.offset)
        if self.progress is not None:
            self.progress(len(raw), len(data))
        return data

    def _hash(self, block: _Block, data: memoryview) -> None:
        """Leave the block for hashing, and hash what is next in line unless another thread is at it."""
        digest = self.hashes[block.shard]
        with self.lock:
            digest.waiting[block.turn] = data
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
            digest.sha.update(following)
            self.room.release()


def _blocks_of(index: int, shard: Shard) -> Iterator[_Block]:
    turn = 0
    for tensor, dtype, start in zip(shard.tensors, shard.dtypes, shard.starts[:-1], strict=True):
        offset = start
        for extents in _split(tensor.extents, BLOCK_BYTES // SIZE[tensor.dtype]):
            yield _Block(index, turn, offset, tensor.name, dtype, extents)
            turn += 1
            offset += sum(extent.count for extent in extents) * SIZE[dtype]


def _split(extents: Iterable[Extent], most: int) -> Iterator[tuple[Extent, ...]]:
    """Consecutive extents in portions of at most ``most`` elements."""
    portion: list[Extent] = []
    room = most
    for extent in extents:
        start = 0
        while start < extent.count:
            take = min(room, extent.count - start)
            portion.append(extent.part(start, take))
            start, room = start + take, room - take
            if not room:
                yield tuple(portion)
                portion, room = [], most
    if portion:
        yield tuple(portion)


class _Sources:
    """The checkpoint's files, kept open (up to a number) and read by position."""

    def __init__(self) -> None:
        self.open: dict[Path, int] = {}
        self.lock = threading.Lock()

    def read(self, extents: Iterable[Extent], into: memoryview) -> None:
        position = 0
        for extent in extents:
            size = extent.count * SIZE[extent.dtype]
            with self.lock:
                handle = self.open.get(extent.file)
                if handle is None and len(self.open) < OPEN_FILES:
                    handle = self.open[extent.file] = _open(extent.file)
            if handle is not None:
                _read_all(handle, into[position : position + size], extent)
            else:
                handle = _open(extent.file)
                try:
                    _read_all(handle, into[position : position + size], extent)
                finally:
                    os.close(handle)
            position += size

    def close(self) -> None:
        for handle in self.open.values():
            os.close(handle)
        self.open.clear()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise WorkFailed(f"{path}: cannot be opened: {error.strerror}") from None


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
