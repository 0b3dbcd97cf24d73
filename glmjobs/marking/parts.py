"""Answers of several parts: 长12厘米，宽8厘米; 3和5; blanks. Every asked part is required, named ones by their name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from glmjobs.marking import select
from glmjobs.marking.conclude import Conclusion
from glmjobs.marking.labels import assign, label_marks
from glmjobs.marking.part import Part, answers_of, exact, fits, values_of
from glmjobs.marking.preferences import local
from glmjobs.marking.question import Asked, Question, pairs
from glmjobs.marking.statements import Rank, Statement, strip_denied
from glmjobs.marking.values.items import Item, Quantity, Remainder

AnItem = TypeVar("AnItem", bound=Item)

_SEVERAL = re.compile(
    "哪几|哪些|列出|求这?[两三]个数|哪两个|两个(?:连续)?.{0,4}数(?:分别|各|是|为)|(?:解|求|方程)的?(?:解|根)|解方程|所有|写出|各数|"
    "三个.{0,4}数(?:分别|是|各)|坐标|依次|填|范围"
)
_ASKS = re.compile("多少|几|多[长远高重大久宽深厚快]|[是=]")
_COUNTS = re.compile("多少|几(?:[^乎]|$)|多[长远高重大久宽深厚快]|[是=]\\?")
_EACH = re.compile("分别|各(?:是|有|为|多少|几|需|应|占|重|长|用|行|得|买|卖|生产|种|分|要)")
_JOINED = re.compile("^[^\\d,。;]{0,3}(?:和|与|、|或|及|,|以及|并且|;|\\s)[^\\d。;]{0,8}$")
_LISTED = re.compile(r"\s?(?:和|与|、|,|或者?|and|or|及|以及|;|\s|到|至|~|-)\s?(?:[a-z]\d?\s?=\s?)?")
_ORDERED = re.compile("分别|依次|按顺序|各(?:为|是)")
_LETTER_ASKED = re.compile(r"(?<![a-zA-Z=+\-×*/^])([a-z])\s?(?:的值|=|[为是])[为是多少?=. ]*$")
_EITHER = ("或", "或者", "or")
_TUPLE = re.compile(r"\(\s?-?[\d./]+\s?,\s?-?[\d./]+\s?\)")
_SEQUENCE = re.compile("从[大小高低长短]到|排列|排序|顺序|坐标|数对|依次")
_GROUP_SIZE = re.compile(
    "([两二三四五3-5])(?:个|种|人|位|名|班|队|段|数|条|堆|组|车|船|辆|艘|地|厂|店|家|根|桶|箱|袋|支)[^,。;?]{0,8}?(?:各|分别)"
)
_SIZES = {"两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "3": 3, "4": 4, "5": 5}


def wanted(question: Question) -> int:
    """How many parts a question asks for."""
    if len(question.labels) >= 2:
        return len(question.labels)
    group = _GROUP_SIZE.search(question.main.clause)
    if group:
        return _SIZES[group[1]]
    clauses = [a for a in question.asked if _COUNTS.search(a.clause)]
    return max(len(clauses), 2 if _EACH.search(question.main.clause) else 1)


def gold_parts(question: Question, gold: Conclusion) -> list[Part]:
    """The parts the gold gives, or [] where one value is asked (or given)."""
    statement, count = gold.statement, wanted(question)
    if statement is None:
        return []
    if count >= 2:
        found = gather(question, gold, count)
        return found if len(found) >= 2 else []
    items = _last_run(statement.text, [i for i in answers_of(statement) if isinstance(i, Quantity)])
    solved = select.solutions(statement.text, items)
    items = items[items.index(solved[0]) :] if solved else items  # 3x=15, x=5; x^2=9, x=3或-3
    if letter := _LETTER_ASKED.search(question.main.clause):
        named = re.compile(rf"(?<![a-zA-Z]){letter[1]}\s?=\s?$")
        items = [i for i in items if named.search(statement.text[: i.start])] or items
    return [Part("", question.main, i) for i in items] if _is_list(question, statement.text, items) else []


def _is_list(question: Question, text: str, items: list[Quantity]) -> bool:
    """Whether values form a list that is the answer."""
    joins = [text[a.end : b.start] for a, b in itertools.pairwise(items)]
    if len(items) < 2 or not all(_JOINED.match(j) or _LISTED.fullmatch(j) for j in joins):
        return False
    bare = (
        len(text) < 30
        and not re.search(r"(?<![a-z])\d\s?=", text)
        and not re.search("[\u4e00-\u9fff]{3}", text)
    )
    told = "分别" in text and len({bool(i.units) for i in items}) == 1
    possible = ("可能" in text and "或" in text) or (
        joins[-1].strip() in _EITHER
        and not (
            items[-2].units and items[-1].units and items[-2].units != items[-1].units
        )  # 1/4小时或15分钟
    )
    return bool(possible or _SEVERAL.search(question.text) or _TUPLE.search(text) or told or bare)


def predicted_parts(question: Question, found: Conclusion, gold: list[Part]) -> list[Part]:
    """The parts a prediction gives, where the gold gives ``gold``."""
    if found.statement is None:
        return []
    count = wanted(question)
    if count >= 2:
        return gather(question, found, count)
    answers = answers_of(found.statement)
    run = _last_run(found.statement.text, answers)
    while len(answers) > len(gold) and isinstance(answers[0], Quantity) and answers[0].value in question.known:
        answers = answers[1:]  # 2、5、10、17、26、37, where 26 stands in the question
    mine = [Part("", question.main, i) for i in (run if len(run) == len(gold) else answers)]
    return mine if len(mine) >= len(gold) else _unnamed(question, found, len(gold))


def in_order(question: Question, said: Statement) -> bool:
    """Whether unnamed parts answer in the order in which they are asked."""
    clauses = len(question.asked) >= 2 and len(question.labels) < 2
    named = len(question.labels) >= 2 and _ORDERED.search(said.text)
    return bool(clauses or named or _SEQUENCE.search(question.text) or _TUPLE.search(said.text))


def _last_run(text: str, items: list[AnItem]) -> list[AnItem]:
    """The values listed at the end (最大公因数是12，公因数有1、2、3: 1, 2, 3), or all where the last stands alone."""
    last = items[-1] if len(items) > 2 else None
    if isinstance(last, Quantity) and last.value == len(items) - 1 and last.units:
        items = items[:-1]  # 205、250、502、520四个
    first = len(items) - 1
    while first > 0 and _LISTED.fullmatch(text[items[first - 1].end : items[first].start]):
        first -= 1
    return items[first:] if first < len(items) - 1 else items


def with_names(question: Question, gold: Conclusion) -> Question:
    """The question with the names its gold gives to the parts (三种球各有多少 → 红球, 黄球, 蓝球)."""
    if question.labels or gold.statement is None or not _GROUP_SIZE.search(question.main.clause):
        return question
    text, names = gold.statement.text, []
    for item in (i for i in gold.statement.items if fits(i, question.main)):
        clause = re.split("[,;。、和]", text[max(0, item.start - 24) : item.start])[-1]
        head = re.split("[有是为得花了:(\\d]", re.sub("^(?:答|所以|因此)[:,]?", "", clause.strip()))[0][:4]
        starts = (head[:n] for n in range(len(head), 0, -1))
        name = next((s for s in starts if s in question.text and (len(s) >= 2 or s in "甲乙丙丁戊ABCDE")), "")
        if not name:
            return question
        names.append(name)
    return replace(question, labels=names) if len(set(names)) == len(names) >= 2 else question


def gather(question: Question, found: Conclusion, count: int) -> list[Part]:
    """The parts stated in the conclusion; what it lacks is looked for in the statements before it, latest first."""
    region, kept = found.region, found.kept
    if len(question.labels) < 2:
        worded = any(asked.pairs for asked in question.asked)  # not 7-2=( )；8÷4=( )
        if len(question.asked) >= 2 and worded:
            return _by_clause(question, region, kept)
        return _unnamed(question, found, count)
    named = _named(question, region[:1])
    for statement in [*reversed(kept[: len(kept) - len(region)]), *region[1:]]:
        named = _named(question, [statement]) | named
    if len(named) < 2:
        return _unnamed(question, found, len(question.labels))
    return [Part(label, question.main, named[label]) for label in question.labels if label in named]


def _unnamed(question: Question, found: Conclusion, count: int) -> list[Part]:
    asked = question.main
    for several in (found.region[:1], found.region, found.kept[-count:], found.kept):
        single = len(several) == 1
        items = [i for s in several for i in (answers_of(s) if single else values_of(s))]
        items = [i for i in items if fits(i, asked)] if asked.expect.units else items
        if len(items) < count:
            continue
        in_unit = [i for i in items if exact(i, asked)]
        items = in_unit if len(in_unit) >= count else items
        told = _GROUP_SIZE.search(asked.clause) is not None  # 24，三个数是23、24、25
        return [Part("", asked, i) for i in (items if single and not told else items[-count:])]
    return []


# Named parts


def _named(question: Question, statements: Iterable[Statement]) -> dict[str, Item]:
    """Label → value over the statements, later ones overriding."""
    found: dict[str, Item] = {}
    for statement in statements:
        text, labels = strip_denied(statement.text), question.labels
        items = [i for i in values_of(statement) if fits(i, question.main)]
        in_unit = [i for i in items if exact(i, question.main)]
        items = in_unit if len(in_unit) >= len(labels) else items
        divided = _division(labels, statement)
        marks = label_marks(text, labels)
        for label, item in [] if divided else assign(text, marks, items):
            found[label] = item
        found |= divided
    return found


def _division(labels: list[str], statement: Statement) -> dict[str, Item]:
    """商 and 余数 of 3……2."""
    division = next((i for i in statement.items if isinstance(i, Remainder)), None)
    ends = {"商": division.quotient, "余数": division.remainder} if division else {}
    return {
        label: Quantity(value, (), division.start, division.end)  # type: ignore[union-attr]
        for label in labels
        for end, value in ends.items()
        if label.endswith(end)
    }


# Parts by the clause that asks for them


def _by_clause(question: Question, region: list[Statement], kept: list[Statement]) -> list[Part]:
    """Each asked clause takes the value that fits its unit and speaks its words."""
    clauses = [a for a in question.asked if _ASKS.search(a.clause)]
    listed = _plain_list(clauses, region) or _plain_list(clauses, kept)
    return listed or _best_of(question, clauses, region, kept, [])


def _best_of(
    question: Question,
    clauses: list[Asked],
    region: list[Statement],
    kept: list[Statement],
    taken: list[Item],
) -> list[Part]:
    """For each clause the best of the values not ``taken``; ends at the first that finds none."""
    pool = [
        (statement, item, 0.01 * index - 0.02 * order)
        for index, statement in enumerate(kept or region)
        for order, item in enumerate(values_of(statement))
        if item not in taken
    ]
    parts: list[Part] = []
    for clause in clauses:
        in_unit = any(exact(item, clause) for _, item, _ in pool)
        scored = [
            (_clause_score(question, s, item, clause) + (0.8 if s in region else 0.0) + place, -n)
            for n, (s, item, place) in enumerate(pool)
            if (exact(item, clause) if in_unit else fits(item, clause))
        ]
        if not scored:
            return parts
        best = -max(scored)[1]
        chosen = pool[best][1]
        parts.append(Part("", clause, chosen))
        pool = [p for p in pool if not _same_value(p[1], chosen)] or pool
    return parts


def _same_value(a: Item, b: Item) -> bool:
    return isinstance(a, Quantity) and isinstance(b, Quantity) and a.value == b.value


def _plain_list(clauses: list[Asked], region: list[Statement]) -> list[Part]:
    """Values without words (46元；4元) answer the asked clauses in their order."""
    text = "".join(s.text for s in region)
    items = [i for s in region for i in values_of(s)]
    words = re.sub("答案?|所以|因此|分别|依次|[是为和:,;、。\\s]", "", text)
    bare = len(words) <= sum(i.end - i.start for i in items) + 2
    if len(items) != len(clauses) or not (
        bare or (len(region) == 1 and _told_in_order(clauses, text, items))
    ):
        return []
    pairs_ = list(zip(clauses, items, strict=True))
    return [Part("", a, i) for a, i in pairs_] if all(fits(i, a) for a, i in pairs_) else []


def _told_in_order(clauses: list[Asked], text: str, items: list[Item]) -> bool:
    """Whether the words before each value are those of its clause, rather than of another."""
    starts = [0, *(i.end for i in items)]
    for n, item in enumerate(items):
        near = pairs(text[starts[n] : item.start])
        shared = [len(clause.pairs & near) for clause in clauses]
        if not shared[n] or shared[n] < max(shared):
            return False
    return True


def _clause_score(question: Question, statement: Statement, item: Item, clause: Asked) -> float:
    """How well a value answers a clause: by the words around it and by its unit."""
    near = local(strip_denied(statement.text), item)
    chars = {c for p in clause.pairs for c in p} - {"子"}  # 兔子 and 笼子 have nothing in common
    score = 3 * len(clause.pairs & pairs(near)) / max(1, len(clause.pairs))
    score += 1.5 * len(chars & set(near)) / max(1, len(chars)) + 0.3 * (statement.rank is Rank.MARKED)
    if isinstance(item, Quantity):
        known = not item.result and item.value in question.known
        rate = item.form == "percent" and not re.search("率|几折|几成|百分|%|占", clause.clause)
        unit = any(u.name in clause.expect.names or u.dim in clause.expect.dims for u in item.units)
        score += unit - 1.5 * known - 2.0 * rate - (item.value == 1 and statement.text[item.start] == "一")
    return score
