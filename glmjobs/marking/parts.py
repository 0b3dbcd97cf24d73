"""Answers of several parts: 长12厘米，宽8厘米; 3和5; blanks. Every asked part is required, named ones by their name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from glmjobs.marking import select
from glmjobs.marking.conclude import Conclusion
from glmjobs.marking.preferences import local
from glmjobs.marking.question import Asked, Question, pairs
from glmjobs.marking.sentence import MARKED, SO
from glmjobs.marking.statements import Rank, Statement, strip_denied
from glmjobs.marking.values.items import Item, Quantity, Ratio, Remainder

AnItem = TypeVar("AnItem", bound=Item)


@dataclass(frozen=True)
class Part:
    """One part: its name ("" where unnamed), the asked clause it answers, its value."""

    name: str
    asked: Asked
    value: Item

    def __str__(self) -> str:
        return f"{self.name}{self.value}"


_SEVERAL = re.compile(
    "哪几|哪些|列出|求这?[两三]个数|哪两个|[两三]个.{0,6}数(?:分别|各|是|为)|[解求程]的?[解根]|的[解根]|解方程|所有|写出|各数|"
    "坐标|依次|填|范围|排[列序]|质因"
)
_COUNTS = re.compile("多少|几(?:[^乎]|$)|多[长远高重大久宽深厚快]|[是=]\\?")
_JOINED = re.compile("^[^\\d,。;]{0,3}(?:和|与|、|或|及|,|;|\\s)[^\\d。;]{0,8}$")
_LISTED = re.compile(r"\s?(?:和|与|、|,|或者?|and|or|以?及|;|\s|到|至|~|-)\s?(?:[a-z]\d?\s?=\s?)?")
_ORDERED = re.compile("分别|依次|按顺序|各[为是]")
_TUPLE = re.compile(r"\(\s?-?[\d./]+\s?,\s?-?[\d./]+\s?\)")
_SEQUENCE = re.compile("从[大小高低长短]到|数列|排列|排序|顺序|坐标|数对|依次")
_GROUP_SIZE = re.compile(
    "([两二三四五3-5])[个种人位名班队段数条堆组车船辆地厂店家根桶箱袋支][^,。;?]{0,8}?(?:各|分别)"
    r"(?![为是有]?\s?\d)"
)
_SIZES = dict(zip("两二三四五345", (2, 2, 3, 4, 5, 3, 4, 5), strict=True))


def wanted(question: Question) -> int:
    """How many parts a question asks for."""
    if len(question.labels) >= 2:
        return len(question.labels)
    if group := _GROUP_SIZE.search(question.main.clause):
        return _SIZES[group[1]]
    return max(_counted(question), 2 if re.search("分别[^,。;]{0,8}(?:多少|几|\\?|$)", question.main.clause) else 1)


def _counted(question: Question) -> int:
    """How many of a question's clauses ask how much."""
    return sum(bool(_COUNTS.search(asked.clause)) for asked in question.asked)


def gold_parts(question: Question, gold: Conclusion) -> list[Part]:
    """The parts the gold gives, or [] where one value is asked (or given)."""
    statement, count = gold.statement, wanted(question)
    if statement is None:
        return []
    listed = _bare_list(gold)
    for_each = len(listed) >= 2 and re.search("各|分别", question.main.clause)
    if for_each or _outnumbers(listed, count):
        return _by_label(question, [Part("", question.main, i) for i in listed])
    if count >= 2:
        found = gather(question, gold, count)
        values = {getattr(p.value, "value", p.value) for p in found}
        once = len(values) == 1 and "=" in gold.source and not any(p.name for p in found)  # 20×1.1=22，答：22美元
        return _by_label(question, found) if len(found) >= 2 and not once else []
    items = _last_run(statement.text, [i for i in answers_of(statement) if isinstance(i, Quantity)])
    solved = select.solutions(statement.text, items)
    items = items[items.index(solved[0]) :] if solved else items  # 3x=15, x=5; x^2=9, x=3或-3
    return [Part("", question.main, i) for i in items] if _is_list(question, statement.text, items) else []


def _by_label(question: Question, found: list[Part]) -> list[Part]:
    """The parts by the names asked, where they have none and are as many: 6，72 for 最大公因数和最小公倍数."""
    if len(found) != len(question.labels) or any(p.name for p in found):
        return found
    return [replace(p, name=name) for p, name in zip(found, question.labels, strict=True)]


