"""A model's files cut into blocks at fixed places, each of pieces of the checkpoint: arithmetic, no bytes moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from glmjobs.zero.dtypes import SIZE
from glmjobs.zero.layout import Extent, Tensor

BLOCK_BYTES = (
    2 << 20
)  # of output: a huge page; a multiple of direct writing's alignment and of every element's size
PIECE_ELEMENTS = 1 << 18  # rounded at once: a megabyte of float32 fits a core's cache


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


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one tensor's elements (or of the header's bytes) and its place in the block."""

    at: int
    name: str
    dtype: str
    extent: Extent | None
    literal: bytes = b""


@dataclass(frozen=True, slots=True)
class Block:
    """The bytes of one file from ``offset`` on: the ``turn``-th block of it."""

    shard: int
    turn: int
    offset: int
    size: int
    pieces: tuple[Piece, ...]


def interleaved(shards: Sequence[Shard], side_by_side: int) -> Iterator[Block]:
    """The blocks of all files in order, so many files at a time: as many hashes run side by side."""
    for first in range(0, len(shards), side_by_side):
        running = [
            _blocks_of(index, shards[index]) for index in range(first, min(first + side_by_side, len(shards)))
        ]
        while running:
            for blocks in list(running):
                block = next(blocks, None)
                if block is None:
                    running.remove(blocks)
                else:
                    yield block


def _blocks_of(index: int, shard: Shard) -> Iterator[Block]:
    turn = 0
    held: list[Piece] = []
    for piece in _pieces(shard):
        if piece.at == 0 and held:
            yield Block(index, turn, turn * BLOCK_BYTES, BLOCK_BYTES, tuple(held))
            turn, held = turn + 1, []
        held.append(piece)
    offset = turn * BLOCK_BYTES
    yield Block(index, turn, offset, shard.size - offset, tuple(held))


def _pieces(shard: Shard) -> Iterator[Piece]:
    """All of a file in order, in pieces that cross no block's edge."""
    place = 0
    while place < len(shard.header):
        at = place % BLOCK_BYTES
        literal = shard.header[place : place + BLOCK_BYTES - at]
        yield Piece(at, "", "U8", None, literal)
        place += len(literal)
    for tensor, dtype in zip(shard.tensors, shard.dtypes, strict=True):
        for extent in tensor.extents:
            start = 0
            while start < extent.count:
                at = place % BLOCK_BYTES
                # Every tensor starts at a multiple of its element's size, so no element crosses an edge.
                take = min((BLOCK_BYTES - at) // SIZE[dtype], extent.count - start, PIECE_ELEMENTS)
                yield Piece(at, tensor.name, dtype, extent.part(start, take))
                start += take
                place += take * SIZE[dtype]
