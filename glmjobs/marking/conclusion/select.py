"""Which of a statement's values is the asked one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from glmjobs.marking import phrases
from glmjobs.marking import quantities as compare
from glmjobs.marking.conclusion import statement
from glmjobs.marking.question import Asked, Question, pairs
from glmjobs.marking.values import units
from glmjobs.marking.values.scan import Clock, Date, Item, Quantity, Ratio, Remainder, scan, show

AnItem = TypeVar("AnItem", bound=Item)

_SUBORDINATE = re.compile(
    "(?:每|如果|因为|由于|当|若|从|用|按|把|将|以|比[^,]{0,8}[多少大小高低长短贵快慢]|其中|"
    "原来|原有|已经|除了|减去|加上|先|付|给|花了?)[^,。;是为等]{0,10}$"
)
_COMPARED = re.compile(
    "比[^,。;]{1,10}(?:多|少|大|小|高|低|长|短|贵|便宜|快|慢|重|轻|早|晚)(?:了|出)?[^,。;]{0,3}$"
)
_SAYS = re.compile(
    "(?:是|为|有|需要?|要|剩下?|共|得|=|:|等于|约|能|可以?|到|花了?|了)\\s?(?:约|大约)?[⟦(\\s]?$"
)
_SUPPOSED = re.compile("(?:如果|假如|要是|倘若|若是|假使)[^,。;]*,?[^,。;]*$")
_SOLVED = re.compile(r"(?<![\d)a-zA-Z])[a-zA-Z]\d?\s?[=≈]\s?$")
_TOTAL = re.compile("共|总|合计")
_FILLER = re.compile("[了的是为有约:：共一得着出到\\s]")
_NAMED = re.compile("(?:这个数|该数|原数|原来的数|所求|结果|得数|商|积|答案)(?:应该?)?[是为]:?\\s?$")
_PER_BEFORE = re.compile("每(?:个|一)?([\u4e00-\u9fff]{1,3})[^,。;每]{0,6}$")
_CUT = re.compile("[,。;、]")
_SUBJECTLESS = re.compile("\\s?(?:也|就|正好|应该?)?(?:是|为|有|等于|得|共|一共|还|剩)")
_AMENDED = re.compile("[^。]{0,30}(?:再|还要?|还需要?)加[^,。;]{0,12}[,;](?:所以|因此)?(?:一共|总共|共|合计)")
_JOINT = re.compile("[和与及、].*(?:共|合计|总)")
_PORTION = re.compile(
    r"的(?:一半|[\d一二两三四五六七八九十.]+(?:倍|/\d|%)|[一二三四五六七八九十\d]+分之|百分之)"
)
_ONE_OF = re.compile("(?:每|一|1)\\s?[个只支本枝张件条块瓶箱盒袋辆颗朵棵千克米元人][^,。;每]{0,8}$")
_OPERAND = re.compile("(?:除以|乘以|乘上|减去|加上|约去|同乘|同除)\\s?$")
_DIFFERENCE_ASKED = re.compile("比.*(?:多|几)|相差|差多少|[多少大小高低矮长短重轻快慢贵早晚]多少")
_ROUNDED = re.compile("(?:保留|精确|四舍五入|取近似|约)[^,。;]*$")
_GREATER = re.compile(r"\s?([<>]|大于|小于)\s?")
_MORE = "大多高长重快"
_ONE_OF_THEM = re.compile("众数|中位数|最[大小]的?数|最[大小多少高低长短快慢]的是|哪")
_ONE_OF_THE_GIVENS = re.compile("化[成为]|改写|写[成作]|换算|表示|" + _ONE_OF_THEM.pattern)
_EQUATIONS = re.compile(
    r"(?:[^\u4e00-\u9fff,;]*(?:[\u4e00-\u9fff]{1,3}[^\u4e00-\u9fff,;=]*)?=[^\u4e00-\u9fff,;]*[\u4e00-\u9fff]{0,4}[。,;\s]*){2,}"
)
_LEFT = re.compile("(?:还剩|剩下?|余下|还余|找回)[^,。;]{0,4}$")
_CHANGED = re.compile("(便宜|优惠|节[省约]|增[加产]|减[少产]|[提涨升]高|降低)了\\s?$")
_SO = re.compile("(?<=[^,。;])[,;](?:所以|因此|因而|故|得到?|得出|约分后?[得为]|化简后?[得为])[^。;]*$")
_ONE_PRICED = re.compile("(?:[\u4e00-\u9fff](?![一二两三四五六七八九十])){0,3}\\s?\\d")
_NUMBERED = re.compile(r"\(\d{1,2}\)班|\d{1,3}号|第[\d一二三四五六七八九十]{1,3}[\u4e00-\u9fff]")
_GOES_ON = re.compile("[^,。;]{0,8}[,;](?:再|又|还要?|然后)?(?:加上?|减去?|除以|乘以|扣除|去掉)")


def per_units(text: str, item: Quantity) -> Quantity:
    """The quantity with the unit of a 每… right before it."""
    match = _PER_BEFORE.search(text[max(0, item.start - 14) : item.start])
    if not match or not item.units or item.units[0].dim not in ("length", "volume", "mass", "area"):
        return item
    found, _ = units.match(match[1], 0)
    return replace(item, per=tuple(found)) if found and found[0].dim == "time" else item


def solutions(text: str, items: Sequence[AnItem]) -> list[AnItem]:
    """The items that an unknown equals (x=5, but not 3x=15)."""
    return [i for i in items if _SOLVED.search(text[max(0, i.start - 6) : i.start])]


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


def _numbered(clause: str) -> set[str]:
    """Names told apart by a number: (2)班, 3号, 第1组."""
    return {m[0] for m in _NUMBERED.finditer(clause)}


def _value_zone(text: str) -> int:
    """Where the answer proper begins: after 答案是, in a box."""
    marks = list(phrases.STRONG.finditer(text))
    return marks[-1].end() if marks else 0


def choose(text: str, items: list[Item], question: Question) -> tuple[Item | None, bool]:
    """The asked value among ``items``, and whether the statement offers competing ones."""
    plain = statement.strip_denied(text)
    items = [per_units(plain, i) if isinstance(i, Quantity) else i for i in items]
    boxed = _boxed(text, items)
    pool = boxed or _after_marker(text, items) or items
    if len(pool) > 1:
        outside = [i for i in pool if not _in_parentheses(plain, i)]
        pool = outside or pool
    if not pool:
        return None, False
    if not _DIFFERENCE_ASKED.search(question.main.clause):
        pool = [i for i in pool if not _COMPARED.search(plain[max(0, i.start - 16) : i.start])] or pool
    if "如果" not in question.text:
        pool = [i for i in pool if not _SUPPOSED.search(plain[: i.start])] or pool
    solved = solutions(plain, pool)
    later = [i for i in pool if solved and i.start > solved[-1].start]
    of_equation = "方程" in question.text or all(isinstance(i, Quantity) and i.result for i in pool)
    if solved and not later and of_equation:
        pool = solved[-1:]
    if question.precision:
        pool = [i for i in pool if _ROUNDED.search(plain[max(0, i.start - 24) : i.start])] or pool
    fitting = _fitting(pool, question)
    winner = _winner(plain, pool, question.main.clause)
    if winner is not None:
        chosen: Item = winner
    elif len(fitting) > 1 and _EQUATIONS.fullmatch(plain):
        chosen = fitting[-1]  # 3吨=3000千克，3000+50=3050千克
    elif len(fitting) == 1:
        chosen = fitting[0]
    else:
        pool = list(fitting or pool)
        scored = [(_score(plain, item, index, pool, question), index) for index, item in enumerate(pool)]
        chosen = pool[max(scored)[1]]
    rivals = isinstance(chosen, Quantity) and statement.competing(plain, chosen, items)
    return chosen, rivals


def _sums_up(text: str, item: Quantity, pool: Sequence[Item]) -> bool:
    """Whether a result is the sum of other values (18晚, 31晚, 5晚, 18+31+5=54晚)."""
    terms = re.search(
        r"(\d+(?:\.\d+)?(?:\+\d+(?:\.\d+)?)+)\s?=\s?$", text[max(0, item.start - 60) : item.start]
    )
    others = {i.value for i in pool if isinstance(i, Quantity) and i.start < item.start}
    return terms is not None and len(others & {Fraction(t) for t in terms[1].split("+")}) > 1


def _feeds(text: str, item: Quantity, pool: Sequence[Item]) -> bool:
    """Whether a later result of the statement is computed from the value."""
    later = [i for i in pool if i.start > item.end and isinstance(i, Quantity) and i.result]
    return bool(later) and statement.operand(text[item.end : later[-1].start], show(item.value))


def _restated(item: Item, pool: Sequence[Item]) -> bool:
    """Whether a number without a unit is said again with one: 8×5，所以面积是40平方米."""
    return (
        isinstance(item, Quantity)
        and not item.units
        and any(
            isinstance(i, Quantity) and i.units and i.value == item.value and i.start > item.end for i in pool
        )
    )


def winner(text: str, clause: str) -> Fraction | None:
    """The value that wins the comparison a text draws, where ``clause`` asks for one."""
    found: Item | None = _winner(text, list(scan(text)), clause)
    return found.value if isinstance(found, Quantity) else None


def _winner(text: str, pool: list[Item], clause: str) -> Item | None:
    """The value that wins a comparison: 5/6 of 5/6>7/9 where the larger one is asked."""
    asks = re.search("(?:哪|谁).*?([大多高长重快小少低短轻慢])", clause)
    if not asks:
        return None
    more = asks[1] in _MORE
    for a, b in reversed(list(itertools.pairwise(pool))):
        sign = _GREATER.fullmatch(text[a.end : b.start])
        if sign:
            return a if (sign[1] in (">", "大于")) == more else b
    said = [i for i in pool if re.match(f"\\s?(?:更|最|比较)?{asks[1]}", text[i.end : i.end + 5])]
    return said[0] if len(said) == 1 else None


def _boxed(text: str, items: list[Item]) -> list[Item]:
    spans = [(m.start(), m.end()) for m in re.finditer("⟦[^⟦⟧]*⟧", text)]
    return [i for i in items if spans and spans[-1][0] <= i.start < spans[-1][1]]


def _after_marker(text: str, items: list[Item]) -> list[Item]:
    zone = _value_zone(text)
    return [i for i in items if i.start >= zone - 1] if zone else []


def _in_parentheses(text: str, item: Item) -> bool:
    before = text[: item.start]
    return (
        before.count("(") > before.count(")")
        and text.rfind("(", 0, item.start) >= 0
        and ")" in text[item.end - 1 :]
    )


def _fitting(pool: Sequence[Item], question: Question) -> Sequence[Item]:
    """Values in the asked dimension; where none is, those without a unit."""
    if question.kind in ("clock", "date", "weekday"):
        return [i for i in pool if isinstance(i, (Clock, Date))] or pool
    if question.kind == "ratio":
        ratios = [i for i in pool if isinstance(i, Ratio)]
        terms = question.main.clause.count(":") + 1
        return [i for i in ratios if len(i.terms) == terms > 2] or ratios
    if question.kind in ("percent", "rate", "discount", "tenths"):
        rates = [i for i in pool if isinstance(i, Quantity) and i.form == "percent"]
        bare = [i for i in pool if isinstance(i, Quantity) and (not i.units or i.units[0].dim == "times")]
        fractions = [i for i in bare if i.form == "fraction"]
        return rates or fractions or bare
    expect = question.main.expect
    quantities = [i for i in pool if isinstance(i, Quantity)]
    if not expect.dim or not quantities:
        return pool
    dims = compare.MONEY if expect.dim in compare.MONEY else expect.dims
    names = {u.name for u in expect.units}
    same = [i for i in quantities if any(u.dim in dims and _agree(u, expect.units) for u in i.units)]
    if same:
        exact = [i for i in same if any(u.name in names for u in i.units)]
        stated = {value for value, _ in question.givens}
        results = [i for i in quantities if not i.units and i.value not in stated]
        if (
            not any(_same_unit(u, w) for i in same for u in i.units for w in expect.units)
            and results
            and all(i.value in stated for i in same)
        ):
            return results  # 3台机器6小时生产的零件数为1080
        return exact if expect.units and expect.units[0].dim == "count" and exact else same
    special = [i for i in pool if isinstance(i, Remainder)]
    if special:
        return special
    compound = [i for i in quantities if any("/" in u.name or u.dim == "speed" for u in i.units)]
    bare = [i for i in quantities if not i.units and not _restated(i, quantities)]
    return compound or bare or [i for i in pool if not _restated(i, pool)]


def _agree(unit: units.Unit, wanted: tuple[units.Unit, ...]) -> bool:
    if unit.dim != "count" or not wanted:
        return True
    return any(w.dim == "count" and units.count_agrees(unit, w) for w in wanted)


def _without_units(asked: Asked) -> frozenset[str]:
    """The asked clause's pairs but those of its unit, which may be written otherwise (kg)."""
    names = "|".join(u.name for u in asked.expect.units)
    return frozenset(p for p in asked.pairs if p not in names) or asked.pairs


