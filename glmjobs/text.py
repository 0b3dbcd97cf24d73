"""Text and numbers as a person reads them. Untrusted text (a model's, a log's) is made visible here.

Escaping for HTML, JSON and Markdown happens where each is written; this module removes what would be
dangerous or invisible in all of them: control characters, bidirectional overrides and lone surrogates (which
UTF-8 cannot hold).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from hpc.core.errors import BadInput

#: Characters shown by their code point: C0 (but tab and line feed) and C1 controls, bidirectional marks,
#: embeddings, overrides and isolates, zero-width space and BOM, surrogates, noncharacters. (Joiners stay:
#: scripts need them.)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff0-\uffff]"
    "|[\ud800-\udfff]"
)

#: Characters of one text that a report keeps; the file in the run directory keeps all of it.
TEXT_LIMIT = 4000


def visible(text: str) -> str:
    """The text with control, bidirectional and unencodable characters written as ``⟨U+202E⟩``."""
    text = text.replace("\r\n", "\n")
    return _INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def clip(text: str, limit: int = TEXT_LIMIT) -> str:
    """About ``limit`` characters: the beginning, the end, and how many were left out between them."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    left_out = len(text) - limit
    return f"{text[: limit - tail]}\n[… {left_out:,} characters left out …]\n{text[-tail:]}"


def in_short(text: str) -> str:
    """About 80 characters of one line: its beginning and, longer, its end, where answers have what counts."""
    return text if len(text) <= 80 else text[:30] + "…" + text[-45:]


def shown(value: Any, limit: int = TEXT_LIMIT) -> str:
    """Any value of a JSON file as safe text; ``None`` is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return clip(", ".join(shown(item, limit) for item in value), limit)
    if isinstance(value, Mapping):
        return clip(", ".join(f"{shown(k)}: {shown(v, limit)}" for k, v in value.items()), limit)
    return visible(clip(str(value), limit))


def left_out_words(data: Mapping[str, Any]) -> str:
    """What a data set lost on the way to training, as the end of a sentence; "" where it lost nothing.

    >>> left_out_words({"left_out": {"long answer": 1200}, "cut_questions": 3})
    '; left out: long answer 1,200; questions cut to their end: 3'
    """
    left_out = data.get("left_out")
    counts = left_out if isinstance(left_out, Mapping) else {}
    lost = [f"{shown(why, 200)} {n:,}" for why, n in counts.items() if isinstance(n, int)]
    cut = data.get("cut_questions")
    parts = [f"left out: {', '.join(lost)}"] if lost else []
    parts += [f"questions cut to their end: {cut:,}"] if isinstance(cut, int) and cut else []
    return "".join(f"; {part}" for part in parts)


def mark_answer(text: str, value: str | None) -> list[str]:
    """``[before, answer, after]``: the last place where an extracted answer stands literally in a text.

    The extractor normalises (``十五只`` becomes ``15 只``), so the whole value is looked for first, then its
    number. Where neither is found, everything is in ``before``. A number is never found inside a longer one.
    """
    for candidate in _candidates(value or ""):
        edge = r"(?<![\d.,/])" if candidate[:1].isdigit() else ""
        end = r"(?![\d/]|[.,]\d)" if candidate[-1:].isdigit() else ""
        places = list(re.finditer(edge + re.escape(candidate) + end, text))
        if places:
            return [text[: places[-1].start()], candidate, text[places[-1].end() :]]
    return [text, "", ""]


def _candidates(value: str) -> list[str]:
    value = value.strip()
    number = re.match(r"[-+]?\d[\d.,/:%]*", value)
    found = [value, value.replace(" ", "")]
    if number:
        found.append(number[0].rstrip(".,:"))
    return [item for item in dict.fromkeys(found) if item]


def number(value: Any) -> float | None:
    """A finite number as it is (an int stays one), or ``None`` for anything else: NaN, text, absent."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if abs(float(value)) < float("inf") else None
    except OverflowError:
        return None


def unix_time(value: Any) -> float | None:
    """Seconds since 1970 from an ISO time (UTC where it names no zone) or a number."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    return number(value)


def utc(seconds: float | None) -> str:
    """``2026-11-24 20:34:29 UTC``, empty for ``None`` or a time no calendar holds."""
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return ""


def duration(seconds: float | None) -> str:
    """``2 d 3 h``, ``1 h 05 min``, ``3 min 20 s``, ``4.2 s``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def percent(value: Any, digits: int = 1) -> str:
    """A share of 1 as percent, with a blank that doesn't break."""
    share = number(value)
    return "" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def points(value: Any) -> str:
    """A difference of shares in percentage points, signed."""
    share = number(value)
    return "" if share is None else f"{100 * share:+.1f}".replace("-", "−")


def size(count: Any) -> str:
    """Bytes in binary units."""
    value = number(count)
    if value is None:
        return ""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


def gpu_hours(value: float) -> str:
    """GPU-hours with the digits that matter: 0.004, 0.53, 12.4, 1,234."""
    if value == 0:
        return "0"
    if value < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def p_value(value: Any) -> str:
    """A p-value as it is usually written."""
    p = number(value)
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_equals(value: Any) -> str:
    """The same in a sentence, behind the letter p: ``= 0.031``, ``< 0.001``."""
    p = p_value(value)
    return p if p.startswith("<") or not p else f"= {p}"


# The largest weight file. A file is hashed by one core at a time: several files keep several cores at it.
SHARD_SIZE = "2GB"


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
    number = float(match[1]) if match else 0.0
    size = int(number * unit) if unit and number < 1e18 else 0
    if not 0 < size <= sys.maxsize:
        raise BadInput(f"{text[:80]!r} is no size: write a number and a unit, such as 5GB or 500MB")
    return size
