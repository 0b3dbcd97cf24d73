"""Numbers as people write them, read exactly: 1,234.5, 2又3/4, 四分之三, 百分之二十, 八五折, 三成五, 3.6亿,
3×10^5, 十五."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from glmjobs.marking.values import arithmetic
from glmjobs.marking.values.arithmetic import FACTORIAL

MAX_DIGITS = 60
"""A longer run of digits is no answer; reading it would not be linear."""

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {
    "〇": 0,
    "两": 2,
    "俩": 2,
    "仨": 3,
    "廿": 20,
}
_DIGITS |= {c: i for i, c in enumerate("壹贰叁肆伍陆柒捌玖", 1)} | {"幺": 1}
_SMALL = {"十": 10, "百": 100, "千": 1000, "拾": 10, "佰": 100, "仟": 1000}
_BIG = {"万": 10**4, "亿": 10**8, "兆": 10**12}
CN_DIGIT = "零〇一二两俩仨三四五六七八九壹贰叁肆伍陆柒捌玖"
CN = CN_DIGIT + "十百千拾佰仟万亿"

_CN_RUN = re.compile(f"[{CN}]+(?:点[{CN_DIGIT}]+[万亿]?)?")
_SEPARATORS = str.maketrans("", "", ",'_ ")
_PLAIN = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_ARABIC = re.compile(
    r"(?:\d{1,3}([,'_ ])\d{3}(?:\1\d{3})*(?!\d)|\d{1,4}([, ])\d{4}(?:\2\d{4})*(?!\d)|\d+)(?:\.\d+)?|\.\d+"
)
_SIMPLE = rf"(?:\d+(?:\.\d+)?|[{CN}]+(?:点[{CN_DIGIT}]+)?)"
_NUMERATOR = rf"(?:\d+(?:\.\d+)?|(?:[{CN.replace('千', '')}]|千(?![克米瓦卡]))+(?:点[{CN_DIGIT}]+)?)"
_PARTS = re.compile(rf"(?:({_SIMPLE})又)?({_SIMPLE})分之({_NUMERATOR})")
_MIXED = re.compile(r"(\d+)(?:\s?又\s?|\s|\+)(\d+)/(\d+)(?![\d/])")
_SLASH = re.compile(r"\s?/\s?(\d+(?:\.\d+)?)(?![\d/])")
_SCIENTIFIC = re.compile(r"\s?[×x*]\s?10\^\(?(-?\d{1,2})\)?")
_EXPONENT = re.compile(r"[eE]([+-]?\d{1,2})(?![\da-zA-Z])")
_SCALE = re.compile(r"\s?([十百千万亿]+)")
_NOT_SCALE = re.compile(r"千(?=[克米瓦卡帕伏]|焦耳)|百(?=分)|万(?=[一能分])")
_NEXT_SCALED = re.compile(r"零?(\d+(?:\.\d+)?)([十百千]?万|[百千])(?![克米瓦卡])|零?(\d{1,4})(?![\d.,/%:])")
_RECURRING = re.compile(r"\.{3,}(?!\s?\d)|…|\(?[\d,]{0,12}循环\)?")
_PERIOD = re.compile(r"\(([\d]{1,12})\)")
_ROOT = re.compile(r"\s?(?:√|根号(?:下)?)\s?\(?\s?(\d{1,18}(?:\.\d{1,9})?)\s?\)?(?:\s?/\s?([1-9]\d{0,8}))?")
_POWER = re.compile(
    r"\^\(?(-?\d{1,3})\)?(?![\d/.])|的(\d{1,3}|[二三四五六七八九十]{1,3})次(?:方|幂)|"
    r"的(平方|立方)(?![米厘分毫千根])"
)


@dataclass(frozen=True)
class Number:
    """One number in a text: ``text[start:end]``.

    ``places``: decimal places as written (-1 for an exact value without any); ``form``: plain, fraction,
    percent, discount (折, 成) or root (to 30 decimals); ``scaled``: written with 万 or 亿; ``vague``: 300多,
    0.333….
    """

    value: Fraction
    start: int
    end: int
    form: str = "plain"
    places: int = 0
    scaled: bool = False
    vague: bool = False


def chinese(run: str) -> Fraction | None:
    """The value of a Chinese numeral (一百二十, 一万二, 二〇二四, 三点一四), or None.

    >>> chinese("一千零五十"), chinese("一百二"), chinese("三点五")
    (Fraction(1050, 1), Fraction(120, 1), Fraction(7, 2))
    """
    if not run or len(run) > MAX_DIGITS:
        return None
    if "点" in run:
        return _chinese_decimal(run)
    if all(c in _DIGITS for c in run):
        return Fraction(int("".join(str(_DIGITS[c]) for c in run)))
    if all(c in _BIG for c in run) or run[0] in "百千佰仟":
        return None
    total = section = digit = 0
    last_unit = 1
    pending = False
    for char in run:
        if char in _DIGITS:
            if pending and digit:
                return None  # 三四十: a guess, not a number
            digit, pending = _DIGITS[char], True
            if char in "零〇":
                last_unit = 1
        elif char in _SMALL:
            section += (digit if pending else 1) * _SMALL[char]
            digit, pending, last_unit = 0, False, _SMALL[char]
        else:
            section += digit
            if char == "亿":
                total = (total + section) * _BIG[char]
            else:
                total += section * _BIG[char]
            section, digit, pending, last_unit = 0, 0, False, _BIG[char]
    if pending and digit and last_unit >= 100:
        digit *= last_unit // 10  # 一百二 is 120, 一万二 is 12000
    return Fraction(total + section + digit)


def _chinese_decimal(run: str) -> Fraction | None:
    head, _, tail = run.partition("点")
    scale = 1
    if tail and tail[-1] in _BIG:
        scale, tail = _BIG[tail[-1]], tail[:-1]
    whole = chinese(head)
    if whole is None or not tail or not all(c in _DIGITS for c in tail):
        return None
    return (whole + Fraction(int("".join(str(_DIGITS[c]) for c in tail)), 10 ** len(tail))) * scale


def simple(text: str) -> Fraction | None:
    """A numeral without unit or sign, Arabic or Chinese."""
    if text[:1].isdigit() or text[:1] == ".":
        plain = text.translate(_SEPARATORS)
        return Fraction(plain) if len(plain) <= MAX_DIGITS and _PLAIN.fullmatch(plain) else None
    return {"十": Fraction(10), "百": Fraction(100), "千": Fraction(1000), "万": Fraction(10000)}.get(
        text
    ) or chinese(text)


def read(text: str, at: int) -> Number | None:
    """The number that begins at ``text[at]`` (sign included), or None."""
    start, sign = at, 1
    if text[at] in "-负" or text.startswith("零下", at):
        if text[at] == "-" and not _is_minus(text, at):
            return None
        sign = -1
        at += 2 if text[at] == "零" else 1
        if text[at : at + 1] == " ":
            at += 1
    elif text[at] == "+":
        at += 1
    if at >= len(text):
        return None
    number = (
        _root(text, at, at, Fraction(1))
        or _parts(text, at)
        or (_arabic(text, at) if text[at] in "0123456789." else _numeral(text, at))
    )
    if number is None:
        return None
    return Number(
        sign * number.value, start, number.end, number.form, number.places, number.scaled, number.vague
    )


_WORD_BEFORE = re.compile(r"(?<![\da-z])[a-z]{2,}\s$")


def _is_minus(text: str, at: int) -> bool:
    before = text[:at].rstrip()[-1:]
    if _WORD_BEFORE.search(text, max(0, at - 8), at) and text[at + 1 : at + 2].isdigit():
        return True  # k is -6
    if "\u4e00" <= before <= "\u9fff" and not re.search(r"[\d)%]", text[max(0, at - 5) : at]):
        return True
    return (
        not before
        or before in "=:,(是为有得到于约[⟦。;\n、+-×÷*/>≈和或者#"
        or text[:at].rstrip().endswith("案]")
        or (at > 0 and text[at - 1] == " " and before > "\u4e00")
    )


def _parts(text: str, at: int) -> Number | None:
    """四分之三, 4分之3, 2又4分之3, 百分之二十."""
    match = _PARTS.match(text, at)
    if not match:
        return None
    whole = simple(match[1]) if match[1] else Fraction(0)
    bottom_value, top = simple(match[2]), simple(match[3])
    if whole is None or top is None or not bottom_value:
        return None
    form = "percent" if match[2] in ("百", "一百", "100", "千", "万") else "fraction"
    places = len(match[3].partition(".")[2] or match[3].partition("点")[2]) + 2 if form == "percent" else -1
    return Number(whole + top / bottom_value, at, match.end(), form, places)


def _root(text: str, start: int, at: int, factor: Fraction) -> Number | None:
    """√5, 根号5, 2√3, √2/2 from ``at``: exact where rational, else to 30 decimals."""
    match = _ROOT.match(text, at)
    if not match:
        return None
    value, exact = arithmetic.root(Fraction(match[1]))
    value *= factor / int(match[2] or 1)
    return Number(value, start, match.end(), "fraction" if exact else "root", -1)


def _arabic(text: str, at: int) -> Number | None:
    mixed = _MIXED.match(text, at)
    if mixed and len(mixed[0]) <= MAX_DIGITS and 0 < int(mixed[2]) < int(mixed[3]):
        return Number(int(mixed[1]) + Fraction(int(mixed[2]), int(mixed[3])), at, mixed.end(), "fraction", -1)
    match = _ARABIC.match(text, at)
    if not match or len(match[0]) > MAX_DIGITS:
        return None
    plain = match[0].translate(_SEPARATORS)
    value = (
        Fraction(int(plain)) if plain.isdecimal() else Fraction(plain)
    )  # from text it takes three times as long
    end, places = match.end(), len(plain.partition(".")[2])
    root = _root(text, at, end, value) if text[end : end + 2].lstrip()[:1] in ("√", "根") else None
    if root:
        return root
    period = _PERIOD.match(text, end + (text[end : end + 2] == ".(")) if "." in text[at : end + 1] else None
    if period:  # 0.1(6), 0.(3): the digits in brackets recur
        size = len(period[1])
        value += Fraction(int(period[1]), 10**places * (10**size - 1))
        return Number(value, at, period.end(), "fraction", -1)
    slash = _SLASH.match(text, end)
    if slash and len(slash[1]) <= MAX_DIGITS and Fraction(slash[1]) != 0:
        below = _raised(text, slash.end(), Fraction(slash[1])) or (Fraction(slash[1]), slash.end())
        if not below[0]:
            return None
        value, end, places = value / below[0], below[1], -1
        return _suffix(text, at, end, value, places, "fraction", False)
    power = _SCIENTIFIC.match(text, end) or _EXPONENT.match(text, end)
    if power:
        exponent = int(power[1])
        value, end, places = value * Fraction(10) ** exponent, power.end(), max(0, places - exponent)
    raised = _raised(text, end, value)
    if raised:
        return Number(raised[0], at, raised[1], "fraction", -1)
    value, end, scaled = _scale(text, end, value)
    return _suffix(text, at, end, value, 0 if scaled else places, "plain", scaled)


def _raised(text: str, at: int, value: Fraction) -> tuple[Fraction, int] | None:
    """A power or a factorial from ``text[at]`` on, of the number before it (2^10, 3的4次方, 5!), and its end."""
    try:
        if text.startswith(FACTORIAL, at):
            return arithmetic.factorial(value), at + 1
        match = _POWER.match(text, at)
        if not match:
            return None
        named = {"平方": 2, "立方": 3}.get(match[3] or "")
        exponent = Fraction(match[1]) if match[1] else Fraction(named or simple(match[2]) or 0)
        return arithmetic.power(value, exponent), match.end()
    except ValueError:
        return None


def _scale(text: str, end: int, value: Fraction) -> tuple[Fraction, int, bool]:
    """3万, 3万5千, 1亿2000万, 3千万: the words that multiply."""
    match = _SCALE.match(text, end)
    if not match:
        return value, end, False
    word, stop = match[1], match.end()
    guard = _NOT_SCALE.search(text, match.start(1), stop + 2)
    if guard and guard.start() < stop:
        word, stop = text[match.start(1) : guard.start()], guard.start()
    if not word:
        return value, end, False
    factor = 1
    for char in word:
        factor *= _SMALL.get(char) or _BIG[char]
    value *= factor
    lower = _NEXT_SCALED.match(text, stop)
    for _ in range(3):
        if not lower:
            break
        if lower[1]:
            step = _SMALL.get(lower[2][0], 1) * (10**4 if lower[2][-1] == "万" else 1)
            if step >= factor:
                break
            value, factor = value + Fraction(lower[1][:MAX_DIGITS]) * step, step
        elif len(lower[3]) <= 4 and int(lower[3]) < factor:
            value, factor = value + int(lower[3]), 1
        else:
            break
        stop = lower.end()
        lower = _NEXT_SCALED.match(text, stop)
    return value, stop, True


def _numeral(text: str, at: int) -> Number | None:
    match = _CN_RUN.match(text, at)
    if not match:
        return None
    run, end = match[0], match.end()
    if len(run) > 1 and run[-1] == "千" and text[end : end + 1] in ("克", "米", "瓦", "卡"):
        run, end = run[:-1], end - 1  # 三千米 may be 3 km or 3000 m: the same length
    if "点" in run and text[end : end + 1] in ("分", "刻", "半", "钟") and "小数" not in text:
        run, end = run.partition("点")[0], match.start() + match[0].index("点")
    value = chinese(run)
    if value is None:
        return None
    places = len(run.partition("点")[2].rstrip("万亿"))
    scaled = any(c in _BIG for c in run)
    return _suffix(text, at, end, value, 0 if scaled else places, "plain", scaled)


def _suffix(text: str, at: int, end: int, value: Fraction, places: int, form: str, scaled: bool) -> Number:
    """What may follow the digits: %, ‰, 折, 成, 多, …."""
    rest = text[end : end + 3]
    tight = rest.lstrip()
    gap = len(rest) - len(tight)
    if tight[:1] in ("%", "‰"):
        size = 100 if tight[0] == "%" else 1000
        return Number(value / size, at, end + gap + 1, "percent", max(places, 0) + (2 if size == 100 else 3))
    if tight.startswith("折") and value < 100 and not tight.startswith(("折成", "折叠", "折线")):
        return Number(value / (10 if value <= 10 else 100), at, end + gap + 1, "discount", 3)
    if (
        tight.startswith("成")
        and value < 10
        and form == "plain"
        and tight[1:2] not in set("为立本绩功员熟长了人品")
    ):
        extra = simple(tight[1]) if tight[1:2] and tight[1] in CN_DIGIT + "123456789" else None
        stop = end + gap + (2 if extra is not None else 1)
        return Number(value / 10 + (extra or Fraction(0)) / 100, at, stop, "discount", 3)
    vague = False
    recurring = _RECURRING.match(text, end)
    if recurring and places > 0:
        return Number(value, at, recurring.end(), form, places, scaled, True)
    if (
        rest[:1] in ("多", "余")
        and rest[1:2] not in set("少了于出数0123456789一二三四五六七八九十")
        and value >= 10
    ):
        end, vague = end + 1, True
    return Number(value, at, end, form, places, scaled, vague)