def _bare_list(gold: Conclusion) -> list[Item]:
    """The values of a gold that holds nothing else: 2；3、4、5."""
    return [] if re.search("[\u4e00-\u9fff=a-zA-Z]", gold.source) else [i for s in gold.kept for i in values_of(s)]


def _outnumbers(listed: Sequence[object], count: int) -> bool:
    """Whether there are more values than quantities asked: a blank takes several."""
    return len(listed) > max(count, 2)


def _is_list(question: Question, text: str, items: list[Quantity]) -> bool:
    """Whether values form a list that is the answer."""
    joins = [text[a.end : b.start] for a, b in itertools.pairwise(items)]
    alone = all(i.units for i in items) and sum(exact(i, question.main) for i in items) == 1
    if len(items) < 2 or alone or not all(_JOINED.match(j) or _LISTED.fullmatch(j) for j in joins):
        return False
    a, b = items[-2:]
    in_two_units = a.units and b.units and a.units != b.units  # 1/4小时或15分钟
    possible = re.match(r"\s?(?:或|or)", joins[-1]) and not in_two_units
    if not possible and any(re.search("[\u4e00-\u9fff]{2}", j) for j in joins):
        return False  # 共6种，大于0的有2种，概率是1/3
    bare = len(text) < 30 and not re.search(r"(?<![a-z])\d\s?=|[\u4e00-\u9fff]{3}", text)
    return bool(bare or possible or "分别" in text or _SEVERAL.search(question.text) or _TUPLE.search(text))


def predicted_parts(question: Question, found: Conclusion, gold: list[Part]) -> list[Part]:
    """The parts a prediction gives, where the gold gives ``gold``."""
    if found.statement is None:
        return []
    count = wanted(question)
    if count >= 2 and not _outnumbers(gold, count):
        return gather(question, found, count)
    answers = answers_of(found.statement)
    run = _last_run(found.statement.text, answers)
    mine = [Part("", question.main, i) for i in (run if len(run) == len(gold) else answers)]
    final = found.statement.rank is Rank.MARKED and not re.search(r"=|^\(", found.statement.text)
    if len(mine) >= len(gold) or (mine and final):
        return mine
    return _unnamed(question, found, len(gold))


def in_order(question: Question, said: Statement) -> bool:
    """Whether unnamed parts answer in the order in which they are asked."""
    named = len(question.labels) >= 2
    told = named and _ORDERED.search(said.text)
    clauses = _counted(question) >= 2 and not named
    return bool(clauses or told or _SEQUENCE.search(question.text) or _TUPLE.search(said.text))


def _last_run(text: str, items: list[AnItem]) -> list[AnItem]:
    """The values listed at the end (最大公因数是12，公因数有1、2、3: 1, 2, 3), or all where the last stands alone."""
    first = len(items) - 1
    while first > 0 and _LISTED.fullmatch(text[items[first - 1].end : items[first].start]):
        first -= 1
    return items[first:] if first < len(items) - 1 else items


def with_names(question: Question, gold: Conclusion) -> Question:
    """The question with the names its gold gives to the parts (三种球各有多少 → 红球, 黄球, 蓝球)."""
    if question.labels or gold.statement is None or not re.search("各|分别", question.main.clause):
        return question
    text, names = gold.statement.text, []
    for item in (i for i in gold.statement.items if fits(i, question.main)):
        clause = re.split("[,;。、和]", text[max(0, item.start - 24) : item.start])[-1]
        head = re.split("[有是为得花了:(\\d]", re.sub("^(?:答|所以|因此)[:,]?", "", clause.strip()))[0][:4]
        starts = (head[:n] for n in range(len(head), 0, -1))
        names += [s for s in starts if s in question.text and (len(s) >= 2 or s in "甲乙丙丁戊ABCDE")][:1] or [""]
    return replace(question, labels=names) if all(names) and len(set(names)) == len(names) >= 2 else question


