"""Which of a statement's values is the asked one: the pool is narrowed by its form, then :data:`PREFERENCES` weigh."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

from glmjobs.marking import compare
from glmjobs.marking.question import RATES, TIMES, Asked, Kind, Question, pairs
from glmjobs.marking.sentences import MARKED
from glmjobs.marking.statements import denies, operand, strip_denied
from glmjobs.marking.tables import Rule, phrase
from glmjobs.marking.values import units
from glmjobs.marking.values.items import Clock, Date, Item, Quantity, Ratio, Remainder, show

AnItem = TypeVar("AnItem", bound=Item)

_CUT = re.compile("[,。;、]")
_SUBJECTLESS = re.compile("\\s?(?:也|就|正好|应该?)?(?:是|为|有|等于|得|共|一共|还|剩)")
_TOTAL = re.compile("共|总|合计")
_DIFFERENCE_ASKED = re.compile("比.*(?:多|几)|相差|差多少|[多少大小高低矮长短重轻快慢贵早晚]多少")
_ONE_OF_THEM = re.compile("众数|中位数|最[大小]的?数|最[大小多少高低长短快慢]的是|哪")
_ONE_OF_THE_GIVENS = re.compile("化[成为]|改写|写[成作]|换算|表示|" + _ONE_OF_THEM.pattern)


def local(text: str, item: Item) -> str:
    """The clause around a value."""
    cuts = [m.end() for m in _CUT.finditer(text, 0, item.start)]
    after = _CUT.search(text, item.end)
    return text[(cuts[-1] if cuts else 0) : after.start() if after else len(text)]


def _with_subject(text: str, item: Item) -> str:
    """The clause around a value, with the one before it where it has no subject of its own (是42人)."""
    clause = local(text, item)
    cuts = [0, *(m.end() for m in _CUT.finditer(text, 0, item.start))]
    if len(cuts) > 1 and _SUBJECTLESS.match(clause):
        return text[cuts[-2] : cuts[-1]] + clause
    return clause


@dataclass(frozen=True)
class Candidate:
    """A value of the concluding statement, to be weighed against the others of ``pool``."""

    text: str
    item: Item
    index: int
    pool: Sequence[Item]
    question: Question

    @cached_property
    def clause(self) -> str:
        return _with_subject(self.text, self.item)

    @cached_property
    def before(self) -> str:
        return self.text[max(0, self.item.start - 16) : self.item.start]

    @cached_property
    def after(self) -> str:
        return self.text[self.item.end : self.item.end + 40]

    @property
    def asked(self) -> str:
        return self.question.main.clause

    @property
    def number(self) -> Quantity | None:
        return self.item if isinstance(self.item, Quantity) else None

    @cached_property
    def said(self) -> str:
        return self.text[self.item.start : self.item.end]


_NUMBER = re.compile(r"\d[\d./]*")


def _share_of_words(c: Candidate) -> float:
    said = pairs(c.clause)
    shares = (len(p & said) / max(1, len(p)) for p in map(_without_units, c.question.asked))
    return max(shares, default=0)


def _without_units(asked: Asked) -> frozenset[str]:
    """The asked clause's pairs but those of its unit, which may be written otherwise (kg)."""
    names = "|".join(asked.expect.names)
    return frozenset(p for p in asked.pairs if p not in names) or asked.pairs


def _given(c: Candidate) -> bool:
    q = c.number
    if q is None or (q.value, q.units[0].name if q.units else "") not in c.question.givens:
        return False
    return not _ONE_OF_THE_GIVENS.search(c.asked) or (
        c.said in c.question.text and not _ONE_OF_THEM.search(c.asked)
    )


def _in_the_asked_clause(c: Candidate) -> bool:
    q = c.number
    if q is None or show(q.value) not in _NUMBER.findall(c.asked):
        return False
    return not _ONE_OF_THE_GIVENS.search(c.asked) or (
        c.said in c.question.text and not _ONE_OF_THEM.search(c.asked)
    )


def _feeds(c: Candidate) -> bool:
    """A later result of the statement is computed from it."""
    q = c.number
    later = [i for i in c.pool if i.start > c.item.end and isinstance(i, Quantity) and i.result]
    return q is not None and bool(later) and operand(c.text[q.end : later[-1].start], show(q.value))


_FILLER = re.compile("[了的是为有约:：共一得着出到\\s]")


