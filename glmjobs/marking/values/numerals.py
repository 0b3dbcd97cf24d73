"""Numbers as people write them, read exactly: 1,234.5, 2又3/4, 四分之三, 百分之二十, 八五折, 三成五, 3.6亿, 十五."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction

from glmjobs.marking.values.items import Quantity

MAX_DIGITS = 60
"""A longer run of digits is no answer; reading it would not be linear."""
CN_DIGIT = "零〇一二两三四五六七八九"
CN = CN_DIGIT + "十百千万亿"

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_SIZES = {"亿": 10**8, "万": 10**4, "千": 1000, "百": 100, "十": 10}
_RUN = f"(?:[{CN.replace('千', '')}]|千(?![克米瓦卡]))+(?:点[{CN_DIGIT}]+)?"  # 三千米: 3 km
_CN_RUN = re.compile(f"{_RUN}[万亿]?")
_ARABIC = re.compile(r"(?:\d{1,3}([,'_ ])\d{3}(?:\1\d{3})*(?!\d)|\d+)(?:\.\d+)?|\.\d+")
_SEPARATORS = str.maketrans("", "", ",'_ ")
_SIMPLE = rf"(?:\d+(?:\.\d+)?|{_RUN})"
_PARTS = re.compile(rf"(?:({_SIMPLE})又)?({_SIMPLE})分之({_SIMPLE})")
_MIXED = re.compile(r"(\d+)(?:\s?又\s?|\s)(\d+)/(\d+)(?![\d/])")
_SLASH = re.compile(r"\s?/\s?(\d+(?:\.\d+)?)(?![\d/])")
_SCALE = re.compile(r"\s?((?:[十百万亿]|千(?![克米瓦卡帕伏])){1,3})")
_LOWER = re.compile(r"零?(\d{1,9}(?:\.\d+)?)([十百千]?万|百|千(?![克米瓦卡])|)(?![\d.,/%:])")
_RECURRING = re.compile(r"\.{3,}(?!\s?\d)|…|\(?[\d,]{0,12}循环\)?")
_PERIOD = re.compile(r"\.?\((\d{1,12})\)")
_NOT_MINUS = re.compile(r"[\d)%π](?:[\u4e00-\u9fff]{1,3}(?<![是为有得到于约或和者]))?\s?\Z|(?<![a-z])[a-zA-Z]\s?\Z")
_OVER = re.compile("[多余](?![少了于出数\\d一二三四五六七八九十])")
_TENTHS = re.compile(rf"成([{CN_DIGIT}\d]?)(?![为立本绩功员熟长了人品])")


def chinese(run: str) -> Fraction | None:
    """The value of a Chinese numeral (一百二十, 一万二, 二〇二四, 三点一四), or None.

    >>> chinese("一千零五十"), chinese("一百二"), chinese("三点五")
    (Fraction(1050, 1), Fraction(120, 1), Fraction(7, 2))
    """
    if not run or len(run) > MAX_DIGITS:
        return None
    if all(c in _DIGITS for c in run):
        return Fraction(int("".join(str(_DIGITS[c]) for c in run)))
    head, point, tail = run.partition("点")
    if point:
        scale = _SIZES.get(tail[-1:], 1)
        whole, part = chinese(head), chinese(tail if scale == 1 else tail[:-1])
        if whole is None or part is None:
            return None
        return (whole + part / Fraction(10) ** len(tail.rstrip("万亿"))) * scale
    size = next((c for c in _SIZES if c in run), "")
    if not size:
        return None
    high, _, low = run.partition(size)
    top = chinese(high) if high or size != "十" else Fraction(1)
    rest = chinese(low) if low else Fraction(0)
    if top is None or rest is None or (size in "十百千" and top > 9):
        return None
    if len(low) == 1 and size != "十":
        rest *= _SIZES[size] // 10  # 一百二 is 120, 一万二 is 12000
    return top * _SIZES[size] + rest


def simple(text: str) -> Fraction | None:
    """A numeral without unit or sign, Arabic or Chinese."""
    if text[:1].isdigit():
        return Fraction(text) if len(text) <= MAX_DIGITS else None
    return Fraction(_SIZES[text]) if text in _SIZES else chinese(text)


def read(text: str, at: int) -> Quantity | None:
    """The number that begins at ``text[at]`` (sign included), without a unit, or None."""
    start = at
    if text.startswith(("负", "零下"), at) or (text[at] == "-" and is_minus(text, at)):
        at += 2 if text[at] == "零" else 1
    first = text[at : at + 1]
    number = _parts(text, at) or (_arabic(text, at) if first.isdigit() or first == "." else _numeral(text, at))
    if number is None or at == start:
        return number
    return replace(number, value=-number.value, start=start)


def is_minus(text: str, at: int) -> bool:
    """Whether the sign at ``text[at]`` subtracts from nothing."""
    return not _NOT_MINUS.search(text, max(0, at - 6), at)


def _parts(text: str, at: int) -> Quantity | None:
    """四分之三, 4分之3, 2又4分之3, 百分之二十."""
    match = _PARTS.match(text, at)
    if not match:
        return None
    whole, bottom, top = simple(match[1] or "零"), simple(match[2]), simple(match[3])
    if whole is None or top is None or not bottom:
        return None
    value = whole + top / bottom
    if bottom not in (100, 1000, 10000):
        return Quantity(value, (), at, match.end(), "fraction", -1)
    return Quantity(value, (), at, match.end(), "percent", len(re.split("[.点]", match[3] + ".")[1]) + 2)


def _arabic(text: str, at: int) -> Quantity | None:
    mixed = _MIXED.match(text, at)
    if mixed and len(mixed[0]) <= MAX_DIGITS and 0 < int(mixed[2]) < int(mixed[3]):
        value = int(mixed[1]) + Fraction(int(mixed[2]), int(mixed[3]))
        return Quantity(value, (), at, mixed.end(), "fraction", -1)
    match = _ARABIC.match(text, at)
    if not match or len(match[0]) > MAX_DIGITS:
        return None
    plain, end = match[0].translate(_SEPARATORS), match.end()
    # Fraction takes three times as long from text
    value = Fraction(int(plain)) if plain.isdecimal() else Fraction(plain)
    places = len(plain.partition(".")[2])
    period = _PERIOD.match(text, end) if "." in text[at : end + 1] else None
    if period:  # 0.1(6), 0.3(3): the digits in brackets recur
        value += Fraction(int(period[1]), 10**places * (10 ** len(period[1]) - 1))
        return Quantity(value, (), at, period.end(), "fraction", -1)
    slash = _SLASH.match(text, end)
    if slash and len(slash[1]) <= MAX_DIGITS and Fraction(slash[1]) != 0:
        return _suffix(text, Quantity(value / Fraction(slash[1]), (), at, slash.end(), "fraction", -1))
    return _suffix(text, _scaled(text, Quantity(value, (), at, end, places=places)))


def _scaled(text: str, number: Quantity) -> Quantity:
    """3万, 3万5千, 1亿2000万, 3千万: the words that multiply."""
    match = _SCALE.match(text, number.end)
    if not match:
        return number
    size = math.prod(_SIZES[c] for c in match[1])
    value, end = number.value * size, match.end()
    while (lower := _LOWER.match(text, end)) and (step := math.prod(_SIZES[c] for c in lower[2])) < size:
        value, size, end = value + Fraction(lower[1]) * step, step, lower.end()
    return replace(number, value=value, end=end, places=0, scaled=True)


def _numeral(text: str, at: int) -> Quantity | None:
    match = _CN_RUN.match(text, at)
    value = chinese(match[0]) if match else None
    if not match or value is None:
        return None
    scaled = "万" in match[0] or "亿" in match[0]
    places = 0 if scaled else len(match[0].partition("点")[2])
    return _suffix(text, Quantity(value, (), at, match.end(), places=places, scaled=scaled))


def _suffix(text: str, number: Quantity) -> Quantity:
    """What may follow the digits: %, ‰, 折, 成, 多, …."""
    value, end, places = number.value, number.end, number.places
    if text[end : end + 1] == " ":
        end += 1
    sign = text[end : end + 1]
    if sign and sign in "%‰":
        zeros = "%‰".index(sign) + 2
        return replace(number, value=value / 10**zeros, end=end + 1, form="percent", places=max(places, 0) + zeros)
    if sign == "折" and value < 100 and text[end + 1 : end + 2] not in tuple("成叠线"):
        return replace(number, value=value / (10 if value <= 10 else 100), end=end + 1, form="percent", places=3)
    tenths = _TENTHS.match(text, end) if value < 10 else None
    if tenths:
        value = value / 10 + (simple(tenths[1] or "零") or Fraction(0)) / 100
        return replace(number, value=value, end=tenths.end(), form="percent", places=3)
    recurring = _RECURRING.match(text, number.end) if places > 0 else None
    if recurring:
        return replace(number, end=recurring.end(), vague=True)
    if value >= 10 and _OVER.match(text, number.end):
        return replace(number, end=number.end + 1, vague=True)
    return number
