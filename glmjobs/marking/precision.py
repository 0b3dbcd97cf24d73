"""The precision that a question asks for: 保留两位小数, 精确到十分位."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIGITS = {c: i for i, c in enumerate("一二三四", 1)} | {c: int(c) for c in "1234"} | {"两": 2}
_POSITIONS = {"十": -1, "百": -2, "千": -3, "万": -4, "亿": -8, "十分": 1, "百分": 2, "千分": 3, "万分": 4}
_POSITIONS |= {"角": 1, "分": 2}
_GIVEN = re.compile("(?:四舍五入|近似).*(?:最[大小].{0,2}(?:是|为|可能)|原[来数]|取值)")
_TO = "(?:精确到|保留到?|四舍五入到|近似到|凑整到|取)(?:最接近的|最近的|整)?"
_PLACES = re.compile("(?:保留|小数点后|精确到|取)([一两二三四1-4])位(?!有效)")
_SIGNIFICANT = re.compile("([一两二三四1-4])[位个]有效数字")
_DECIMAL = re.compile(rf"{_TO}\s?(0\.0*1|1)(?!\d)(%?)")
_POSITION = re.compile(
    rf"{_TO}(?:([十百千万亿]|[十百千万]分)位|([十百]分)之一|([角分])|整数|个位|元|[千平立]?[克方]?米|千克|吨|厘米|小时)|"
    "保留整|取整数|结果取整|(?:四舍五入|取近似).{0,6}整数"
)


@dataclass(frozen=True)
class Precision:
    """Round to ``places`` decimals (negative: tens …), of the percentage where ``percent``; or significant digits."""

    places: int = 0
    percent: bool = False
    significant: int = 0


def asked(text: str, in_percent: bool) -> Precision | None:
    """The precision asked for, or None; ``in_percent``: whether a share is asked."""
    if _GIVEN.search(text):
        return None  # the rounding is what is known, not what is asked
    if match := _SIGNIFICANT.search(text):
        return Precision(significant=_DIGITS[match[1]])
    if match := _PLACES.search(text):
        return Precision(_DIGITS[match[1]], in_percent)
    if match := _DECIMAL.search(text):
        return Precision(max(0, len(match[1]) - 2), in_percent or bool(match[2]))
    if match := _POSITION.search(text):
        return Precision(_POSITIONS.get(match[1] or match[2] or match[3], 0), in_percent)
    return None
