"""Sentencepiece model files at the level of bytes: read the few fields we need, append pieces.

A model file is one protocol-buffers message (``sentencepiece_model.proto`` of google/sentencepiece). Two
properties of the wire format make a generated class needless: unknown fields can be skipped by their length,
and the concatenation of two messages is their merge (repeated fields are appended, embedded messages merged).
So pieces are added to a model by writing them behind it. No torch, no protobuf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import sentencepiece

from hpc.core import hints
from hpc.core.errors import BadInput

# Field numbers of sentencepiece_model.proto: ModelProto, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_BYTE_FALLBACK = 35
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES = 2, 3, 4


class PieceType(IntEnum):
    """``ModelProto.SentencePiece.Type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Normalizer:
    """What the model does to a text before segmenting it."""

    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one message as (number, value); a value is an int or the bytes between two positions."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("the message ends inside a field")
        yield number, data[at : at + size]
        at += size


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _write_bytes(number: int, value: bytes) -> bytes:
    return _write_varint(number << 3 | 2) + _write_varint(len(value)) + value


def pieces_message(pieces: Iterable[tuple[str, float, PieceType]], *, byte_fallback: bool = False) -> bytes:
    """A message to write behind a model: its pieces (text, score, type) get the next ids, in this order.

    ``byte_fallback`` switches on that an unknown character becomes its UTF-8 bytes (needs 256 byte pieces).
    """
    out = bytearray()
    for text, score, kind in pieces:
        body = _write_bytes(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        out += _write_bytes(_PIECES, body + b"\x18" + _write_varint(kind))
    if byte_fallback:
        out += _write_bytes(_TRAINER, _write_varint(_BYTE_FALLBACK << 3) + b"\x01")
    return bytes(out)


@dataclass(frozen=True)
class SentencePieceFile:
    """A sentencepiece model: where it came from, its bytes, and the normalizer they describe."""

    path: Path
    data: bytes
    normalizer: Normalizer

    def processor(self) -> sentencepiece.SentencePieceProcessor:
        """The processor of this model. Raises :class:`BadInput` where sentencepiece refuses it."""
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.data)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{self.path}: sentencepiece cannot use it ({reason})") from None

    def with_pieces(self, message: bytes) -> SentencePieceFile:
        """This model with more pieces behind its own (see :func:`pieces_message`)."""
        return replace(self, data=self.data + message)


def _normalizer(spec: bytes) -> Normalizer:
    """Decode a NormalizerSpec; the defaults of the .proto file where it says nothing."""
    fields = dict(_fields(spec))
    charsmap = fields.get(_CHARSMAP, b"")
    return Normalizer(
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        add_dummy_prefix=bool(fields.get(_DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(fields.get(_REMOVE_EXTRA_WHITESPACES, 1)),
    )


def read_model(path: str | Path) -> SentencePieceFile:
    """Read a sentencepiece model file.

    Raises :class:`BadInput` where the file is absent, a git-lfs pointer, or not a whole message.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; a sentencepiece model is needed here") from None
    if data.startswith(b"version https://git-lfs"):
        raise BadInput(
            f"{path}: a git-lfs pointer, not the model itself; fetch it: {hints.lfs_pull(Path(path).parent)}"
        )
    try:
        spec = {number: value for number, value in _fields(data) if isinstance(value, bytes)}
        if not {_PIECES, _TRAINER, _NORMALIZER} <= spec.keys():
            raise ValueError("a part is missing")
        return SentencePieceFile(path, data, _normalizer(spec[_NORMALIZER]))
    except (ValueError, IndexError):
        raise BadInput(f"{path}: truncated or not a sentencepiece model ({len(data):,} bytes)") from None
