"""Arithmetic expressions read exactly: 15-6, (3+5)×2, 2(a+b), 12π; and equations that do not hold."""

from __future__ import annotations

import re
from fractions import Fraction

from glmjobs.marking import normalise

MAX_LENGTH = 160
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)(%?)|([a-zA-Zπ])|(\^)|([-+×*·÷/()\[\]:]))")
_POWER_LIMIT = 12


class _Reader:
    """Recursive descent over one expression; ``values`` gives letters their values."""

    def __init__(self, source: str, values: dict[str, Fraction]):
        self.tokens: list[str] = []
        self.values = values
        at = 0
        while at < len(source):
            match = _TOKEN.match(source, at)
            if not match:
                raise ValueError(source[at:])
            self.tokens.append(match[0].strip())
            at = match.end()
            if source[at:].isspace():
                break
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def sum(self, depth: int = 0) -> Fraction:
        if depth > 20:
            raise ValueError("too deep")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            value = value + self.product(depth) if self.take() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.power(depth)
        while True:
            token = self.peek()
            if token in ("×", "*", "·"):
                self.take()
                value *= self.power(depth)
            elif token in ("÷", "/", ":"):
                self.take()
                value /= self.power(depth)
            elif token and (token in ("(", "[") or token[0].isalpha()):
                value *= self.power(depth)  # 2a, 3(b+c)
            else:
                return value

    def power(self, depth: int) -> Fraction:
        token = self.take()
        if token in ("+", "-"):
            value = self.power(depth)
            return -value if token == "-" else value
        if token in ("(", "["):
            value = self.sum(depth + 1)
            if self.take() not in (")", "]"):
                raise ValueError("bracket")
        elif token[:1].isdigit():
            value = Fraction(token.rstrip("%")) / (100 if token.endswith("%") else 1)
        elif token and token in self.values:
            value = self.values[token]
        else:
            raise ValueError(token)
        if self.peek() == "^":
            self.take()
            exponent = self.power(depth)
            if exponent.denominator != 1 or abs(exponent) > _POWER_LIMIT:
                raise ValueError("power")
            value = value ** int(exponent)
        return value


def evaluate(source: str, values: dict[str, Fraction] | None = None) -> Fraction | None:
    """The exact value of an arithmetic expression, or None where it is none.

    >>> evaluate("(3+5)×2"), evaluate("2(a+1)", {"a": Fraction(3)}), evaluate("十五")
    (Fraction(16, 1), Fraction(8, 1), None)
    """
    if len(source) > MAX_LENGTH:
        return None
    try:
        reader = _Reader(source.strip(), values or {})
        value = reader.sum()
        return value if reader.at == len(reader.tokens) else None
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


_POINTS = [
    {
        c: Fraction(7 * i + k * k + 3, k + 2)
        for i, c in enumerate("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZπ")
    }
    for k in (1, 2, 5)
]


def same(a: str, b: str) -> bool:
    """Whether two expressions with letters agree (at three points, exactly)."""
    for point in _POINTS:
        left, right = evaluate(a, point), evaluate(b, point)
        if left is None or left != right:
            return False
    return True


_EQUATION = re.compile(
    r"[-+×*÷/()\[\]\d.%^\s,'元角分米厘千克吨升毫秒小时天年月岁个只本支人名位颗块张把条辆棵朵"
    r"页次倍万亿]+(?:[=≈][-+×*÷/()\[\]\d.%^\s,'元角分米厘千克吨升毫秒小时天年月岁个只本支人名"
    r"位颗块张把条辆棵朵页次倍万亿余]+)+"
)
_UNIT_WORD = re.compile(r"\([\u4e00-\u9fff]{1,4}\)|(?<=[\d)])[\u4e00-\u9fff]{1,4}")
_OPERATOR = re.compile(r"\d\)?%?\s*[-+×*÷/]\s*\(?\d")
_SIDE_LIMIT = 120


def _side(source: str) -> tuple[Fraction | None, int]:
    """Value and decimal places of one side of an equation, units dropped."""
    plain = re.sub(r"(?<=\d)[,'](?=\d{3})", "", _UNIT_WORD.sub("", source)).strip(" ,'")
    value = evaluate(plain)
    return value, len(plain.partition(".")[2]) if re.fullmatch(r"-?\d+(?:\.\d+)?", plain) else 0


def _false_pair(left: str, right: str, rounded: bool) -> bool:
    remainder = re.match(r"\s*(\d+)[^\d余.]*(?:余|\.{3,})\s*(\d+)", right)
    division = re.fullmatch(r"\s*(\d+)\s*÷\s*(\d+)\s*", _UNIT_WORD.sub("", left))
    if remainder and division:
        n, d, q, r = (int(x[:18]) for x in (*division.groups(), *remainder.groups()))
        return not (d and n == d * q + r and r < d)
    if "余" in right or ".." in right or not (_OPERATOR.search(left) or _OPERATOR.search(right)):
        return False  # 1小时=60分钟 converts; only arithmetic can be false here
    if "万" in left + right or "亿" in left + right:
        return False
    (a, _), (b, places) = _side(left), _side(right)
    if a is None or b is None:
        return False
    if rounded or places:
        return abs(a - b) >= max(Fraction(1, 10**places), abs(a) / 1000 if not places else Fraction(0))
    return a != b


def gold_has_false_equation(solution: str) -> bool:
    """Whether a worked solution contains an arithmetic equation that does not hold (about 4 % of BELLE's do).

    Rounded decimals (10÷3=3.33) and remainders that fit (25÷9=2余7) hold; equations with letters are not
    judged.

    >>> gold_has_false_equation("15 - 6 = 9，所以剩9颗"), gold_has_false_equation("3×7=24")
    (False, True)
    """
    plain = normalise.normalise(solution).replace("......", "余").replace("...", "余")
    for statement in re.split(r"[。;!?\n]|,(?!\d{3}(?!\d))", plain):
        if ("=" not in statement and "≈" not in statement) or len(statement) > 4 * _SIDE_LIMIT:
            continue
        pieces = re.split(r"([=≈])", statement)
        for index in range(0, len(pieces) - 2, 2):
            left, sign, right = pieces[index : index + 3]
            left, right = _left_edge(left), _right_edge(right)
            if left and right and _false_pair(left, right, sign == "≈"):
                return True
    return False


_ARITHMETIC = r"[-+×*÷/()\[\]\d.%^\s,']"


def _left_edge(piece: str) -> str:
    """The expression that ends ``piece``: what stands right of the last word."""
    piece = _UNIT_WORD.sub("", piece[-_SIDE_LIMIT:])
    match = re.search(_ARITHMETIC + r"+\Z", piece)
    found = match[0].strip(" ,") if match else ""
    before = piece[match.start() - 1 : match.start()] if match else ""
    return "" if before and (before.isascii() or found[:1] in "+-×*÷/)") else found


def _right_edge(piece: str) -> str:
    piece = piece[:_SIDE_LIMIT]
    match = re.match(
        _ARITHMETIC + r"*(?:余\s*\d+)?",
        re.sub(r"(?<=[\d)])[\u4e00-\u9fff]{1,3}(?=余)", "", _UNIT_WORD.sub(_keep_rest, piece)),
    )
    found = match[0].strip(" ,") if match else ""
    rest = piece[len(found) :].lstrip()[:1]
    return "" if not found or rest in tuple("√π") or (rest.isascii() and rest.isalpha()) else found


def _keep_rest(match: re.Match[str]) -> str:
    return "余" if "余" in match[0] else ""


__all__ = ["evaluate", "gold_has_false_equation", "same"]
