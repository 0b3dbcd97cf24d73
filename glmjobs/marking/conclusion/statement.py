"""One statement of a solution: its sentences, the values they put forward, how near they are to the question.

What a solution concludes from its statements is :mod:`glmjobs.marking.conclusion.find`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from glmjobs.marking import phrases
from glmjobs.marking.question import Question, pairs
from glmjobs.marking.values import numerals, scan
from glmjobs.marking.values.scan import Item, Quantity

MAX_STATEMENTS = 400
"""Statements looked at closely (the first 100 and the last 300 of a longer text)."""
MAX_STATEMENT = 1200
"""Characters of one statement looked at (its first 400 and last 800)."""

_BOUNDARY = re.compile(
    r"(?<=[。!;\n])|(?<=\?)|(?<=[^.\dA-H]\.)(?=[^\d.])|(?<=\d\.)(?=[\s\u4e00-\u9fff])|"
    r"(?<=⟧)(?=\s)"
)


@dataclass
class Statement:
    """One sentence with its values; ``rank``: 3 marked conclusion, 2 restates the question, 1 equation or
    so-sentence."""

    text: str
    rank: float = 0.0
    overlap: float = 0.0
    items: list[Any] = field(default_factory=list)


def split(text: str) -> list[str]:
    """Sentences; of a very long text only the first 100 and last 300, of a long sentence head and tail."""
    found = [s.strip() for s in _BOUNDARY.split(text) if s and s.strip()]
    if len(found) > MAX_STATEMENTS:
        found = found[:100] + found[-300:]
    return [s if len(s) <= MAX_STATEMENT else s[:400] + " … " + s[-800:] for s in found]


def overlap(statement: str, question: Question) -> float:
    """How far a statement speaks of what is asked: the mean share of the asked clause's characters and
    pairs, 0 to 1."""
    mine = pairs(statement)
    chars = set(statement)
    best = 0.0
    for asked in question.asked:
        names = {u.name for u in asked.expect.units}
        wanted = {c for p in asked.pairs for c in p if c not in names}
        if not wanted:
            continue
        if any(
            mark + pair in statement and mark + pair not in asked.clause
            for pair in asked.pairs
            for mark in "不未没"
        ):
            continue  # 不合格率 is not 合格率
        best = max(
            best, 0.5 * len(asked.pairs & mine) / len(asked.pairs) + 0.5 * len(wanted & chars) / len(wanted)
        )
    return best


def usable(text: str, question: Question, kind: str) -> list[Item]:
    """The values a statement puts forward: denied ones, equation left sides and bounds (超过9) left out."""
    plain = _strip_reason(strip_denied(text))
    items = scan.results(plain, scan.scan(plain, kind))
    if kind == "weekday":
        return list(scan.weekdays(plain))
    if kind in ("clock", "date"):
        items = [i for i in items if isinstance(i, (scan.Clock, scan.Date))]
    items = [i for i in items if not _anothers(plain, i, question) and not plain.endswith("最后", 0, i.start)]
    items += _ordinals(plain, items, question)
    if question.subject or not _DIFFERENCE.search(question.main.clause):
        items = [i for i in items if not _DIFFERS.search(plain[max(0, i.start - 16) : i.start])]
    return [
        i
        for i in items
        if (not phrases.NOT_EXACTLY.search(plain[max(0, i.start - 6) : i.start]) or "至" in plain[:2])
        and not (
            _BOUND.search(plain[max(0, i.start - 3) : i.start]) and not _BOUNDS_ASKED.search(question.text)
        )
        and not _COEFFICIENT.match(plain, i.end)
        and not ("π" in plain[i.start : i.end] and _RADIUS.match(plain, i.end))
    ]


_NTH = re.compile("第\\s?(\\d{1,4}|[一二三四五六七八九十百]{1,4})\\s?([天年周月])(?!平均|[比到的])")


def _ordinals(text: str, items: list[Item], question: Question) -> list[Item]:
    """第8天 answers 几天, where nothing else in the sentence does."""
    wanted = {u.name for u in question.main.expect.units}
    if any(isinstance(i, Quantity) and any(u.name in wanted for u in i.units) for i in items):
        return []
    found = [(numerals.simple(m[1]), m) for m in _NTH.finditer(text) if m[2] in wanted]
    return [
        Quantity(n, question.main.expect.units, m.start(), m.end()) for n, m in found[-1:] if n is not None
    ]


def _strip_reason(text: str) -> str:
    """The statement without the reason it ends in (是2.8和4.4，因为…), blanked so that positions stay."""
    match = _REASON_TAIL.search(text)
    if not match or not scan.scan(text[: match.start()]):
        return text
    return text[: match.start()] + " " * (len(text) - match.start())


_REASON_TAIL = re.compile("[,;](?:这是)?(?:因为|由于)(?![^。]*(?:所以|因此|故))")
_DIFFERENCE = re.compile(
    "比|相差|差|[多少高矮低长短大小重轻快慢贵早晚远近便宜](?:多少|了|几)|还[要需剩]|各|分别|[增减提降超节]"
)
_DIFFERS = re.compile("比[^,。;]{1,8}(?:多|少|大|小|高|矮|低|长|短|贵|便宜|快|慢|重|轻|早|晚)(?:了|出)?\\s?$")


_BOUND = re.compile(r"[a-zA-Z]\s?[<>≤≥]\s?$")
_BOUNDS_ASKED = re.compile("范围|不等式|解集|至[少多]|最[多少大小]|大于|小于|[<>≤≥]")
_COEFFICIENT = re.compile("[xyzn](?![a-z])| ?π")
_RADIUS = re.compile(" ?[rRdh](?![a-z])")  # C=2πr


def _anothers(text: str, item: Item, question: Question) -> bool:
    """Whether the value's clause has a subject that is not the asked one but its counterpart (乙仓 for
    甲仓)."""
    if not question.others and not question.subject:
        return False
    if question.subject and text.startswith(question.subject, item.end):
        return False  # 果园里有210棵梨树
    head = re.split("[,。;、]", text[: item.start])[-1]
    head = re.sub("^(?:所以|因此|因而|故|答:?|那么|则|即|而|最后|答案[是为:])+", "", head.strip())
    if question.subject and question.subject not in head and _parallel(head, question):
        return True
    named = next((n for n in question.others if head.startswith(n)), "")
    if not named or head.startswith(("后", "前", "了"), len(named)):  # 降价后: a time, no subject
        return False
    theirs = head[len(named) + 1 :] if head.startswith("的", len(named)) else ""
    return len(theirs) < 2 or not question.main.clause.startswith(theirs[:2])  # 小华的爸爸 where 爸爸几岁


def speaks_of_another(text: str, question: Question) -> bool:
    """Whether every value in the asked unit is another's (女生 for 男生)."""
    names = {u.name for u in question.main.expect.units}
    found = [i for i in scan.scan(text) if isinstance(i, Quantity) and any(u.name in names for u in i.units)]
    return bool(found) and all(_anothers(text, i, question) for i in found)


