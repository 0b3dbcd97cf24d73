"""A solution's statements: its sentences, the values each puts forward, how near it is to the question, its rank."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Any

from glmjobs.marking.question import TIMES, Kind, Question, pairs
from glmjobs.marking.tables import Rule, phrase
from glmjobs.marking.values.items import Clock, Date, Item, Quantity
from glmjobs.marking.values.results import results
from glmjobs.marking.values.scan import scan, weekdays

MAX_STATEMENTS = 400
"""Statements looked at closely (the first 100 and the last 300 of a longer text)."""
MAX_STATEMENT = 1200
"""Characters of one statement looked at (its first 400 and last 800)."""

_BOUNDARY = re.compile(
    r"(?<=[。!;\n])|(?<=\?)|(?<=[^.\dA-H]\.)(?=[^\d.])|(?<=\d\.)(?=[\s\u4e00-\u9fff])"
)

_ANNOUNCED = re.compile(r"(?<=[是为]):\s*\n\s*")
"""总量为:, and the value on the next line."""

Read = Callable[[str], list[Any]]
"""Which answers of the asked kind a statement puts forward; none for working and talk."""


class Rank(IntEnum):
    """How much a statement looks like the conclusion."""

    WORKING = 1
    SO = 2
    """所以 …, but not in the question's words."""
    RESTATED = 3
    """In the question's words."""
    SO_RESTATED = 4
    BARE = 5
    """所以9颗: nothing but a conclusion; or what stands for a withdrawn answer."""
    MARKED = 6
    """答：, 答案是, a box."""


@dataclass(frozen=True)
class Statement:
    """One sentence that puts answers forward: ``items``. ``overlap``: :func:`overlap`; ``rule``: what ranked it."""

    text: str
    rank: Rank
    overlap: float
    items: list[Any]
    rule: str = ""


def split(text: str) -> list[str]:
    """Sentences; of a very long text only the first 100 and last 300, of a long sentence head and tail."""
    found = [s.strip() for s in _BOUNDARY.split(_ANNOUNCED.sub(":", text)) if s and s.strip()]
    if len(found) > MAX_STATEMENTS:
        found = found[:100] + found[-300:]
    return [s if len(s) <= MAX_STATEMENT else s[:400] + " … " + s[-800:] for s in found]


def overlap(text: str, question: Question) -> float:
    """How far a statement speaks of what is asked: the mean share of a clause's characters and pairs, 0 to 1."""
    mine, chars, best = pairs(text), set(text), 0.0
    for asked in question.asked:
        wanted = {c for p in asked.pairs for c in p if c not in asked.expect.names}
        if wanted:
            shares = len(asked.pairs & mine) / len(asked.pairs), len(wanted & chars) / len(wanted)
            best = max(best, sum(shares) / 2)
    return best


_DENIES = re.compile("不|非|≠|排除|否定|舍|错|去掉|太| not ")
_DENIED = phrase("denied")


REASON = re.compile("(?<=.)[,;](?:这是)?(?:因为|由于)(?![^。]*(?:所以|因此)).*")
"""A reason behind a statement: 不是，因为…"""


_OF_ITS_EQUATION = re.compile("是[原这该]?(?:方程|不等式)[^。;,]{0,60}的[^。;,]{0,4}[解根]")
"""x=2是方程2x+2=6的解: the equation's values are not the solution's."""


def strip_denied(text: str) -> str:
    """The statement without what it denies (不是6而是9 → 9), blanked so that positions stay."""
    text = _OF_ITS_EQUATION.sub(lambda m: " " * len(m[0]), REASON.sub("", text))
    return _DENIED.sub(lambda m: " " * len(m[0]), text) if _DENIES.search(text) else text


@dataclass(frozen=True)
class Place:
    """A value in its statement, for the rules that leave it out."""

    text: str
    item: Item
    question: Question

    def before(self, size: int) -> str:
        """So many characters before it."""
        return self.text[max(0, self.item.start - size) : self.item.start]


_BOUNDS_ASKED = re.compile("范围|不等式|解集|至[少多]|最[多少大小]|大于|小于|[<>≤≥]|以上|以下|不到")
_RECEIVERS = re.compile("个?(小?朋友|孩子|同学|人|班)")
_OPERANDS = re.compile(r"\s?[与和]\s?\d[\d.]*[\u4e00-\u9fff]?的(?:乘?积|和|差|商)|的(?:乘积|差|商)")
_BOUND_BEFORE, _BOUND_AFTER = phrase("bound_before"), phrase("bound_after")


