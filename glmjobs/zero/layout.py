"""Which bytes of which shard make which parameter: arithmetic on sizes, no files read.

ZeRO-1 and 2 flatten each parameter group to one vector (alignment padding between parameters where the
checkpoint says so, the rest at the end) and cut it into one partition a rank. ZeRO-3 cuts every parameter by
itself into ceil(n / ranks) elements a rank, the last ranks padded; each rank's flat groups hold its pieces
one after the other. (DeepSpeed: runtime/zero/stage_1_and_2.py, partition_parameters.py; its own reader:
utils/zero_to_fp32.py.)
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glmjobs.zero.dtypes import SIZE
from hpc.core.errors import WorkFailed

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of torch's zip: ``size`` bytes from byte ``start`` of ``file``, and the CRC-32 noted for them."""

    file: Path
    name: str
    start: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Extent:
    """``count`` elements of type ``dtype`` at byte ``offset`` of ``file``; ``member``: where they have a checksum."""

    file: Path
    offset: int
    count: int
    dtype: str
    member: Member | None = None

    def part(self, start: int, count: int) -> Extent:
        """The elements [start, start + count) of this extent."""
        return Extent(self.file, self.offset + start * SIZE[self.dtype], count, self.dtype, self.member)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to write: its extents' elements, one after the other, are its own in row-major order."""

    name: str
    shape: tuple[int, ...]
    extents: tuple[Extent, ...]

    @property
    def dtype(self) -> str:
        return self.extents[0].dtype if self.extents else "F32"

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class Vector:
    """Extents read as one vector; ``cut`` takes a piece of it and keeps account of what was taken."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = [extent for extent in extents if extent.count]
        self.starts = [0]
        for extent in self.extents:
            self.starts.append(self.starts[-1] + extent.count)
        self.taken: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.starts[-1]

    def cut(self, start: int, count: int) -> list[Extent]:
        """The extents that hold elements [start, start + count).

        Raises:
            IndexError: the vector is shorter.
        """
        end = start + count
        if start < 0 or end > len(self):
            raise IndexError(f"elements {start} to {end} of {len(self)}")
        self.taken.append((start, end))
        pieces = []
        index = bisect.bisect_right(self.starts, start) - 1
        while start < end:
            first = self.starts[index]
            stop = min(end, self.starts[index + 1])
            if stop > start:
                pieces.append(self.extents[index].part(start - first, stop - start))
            start, index = stop, index + 1
        return pieces

    def left_over(self) -> int:
        """How many elements no piece took.

        Raises:
            ValueError: an element was taken twice.
        """
        free, position = 0, 0
        for start, end in sorted(self.taken):
            if start < position:
                raise ValueError(f"element {start} would be used twice")
            free += start - position
            position = end
        return free + len(self) - position


def flat_partitions(
    groups: Sequence[Shapes],
    partitions: Sequence[Sequence[Extent]],
    alignment_paddings: Sequence[Sequence[int]] | None,
    where: Path,
) -> list[Tensor]:
    """ZeRO-1 and 2: tensors out of partitioned flat groups.

    Args:
        groups: for each parameter group, shapes by name in the order they were flattened.
        partitions: ``partitions[rank][group]``: the float32 partition of a rank.
        alignment_paddings: elements of padding after each parameter, by group (DeepSpeed 0.19 and later), or
            None.
        where: named in errors.

    Raises:
        WorkFailed: the partitions do not hold exactly these parameters and their padding.
    """
    world = len(partitions)
    tensors: list[Tensor] = []
    for index, shapes in enumerate(groups):
        vector = Vector(partition[index] for partition in partitions)
        gaps = alignment_paddings[index] if alignment_paddings is not None else [0] * len(shapes)
        if len(gaps) != len(shapes):
            raise WorkFailed(
                f"{where}: group {index} has {len(shapes)} parameters, but {len(gaps)} alignment paddings"
            )
        offset, padding = 0, 0
        for (name, shape), gap in zip(shapes.items(), gaps, strict=True):
            tensors.append(_take(name, shape, [(vector, offset, math.prod(shape))], where))
            offset += math.prod(shape) + gap
            padding += gap
        # The vector was rounded up to 2 elements a rank; the saved partitions may already be without that
        # padding.
        align = 2 * world
        rest = len(vector) - offset
        if rest < 0 or math.ceil(len(vector) / align) != math.ceil(offset / align):
            raise WorkFailed(
                f"{where}: the shards hold {len(vector)} elements of group {index}, its parameters need "
                f"{offset}: a shard is of another checkpoint or incomplete"
            )
        _check_cover(vector, padding + rest, f"{where}: group {index}")
    return tensors


def sliced_parameters(shapes: Shapes, flats: Sequence[Sequence[Extent]], where: Path) -> list[Tensor]:
    """ZeRO-3: tensors out of per-rank slices.

    Args:
        shapes: full shapes by name, in the order of the ranks' flat groups.
        flats: ``flats[rank]``: the rank's flat groups, in order.
        where: named in errors.

    Raises:
        WorkFailed: the flat groups do not hold exactly these parameters and their padding.
    """
    world = len(flats)
    vectors = [Vector(flat) for flat in flats]
    needed = sum(math.ceil(math.prod(shape) / world) for shape in shapes.values())
    for rank, vector in enumerate(vectors):
        if len(vector) != needed:
            raise WorkFailed(
                f"{where}: rank {rank}'s shard holds {len(vector)} elements, its parameters need {needed}: "
                "it is of another checkpoint or incomplete"
            )
    tensors: list[Tensor] = []
    offset = 0
    padding = [0] * world
    for name, shape in shapes.items():
        numel = math.prod(shape)
        piece = math.ceil(numel / world)
        pieces = []
        for rank, vector in enumerate(vectors):
            count = max(0, min(piece, numel - rank * piece))
            padding[rank] += piece - count
            pieces.append((vector, offset, count))
        tensors.append(_take(name, shape, pieces, where))
        offset += piece
    for rank, vector in enumerate(vectors):
        _check_cover(vector, padding[rank], f"{where}: rank {rank}")
    return tensors


def sliced_frozen(name: str, shape: tuple[int, ...], fragments: Sequence[Extent], where: Path) -> Tensor:
    """ZeRO-3's frozen parameters: one fragment a rank, the last ones padded."""
    numel, world = math.prod(shape), len(fragments)
    piece = math.ceil(numel / world)
    pieces = []
    for rank, fragment in enumerate(fragments):
        if fragment.count != piece:
            raise WorkFailed(
                f"{where}: rank {rank}'s fragment of the frozen parameter {name} holds {fragment.count} "
                f"elements, not {piece}"
            )
        pieces.append((Vector([fragment]), 0, max(0, min(piece, numel - rank * piece))))
    return _take(name, shape, pieces, where)


