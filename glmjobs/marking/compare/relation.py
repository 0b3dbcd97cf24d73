"""Which way round: 3/4 ○ 2/3, 甲比乙多, 甲与乙的比. What is said of two sides is read in the question's order."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

from glmjobs.marking.conclusion import find
from glmjobs.marking.question import Question
from glmjobs.marking.values import scan

Fields = tuple[bool, str, str, str]
"""correct, gold value, predicted value, reason."""

_BLANK = re.compile(r"[○〇□◯]|\(\s?\)|_{2,}")
_RELATION_ASKED = re.compile("比较.{0,12}大小|填.{0,6}(?:[><]|大于|小于)|[○〇◯]")
_RELATION = re.compile("(大于|>)|(小于|<)|(等于|相等|一样大|=)")


def _sides(asked: Question) -> tuple[Fraction, Fraction] | None:
    """What stands left and right of the one blank (3/4 ○ 2/3), or the two values to compare."""
    found = [i for i in scan.scan(asked.text) if isinstance(i, scan.Quantity)]
    blanks = _BLANK.finditer(asked.text)
    filled = [
        pair
        for blank, pair in itertools.product(blanks, itertools.pairwise(found))
        if pair[0].end <= blank.start() <= pair[0].end + 1 and blank.end() <= pair[1].start <= blank.end() + 1
    ]
    if len(filled) > 1:
        return None
    found = list(filled[0]) if filled else found
    return (_size(found[0]), _size(found[1])) if len(found) == 2 else None


def _size(item: scan.Quantity) -> Fraction:
    return item.value * (item.units[0].factor if item.units else 1)


def relation(text: str, asked: Question) -> str:
    """The relation a statement puts between the question's two sides, read in the question's order: ">", "<",
    "=", or ""."""
    if not _RELATION_ASKED.search(asked.text):
        return ""
    text = text.replace("比", "较")  # 0.5比2/3小 is no ratio here
    bare = re.fullmatch(r"[\s(\"⟦]*(?:填|选|是|应?填)?[:\"]?\s?(大于|小于|等于|[><=])号?[\s)\"⟧。]*", text)
    if bare:
        return {"大于": ">", "小于": "<", "等于": "="}.get(bare[1], bare[1])
    sides = _sides(asked)
    if sides is None:
        return ""
    found = [i for i in scan.scan(text) if isinstance(i, scan.Quantity)]
    for left, right in reversed(list(itertools.pairwise(found))):
        pair = (_size(left), _size(right))
        if pair not in (sides, sides[::-1]):
            continue
        sign = _between(text, left, right)
        if sign:
            return sign if pair == sides else {"<": ">", ">": "<"}.get(sign, sign)
    greater = re.search("(?:更|最|比较)([大小])|([大小])(?:一些|一点)", text)
    named = {_size(i) for i in found} & set(sides)
    if greater and len(named) == 1 and sides[0] != sides[1]:
        return ">" if (named == {sides[0]}) == ((greater[1] or greater[2]) == "大") else "<"
    return ""


_BOUND = re.compile(r"[a-z]\s?([<>≤≥])=?\s?-?[\d./]+")


def bound(text: str) -> str:
    """The way in which a statement's last inequality bounds its unknown: x<5 is "<"; "" where there is none."""
    found = _BOUND.findall(text)
    return str(found[-1]) if found else ""


def _between(text: str, left: scan.Quantity, right: scan.Quantity) -> str:
    middle, after = text[left.end : right.start], text[right.end : right.end + 3]
    sign = _RELATION.search(middle)
    if sign and len(middle) <= 8:
        return ">" if sign[1] else "<" if sign[2] else "="
    if "较" in middle and len(middle) <= 4:
        compared = re.match("要?更?([大多长重高]|[小少短轻低])", after)
        return "" if not compared else ">" if compared[1] in "大多长重高" else "<"
    return "=" if "和" in middle and re.match("相等|一样|大小相", after) else ""


def relations(asked: Question, gold: str, predicted: str) -> Fields:
    """3/4>2/3 is 2/3<3/4 is ">"."""

    def speaks(text: str) -> list[str]:
        said = relation(text, asked)
        return [said] if said else []

    wanted = relation(gold, asked)
    found = find.find(predicted, asked, "relation", speaks)
    if found.statement is None:
        return False, wanted, "", found.reason
    said = str(found.statement.items[0])
    return said == wanted, wanted, said, "same relation" if said == wanted else "other relation"


_MORE = "多大高长重贵快早远"
_LESS = "少小矮低短轻慢晚近"
_COMPARES = re.compile(f"([^,。;:比]{{1,10}})比([^,。;:比]{{1,10}}?)(?:要|还|更)?(便宜|[{_MORE}{_LESS}])")


def _compared(text: str) -> tuple[str, str, bool] | None:
    """The last X比Y多/少 of a text: X, Y, whether X is the greater."""
    found = list(_COMPARES.finditer(text))
    return (found[-1][1], found[-1][2], found[-1][3] in tuple(_MORE)) if found else None


def opposite(said: str, asked: Question) -> bool:
    """Whether a statement turns the asked comparison round (一班比二班少4人 where 一班比二班多几人 is asked)."""
    wanted, mine = _compared(asked.main.clause), _compared(said)
    if not wanted or not mine:
        return False
    first, second = wanted[0][-2:], wanted[1][:2]
    if first == second:
        return False
    if first in mine[0] and second in mine[1]:
        return wanted[2] != mine[2]
    if second in mine[0] and first in mine[1]:
        return wanted[2] == mine[2]
    return False


_RATIO_OF = re.compile(
    "([\u4e00-\u9fffA-Z]{1,6}?)数?(?:与|和|:)([\u4e00-\u9fffA-Z]{1,6}?)(?:数|两[\u4e00-\u9fff])?的?[\u4e00-\u9fff]{0,4}比(?!赛|较)"
)


def turned_round(said: str, asked: Question) -> bool:
    """Whether a ratio is given for the two names in the other order (乙:甲=4:3 where 甲与乙的比 is asked)."""
    match = _RATIO_OF.search(asked.main.clause)
    if not match:
        return False
    first, second = match[1][-2:], match[2][:2]
    at = [(said.find(name), name) for name in (first, second)]
    return (
        first != second
        and min(at)[0] >= 0
        and at[1][0] < at[0][0]
        and bool(re.search("[:与和比]", said[at[1][0] + len(second) : at[0][0]]))
    )
