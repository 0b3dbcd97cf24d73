"""Which way round a sentence compares: 一班比二班多, 甲与乙的比, x<5."""

from __future__ import annotations

import re

from glmjobs.marking.question import Question

_MORE = "多大高长重贵快早远"
_LESS = "少小矮低短轻慢晚近"
_COMPARES = re.compile(f"([^,。;:比]{{1,10}})比([^,。;:比]{{1,10}}?)(?:要|还|更)?(便宜|[{_MORE}{_LESS}])")
_RATIO_OF = re.compile(
    "([\u4e00-\u9fffA-Z]{1,6}?)数?(?:与|和|:)([\u4e00-\u9fffA-Z]{1,6}?)(?:数|两[\u4e00-\u9fff])?的?[\u4e00-\u9fff]{0,4}比(?!赛|较)"
)


def _compared(text: str) -> tuple[str, str, bool] | None:
    """The last X比Y多/少 of a text: X, Y, whether X is the greater."""
    found = list(_COMPARES.finditer(text))
    return (found[-1][1], found[-1][2], found[-1][3] in tuple(_MORE)) if found else None


def opposite(said: str, question: Question) -> bool:
    """Whether a statement turns the asked comparison round (一班比二班少4人 where 一班比二班多几人 is asked)."""
    wanted, mine = _compared(question.main.clause), _compared(said)
    if not wanted or not mine:
        return False
    first, second = wanted[0][-2:], wanted[1][:2]
    if first == second:
        return False
    if first in mine[0] and second in mine[1]:
        return wanted[2] != mine[2]
    return second in mine[0] and first in mine[1] and wanted[2] == mine[2]


def turned_round(said: str, question: Question) -> bool:
    """Whether a ratio is given for the two names in the other order (乙:甲=4:3 where 甲与乙的比 is asked)."""
    match = _RATIO_OF.search(question.main.clause)
    if not match:
        return False
    first, second = match[1][-2:], match[2][:2]
    at_first, at_second = said.find(first), said.find(second)
    if first == second or at_second < 0 or at_first <= at_second:
        return False
    return bool(re.search("[:与和比]", said[at_second + len(second) : at_first]))