def _same_unit(a: units.Unit, b: units.Unit) -> bool:
    """By name, or by another name of the same size (¥ and 元)."""
    return a.name == b.name or (a.dim == b.dim != "count" and a.factor == b.factor)


def _same_lead(before: str, asked: str) -> int:
    """Characters that stand alike right before the value and before the question word (增加了 | 多少)."""
    lead = _FILLER.sub("", re.split("多少|几", asked)[0])
    mine = _FILLER.sub("", before)
    count = 0
    while count < min(len(lead), len(mine)) and lead[-1 - count] == mine[-1 - count]:
        count += 1
    return count


def _lacks_turn(before: str, asked: str) -> float:
    """A penalty where the question's 还 (增加, 便宜 …) right before 多少 is missing before the value, and where
    the value is what is left and that isn't asked."""
    lead = re.split("多少|几", asked)[0][-6:]
    turn = re.search("还|增加|减少|节约|便宜|提高|降低|超过|找回|剩", lead)
    missing = 1.0 if turn and turn[0] not in before[-10:] else 0.0
    said = _LEFT.search(before)
    return missing + (2.0 if said and not re.search("剩|余|找|还", asked) else 0.0)


def _conditions(clause: str, asked: str) -> float:
    """The share of the asked clause's own numbers (6台, 4小时) that the value's clause repeats."""
    wanted = set(re.findall(r"\d+", asked)[:8])
    return 0.6 * len(wanted & set(re.findall(r"\d+", clause))) / len(wanted) if wanted else 0.0