def gather(question: Question, found: Conclusion, count: int) -> list[Part]:
    """The parts stated in the conclusion; what it lacks is looked for in the statements before it, latest first."""
    if len(question.labels) < 2:
        worded = any(asked.pairs for asked in question.asked)  # not 7-2=( )；8÷4=( )
        several = len(question.asked) >= 2 and worded
        return _by_clause(question, found) if several else _unnamed(question, found, count)
    region, kept = found.region, found.kept
    named: dict[str, Item] = {}
    for statement in [*region, *reversed(kept[: len(kept) - len(region)])]:
        named = _named(question, statement) | named
    if len(named) < 2:
        return _unnamed(question, found, count)
    return [Part(label, question.main, named[label]) for label in question.labels if label in named]


def _unnamed(question: Question, found: Conclusion, count: int) -> list[Part]:
    asked = question.main
    told = _GROUP_SIZE.search(asked.clause)  # 24，三个数是23、24、25
    for several in (found.region[:1], found.region, found.kept[-count:], found.kept):
        single = len(several) == 1
        items = [i for s in several for i in (answers_of(s) if single else values_of(s))]
        items = [i for i in items if not asked.expect.units or fits(i, asked)]
        if len(items) >= count:
            in_unit = [i for i in items if exact(i, asked)]
            items = in_unit if len(in_unit) >= count else items
            return [Part("", asked, i) for i in (items if single and not told else items[-count:])]
    return []


# Values of a statement


def values_of(statement: Statement) -> list[Item]:
    """Quantities and ratios, of a division both results."""
    result: list[Item] = []
    for item in statement.items:
        if isinstance(item, Remainder):
            result += [Quantity(v, (), item.start, item.end) for v in (item.quotient, item.remainder)]
        elif isinstance(item, (Quantity, Ratio)):
            result.append(item)
    return result


def answers_of(statement: Statement) -> list[Item]:
    """The values of the statement's last clause that draws a conclusion (36=2×2×3×3，所以36的质因数有2和3: 2, 3)."""
    text = statement.text
    values = [i for i in values_of(statement) if not text.startswith("位数", i.end - 1)]
    values = select.boxed(text, values) or values
    last = values[-1] if len(values) > 2 else None
    if isinstance(last, Quantity) and last.units and (last.value == len(values) - 1 or "共" in text[: last.start][-3:]):
        values = values[:-1]  # 2、3、5、7四个; 一共4个
    marks = [m.end() for p in (MARKED, SO) for m in p.finditer(text)]
    after = [i for i in values if marks and i.start >= max(marks)]
    return after if len(after) > 1 else values


def fits(item: Item, asked: Asked) -> bool:
    """Whether it may have the asked unit."""
    if not isinstance(item, Quantity) or not item.units or not asked.expect.dim:
        return True
    return any(u.dim in asked.expect.dims for u in item.units)


def exact(item: Item, asked: Asked) -> bool:
    """Whether it has the very unit that is asked (棵, not 份)."""
    return isinstance(item, Quantity) and any(u.name in asked.expect.names for u in item.units)


# Named parts: 苹果12个、梨8个 / 12个苹果和8个梨 / 苹果和梨分别有12个和8个


def _named(question: Question, statement: Statement) -> dict[str, Item]:
    """Label → value."""
    text, labels = strip_denied(statement.text), question.labels
    for item in statement.items:
        if isinstance(item, Remainder) and (ends := [n for n in labels if n.endswith(("商", "余数"))]):
            whole, rest = (Quantity(v, (), item.start, item.end) for v in (item.quotient, item.remainder))
            return {n: whole if n.endswith("商") else rest for n in ends}
    items = [i for i in values_of(statement) if fits(i, question.main)]
    in_unit = [i for i in items if exact(i, question.main)]
    items = in_unit if len(in_unit) >= len(labels) else items
    return _assign(text, _marks(text, labels), items)


def _marks(text: str, labels: list[str]) -> list[tuple[int, str]]:
    """Where each name stands; a longer name also by its ends (黑兔子: 黑兔, 兔子), and by its first character."""
    marks: list[tuple[int, str]] = []
    for label in sorted(filter(None, labels), key=len, reverse=True):
        short = [label[-2:], label[:2]] if len(label) > 2 else []
        for variant in (label, *short, label[0]):
            hits = [m.start() for m in re.finditer(re.escape(variant), text)]
            if hits:
                marks += [(at, label) for at in hits]
                text = text.replace(variant, "\0" * len(variant))
                break
    return sorted(marks)


