"""Element types: safetensors' names, sizes in bytes, and conversions that round as torch does.

Rounding of the half types is to nearest, ties to even (IEEE 754; torch's ``Tensor.to``). NaN in bfloat16
becomes 0x7FC0, as c10::detail::round_to_nearest_even has it (torch's vector code uses another payload).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import numkong  # rounds by the processor's own instructions in a fifth of numpy's time or less, without the GIL

    by_instruction = hasattr(numkong, "astype")  # since 7.8
except ImportError:  # its wheels ask for glibc 2.28
    by_instruction = False

SIZE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip
FLOATING = ("F64", "F32", "F16", "BF16")
BY_TORCH_NAME = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
TORCH_NAME = {short: name for name, short in BY_TORCH_NAME.items()}
# The first magnitude, in float32, that rounds to infinity: half-way past the largest finite value.
OVERFLOW_AT = {"F16": np.float32(65520.0), "BF16": np.float32(3.3961775e38)}
# The bits of +infinity: what is as large, the sign left out, is infinite or no number.
_INFINITY = {"F64": 0x7FF << 52, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
CACHED_ELEMENTS = 1 << 16  # of which a handful of arrays fit a core's cache
# Made once: making a number of numpy's takes as long as a pass over some thousand elements.
_MAGNITUDE, _SIGN, _SMALLEST_NORMAL = np.uint32(0x7FFFFFFF), np.uint32(0x8000), np.uint32(0x400)
_HALF, _BITS_OF_HALF = np.float32(0.5), np.uint32(0x3F000000)
_EXPONENT_LESS_ROUNDING = np.uint32(0x38800000 - 0xFFF)
_1, _13, _16 = np.uint32(1), np.uint32(13), np.uint32(16)
_NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

Array = npt.NDArray[np.generic]


def to_float32(raw: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Bytes of a floating type as float32 (exact for the halves; float64 is rounded to nearest even)."""
    if dtype == "BF16":
        wide = raw.view(np.uint16).astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    typed = raw.view(_NUMPY[dtype])
    with np.errstate(over="ignore"):
        return typed.astype(np.float32, copy=False)


def round_to(
    values: npt.NDArray[np.float32], dtype: str, out: npt.NDArray[np.uint16] | None = None
) -> tuple[Array, int, int]:
    """float32 values as ``dtype``, how many finite ones became infinite, and how many were not finite before.

    Args:
        out: where a half type's bits are written, of the values' number; None: a new array.

    Returns:
        (the values' bytes in the new type as a flat array, overflow count, count of NaN and infinities).
    """
    if dtype == "F32":
        return values, 0, not_finite(values, dtype)
    if out is None:
        out = np.empty(values.size, np.uint16)
    if values.size == 0:
        return out, 0, 0
    overflow = bad = 0
    limit = OVERFLOW_AT[dtype]
    in_range = bool(values.max() < limit and values.min() > -limit)  # not with a NaN: then count exactly
    if not in_range:
        finite = np.isfinite(values)
        overflow = int(np.count_nonzero(finite & (np.abs(values) >= limit)))
        bad = values.size - int(np.count_nonzero(finite))
    if in_range and by_instruction:
        name: Any = TORCH_NAME[dtype]
        numkong.astype(values, name, out=numkong.from_pointer(out.ctypes.data, out.size, name, owner=out))
    elif dtype == "BF16":
        _to_bfloat16(values, out)
    elif in_range:
        _to_float16(values, out)
    else:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            out.view(np.float16)[:] = values
    return out, overflow, bad


def convert(
    raw: Array, source: str, target: str, out: npt.NDArray[np.uint16] | None = None
) -> tuple[Array, int, int]:
    """Bytes of one floating type as another, and the counts; all as :func:`round_to`'s."""
    values = to_float32(raw, source)
    converted, overflow, bad = round_to(values, target, out)
    if source == "F64" and bad:
        narrowed = bad - not_finite(raw, source)
        overflow, bad = overflow + narrowed, bad - narrowed
    return converted, overflow, bad


def not_finite(raw: Array, dtype: str) -> int:
    """How many values of a floating type are NaN or infinite; two quick passes where none is."""
    infinity, size = _INFINITY[dtype], SIZE[dtype]
    sign = 1 << (8 * size - 1)
    bits = raw.view(f"u{size}")
    # As numbers with a sign the positive values' bits come last, as numbers without one the negative values'.
    if bits.size == 0 or (int(bits.view(f"i{size}").max()) < infinity and int(bits.max()) < infinity | sign):
        return 0
    return int(np.count_nonzero(bits & (sign - 1) >= infinity))


def _to_float16(values: npt.NDArray[np.float32], out: npt.NDArray[np.uint16]) -> None:
    """Finite values below the overflow, in half the time that numpy's own conversion of them takes."""
    length = min(values.size, CACHED_ELEMENTS)
    # Rows apart: where one begins at another's end, numpy 1 takes them for overlapping, at a quarter of its speed.
    scratch = np.empty((3, length + 16), np.uint32)
    for start in range(0, values.size, length):
        bits = values[start : start + length].view(np.uint32)
        magnitude, small, half = scratch[:, : bits.size]
        np.bitwise_and(bits, _MAGNITUDE, out=magnitude)
        # Below 2^-14 a half is a multiple of 2^-24: so is a sum with 0.5, whose low bits then count them.
        np.add(magnitude.view(np.float32), _HALF, out=small.view(np.float32))
        np.subtract(small, _BITS_OF_HALF, out=small)
        # From 2^-14 on 13 bits are rounded away. Taking off the exponent of 2^-14 wraps what is smaller to more than
        # any half, and above it the count of 2^-24 is never the smaller of the two: the minimum is the right one.
        np.right_shift(magnitude, _13, out=half)
        np.bitwise_and(half, _1, out=half)
        np.add(half, magnitude, out=half)
        np.subtract(half, _EXPONENT_LESS_ROUNDING, out=half)
        np.right_shift(half, _13, out=half)
        np.add(half, _SMALLEST_NORMAL, out=half)
        np.minimum(half, small, out=half)
        sign = np.right_shift(bits, _16, out=magnitude)
        np.bitwise_and(sign, _SIGN, out=sign)
        np.bitwise_or(half, sign, out=half)
        out[start : start + length] = half


def _to_bfloat16(values: npt.NDArray[np.float32], out: npt.NDArray[np.uint16]) -> None:
    bits = values.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits  # wraps for some NaN only, which are put right below
    rounded >>= np.uint32(16)
    out[:] = rounded
    nan = np.isnan(values)
    if nan.any():
        out[nan] = 0x7FC0