def _score(text: str, item: Item, index: int, pool: list[Item], question: Question) -> float:
    clause = _with_subject(text, item)
    said = pairs(clause)
    score = 4 * max((len(p & said) / max(1, len(p)) for p in map(_without_units, question.asked)), default=0)
    before = text[max(0, item.start - 16) : item.start]
    if isinstance(item, Quantity):
        if item.result:
            score += 4.0 if _sums_up(text, item, pool) else 1.0
        if any(_same_unit(u, w) for u in item.units for w in question.main.expect.units):
            score += 0.8
        given = (item.value, item.units[0].name if item.units else "") in question.givens
        same_text = text[item.start : item.end] in question.text and not _ONE_OF_THEM.search(
            question.main.clause
        )
        if given and (same_text or not _ONE_OF_THE_GIVENS.search(question.main.clause)):
            score -= 2.5
        if re.search(rf"(?<![\d.]){show(item.value)}(?![\d.])", question.main.clause) and (
            same_text or not _ONE_OF_THE_GIVENS.search(question.main.clause)
        ):
            score -= 2.0  # 摸出5个才能保证有2个, where 2个 is in what is asked
    if _SUBORDINATE.search(before) and "每" not in question.main.clause:
        score -= 1.0
    if _COMPARED.search(before) and not _DIFFERENCE_ASKED.search(question.main.clause):
        score -= 2.0
    if _SO.search(text[: item.start]):
        score += 2.0  # 原价32元，可以省8元，所以需要24元
    if _OPERAND.search(before):
        score -= 4.0  # 分子分母同时除以12
    changed = _CHANGED.search(before)
    if changed and changed[1] not in question.main.clause:
        score -= 1.5  # 便宜了30元，现在170元
    if _NAMED.search(before):
        score += 1.0
    if "平均" in question.main.clause and "平均" in clause:
        score += 3.0
    if _TOTAL.search(question.main.clause) and _TOTAL.search(before[-6:]):
        score += 3.0
    mine, wanted = _numbered(clause), _numbered(question.main.clause)
    if mine and wanted and not mine & wanted:
        score -= 8.0  # 三(2)班's where 三(1)班's is asked
    if "不够" in clause and "够" not in question.main.clause[-6:]:
        score -= 3.0  # 不够再买一本
    if isinstance(item, Quantity) and item.value == 1 and _ONE_PRICED.match(text, item.end):
        score -= 3.0  # 一本书9美元
    if _ONE_OF.search(before) and not re.search("每|一|1|单价", question.main.clause):
        score -= 3.0  # 一个60元，7个420元
    if _PORTION.match(text, item.end) or text[max(0, item.start - 2) : item.end] == "的一半":
        score -= 8.0  # 140°的一半
    if isinstance(item, Quantity) and _feeds(text, item, pool):
        score -= 3.0  # 每分钟120+15=135下，3分钟135×3=405下
    if _GOES_ON.match(text, item.end) or _AMENDED.match(text, item.end):
        score -= 8.0  # 120公里，加上30公里，一共150公里
    if any(
        mark + pair in clause and mark + pair not in question.main.clause
        for pair in question.main.pairs
        for mark in "不未没"
    ):
        score -= 4.0  # 不及格率 is not 及格率
    if _JOINT.search(clause) and not re.search("[和与及、两共总]", question.main.clause):
        score -= 2.0  # 苹果树和梨树一共120棵
    score -= _lacks_turn(before, question.main.clause)
    score += 0.6 * min(4, _same_lead(before, question.main.clause))
    score += _conditions(clause, question.main.clause)
    if _SAYS.search(before):
        score += 0.5
    order = -index if phrases.STRONG.search(text) and "=" not in text else index
    return score + 0.15 * order
