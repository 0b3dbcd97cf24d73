"""The hashes by which a manifest knows a model's files again.

XXH128 (the 128 bits of XXH3, as ``xxhsum -H2 FILE`` prints them) is the usual one: it finds every accident, at the
speed of memory. It is no protection against who means to deceive. For that, and to compare with a hub, there is
SHA-256 (``sha256sum FILE``), which takes a core half a second a GB, and more where the processor has no instructions
for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import xxhash

from glmjobs.zero.guarded_files import open_regular

CHUNK_BYTES = 1 << 20
XXH128, SHA256 = "xxh128", "sha256"


class Hash(Protocol):
    """A hash as hashlib has them."""

    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


HASHES: Mapping[str, Callable[[], Hash]] = {XXH128: xxhash.xxh3_128, SHA256: hashlib.sha256}
"""By the name under which an entry of a manifest has it."""


def file_hash(path: Path, kind: str) -> str:
    """A regular file's hash in hexadecimal; constant memory."""
    found = HASHES[kind]()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with open_regular(path, buffering=0) as file:
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            found.update(buffer[:count])
    return found.hexdigest()


def describe(directory: Path, name: str, kind: str) -> dict[str, str | int]:
    """A manifest's entry for one file: its path, size in bytes and hash."""
    path = directory / name
    return {"path": name, "bytes": path.stat().st_size, kind: file_hash(path, kind)}


def noted(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and value of the hash that an entry has.

    Raises:
        KeyError: it has none that is known here.
        TypeError: it is no text.
    """
    for kind in HASHES:
        if kind in entry:
            if not isinstance(entry[kind], str):
                raise TypeError(kind)
            return kind, entry[kind]
    raise KeyError("hash")
