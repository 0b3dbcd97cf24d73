"""The CRC-32 that torch.save writes for every storage, checked over bytes that are read anyway, in any order.

torch itself checks none when it loads. Pieces of a storage are summed by whoever reads them and put together at
the end: CRCs of neighbours combine without their bytes (zlib's crc32_combine). What nobody read, such as the
padding of a flat group, is read then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache

from glmjobs.zero.guarded_files import open_regular
from glmjobs.zero.layout import Extent, Member
from hpc.core.errors import WorkFailed, of_system

try:
    from isal.isal_zlib import crc32 as crc32  # the same sum in a tenth of the time
except ImportError:  # there is no wheel of it for this platform
    from zlib import crc32 as crc32

CHUNK_BYTES = 1 << 20
POLYNOMIAL = 0xEDB88320  # of CRC-32, as of zip; bit 31 is the coefficient of x^0
Pieces = Mapping[int, tuple[int, int]]  # by place in the file: (bytes, CRC-32)


class Checksums:
    """Collects the checksums of what is read, from any thread; ``check`` compares them with the files'."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pieces: dict[Member, dict[int, tuple[int, int]]] = {}

    def add(self, extent: Extent, data: memoryview) -> None:
        """Take note of an extent's bytes; of files without checksums (safetensors) nothing is."""
        if extent.member is None:
            return
        piece = len(data), crc32(data)
        with self.lock:
            pieces = self.pieces.setdefault(extent.member, {})
            # Tied names are read twice, and cut at other places.
            pieces[extent.offset] = max(piece, pieces.get(extent.offset, piece))

    def check(self) -> None:
        """Compare every storage of which something was read.

        Raises:
            WorkFailed: naming the file and the first storage whose bytes are not what was saved.
        """
        for member in sorted(self.pieces, key=lambda member: (member.file, member.start)):
            _check(member, self.pieces[member])


def check_whole(members: Iterable[Member | None]) -> None:
    """Read storages from end to end and compare; None, of a file without checksums, is passed over.

    Raises:
        WorkFailed: naming the file and the first storage whose bytes are not what was saved.
    """
    for member in members:
        if member is not None:
            _check(member, {})


def _check(member: Member, pieces: Pieces) -> None:
    crc, place = 0, member.start
    for offset, (length, part) in sorted(pieces.items()):
        if offset >= place:
            crc = combine(_read_on(member, crc, place, offset), part, length)
            place = offset + length
    if _read_on(member, crc, place, member.start + member.size) != member.crc:
        raise WorkFailed(
            f"{member.file}: damaged, the bytes of {member.name} do not have the checksum (CRC-32) they were "
            "saved with; copy the file again, or take another checkpoint"
        )


def _read_on(member: Member, crc: int, start: int, end: int) -> int:
    """The CRC-32 after the bytes from ``start`` to ``end`` of the file as well."""
    if start >= end:
        return crc
    try:
        with open_regular(member.file, buffering=0) as file:
            file.seek(start)
            while start < end:
                data = file.read(min(CHUNK_BYTES, end - start))
                if not data:
                    raise WorkFailed(f"{member.file}: truncated, it ends inside {member.name}")
                crc = crc32(data, crc)
                start += len(data)
    except OSError as error:
        raise of_system(error, f"{member.file}: cannot be read: {error.strerror or error}") from None
    return crc


def combine(first: int, second: int, length: int) -> int:
    """The CRC-32 of two byte strings, one after the other, from theirs and the second's length.

    >>> combine(zlib.crc32(b"one "), zlib.crc32(b"two"), 3) == zlib.crc32(b"one two")
    True
    """
    return _product(_shift(length), first) ^ second


@lru_cache(maxsize=4096)
def _shift(length: int) -> int:
    """x^(8 length) modulo the polynomial: what ``length`` more bytes multiply a CRC by."""
    power = 1 << 31
    for bit in range(length.bit_length()):
        if length >> bit & 1:
            power = _product(_doubled(bit), power)
    return power


@lru_cache(maxsize=64)
def _doubled(times: int) -> int:
    """x^8, squared so many times."""
    return _product(_doubled(times - 1), _doubled(times - 1)) if times else 1 << 23


def _product(one: int, other: int) -> int:
    """The product of two polynomials over GF(2), modulo the CRC's (zlib's multmodp)."""
    product = 0
    for place in range(31, -1, -1):
        if one >> place & 1:
            product ^= other
        other = other >> 1 ^ (POLYNOMIAL if other & 1 else 0)
    return product