_MORE_BY = re.compile("[共总]|合计|比.{0,6}[多少大小高低长短重轻贵]$")
_BREAK = re.compile("[,、;和]")


def _assign(text: str, marks: list[tuple[int, str]], items: list[Item]) -> dict[str, Item]:
    """The values by the names they belong to."""
    leading = list(dict.fromkeys(label for at, label in marks if items and at < items[0].start))
    if 2 <= len(leading) <= len(items) and (len(leading) == len(marks) or "分别" in text):
        return dict(zip(leading, items, strict=False))
    behind = [(n, i) for i in items for at, n in marks if text[i.end : at] in ("", "的") and at >= i.end]
    ahead = {i for i in items for at, _ in marks if at <= i.start and not _BREAK.search(text, at, i.start)}
    if len(behind) > len(ahead):
        return dict(behind)
    found: dict[str, Item] = {}
    for item in items:
        at, label = max((mark for mark in marks if mark[0] < item.start), default=(0, ""))
        by = "共" not in label and _MORE_BY.search(text[at : item.start])  # 香蕉12元，一共32元; 梨比它少15千克
        if label and not by and (label not in found or (isinstance(item, Quantity) and item.result)):
            found[label] = item
    return found


# Parts by the clause that asks for them


def _by_clause(question: Question, found: Conclusion) -> list[Part]:
    """Each asked clause takes a value that fits its unit; which, the words around it tell, the surest first."""
    clauses = question.asked
    for said in (found.region, found.kept):
        items = [i for s in said for i in values_of(s)]
        if len(items) == len(clauses) and all(map(fits, items, clauses)) and _told_in_order(clauses, said, items):
            return [Part("", clause, item) for clause, item in zip(clauses, items, strict=True)]
    pool = [
        (statement, item, 0.01 * index - 0.02 * order + 0.8 * (statement in found.region))
        for index, statement in enumerate(found.kept or found.region)
        for order, item in enumerate(values_of(statement))
    ]
    scored = []
    for c, clause in enumerate(clauses):
        fit = exact if any(exact(item, clause) for _, item, _ in pool) else fits
        scored += [
            (_clause_score(question, s, item, clause) + place, -c, -n)
            for n, (s, item, place) in enumerate(pool)
            if fit(item, clause)
        ]
    given: dict[int, Item] = {}
    for again in (False, True):  # the same value for a second clause only where no other is left for it
        for _, c, n in sorted(scored, reverse=True):
            item = pool[-n][1]
            taken = [i for i in given.values() if i is item or (not again and _same_value(i, item))]
            if -c not in given and not taken:
                given[-c] = item
    return [Part("", clause, given[c]) for c, clause in enumerate(clauses) if c in given]


def _same_value(a: Item, b: Item) -> bool:
    return isinstance(a, Quantity) and isinstance(b, Quantity) and a.value == b.value


def _told_in_order(clauses: list[Asked], said: list[Statement], items: list[Item]) -> bool:
    """Whether there are no words (46元；4元), or those before each value are its clause's rather than another's."""
    text = "".join(s.text for s in said)
    words = re.sub("答案?|所以|因此|分别|依次|[是为和:,;、。\\s]", "", text)
    if len(words) <= sum(i.end - i.start for i in items) + 2:
        return True
    starts = [0, *(i.end for i in items)]
    near = [pairs(text[start : item.start]) for start, item in zip(starts, items, strict=False)]
    shared = [[len(clause.pairs & said) for clause in clauses] for said in near]
    return all(0 < s[n] == max(s) for n, s in enumerate(shared)) and len(said) == 1


def _clause_score(question: Question, statement: Statement, item: Item, clause: Asked) -> float:
    """How well a value answers a clause: by the words around it and by its unit."""
    near = local(strip_denied(statement.text), item)
    chars = {c for p in clause.pairs for c in p} - {"子"}  # 兔子 and 笼子 have nothing in common
    score = 3 * len(clause.pairs & pairs(near)) / max(1, len(clause.pairs))
    score += 1.5 * len(chars & set(near)) / max(1, len(chars))
    if isinstance(item, Quantity):
        score += any(u.dim in clause.expect.dims for u in item.units)
        score -= 1.5 * (not item.result and item.value in question.known)
    return score