def _parallel(head: str, question: Question) -> bool:
    """Whether a clause says of another thing in the question what is asked of the subject (竹竿长 for 木棍长)."""
    match = re.match(f"([\u4e00-\u9fffA-Z]{{2,4}}?)(?:今年|现在)?{re.escape(question.predicate)}", head)
    name = match[1].rstrip("的") if match else ""
    return bool(
        name
        and question.predicate
        and name in question.text
        and name not in question.main.clause
        and not name.endswith((question.subject, "里", "中", "上"))
        and not question.subject.endswith(name)
    )


def operand(text: str, number: str) -> bool:
    """Whether a calculation in the text goes on with the number: 240×4, 6×0.5, not 8×30=240."""
    if number not in text:
        return False
    value = re.escape(number)
    return bool(
        re.search(rf"(?<![\d./]){value}(?![\d.]|/\d)[^\d=,。;+\-×*÷/]{{0,4}}[+\-×*÷/](?=[^,。;]*=)", text)
        or re.search(rf"[+\-×*÷/]\s?{value}(?![\d.]|/\d)[^\d,。;]{{0,4}}=", text)
    )


def strip_denied(text: str) -> str:
    """The statement without what it denies (不是6而是9 → 9), blanked so that positions stay."""
    if not re.search("不|非|≠|排除|否定|舍|错|去掉|太", text):
        return text
    return phrases.DENIED.sub(lambda m: " " * len(m[0]), text)


def _differ(a: Quantity, b: Quantity) -> bool:
    """Two values said to be the same (160千克，也就是16千克) that are not."""
    shared = [(x, y) for x in a.units for y in b.units if x.dim == y.dim and x.dim != "count"]
    return bool(shared) and all(a.value * x.factor != b.value * y.factor for x, y in shared)


def competing(text: str, chosen: Quantity, items: list[Item]) -> bool:
    """Whether the statement offers another value beside the chosen one: 9或10, 9到10之间."""
    for other in items:
        if other is chosen or not isinstance(other, Quantity) or other.value == chosen.value:
            continue
        first, second = sorted((chosen, other), key=lambda q: q.start)
        if any(first.end <= i.start < second.start for i in items):
            continue  # 从8月5日到8月20日一共16天
        between = text[first.end : second.start]
        if "每" in text[: first.start] and between.startswith("就是"):
            continue  # 每天0.5小时，7天就是7/2小时
        if len(between) <= 12 and phrases.SAME_AS.search(between) and _differ(first, second):
            return True
        if len(between) <= 12 and (phrases.OR.search(between) or between.strip() in ("-", "~")):
            if phrases.SAME_AS.search(between):
                continue
            if (
                not chosen.units
                or not other.units
                or {u.dim for u in chosen.units} & {u.dim for u in other.units}
            ):
                return True
    return False
