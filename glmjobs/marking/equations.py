"""Worked solutions with an equation that does not hold: golds that contradict themselves."""

from __future__ import annotations

import re
from fractions import Fraction

from glmjobs.marking import normalise
from glmjobs.marking.values.arithmetic import evaluate

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
