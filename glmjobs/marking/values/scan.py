"""Finding the values in one statement."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from glmjobs.marking.values import numerals, units
from glmjobs.marking.values.arithmetic import evaluate
from glmjobs.marking.values.items import Clock, Date, Item, Quantity, Ratio, Remainder
from glmjobs.marking.values.units import Unit

_START = re.compile(
    rf"(?!零[件钱食售头花用])[0-9.{numerals.CN}半负¥$€£√]|-(?=\.?[\d√])|零下|根号|"
    r"\((?=[\d+\- ]{0,8}√|-?[\d./]{1,20}\)\^)"
)
_FORMULA = re.compile(
    r"\(-?[\d./]{1,20}\)\^\(?-?\d{1,3}\)?|"
    r"(?=[\d(.+\-×*/ ]{0,30}√)[-+]?(?:\s?[-+×*/]?\s?(?:√\(?\d[\d.]*\)?|\d[\d.]*|[()])){1,12}"
)
"""What is read as one value: powers of brackets, sums with roots (3+√2, (1+√5)/2)."""
_STEP = re.compile(rf"[\d.,]+|[{numerals.CN}]+|.", re.DOTALL)
_TERM = r"\d+(?:\.\d+)?(?:/\d+)?"
_RATIO = re.compile(rf"({_TERM})\s?(?::|比)\s?({_TERM})((?:\s?:\s?{_TERM})*)(?![\d:])")
_CN_RATIO = re.compile(f"([{numerals.CN}]+)比([{numerals.CN}]+)")
_REMAINDER = re.compile(
    r"(\d+)\s?(?:\([\u4e00-\u9fff]{1,3}\)|[\u4e00-\u9fff]{0,2}?)\s?[,]?\s?(?:\.{3,}|…+|···+|"
    r"余数是|余数为|余数|余)\s?(?:数?[是为]?)(\d+)"
)
_NUM = rf"(?:\d{{1,2}}|[{numerals.CN_DIGIT}十]{{1,3}})"
_CLOCK = re.compile(
    rf"(凌晨|清晨|早上|早晨|上午|中午|下午|傍晚|晚上|夜里|夜间|晚|早|AM|PM|am|"
    rf"pm)?\s?({_NUM})\s?(?:(点|时)钟?(?:\s?({_NUM})\s?分|(\d{{1,2}}|"
    rf"[二三四五]?十[{numerals.CN_DIGIT}]?)|(整|半)|过({_NUM})分|"
    rf"([一三1-3])刻)?(?:\s?({_NUM})秒)?|:\s?(\d{{2}})(?::(\d{{2}}))?)\s?(am|pm|AM|PM)?"
)
_HALF_OF_DAY = re.compile("(凌晨|清晨|早上|早晨|上午|中午|下午|傍晚|晚上|夜里|夜间|晚|早|AM|PM|am|pm)\\s?$")
_PM = ("下午", "傍晚", "晚上", "夜里", "夜间", "晚", "PM", "pm", "中午")
_DATE = re.compile(
    rf"(?:(\d{{4}}|[{numerals.CN_DIGIT}]{{4}})\s?[年/.-]\s?)?({_NUM})\s?[月/.-]\s?({_NUM}[{numerals.CN_DIGIT}"
    rf"十]?)\s?[日号]?"
)
_WEEKDAY = re.compile("(?:星期|周|礼拜|\\A)([一二三四五六日天1-7])(?![\\d个天次小])")
_HALF_AFTER = re.compile("半(?!径|数|圆|年级)")


_ABOUT = re.compile(r"约[是为有]?(?:原来的)?\s?$")
_PI_OVER = re.compile(r"π\s?/\s?([1-9]\d{0,8})")


def scan(text: str, kind: str = "number") -> list[Item]:
    """Every value in one statement, from left to right; ``kind`` (ratio, clock, date, …) decides what 3:20
    is."""
    return list(_scan(text, kind if kind in ("clock", "date") else "number"))


@lru_cache(maxsize=2048)  # one statement is looked at from several sides
def _scan(text: str, kind: str) -> tuple[Item, ...]:
    items: list[Item] = []
    at = 0
    while True:
        found = _START.search(text, at)
        if not found:
            return tuple(items)
        at = found.start()
        item = _special(text, at, kind) or _formula(text, at) or _quantity(text, at)
        if item is None:
            step = _STEP.match(text, at)
            at = step.end() if step else at + 1
            continue
        if isinstance(item, Quantity) and _ABOUT.search(text[max(0, at - 6) : at]):
            item = replace(item, about=True)
        items.append(item)
        at = max(item.end, at + 1)


def _formula(text: str, at: int) -> Quantity | None:
    """A value that is written as an expression: (-2)^3, 3+√2, (1+√5)/2."""
    if "√" not in text and ")^" not in text:
        return None
    match = _FORMULA.match(text, at)
    if not match or text[at - 1 : at] in tuple("√^") or text[at].isspace():
        return None
    source = match[0].rstrip(" +-×*/(")
    while source.count("(") < source.count(")") and source.endswith(")"):
        source = source[:-1]
    value = evaluate(source)
    if value is None or not re.search(r"[√^]", source):
        return None
    found, stop = _unit(text, at + len(source))
    form = "root" if "√" in source and value.denominator > 10**9 else "fraction"
    return Quantity(value, tuple(found), at, stop if found else at + len(source), form, -1)


def _special(text: str, at: int, kind: str) -> Item | None:
    if kind == "clock":
        return _clock(text, at)
    if kind == "date":
        return _date(text, at)
    match = _REMAINDER.match(text, at)
    if match and len(match[0]) < numerals.MAX_DIGITS and "余" not in text[match.end() : match.end() + 1]:
        return Remainder(Fraction(match[1]), Fraction(match[2]), at, match.end())
    match = _RATIO.match(text, at)
    if match and len(match[0]) < numerals.MAX_DIGITS:
        rest = re.findall(_TERM, match[3])
        terms = [_term(t) for t in (match[1], match[2], *rest)]
        return Ratio(tuple(terms), at, match.end())
    match = _CN_RATIO.match(text, at)
    if match:
        pair = numerals.chinese(match[1]), numerals.chinese(match[2])
        if pair[0] is not None and pair[1] is not None:
            return Ratio((pair[0], pair[1]), at, match.end())
    return None


def _term(text: str) -> Fraction:
    """A term of a ratio: 3, 0.5, 3/4, 1.5/2; 0 where it is divided by nothing."""
    top, _, bottom = text.partition("/")
    below = Fraction(bottom) if bottom else Fraction(1)
    return Fraction(top) / below if below else Fraction(0)


def _small(text: str | None) -> int:
    if not text:
        return 0
    value = numerals.simple(text)
    return int(value) if value is not None else 0


def _clock(text: str, at: int) -> Clock | None:
    lead = _HALF_OF_DAY.search(text[max(0, at - 4) : at])
    match = _CLOCK.match(text, at)
    if not match:
        return None
    part = (lead[1] if lead else "") or match[1] or match[12] or ""
    hour = _small(match[2])
    minute = _small(match[4] or match[5] or match[7] or match[10]) + (
        30 if match[6] == "半" else 15 * _small(match[8])
    )
    second = _small(match[9] or match[11])
    if hour > 24 or minute > 59 or second > 59:
        return None
    fixed = bool(part) or hour > 12 or hour == 0
    if part in _PM and hour < 12 and not (part == "中午" and hour >= 10):
        hour += 12
    if part in ("凌晨", "夜里", "晚上", "AM", "am") and hour in (12, 24):
        hour = 0
    return Clock((hour % 24) * 3600 + minute * 60 + second, fixed, at, match.end())


def _date(text: str, at: int) -> Date | None:
    match = _DATE.match(text, at)
    if not match:
        return None
    year, month, day = _small(match[1]), _small(match[2]), _small(match[3])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return Date(year, month, day, 0, at, match.end())


def weekdays(text: str) -> list[Date]:
    """Every weekday named."""
    return [
        Date(0, 0, 0, 7 if m[1] in "日天7" else _small(m[1]), m.start(), m.end())
        for m in _WEEKDAY.finditer(text)
    ]


def _quantity(text: str, at: int) -> Quantity | None:
    """Number, unit and smaller units after it (2小时30分, 5元6角, 两个半小时) as one quantity."""
    start = at
    prefix: tuple[Unit, ...] = ()
    if text[at] in "¥$€£":
        prefix = tuple(units.UNITS[text[at]])
        at += 1
        if text[at : at + 1] == " ":
            at += 1
        if not text[at : at + 1].isdigit() and not (
            text[at : at + 1] == "-" and text[at + 1 : at + 2].isdigit()
        ):
            return None
    first = _one(text, at, start)
    if first is None:
        return None
    if prefix:
        found = first.units if first.units and first.units[0].dim in ("CNY", "USD", "EUR", "GBP") else prefix
        return replace(first, units=found, start=start)
    return _compound(text, first)


_SPOKEN = re.compile(rf"(\d{{1,2}}|[{numerals.CN_DIGIT}]{{1,2}})(?![\d.{numerals.CN}/%:×÷+=-])")


def _spoken(text: str, first: Quantity, base: Unit) -> Quantity | None:
    """1米65, 三块五: what is said after the unit, with no unit of its own."""
    match = _SPOKEN.match(text, first.end) if base.name in ("米", "元", "块") and first.places == 0 else None
    if not match or units.match(text, match.end())[0] or len(match[1]) > (2 if base.name == "米" else 1):
        return None
    digits = numerals.simple(match[1])
    if digits is None or first.value.denominator != 1:
        return None
    return replace(
        first, value=first.value + digits / 10 ** len(match[1]), end=match.end(), places=len(match[1])
    )


_PART = re.compile("[\u4e00-\u9fff]{0,3}(?:和|又|加)(?=[\\d半二三四五六七八九])")


def _compound(text: str, first: Quantity) -> Quantity:
    if not first.units or first.form != "plain":
        return first
    total, end, base = first.value, first.end, first.units[0]
    spoken = _spoken(text, first, base)
    if spoken:
        return spoken
    last = base.factor
    part = _PART.match(text, end)
    more = _one(text, part.end(), part.end()) if part and first.value.denominator == 1 else None
    if more and more.units and more.units[0] == base and 0 < more.value < 1:
        return replace(first, value=first.value + more.value, end=more.end, places=-1)  # 2个糖果和2/3个糖果
    for _ in range(4):
        at = end
        if text[at : at + 1] in ("零", "又", " ") and at + 1 < len(text):
            at += 1
        if at >= len(text) or not (text[at].isdigit() or text[at] in numerals.CN):
            break
        more = _one(text, at, at)
        fit = [u for u in more.units if u.dim == base.dim and u.factor < last] if more else []
        if not more or not fit or more.form != "plain":
            break
        total, end, last = total + more.value * fit[0].factor / base.factor, more.end, fit[0].factor
    if end == first.end:
        return first
    return replace(first, value=total, end=end, units=tuple(u for u in first.units if u.dim == base.dim))


def _one(text: str, at: int, start: int) -> Quantity | None:
    if text[at] == "半":
        return _half(text, at)
    if _embedded(text, at):
        return None
    number = numerals.read(text, at)
    if number is None:
        return None
    value, end, places = number.value, number.end, number.places
    at = end + 1 if text[end : end + 1] == " " else end
    if number.form == "discount":
        return Quantity(value, (), start, end, "percent", number.places)
    if number.form == "percent" and not (text[number.end - 1] not in "%‰" and units.match(text, at)[0]):
        return Quantity(value, (), start, end, "percent", number.places, vague=number.vague)
    if text[at : at + 1] == "π" and number.form in ("plain", "fraction"):
        return _times_pi(text, value, start, at)
    if text[at : at + 1] == "个" and _HALF_AFTER.match(text, at + 1):
        value, at, places = value + Fraction(1, 2), at + 2, 1
    if text[at : at + 1] in ("(", "[") and not text[at + 1 : at + 2].isdigit():
        found, stop = units.match(text, at + 1)
        if found and text[stop : stop + 1] in (")", "]"):
            return Quantity(
                value, tuple(found), start, stop + 1, number.form, places, number.scaled, number.vague
            )
    if not _plausible(text, number, end):
        return None
    form = "fraction" if number.form == "percent" else number.form
    found, stop = _unit(text, at)
    if found and _HALF_AFTER.match(text, stop) and found[0].dim != "count":
        value, stop, places = value + Fraction(1, 2), stop + 1, 1
    if found:
        end = stop
    elif places == 1 and at != number.end and text[at - 1] == "半":
        end = at
    return Quantity(value, tuple(found), start, end, form, places, number.scaled, number.vague)


def _times_pi(text: str, value: Fraction, start: int, at: int) -> Quantity:
    """12π, 2π/3: what stands before π (``text[at]``) times it."""
    over = _PI_OVER.match(text, at)
    end = over.end() if over else at + 1
    found, stop = _unit(text, end)
    value /= int(over[1]) if over else 1
    return Quantity(value, tuple(found), start, max(stop, end) if found else end, "pi", -1)


_DIVIDER = re.compile(r"\s?(?:/|每)\s?")


def _unit(text: str, at: int) -> tuple[list[Unit], int]:
    nameless = units.NAMELESS.match(text, at)
    if nameless:
        return [], nameless.end()
    found, stop = units.match(text, at)
    if not found:
        return found, stop
    divider = _DIVIDER.match(text, stop)
    if divider:
        bottom, end = units.match(text, divider.end())
        if bottom:
            return units.per(found, bottom), end
    return found, stop


def _half(text: str, at: int) -> Quantity | None:
    if text[at - 1 : at] == "一" or re.match("半(?:径|数|圆|球)", text[at : at + 2]):
        return Quantity(Fraction(1, 2), (), at, at + 1, "fraction", -1) if text[at - 1 : at] == "一" else None
    after = at + 2 if text[at + 1 : at + 2] == "个" else at + 1
    found, stop = units.match(text, after)
    if not found:
        found, stop = units.match(text, at + 1)
    return Quantity(Fraction(1, 2), tuple(found), at, stop, "fraction", -1) if found else None


_LABEL_BEFORE = re.compile(
    r"(?:第|星期|礼拜|(?<![\\d一二两三四五六七八九十几每])周|步骤|图|题|例|表|编号|方案|选项|情况|方法|解法|问题|式子|[(]\d{0,2}[)]?第)\s?\Z"
)
_WORD_BEFORE = set("统唯万单某另哪任同每专之")
_ORDINAL_AFTER = re.compile(
    "位小数|位有效|号|路公|路车|年级|班(?=[有的级共总])|(?:楼|班|栋)(?=的)|等奖|步[:,]|月\\d|年(?=的|级)|、(?![\\d-])"
)
_CN_IDIOM = re.compile(
    "一(?:共|起|样|定|些|般|直|下|边|旦|致|律|切|同|并|点|面|方面|开始|步一步|句话|眼|会)|"
    "十分(?![之钟])|万一|三角|四边|千万(?![0-9元人只吨])|"
    "[一二三四五六七八九]边形|两(?:者|种情况|步|边|侧|端|部分|式|数|个数|地)|五一|六一|"
    "一元一次|二元一次|百货|百科|四舍|五入|八成新|四周|一一|四则|一元(?=[一二])"
)


_LIST_NUMBER = re.compile(r"\d{1,2}(?:[.、](?![\d-]|\(\d{1,12}\))|\)(?!\s?[-+×÷*/=]))")


def _embedded(text: str, at: int) -> bool:
    """A digit inside a name (A4, x2, CO2), a list number or a label is no value."""
    char, tail = text[at], text[at - 1 : at]
    if tail == " ":
        tail = text[:at].rstrip(" ")[-1:]
    elif char.isdigit() and tail and ((tail.isascii() and tail.isalpha()) or tail in "_^"):
        return True
    if char.isdigit() and at < 8 and _LIST_NUMBER.match(text, at) and not text[:at].strip(" ([\n"):
        return True
    before = text[max(0, at - 7) : at].rstrip(" ")
    if char in "一1" and before.endswith("这是") and text[at + 1 : at + 2] in tuple("个道种条位"):
        return True  # 这是一道加法题
    if _LABEL_BEFORE.search(before[-6:]):
        return True
    if char not in numerals.CN:
        return False
    return bool(_CN_IDIOM.match(text, at)) or (tail != "" and (tail in "这那" or tail in _WORD_BEFORE))


def _plausible(text: str, number: numerals.Number, end: int) -> bool:
    """Chinese numerals are also syllables: one counts only before a unit, at an end, or when it is long
    enough."""
    first = text[number.start]
    if _ORDINAL_AFTER.match(text, end):
        return False
    if text[end : end + 1].isalpha() and text[end : end + 1].isascii():
        if (
            not units.match(text, end)[0]
            and number.form == "plain"
            and not re.match(r"[a-zA-Z](?![a-zA-Z])", text[end:])
        ):
            return False
        if re.match("[BDGHKbdgk](?![a-zA-Z])", text[end : end + 2]) and not units.match(text, end)[0]:
            return False
    if first.isdigit() or first in ".-+负" or number.form != "plain" or number.places > 0:
        return True
    run = text[number.start : end]
    following = text[end : end + 1]
    if units.match(text, end)[0] or not following or not ("\u4e00" <= following <= "\u9fff"):
        return True
    if following in "和与或及" and text[number.start - 1 : number.start] in ("", *"和与或及是为:,、("):
        return True
    return len(run) >= 2
