"""Writing a zip of members that are stored as they are, each in one pass and aligned as torch.save aligns them.

Python's zipfile takes the wide form for sizes from 2 GiB on. torch 2.0 cannot read a file of less than 4 GiB that has
it: its miniz adds 0xFFFFFFFF, which stands for the size, to the member's place, and finds that outside the file. Here
sizes and places are narrow as long as they fit.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import IO

ALIGNMENT = 64
WIDE = 0xFFFFFFFF  # stands for a number that the wide form has
DATE = 0x21  # 1 January 1980, the format's first day: the same content makes the same file
UTF8, VERSION = 1 << 11, 45  # the flag of names; the first version of the format with wide numbers


class StoredZip:
    """A zip in the making, written to ``file``, which can seek; ``close`` writes its table of contents."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.members: list[tuple[bytes, int, int, int]] = []  # name, place, size, CRC-32

    def add(self, name: str, size: int, write: Callable[[IO[bytes]], int]) -> None:
        """Add a member.

        Args:
            size: bytes of it.
            write: writes them, and returns their CRC-32.
        """
        place, label = self.file.tell(), name.encode()
        wide = struct.pack("<HHQQ", 1, 16, size, size) if size >= WIDE else b""
        padding = -(place + 30 + len(label) + len(wide) + 4) % ALIGNMENT
        extra = wide + struct.pack("<2sH", b"FB", padding) + bytes(padding)
        short = min(size, WIDE)
        numbers = (VERSION, UTF8, 0, 0, DATE, 0, short, short, len(label), len(extra))
        self.file.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", *numbers) + label + extra)
        crc = write(self.file)
        self.file.seek(place + 14)
        self.file.write(struct.pack("<L", crc))
        self.file.seek(0, 2)
        self.members.append((label, place, size, crc))

    def close(self) -> None:
        """Write the table of contents; the file stays open."""
        start = self.file.tell()
        for label, place, size, crc in self.members:
            wide = b"".join(struct.pack("<Q", number) for number in (size, size, place) if number >= WIDE)
            extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
            short = min(size, WIDE)
            numbers = (VERSION, VERSION, UTF8, 0, 0, DATE, crc, short, short, len(label), len(extra))
            self.file.write(struct.pack("<4s6H3L2H", b"PK\x01\x02", *numbers))
            self.file.write(struct.pack("<3H2L", 0, 0, 0, 0, min(place, WIDE)) + label + extra)
        end, count = self.file.tell(), len(self.members)
        if start >= WIDE:
            self.file.write(struct.pack("<4sQ2H2L", b"PK\x06\x06", 44, VERSION, VERSION, 0, 0))
            self.file.write(struct.pack("<4Q", count, count, end - start, start))
            self.file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        self.file.write(
            struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, end - start, min(start, WIDE), 0)
        )