def _bounded(p: Place) -> bool:
    if _BOUNDS_ASKED.search(p.question.text):
        return False
    return bool(_BOUND_BEFORE.search(p.before(6)) or _BOUND_AFTER.match(p.text[p.item.end : p.item.end + 4]))


def _receives(p: Place) -> bool:
    """两个朋友 is who gets, where 每个朋友 is asked."""
    found = _RECEIVERS.match(p.text, p.item.end - 1) or _RECEIVERS.match(p.text, p.item.end)
    if not found or not re.search(f"每[个位名]?[小好]?{found[1]}", p.question.main.clause):
        return False
    return found[1] not in "人班" or "和" in p.before(8)


_ALL_OF_THEM = re.compile("合起来|加起来|[一总]?共|合计")
_SOME_OF_THEM = re.compile("[一两二三][个种]")


def _names_them(p: Place) -> bool:
    """A number that tells what is spoken of rather than how many there are."""
    if _OPERANDS.match(p.text, p.item.end):
        return True
    if _SOME_OF_THEM.match(p.text, p.item.start) and p.text[p.item.end - 1] in "个种":
        return not p.question.main.expect.dims
    return p.text[p.item.start] in "两三" and bool(_ALL_OF_THEM.match(p.text, p.item.end))


_TERM_AFTER = re.compile(r"\s?(?:[-+]\s?(?:\d+\s?)?)?(?:[a-z](?![a-zA-Z])|∠)")
_TERM_BEFORE = re.compile(r"(?<![a-zA-Z])[a-z](?:\^\d)?\s?[-+]\s?$")


def _is_term(p: Place) -> bool:
    """A number in an expression with letters: -12a, x+88磅."""
    return bool(_TERM_AFTER.match(p.text, p.item.end) or _TERM_BEFORE.search(p.before(6)))


_UNKNOWN_IS = re.compile(r"[a-z][^,。;\u4e00-\u9fff]*=\s?$")

LEFT_OUT: tuple[Rule[Place], ...] = (
    Rule(
        "anothers_value",
        "leave out",
        lambda p: anothers(p.text, p.item, p.question),
        "乙仓有3吨 where 甲仓 is asked",
    ),
    Rule("bounded", "leave out", _bounded, "还剩不到9颗，还剩2升多"),
    Rule("receivers", "leave out", _receives, "他和他的两个朋友每人分到8个"),
    Rule(
        "condition",
        "leave out",
        lambda p: p.text[p.item.start : p.item.end].endswith("时") and _UNKNOWN_IS.search(p.before(24)),
        "当x=2时",
    ),
    Rule("term", "leave out", _is_term, "所以是-12a"),
    Rule("names_them", "leave out", _names_them, "两人一共有23只，9与7的乘积，这就是a的两个可能值"),
)
"""Values of a statement that it does not put forward as the answer."""


def values(text: str, question: Question, kind: Kind) -> list[Item]:
    """The values that a statement puts forward: denied ones, left sides of equations and :data:`LEFT_OUT` left out."""
    plain = strip_denied(text)
    if kind is Kind.WEEKDAY:
        return list(weekdays(plain))
    items = results(plain, scan(plain, kind.value))
    if kind in TIMES:
        items = [i for i in items if isinstance(i, (Clock, Date))]
    places = [Place(plain, item, question) for item in items]
    items = [p.item for p in places if not any(rule.when(p) for rule in LEFT_OUT)]
    return items + _none_left(plain, items, question)


_NONE_LEFT = phrase("none_left")
_NOUN = re.compile("[多少几]\\s?[\u4e00-\u9fff]([\u4e00-\u9fff]{1,4})\\?")


def _none_left(text: str, items: list[Item], question: Question) -> list[Item]:
    """没有剩下, 刚好分完, 没有绿笔: none of what is asked, which is 0."""
    noun = _NOUN.search(question.main.clause)
    found = _NONE_LEFT.search(text) or (noun and not items and re.search(f"没有{re.escape(noun[1])}", text))
    if question.kind is not Kind.NUMBER or not found:
        return []
    return [Quantity(Fraction(0), question.main.expect.units, *found.span())]


def anothers(text: str, item: Item, question: Question) -> bool:
    """Whether the value's clause has a subject that is not the asked one but its counterpart (乙仓 for 甲仓)."""
    if not question.others:
        return False
    head = re.split("[,。;、]", text[: item.start])[-1]
    head = re.sub("^(?:所以|因此|答:?|那么|则|即|而)+", "", head.strip())
    asked = re.escape(question.main.clause[:2])  # 小华的爸爸 where 爸爸几岁; 降价后 is a time
    return any(re.match(f"{re.escape(name)}(?![后前了]|的{asked})", head) for name in question.others)