def _same_lead(c: Candidate) -> int:
    """Characters that stand alike right before the value and before the question word (增加了 | 多少); 4 at most."""
    lead, mine = _FILLER.sub("", re.split("多少|几", c.asked)[0]), _FILLER.sub("", c.before)
    count = 0
    while count < min(len(lead), len(mine), 4) and lead[-1 - count] == mine[-1 - count]:
        count += 1
    return count


def _found(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_SUBORDINATE = _found(
    "(?:每|如果|因为|由于|当|若|从|用|按|把|将|以|比[^,]{0,8}[多少大小高低长短贵快慢]|其中|原来|原有|已经|除了|减去|加上|先|付|给|花了?)[^,。;是为等]{0,10}$"
)
_COMPARED = _found("比[^,。;]{1,10}(?:[多少大小高低长短贵快慢重轻早晚]|便宜)(?:了|出)?[^,。;]{0,3}$")
_SO_BEFORE = _found("(?<=[^,。;])[,;](?:所以|因此|因而|故|得到?|得出|即|约分后?[得为]|化简后?[得为])[^。;]*$")
_OPERAND = _found("(?:除以|乘以|乘上|减去?|加上?|约去|同乘|同除)\\s?$")
_CHANGED = _found("(便宜|优惠|节[省约]|增[加产]|减[少产]|[提涨升]高|降低)了\\s?$")
_ONE_OF = _found("(?:每|一|1)\\s?[个只支本枝张件条块瓶箱盒袋辆颗朵棵千克米元人][^,。;每]{0,8}$")
_PORTION = _found(r"的(?:一半|[\d一二两三四五六七八九十.]+(?:倍|/\d|%)|[一二三四五六七八九十\d]+分之|百分之)")
_GOES_ON = _found(
    "(?:[^,。;]{0,8}[,;](?:再|又|还要?|然后)?)?(?:加上?|减去?|除以|乘以|扣除|去掉)|"
    "[^。]{0,30}(?:再|还要?|还需要?)加[^,。;]{0,12}[,;](?:所以|因此)?(?:一共|总共|共|合计)"
)
_LEFT = _found("(?:还剩|剩下?|余下|还余|找回)[^,。;]{0,4}$")
_SAYS = _found("(?:是|为|有|需要?|要|剩下?|共|得|=|:|等于|约|能|可以?|到|花了?|了)\\s?(?:约|大约)?[⟦(\\s]?$")

PREFERENCES: tuple[Rule[Candidate], ...] = (
    Rule("shares_words", 4.0, _share_of_words, "梨树有80棵 where 梨树 is asked"),
    Rule("result", 1.0, lambda c: c.number and c.number.result, "15-6=9"),
    Rule(
        "asked_unit",
        0.8,
        lambda c: (
            c.number and any(_same_unit(u, w) for u in c.number.units for w in c.question.main.expect.units)
        ),
        "9颗 where 几颗 is asked",
    ),
    Rule("given", -2.5, _given, "原来15颗"),
    Rule("in_the_asked_clause", -2.0, _in_the_asked_clause, "摸出5个才能保证有2个"),
    Rule(
        "subordinate",
        -1.0,
        lambda c: _SUBORDINATE.search(c.before) and "每" not in c.asked,
        "每袋10颗",
    ),
    Rule(
        "compared",
        -2.0,
        lambda c: _COMPARED.search(c.before) and not _DIFFERENCE_ASKED.search(c.asked),
        "比小红多3颗",
    ),
    Rule("so_before", 2.0, lambda c: _SO_BEFORE.search(c.text[: c.item.start]), "可以省8元，所以需要24元"),
    Rule("in_short", 1.5, lambda c: c.before.endswith(("即", "也就是")), "8只减去2只，即6只"),
    Rule("operand", -4.0, lambda c: _OPERAND.search(c.before), "同时除以12"),
    Rule("change", -1.5, lambda c: (m := _CHANGED.search(c.before)) and m[1] not in c.asked, "便宜了30元"),
    Rule("average", 3.0, lambda c: "平均" in c.asked and "平均" in c.clause, "平均每人9颗"),
    Rule("total", 3.0, lambda c: _TOTAL.search(c.asked) and _TOTAL.search(c.before[-6:]), "一共54晚"),
    Rule(
        "one_of_many",
        -3.0,
        lambda c: _ONE_OF.search(c.before) and not re.search("每|一|1|单价", c.asked),
        "一个60元，7个420元",
    ),
    Rule(
        "portion_of",
        -8.0,
        lambda c: _PORTION.match(c.after) or c.text[max(0, c.item.start - 2) : c.item.end] == "的一半",
        "140°的一半",
    ),
    Rule("feeds_a_result", -3.0, _feeds, "120+15=135下，135×3=405下"),
    Rule("goes_on", -8.0, lambda c: _GOES_ON.match(c.after), "8只减去2只，即6只"),
    Rule(
        "negated", -4.0, lambda c: denies(c.clause, c.question.main.pairs, c.asked), "不及格率 is not 及格率"
    ),
    Rule(
        "is_left", -2.0, lambda c: _LEFT.search(c.before) and not re.search("剩|余|找|还", c.asked), "还剩3元"
    ),
    Rule("same_lead", 0.6, _same_lead, "增加了9 where 增加了多少 is asked"),
    Rule("says", 0.5, lambda c: _SAYS.search(c.before), "是9颗"),
    Rule(
        "order",
        0.15,
        lambda c: -c.index if MARKED.search(c.text) and "=" not in c.text else c.index,
        "the last counts most",
    ),
)
"""What speaks for a value and against it: the weights add up."""


@dataclass(frozen=True)
class Selection:
    """The asked value, whether the statement offers competing ones, the rules that spoke, how far it was ahead."""

    item: Item | None
    rivals: bool = False
    fired: tuple[tuple[str, str], ...] = ()
    margin: float = 9.0


def select(text: str, items: list[Item], question: Question) -> Selection:
    """The asked value among ``items`` of a statement."""
    plain = strip_denied(text)
    items = [_with_per(plain, i) if isinstance(i, Quantity) else i for i in items]
    pool = _boxed(text, items) or _after_marker(text, items) or items
    if not pool:
        return Selection(None)
    for keep in (_outside_brackets, _not_compared, _not_supposed, _solved, _rounded, _last_time):
        pool = keep(plain, pool, question) or pool
    fitting = list(_fitting(pool, question))
    by: tuple[tuple[str, str], ...] = ()
    margin, chosen = 9.0, pool[0]
    total = _counted_together(plain, fitting, question)
    won = _winner(plain, pool, question.main.clause)
    if total is not None:
        chosen, by = total, (("counted_together", str(total)),)
    elif won is not None:
        chosen, by = won, (("wins_comparison", str(won)),)
    elif len(fitting) > 1 and _EQUATIONS.fullmatch(plain):
        chosen, by = fitting[-1], (("end_of_equations", str(fitting[-1])),)  # 3吨=3000千克，3000+50=3050千克
    elif len(fitting) == 1:
        chosen, by = fitting[0], (("only_one_fits", str(fitting[0])),)
    else:
        chosen, by, margin = _best(plain, fitting or pool, question)
    rivals = isinstance(chosen, Quantity) and total is None and competing(plain, chosen, items, question)
    return Selection(chosen, rivals, by, margin)


def _best(text: str, pool: list[Item], question: Question) -> tuple[Item, tuple[tuple[str, str], ...], float]:
    scored = []
    for index, item in enumerate(pool):
        c = Candidate(text, item, index, pool, question)
        fired = [
            (rule.id, rule.effect * float(held if isinstance(held, (int, float)) else 1))
            for rule in PREFERENCES
            if (held := rule.when(c))
        ]
        scored.append((sum(weight for _, weight in fired), index, fired))
    scored.sort(key=lambda s: s[:2], reverse=True)
    margin = scored[0][0] - scored[1][0] if len(scored) > 1 else 9.0
    said = tuple(
        (id, f"{pool[index]} {weight:+.1f}") for _, index, fired in scored[:2] for id, weight in fired
    )
    return pool[scored[0][1]], said, margin


_PER_BEFORE = re.compile("每(?:个|一)?([\u4e00-\u9fff]{1,3})[^,。;每]{0,6}$")


def _with_per(text: str, item: Quantity) -> Quantity:
    """The quantity with the unit of a 每… right before it."""
    match = _PER_BEFORE.search(text[max(0, item.start - 14) : item.start])
    if not match or not item.units or item.units[0].dim not in ("length", "volume", "mass", "area"):
        return item
    found, _ = units.match(match[1], 0)
    return replace(item, per=tuple(found)) if found and found[0].dim == "time" else item


# The pool is narrowed; where nothing would be left, it stays as it is


def _boxed(text: str, items: list[Item]) -> list[Item]:
    spans = [(m.start(), m.end()) for m in re.finditer("⟦[^⟦⟧]*⟧", text)]
    return [i for i in items if spans and spans[-1][0] <= i.start < spans[-1][1]]


def _after_marker(text: str, items: list[Item]) -> list[Item]:
    marks = list(MARKED.finditer(text))
    return [i for i in items if i.start >= marks[-1].end() - 1] if marks else []


def _outside_brackets(text: str, pool: list[Item], question: Question) -> list[Item]:
    def inside(item: Item) -> bool:
        before = text[: item.start]
        return before.count("(") > before.count(")") and ")" in text[item.end - 1 :]

    return [i for i in pool if not inside(i)] if len(pool) > 1 else pool


def _not_compared(text: str, pool: list[Item], question: Question) -> list[Item]:
    if _DIFFERENCE_ASKED.search(question.main.clause):
        return pool
    return [i for i in pool if not _COMPARED.search(text[max(0, i.start - 16) : i.start])]


_SUPPOSED = re.compile("(?:如果|假如|要是|倘若|若是|假使)[^,。;]*,?[^,。;]*$")


def _not_supposed(text: str, pool: list[Item], question: Question) -> list[Item]:
    return [i for i in pool if not _SUPPOSED.search(text[: i.start])] if "如果" not in question.text else pool


_EQUALS = re.compile(r"(?<![\d)a-zA-Z])[a-zA-Z]\d?\s?[=≈]\s?$")


def solutions(text: str, items: Sequence[AnItem]) -> list[AnItem]:
    """The items that an unknown equals (x=5, but not 3x=15)."""
    return [i for i in items if _EQUALS.search(text[max(0, i.start - 6) : i.start])]


def _solved(text: str, pool: list[Item], question: Question) -> list[Item]:
    solved = solutions(text, pool)
    of_equation = "方程" in question.text or all(isinstance(i, Quantity) and i.result for i in pool)
    return solved[-1:] if solved and of_equation and pool[-1].start <= solved[-1].start else pool


_ROUNDED = re.compile("(?:保留|精确|四舍五入|取近似|约)[^,。;]*$")


def _rounded(text: str, pool: list[Item], question: Question) -> list[Item]:
    if not question.precision:
        return pool
    return [i for i in pool if _ROUNDED.search(text[max(0, i.start - 24) : i.start])]


_FROM_THEN_ON = re.compile("[以之]?后|开始")


def _last_time(text: str, pool: list[Item], question: Question) -> list[Item]:
    """下午2时以后的95分钟，也就是下午3时35分: no time from which is counted."""
    return [i for i in pool if not _FROM_THEN_ON.match(text, i.end)] if question.kind in TIMES else pool


def _fitting(pool: Sequence[Item], question: Question) -> Sequence[Item]:
    """Values in the asked dimension; where none is, those without a unit."""
    if question.kind in TIMES:
        return [i for i in pool if isinstance(i, (Clock, Date))] or pool
    if question.kind is Kind.RATIO:
        ratios = [i for i in pool if isinstance(i, Ratio)]
        terms = question.main.clause.count(":") + 1
        return [i for i in ratios if len(i.terms) == terms > 2] or ratios
    quantities = [i for i in pool if isinstance(i, Quantity)]
    if question.kind in RATES:
        bare = [i for i in quantities if not i.units or i.units[0].dim == "times"]
        shares = [i for i in quantities if i.form == "percent"] or [i for i in bare if i.form == "fraction"]
        return shares or bare
    expect = question.main.expect
    if not expect.dim or not quantities:
        return pool
    dims = compare.MONEY if expect.dim in compare.MONEY else expect.dims
    same = [i for i in quantities if any(u.dim in dims and _agree(u, expect.units) for u in i.units)]
    if same:
        return _of_asked_unit(same, quantities, question)
    special = [i for i in pool if isinstance(i, Remainder)]
    if special:
        return special
    compound = [i for i in quantities if any("/" in u.name or u.dim == "speed" for u in i.units)]
    bare = [i for i in quantities if not i.units and not _restated(i, quantities)]
    return compound or bare or [i for i in pool if not _restated(i, pool)]


def _of_asked_unit(same: list[Quantity], quantities: list[Quantity], question: Question) -> list[Quantity]:
    expect = question.main.expect
    exact = [i for i in same if any(u.name in expect.names for u in i.units)]
    computed = [i for i in quantities if not i.units and i.value not in question.known]
    named = any(_same_unit(u, w) for i in same for u in i.units for w in expect.units)
    if not named and computed and all(i.value in question.known for i in same):
        return computed  # 3台机器6小时生产的零件数为1080
    return exact if exact and expect.units and expect.units[0].dim == "count" else same


def _restated(item: Item, pool: Sequence[Item]) -> bool:
    """Whether a number without a unit is said again with one: 8×5，所以面积是40平方米."""
    if not isinstance(item, Quantity) or item.units:
        return False
    return any(
        isinstance(i, Quantity) and i.units and i.value == item.value and i.start > item.end for i in pool
    )


def _agree(unit: units.Unit, wanted: tuple[units.Unit, ...]) -> bool:
    if unit.dim != "count" or not wanted:
        return True
    return any(w.dim == "count" and units.count_agrees(unit, w) for w in wanted)


def _same_unit(a: units.Unit, b: units.Unit) -> bool:
    """By name, or by another name of the same size (¥ and 元)."""
    return a.name == b.name or (a.dim == b.dim != "count" and a.factor == b.factor)


# What the form of the statement decides

_EQUATIONS = re.compile(
    r"(?:[^\u4e00-\u9fff,;]*(?:[\u4e00-\u9fff]{1,3}[^\u4e00-\u9fff,;=]*)?=[^\u4e00-\u9fff,;]*[\u4e00-\u9fff]{0,4}[。,;\s]*){2,}"
)
_GREATER = re.compile(r"\s?([<>]|大于|小于)\s?")
_MORE = "大多高长重快"


def _winner(text: str, pool: list[Item], clause: str) -> Item | None:
    """The value that wins a comparison: 5/6 of 5/6>7/9 where the larger one is asked."""
    asks = re.search("(?:哪|谁).*?([大多高长重快小少低短轻慢])", clause)
    if not asks:
        return None
    for a, b in reversed(list(itertools.pairwise(pool))):
        sign = _GREATER.fullmatch(text[a.end : b.start])
        if sign:
            return a if (sign[1] in (">", "大于")) == (asks[1] in _MORE) else b
    said = [i for i in pool if asks[1] in text[i.end : i.end + 3].replace("更", "").replace("最", "")[:1]]
    return said[0] if len(said) == 1 else None


def _counted_together(text: str, fitting: list[Item], question: Question) -> Quantity | None:
    """1张100元、1张50元和1张20元 are 3张, where the number of all is asked."""
    names = question.main.expect.names
    found = [i for i in fitting if isinstance(i, Quantity) and any(u.name in names for u in i.units)]
    if len(found) < 2 or not re.search("最少|一共|总共|共", question.main.clause):
        return None
    if not all(re.match(r"\d", text[i.end :]) for i in found):
        return None
    return replace(found[-1], value=sum((i.value for i in found), Fraction(0)))


_OR, _SAME_AS = phrase("or"), phrase("same_as")


def competing(text: str, chosen: Quantity, items: list[Item], question: Question) -> bool:
    """Whether the statement offers another value beside the chosen one: 9或10, 9到10之间."""
    for other in items:
        if other is chosen or not isinstance(other, Quantity) or other.value == chosen.value:
            continue
        first, second = sorted((chosen, other), key=lambda q: q.start)
        if any(first.end <= i.start < second.start for i in items):
            continue  # 从8月5日到8月20日一共16天
        between = text[first.end : second.start]
        if len(between) > 12 or ("每" in text[: first.start] and between.startswith("就是")):
            continue  # 每天0.5小时，7天就是7/2小时
        if compare.rounds_to(first, second, question):
            continue  # 50/3元，即16.67元
        if _SAME_AS.search(between):
            if _differ(first, second):
                return True
        elif (_OR.search(between) or between.strip() in ("-", "~")) and _of_one_kind(chosen, other):
            return True
    return False


def _of_one_kind(a: Quantity, b: Quantity) -> bool:
    if "弧度" in (u.name for q in (a, b) for u in q.units):
        return False
    return not a.units or not b.units or bool({u.dim for u in a.units} & {u.dim for u in b.units})


def _differ(a: Quantity, b: Quantity) -> bool:
    """Two values said to be the same (160千克，也就是16千克) that are not."""
    shared = [(x, y) for x in a.units for y in b.units if x.dim == y.dim and x.dim != "count"]
    return bool(shared) and all(a.value * x.factor != b.value * y.factor for x, y in shared)
