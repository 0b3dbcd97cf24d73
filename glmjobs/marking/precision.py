"""The precision that a question asks for: 保留两位小数, 精确到十分位."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIGITS = {"一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "1": 1, "2": 2, "3": 3, "4": 4}
_POSITIONS = {
    "整数": 0, "个位": 0, "十分位": 1, "百分位": 2, "千分位": 3, "万分位": 4, "十位": -1, "百位": -2, "千位": -3,
    "万位": -4, "亿位": -8, "元": 0, "角": 1, "分": 2, "十分之一": 1, "百分之一": 2,
}  # fmt: skip
_GIVEN = re.compile("(?:四舍五入|近似).*(?:最[大小].{0,2}(?:是|为|可能)|原[来数]|取值)")
_PLACES = re.compile(
    "(?:百分号前)?保留([一两二三四1-4])位(?!有效)|小数点后([一两二三四1-4])位|(?:精确到|取)([一两二三四1-4])位"
)
_SIGNIFICANT = re.compile("([一两二三四1-4])[位个]有效数字")
_DECIMAL = re.compile(r"(?:精确到|保留到|四舍五入到|近似到)\s?(0\.(0*)1|1)(?!\d)(%?)")
_POSITION = re.compile(
    "(?:精确到|保留到|保留|四舍五入到|近似到|凑整到|取)(?:最接近的|最近的|整)?"
    "(整数|个位|[十百千万]分位|[十百千万亿]位|[十百]分之一|[元角分]|米|千克|吨|厘米|平方米|立方米|小时)"
)
_WHOLE = re.compile("保留整|取整数|结果取整|(?:四舍五入|取近似).{0,6}整数")


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
    percent = in_percent or bool(re.search("百分号前|%前", text))
    if match := _SIGNIFICANT.search(text):
        return Precision(significant=_DIGITS[match[1]])
    if match := _PLACES.search(text):
        return Precision(_DIGITS[next(g for g in match.groups() if g)], percent)
    if match := _DECIMAL.search(text):
        return Precision(0 if match[1] == "1" else len(match[2]) + 1, percent or bool(match[3]))
    if match := _POSITION.search(text):
        return Precision(_POSITIONS.get(match[1], 0), percent)
    return Precision(0, percent) if _WHOLE.search(text) else None
