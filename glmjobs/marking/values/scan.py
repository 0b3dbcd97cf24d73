"""Finding the values in one statement."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from glmjobs.marking.values import numerals, units
from glmjobs.marking.values.arithmetic import FACTORIAL, SCHOOL_PI, evaluate, prefix
from glmjobs.marking.values.items import Clock, Date, Item, Quantity, Ratio, Remainder
from glmjobs.marking.values.units import Unit

_START = re.compile(
    rf"[0-9.{numerals.CN}半负¥$€£√]|-(?=[.\d√(])|π(?=\s?/)|"
    r"\((?=[\d+\- ]{0,8}[√π]|-?[\d./]{1,20}\)\^)"
)
_STEP = re.compile(rf"[\d.,]+|[{numerals.CN}]+|.", re.DOTALL)
_SIGN = re.compile(f"[√^π{FACTORIAL}]")
_EXPRESSION = re.compile(rf"(?=[-+×*·÷/()\d. ]{{0,30}}[√^π{FACTORIAL}])[-+×*·÷/()\d. √^π{FACTORIAL}]{{1,60}}")
_TERM = rf"\d+(?:\.\d+)?(?:/\d+)?|[{numerals.CN}]+"
_RATIO = re.compile(rf"({_TERM})\s?(?:(?<=\d):|(?<=\d\s):|比)\s?({_TERM})((?:\s?:\s?(?:{_TERM}))*)(?![\d:])")
_REMAINDER = re.compile(
    r"(\d+)\s?(?:\([\u4e00-\u9fff]{1,3}\)|[\u4e00-\u9fff]{0,2}?)[\s,]{0,3}(?:\.{3,}|…+|·{3,}|余数?)[是为]?\s?(\d+)"
)
_NUM = rf"\d{{1,2}}|[{numerals.CN_DIGIT}十]{{1,3}}"
_HALF = "凌晨|清晨|早[上晨]?|上午|中午|下午|傍晚|晚上?|夜[里间]|[AaPp][Mm]"
_CLOCK = re.compile(
    rf"({_NUM})\s?(?:[点时]钟?过?\s?(?:(半)|([一三13])刻|({_NUM})\s?分?)?(?:\s?({_NUM})秒)?|:\s?(\d\d)(?::(\d\d))?)"
    rf"\s?({_HALF})?"
)
_HALF_OF_DAY = re.compile(rf"({_HALF})\s?$")
_DATE = re.compile(rf"(?:(\d{{4}})\s?[年/.-]\s?)?({_NUM})\s?[月/.-]\s?({_NUM})[日号]?")
_WEEKDAY = re.compile("(?:星期|周|礼拜|\\A)([一二三四五六日天1-7])(?![\\d个天次小])")
_HALF_AFTER = re.compile("半(?!径|数|圆|年级)")
_ABOUT = re.compile(r"[约≈][是为有]?(?:原来的)?\s?$")


def scan(text: str, kind: str = "number") -> list[Item]:
    """Every value in one statement, from left to right; ``kind`` (clock, date, …) decides what 3:20 is."""
    return list(_scan(text, kind if kind in ("clock", "date") else "number"))


@lru_cache(maxsize=2048)  # one statement is looked at from several sides
def _scan(text: str, kind: str) -> tuple[Item, ...]:
    items: list[Item] = []
    at, signs = 0, _SIGN.search(text)
    while found := _START.search(text, at):
        at = found.start()
        item = _special(text, at, kind) or (_formula(text, at) if signs else None) or _quantity(text, at)
        if item is None:
            step = _STEP.match(text, at)
            at = step.end() if step else at + 1
            continue
        if isinstance(item, Quantity) and _ABOUT.search(text[max(0, at - 6) : at]):
            item = replace(item, about=True)
        items.append(item)
        at = max(item.end, at + 1)
    return tuple(items)


def _formula(text: str, at: int) -> Quantity | None:
    """A value that is written as an expression: 2^10, 3+√2, (1+√5)/2, 5!; of 12π and 2π/3 what stands before π."""
    match = _EXPRESSION.match(text, at)
    if not match or text[at - 1 : at] in tuple("√^") or (text[at] == "-" and not numerals.is_minus(text, at)):
        return None
    source = match[0].rstrip(" +-×*·÷/(.")
    summed = "π" in source and re.search(".[+-]", source)  # 2π+4 has no value but by 3.14
    value, size = prefix(source, {"π": SCHOOL_PI if summed else Fraction(1)})
    source = source[:size]
    if not _SIGN.search(source):
        return None
    form, places = ("plain", 0) if value.denominator == 1 else ("fraction", -1)
    if not summed and ("π" in source or value.denominator > 10**20):
        form, places = "pi" if "π" in source else "root", -1
    found, stop = _unit(text, at + size)
    return Quantity(value, tuple(found), at, stop, form, places)


def _special(text: str, at: int, kind: str) -> Item | None:
    if kind == "clock":
        return _clock(text, at)
    if kind == "date":
        return _date(text, at)
    match = _REMAINDER.match(text, at)
    if match and len(match[0]) < numerals.MAX_DIGITS:
        return Remainder(Fraction(match[1]), Fraction(match[2]), at, match.end())
    match = _RATIO.match(text, at)
    if match and len(match[0]) < numerals.MAX_DIGITS:
        terms = [evaluate(t) or numerals.chinese(t) or Fraction(0) for t in re.findall(_TERM, match[0])]
        return Ratio(tuple(terms), at, match.end())
    return None


def _small(text: str | None) -> int:
    return int(numerals.simple(text or "零") or 0)


def _clock(text: str, at: int) -> Clock | None:
    match = _CLOCK.match(text, at)
    if not match:
        return None
    lead = _HALF_OF_DAY.search(text[max(0, at - 4) : at])
    part = (lead[1] if lead else match[8] or "").lower()
    hour, second = _small(match[1]), _small(match[5] or match[7])
    minute = _small(match[4] or match[6]) + (30 if match[2] else 15 * _small(match[3]))
    if hour > 24 or minute > 59 or second > 59:
        return None
    fixed = bool(part) or hour > 12 or hour == 0
    late = part in ("下午", "傍晚", "晚上", "夜里", "夜间", "晚", "pm") or (part == "中午" and hour < 10)
    if late and hour < 12:
        hour += 12
    if part in ("凌晨", "夜里", "晚上", "am") and hour == 12:
        hour = 0
    return Clock((hour % 24) * 3600 + minute * 60 + second, fixed, at, match.end())


def _date(text: str, at: int) -> Date | None:
    match = _DATE.match(text, at)
    if not match:
        return None
    year, month, day = map(_small, match.groups())
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return Date(year, month, day, 0, at, match.end())


def weekdays(text: str) -> list[Date]:
    """Every weekday named."""
    return [
        Date(0, 0, 0, 7 if m[1] in "日天" else _small(m[1]), m.start(), m.end())
        for m in _WEEKDAY.finditer(text)
    ]


def _quantity(text: str, at: int) -> Quantity | None:
    """Number, unit and smaller units after it (2小时30分, 5元6角, 两个半小时) as one quantity."""
    if text[at] not in "¥$€£":
        first = _one(text, at)
        return _compound(text, first) if first and first.units and first.form == "plain" else first
    first = _one(text, at + 1) if re.match(r"-?\d", text[at + 1 : at + 3]) else None
    return replace(first, units=tuple(units.UNITS[text[at]]), start=at) if first else None


_SPOKEN = re.compile(
    rf"(?:(?<=米)(?:\d{{1,2}}|[{numerals.CN_DIGIT}]{{1,2}})|(?<=[元块])[\d{numerals.CN_DIGIT}])(?![\d.{numerals.CN}/%:×÷+=-])"
)
_PART = re.compile("[\u4e00-\u9fff]{0,3}和(?=[\\d半二三四五六七八九])")


def _compound(text: str, first: Quantity) -> Quantity:
    base, whole = first.units[0], first.value.denominator == 1
    spoken = _SPOKEN.match(text, first.end) if whole else None
    if spoken and not units.match(text, spoken.end())[0]:  # 1米65, 三块五
        places = len(spoken[0])
        value = first.value + (numerals.simple(spoken[0]) or Fraction(0)) / 10**places
        return replace(first, value=value, end=spoken.end(), places=places)
    part = _PART.match(text, first.end) if whole else None
    more = _one(text, part.end()) if part else None
    if more and more.units and more.units[0] == base and 0 < more.value < 1:
        return replace(first, value=first.value + more.value, end=more.end, places=-1)  # 2个糖果和2/3个糖果
    total, end, last = first.value, first.end, base.factor
    while True:
        at = end + 1 if text[end : end + 1] in ("零", "又", " ") else end
        more = _one(text, at) if text[at : at + 1].isdigit() or text[at : at + 1] in tuple(numerals.CN) else None
        fit = [u for u in more.units if u.dim == base.dim and u.factor < last] if more else []
        if not more or not fit or more.form != "plain":
            break
        total, end, last = total + more.value * fit[0].factor / base.factor, more.end, fit[0].factor
    if end == first.end:
        return first
    return replace(first, value=total, end=end, units=tuple(u for u in first.units if u.dim == base.dim))


def _one(text: str, at: int) -> Quantity | None:
    if text[at] == "半":
        return _half(text, at)
    number = None if _embedded(text, at) else numerals.read(text, at)
    if number is None or number.form == "percent":
        return number
    end = number.end
    at = end + text.startswith("⟧", end)  # ⟦17⟧ 千克
    at += text.startswith(" ", at)
    if text[at : at + 1] == "个" and _HALF_AFTER.match(text, at + 1):
        number, at = replace(number, value=number.value + Fraction(1, 2), places=1), at + 2
    if text[at : at + 1] == "(":
        scale = 10**4 if text[at + 1 : at + 2] == "万" else 1  # 28.33(万元)
        found, stop = units.match(text, at + 1 + (scale > 1))
        if found and text[stop : stop + 1] == ")":
            value = number.value * scale
            return replace(number, value=value, units=tuple(found), end=stop + 1, scaled=number.scaled or scale > 1)
    found, stop = _unit(text, at)
    if not _plausible(text, number, bool(found)):
        return None
    if not found:
        return number
    if _HALF_AFTER.match(text, stop) and found[0].dim != "count":
        number, stop = replace(number, value=number.value + Fraction(1, 2), places=1), stop + 1
    return Quantity(
        number.value, tuple(found), number.start, stop, number.form, number.places, number.scaled, number.vague
    )


_DIVIDER = re.compile(r"\s?(?:/|每)\s?")


def _unit(text: str, at: int) -> tuple[list[Unit], int]:
    """The readings of a unit (a blank may stand before it) and its end, ``at`` where there is none."""
    found, stop = units.match(text, at + 1 if text[at : at + 1] == " " else at)
    divider = _DIVIDER.match(text, stop) if found else None
    if divider:
        bottom, end = units.match(text, divider.end())
        if bottom:
            return units.per(found, bottom), end
    return found, stop if found else at


def _half(text: str, at: int) -> Quantity | None:
    if text[at - 1 : at] == "一":
        return Quantity(Fraction(1, 2), (), at, at + 1, "fraction", -1)
    found, stop = units.match(text, at + 1)
    if not found or not _HALF_AFTER.match(text, at):
        return None
    return Quantity(Fraction(1, 2), tuple(found), at, stop, "fraction", -1)


_LABEL_BEFORE = re.compile(
    r"(?:第|星期|礼拜|(?<![\d一二两三四五六七八九十几每])周|步骤|图|题|例|表|编号|方案|选项|情况|方法|解法|问题|式子)\s?\Z"
)
_WORD_BEFORE = set("统唯万单某另哪任同每专之这那")
_ORDINAL_AFTER = re.compile("位(?:小数|有效)|号|路[公车]|年级|等奖|月\\d|年[的级]|、(?![\\d-])")
_CN_IDIOM = re.compile("一[样下面]|十分(?![之钟])|[一二三四五六七八九]边形|[一二]元[一二]次|[五六]一|五入|八成新")


_NOTHING = re.compile(r".{0,2}\d\s?[/÷]\s?0(?![.\d])")
_UNREAD = re.compile(r"\^|[eE]\d{3}|\s?[/÷]\s?0(?![.\d])")
"""What follows a number that is no value by itself: a power too large to be worked out, a division by nothing."""


def _embedded(text: str, at: int) -> bool:
    """A digit inside a name (A4, x2, CO2) or a label is no value."""
    char, tail = text[at], text[at - 1 : at]
    if char.isdigit() and tail and ((tail.isascii() and tail.isalpha()) or tail in "_^"):
        return True
    if _LABEL_BEFORE.search(text[max(0, at - 6) : at]) or _NOTHING.match(text, max(0, at - 3)):
        return True
    return char in numerals.CN and bool(tail in _WORD_BEFORE or _CN_IDIOM.match(text, at))


def _plausible(text: str, number: Quantity, named: bool) -> bool:
    """Chinese numerals are also syllables: one counts only before a unit, at an end, or when it is long enough."""
    start, end = number.start, number.end
    if _ORDINAL_AFTER.match(text, end) or _UNREAD.match(text, end):
        return False
    if not named and number.form == "plain" and re.match("[a-zA-Z]{2}|[BDGHKbdgk]", text[end : end + 2]):
        return False
    if text[start] not in numerals.CN or number.form != "plain" or number.places > 0 or named:
        return True
    return end - start >= 2 or not "\u4e00" <= text[end : end + 1] <= "\u9fff"