def _take(
    name: str, shape: tuple[int, ...], pieces: Iterable[tuple[Vector, int, int]], where: Path
) -> Tensor:
    extents: list[Extent] = []
    try:
        for vector, start, count in pieces:
            extents += vector.cut(start, count)
    except IndexError as error:
        raise WorkFailed(
            f"{where}: parameter {name} {list(shape)} goes past its shard's end ({error})"
        ) from None
    return checked(Tensor(name, shape, tuple(extents)), where)


def checked(tensor: Tensor, where: Path) -> Tensor:
    """The tensor, if its extents have exactly its elements and one type.

    Raises:
        WorkFailed: they do not.
    """
    count = sum(extent.count for extent in tensor.extents)
    kinds = sorted({extent.dtype for extent in tensor.extents})
    if count != tensor.numel:
        raise WorkFailed(
            f"{where}: {tensor.name} {list(tensor.shape)} has {count} elements in the checkpoint, "
            f"not {tensor.numel}"
        )
    if len(kinds) > 1:
        raise WorkFailed(f"{where}: {tensor.name} is of several types in the checkpoint: {', '.join(kinds)}")
    return tensor


def _check_cover(vector: Vector, padding: int, where: str) -> None:
    """Every element of the vector belongs to one parameter, or is padding that was accounted for."""
    try:
        left = vector.left_over()
    except ValueError as error:
        raise WorkFailed(f"{where}: {error}") from None
    if left != padding:
        raise WorkFailed(f"{where}: {left} elements belong to no parameter, but only {padding} are padding")


def slices(shapes: Shapes, start: int, length: int) -> dict[str, tuple[int, int]]:
    """What the partition [start, start + length) of a flat group holds: {name: (first, count)}."""
    held = {}
    offset = 0
    for name, shape in shapes.items():
        numel = math.prod(shape)
        first, last = max(offset, start), min(offset + numel, start + length)
        if first < last:
            held[name] = (first - start, last - first)
        offset += numel
    return held
