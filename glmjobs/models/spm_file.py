"""Sentencepiece model files at the level of bytes: read the few fields we need, append pieces.

A model file is one protocol-buffers message (``sentencepiece_model.proto`` of google/sentencepiece). Two properties of
the wire format make a generated class needless: unknown fields can be skipped by their length, and the concatenation
of two messages is their merge (repeated fields are appended, embedded messages are merged). So pieces are added to a
model by writing them behind it. No torch, no protobuf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import sentencepiece

from glmjobs.errors import BadInput

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

    ``byte_fallback`` switches on that an unknown character becomes its UTF-8 bytes (needs all 256 byte pieces).
    """
    out = bytearray()
    for text, score, kind in pieces:
        body = _write_bytes(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        out += _write_bytes(_PIECES, body + b"\x18" + _write_varint(kind))
    if byte_fallback:
        out += _write_bytes(_TRAINER, _write_varint(_BYTE_FALLBACK << 3) + b"\x01")
    return bytes(out)


def read_normalizer(model: bytes) -> Normalizer:
    """The normalizer of a model; the defaults of the .proto file where it says nothing."""
    merged: dict[int, int | bytes] = {}
    for number, value in _fields(model):
        if number == _NORMALIZER and isinstance(value, bytes):
            merged.update(dict(_fields(value)))
    charsmap = merged.get(_CHARSMAP, b"")
    return Normalizer(
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        add_dummy_prefix=bool(merged.get(_DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(merged.get(_REMOVE_EXTRA_WHITESPACES, 1)),
    )


def read_model(path: str | Path) -> bytes:
    """The bytes of a sentencepiece model file.

    Raises :class:`BadInput` where the file is absent, a git-lfs pointer, or not a whole message.
    """
    path = Path(path)
    try:
        model = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; a sentencepiece model is needed here") from None
    if model.startswith(b"version https://git-lfs"):
        raise BadInput(f"{path}: a git-lfs pointer, not the model itself; fetch it with 'git lfs pull'")
    try:
        numbers = {number for number, _ in _fields(model)}
    except (ValueError, IndexError):
        raise BadInput(f"{path}: truncated or not a sentencepiece model ({len(model):,} bytes)") from None
    if not {_PIECES, _TRAINER, _NORMALIZER} <= numbers:
        raise BadInput(f"{path}: truncated or not a sentencepiece model (pieces, trainer and normalizer expected)")
    return model


def load_processor(model: bytes, path: str | Path) -> sentencepiece.SentencePieceProcessor:
    """The sentencepiece processor of a model; ``path`` only names it in the :class:`BadInput` of a bad one."""
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise BadInput(f"{path}: sentencepiece cannot use it ({str(error).splitlines()[0]})") from None
