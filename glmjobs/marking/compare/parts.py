"""Answers of several parts: 长12厘米，宽8厘米; 3和5; every asked part is required, named ones are matched
by name."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import TypeVar

from glmjobs.marking import phrases, quantities
from glmjobs.marking.conclusion import select
from glmjobs.marking.conclusion.find import Conclusion
from glmjobs.marking.conclusion.statement import Statement, strip_denied
from glmjobs.marking.question import Asked, Question, pairs
from glmjobs.marking.values.scan import Item, Quantity, Ratio, Remainder

AnItem = TypeVar("AnItem", bound=Item)

_SEVERAL = re.compile(
    "哪几|哪些|列出|求这?[两三]个数|哪两个|两个(?:连续)?.{0,4}数(?:分别|各|是|为)|(?:解|求|方程)的?(?:解|根)|"
    "解方程|所有|写出|各数|三个.{0,4}数(?:分别|是|各)|坐标|依次|填"
)
_JOINED = re.compile("^[^\\d,。;]{0,3}(?:和|与|、|或|及|,|以及|并且|;|\\s)[^\\d。;]{0,8}$")
_LISTED = re.compile(r"\s?(?:和|与|、|,|或者?|及|以及|;|\s)\s?(?:[a-z]\d?\s?=\s?)?")
_OWNER = re.compile(
    r"(?:\s?[和与、,]\s?\d+)*(?:的|以[内上下]|之内|(?:到|至|~|-)\s?\d+之间|之间)"
)  # 12和18的公因数, 20以内的质数
_COUNT = re.compile("[,;、]?(?:一共|总共|共计|共)(?:有)?\\s?$")
_SUM = re.compile("共|总|合计")
_MORE_BY = re.compile("比.{0,6}[多少大小高低长短重轻贵]$")
_RANGE_ASKED = re.compile("范围|区间|之间")
_RANGE = re.compile("~|-|到|至|和|[≤<][^≤<\\d]{1,8}[≤<]")
_ORDERED = re.compile("分别|依次|按顺序|各(?:为|是)")
_TUPLE = re.compile(r"\(\s?-?[\d./]+\s?,\s?-?[\d./]+\s?\)")
_SEQUENCE = re.compile("从[大小高低长短]到|排列|排序|顺序|坐标|数对|依次")


@dataclass(frozen=True)
class Part:
    """One part: its name ("" where unnamed), the asked clause it answers, its value."""

    name: str
    asked: Asked
    value: Item

    def __str__(self) -> str:
        return f"{self.name}{self.value}"


def gold_parts(asked: Question, gold: Conclusion) -> list[Part]:
    """The parts the gold gives, or [] where one value is asked (or given)."""
    wanted = _wanted(asked)
    statements = gold.region if wanted < 2 else gold.region or gold.kept
    if wanted >= 2 and not (len(asked.labels) < 2 and gold.statement and _each_alike(asked, gold.statement)):
        found = _gather(asked, statements, gold)
        if len(asked.labels) < 2 and len(asked.asked) == 1 and _alike([p.value for p in found]):
            return []  # 所以原来长24米, said of both
        return found if len(found) >= 2 else []
    if gold.statement is None or wanted >= 2:
        return []
    if _RANGE_ASKED.search(asked.main.clause) and not _SEVERAL.search(asked.main.clause):
        return _range(asked, gold.statement)
    items = [i for i in _answers(gold.statement, asked) if isinstance(i, Quantity)]
    text = gold.statement.text
    items = _last_run(text, items)
    solved = select.solutions(text, items)
    items = items[items.index(solved[0]) :] if solved else items  # 3x=15, x=5; x^2=9, x=3或-3
    listed = len(items) >= 2 and all(
        _JOINED.match(text[a.end : b.start]) or _LISTED.fullmatch(text[a.end : b.start])
        for a, b in itertools.pairwise(items)
    )
    if listed and (
        ("可能" in text and "或" in text)
        or _SEVERAL.search(asked.text)
        or _TUPLE.search(text)
        or ("分别" in text and len({bool(i.units) for i in items}) == 1)
        or (len(text) < 30 and not re.search(r"\d\s?=", text) and not re.search("[\u4e00-\u9fff]{3}", text))
    ):
        return [Part("", asked.main, i) for i in items]
    return []


def _each_alike(asked: Question, statement: Statement) -> bool:
    """Whether one value is said of all (两个底角各是66°)."""
    found = {i.value for i in statement.items if isinstance(i, Quantity) and _fits(i, asked.main)}
    return len(found) == 1 and bool(re.search("各|每|都|均[是为]", statement.text))


def _alike(items: list[Item]) -> bool:
    """Whether all are one value, in one unit where they name any."""
    found = [i for i in items if isinstance(i, Quantity)]
    units = {i.units for i in found if i.units}
    return len(found) == len(items) > 0 and len({i.value for i in found}) == 1 and len(units) <= 1


def _last_run(text: str, items: list[AnItem]) -> list[AnItem]:
    """The values listed at the end (最大公因数是12，公因数有1、2、3: 1, 2, 3), or all where the last stands alone."""
    if (
        len(items) > 2
        and isinstance(items[-1], Quantity)
        and items[-1].value == len(items) - 1
        and items[-1].units
    ):
        items = items[:-1]  # 205、250、502、520四个
    first = len(items) - 1
    while first > 0 and _LISTED.fullmatch(text[items[first - 1].end : items[first].start]):
        first -= 1
    return items[first:] if first < len(items) - 1 else items


def _range(asked: Question, statement: Statement) -> list[Part]:
    """Both ends of the last range stated (24.5~25.5千克, 24.5千克到25.5千克), or []."""
    items = [i for i in statement.items if isinstance(i, Quantity)]
    for low, high in reversed(list(itertools.pairwise(items))):
        if _RANGE.fullmatch(statement.text[low.end : high.start].strip()):
            low = low if low.units else replace(low, units=high.units)
            return [Part("", asked.main, low), Part("", asked.main, high)]
    return []


_GROUP_SIZE = re.compile(
    "([两二三四五3-5])(?:个|种|人|位|名|班|队|段|数|条|堆|组|车|船|辆|艘|地|厂|店|家|根|桶|箱|袋|支)[^,。;?]{0,8}?(?:各|分别)"
)
_SIZES = {"两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "3": 3, "4": 4, "5": 5}


def _wanted(asked: Question) -> int:
    if len(asked.labels) >= 2:
        return len(asked.labels)
    group = _GROUP_SIZE.search(asked.main.clause)
    if group:
        return _SIZES[group[1]]
    clauses = [
        a for a in asked.asked if re.search("多少|几(?:[^乎]|$)|多[长远高重大久宽深厚快]|[是=]\\?", a.clause)
    ]
    return (
        len(clauses)
        if len(clauses) >= 2
        else (
            2
            if re.search(
                "分别|各(?:是|有|为|多少|几|需|应|占|重|长|用|行|得|买|卖|生产|种|分|要)", asked.main.clause
            )
            else 1
        )
    )


_LETTERS = "甲乙丙丁戊ABCDE"


def _name_of(clause: str, question: str) -> str:
    """The name in the question that a clause starts with (A车行驶了 → A车), or ""."""
    clause = re.sub("^(?:答|所以|因此|故|即|则|那么)[:,]?", "", clause.strip())
    head = re.split("[有是为得花了:(\\d]", clause)[0][:4]
    for count in range(len(head), 0, -1):
        if head[:count] in question and (count >= 2 or head[0] in _LETTERS):
            return head[:count]
    return ""


def with_names(asked: Question, gold: Conclusion) -> Question:
    """The question with the names its gold gives to the parts (三种球各有多少 → 红球, 黄球, 蓝球)."""
    if asked.labels or gold.statement is None or not _GROUP_SIZE.search(asked.main.clause):
        return asked
    text, names = gold.statement.text, []
    for item in (i for i in gold.statement.items if _fits(i, asked.main)):
        name = _name_of(re.split("[,;。、和]", text[max(0, item.start - 24) : item.start])[-1], asked.text)
        if not name:
            return asked
        names.append(name)
    return replace(asked, labels=names) if len(set(names)) == len(names) >= 2 else asked


def _gather(asked: Question, region: list[Statement], found: Conclusion) -> list[Part]:
    """The parts stated in the region; what it lacks is looked for in the statements before it, latest
    first."""
    kept = found.kept
    if len(asked.labels) >= 2:
        named = _named(asked, region)
        for label, item in _supposed(asked, found.source, region):
            named.setdefault(label, Part(label, asked.main, item))
        for statement in reversed(kept):
            for label, part in _named(asked, [statement]).items():
                if label not in named or (
                    _exact(part.value, asked.main) and not _exact(named[label].value, asked.main)
                ):
                    named[label] = part
        if len(named) >= 2:
            parts = [named[label] for label in asked.labels if label in named]
            return parts + _beside(asked, parts, region, kept)
        return _unnamed(asked, region, kept, len(asked.labels))
    if len(asked.asked) >= 2:
        return _by_clause(asked, region, kept)
    return _unnamed(asked, region, kept, _wanted(asked))


def _unnamed(asked: Question, region: list[Statement], kept: list[Statement], count: int) -> list[Part]:
    for several in (region[:1], region, kept[-count:], kept):
        found: list[Item] = []
        for statement in several:
            found.extend((_answers if len(several) == 1 else _values)(statement, asked))
        if len(found) >= count:
            fitting = [i for i in found if _fits(i, asked.main)]
            exact = [i for i in fitting if _exact(i, asked.main)]
            fitting = exact if len(exact) >= count else fitting
            found = fitting if len(fitting) >= count else found
            told = _GROUP_SIZE.search(asked.main.clause) is not None  # 24，三个数是23、24、25
            picked = found if len(several) == 1 and not told else found[-count:]
            return [Part("", asked.main, i) for i in picked]
    return []


def _values(statement: Statement, asked: Question) -> list[Item]:
    result: list[Item] = []
    for item in statement.items:
        if isinstance(item, Remainder):
            result += [
                Quantity(item.quotient, (), item.start, item.end), Quantity(item.remainder, (), item.start,
                item.end),
            ]  # fmt: skip
        elif isinstance(item, (Quantity, Ratio)):
            result.append(item)
    return result


def _answers(statement: Statement, asked: Question) -> list[Item]:
    """The values of the statement's last clause that draws a conclusion (36=2×2×3×3，所以36的质因数有2和3: 2, 3)."""
    text = statement.text
    values = [
        i
        for i in _values(statement, asked)
        if not _OWNER.match(text, i.end) and not (text[i.end - 1] == "位" and text.startswith("数", i.end))
    ]
    if len(values) > 2 and _COUNT.search(text[: values[-1].start]):
        values = values[:-1]  # 2、3、5、7，共4个
    marks = [m.end() for p in (phrases.STRONG, phrases.MEDIUM) for m in p.finditer(text)]
    after = [i for i in values if marks and i.start >= max(marks)]
    return after if len(after) > 1 else values


def _fits(item: Item, asked: Asked) -> bool:
    if not isinstance(item, Quantity) or not item.units or not asked.expect.dim:
        return True
    return any(u.dim in asked.expect.dims for u in item.units)


def _named(asked: Question, statements: list[Statement]) -> dict[str, Part]:
    """Label → part over the statements, later ones overriding."""
    found: dict[str, Part] = {}
    for statement in statements:
        text = strip_denied(statement.text)
        marks = _label_marks(text, asked.labels)
        items = [
            i
            for i in _values(statement, asked)
            if _fits(i, asked.main) or any(_measures(i, label) for label in asked.labels)
        ]
        exact = [i for i in items if _exact(i, asked.main)]
        items = exact if len(exact) >= len(asked.labels) else items
        if _division(asked, [statement]):
            items = [i for i in statement.items if isinstance(i, Quantity)]
        if not marks or not items:
            continue
        for label, item in _assign(text, marks, items):
            if label not in found or _exact(item, asked.main) or not _exact(found[label].value, asked.main):
                found[label] = Part(label, asked.main, item)
    for label, item in _division(asked, statements):
        found.setdefault(label, Part(label, asked.main, item))
    return found


_MEASURES = (("体积|容积", "volume"), ("面积", "area"), ("周长|棱长|边长|半径|直径|高", "length"))


def _measures(item: Item, label: str) -> bool:
    """Whether a value has the dimension that its part's name tells (体积: cubic units)."""
    dims = {u.dim for u in item.units} if isinstance(item, Quantity) else set()
    return any(dim in dims for pattern, dim in _MEASURES if re.search(pattern, label))


def _supposed(asked: Question, source: str, statements: list[Statement]) -> list[tuple[str, Item]]:
    """Parts by the letters they were supposed to be: 设足球有x个，篮球有2x个 … x=10，2x=20."""
    letters: dict[str, str] = {}
    for label in asked.labels:
        name = re.escape(label)
        match = re.search(
            rf"{name}[^,。;=]{{0,6}}?(?:有|为|是)\s?\(?([\da-z+\-]{{0,6}}[a-z])(?![a-z])", source
        ) or re.search(rf"([a-z])(?:表示|代表|为|是)[^,。;=]{{0,4}}{name}", source)
        if match:
            letters[match[1]] = label
    result: list[tuple[str, Item]] = []
    for statement in reversed(statements):
        for item in _values(statement, asked):
            before = re.search(
                r"(?:^|[^\da-z+\-])([\da-z+\-]{1,8})\)?\s?=\s?$",
                statement.text[max(0, item.start - 14) : item.start],
            )
            if before and before[1] in letters:
                result.append((letters[before[1]], item))
    return result


def _exact(item: Item, asked: Asked) -> bool:
    """Whether it has the very unit that is asked (棵, not 份)."""
    names = {u.name for u in asked.expect.units}
    return isinstance(item, Quantity) and any(u.name in names for u in item.units)


def _division(asked: Question, statements: list[Statement]) -> list[tuple[str, Item]]:
    """商 and 余数 of 3……2, the latest first."""
    result: list[tuple[str, Item]] = []
    divisions = [i for s in reversed(statements) for i in s.items if isinstance(i, Remainder)]
    for item in divisions[:1]:
        for label in asked.labels:
            if label.endswith(("商", "余数")):
                value = item.quotient if label.endswith("商") else item.remainder
                result.append((label, Quantity(value, (), item.start, item.end)))
    return result


def _label_marks(text: str, labels: list[str]) -> list[tuple[int, str]]:
    marks: list[tuple[int, str]] = []
    taken = [False] * len(text)
    distinct = len({label[0] for label in labels}) == len(labels)
    for label in sorted(labels, key=len, reverse=True):
        for variant in (
            label,
            label[-2:] if len(label) > 2 else label,
            label[:2] if len(label) > 2 else label,
            label[:1] if distinct else label,
        ):
            hits = [m.start() for m in re.finditer(re.escape(variant), text) if not taken[m.start()]]
            for at in hits:
                for k in range(at, min(at + len(variant), len(text))):
                    taken[k] = True
                marks.append((at, label))
            if hits:
                break
    return sorted(marks)


def _assign(text: str, marks: list[tuple[int, str]], items: list[Item]) -> list[tuple[str, Item]]:
    """苹果12个、梨8个 / 12个苹果和8个梨 / 苹果和梨分别有12个和8个."""
    first_value = items[0].start
    leading = [label for at, label in marks if at < first_value]
    distinct = list(dict.fromkeys(leading))
    if len(distinct) >= 2 and len(items) >= len(distinct):
        last_two = [at for at, _ in marks if at < first_value]
        if re.search("分别|各|依次", text[last_two[-1] : first_value + 1]) or not any(
            at > first_value for at, _ in marks
        ):
            return list(zip(distinct, items, strict=False))
    pairs_found: list[tuple[str, Item]] = []
    skipped: list[Item] = []
    follows = _follows(text, marks, items)
    for item in items:
        if follows:
            after = [label for at, label in marks if item.end <= at <= item.end + 4]
            label = after[0] if after else ""
        else:
            before = [(at, name) for at, name in marks if at < item.start]
            label = before[-1][1] if before else ""
            between = text[before[-1][0] : item.start] if before else ""
            if label and not _SUM.search(label) and (_SUM.search(between) or _MORE_BY.search(between)):
                skipped.append(item)
                continue  # 香蕉12元，一共32元; 梨比它少15千克
            earlier = [
                i for i in items if before and before[-1][0] < i.start < item.start and i not in skipped
            ]
            if earlier and not getattr(item, "result", False):
                continue  # 苹果12个，比梨多4个: only the first value is the apple's
        if label:
            pairs_found.append((label, item))
    return pairs_found


def _follows(text: str, marks: list[tuple[int, str]], items: list[Item]) -> bool:
    """Whether names stand right behind their values (12个苹果)."""
    behind = sum(
        any(i.end <= at <= i.end + 1 and text[i.end : at] in ("", "的") for at, _ in marks) for i in items
    )
    ahead = sum(
        any(0 <= i.start - at <= 24 and not re.search("[,、;和]", text[at : i.start]) for at, _ in marks)
        for i in items
    )
    return behind > ahead


def _beside(asked: Question, named: list[Part], region: list[Statement], kept: list[Statement]) -> list[Part]:
    """What is asked beside the named parts (几小时后相遇？两车各行了多少？), under its clause as name."""
    total = any(_SUM.search(label) for label in asked.labels)
    clauses = [
        a
        for a in asked.asked
        if re.search("多少|几", a.clause)
        and not re.search("各|分别|[和与、]", a.clause)
        and not (total and _SUM.search(a.clause))
    ]
    taken = [p.value for p in named]
    return [replace(p, name=p.asked.clause) for p in _best_of(asked, clauses, region, kept, taken)]


def _by_clause(asked: Question, region: list[Statement], kept: list[Statement]) -> list[Part]:
    """Each asked clause takes the value that fits its unit and speaks its words."""
    in_order = _plain_list(asked, region) or _plain_list(asked, kept)
    clauses = [a for a in asked.asked if re.search("多少|几|多[长远高重大久宽深厚快]|[是=]", a.clause)]
    return in_order or _best_of(asked, clauses, region, kept, [])


def _best_of(
    asked: Question, clauses: list[Asked], region: list[Statement], kept: list[Statement], taken: list[Item]
) -> list[Part]:
    """For each clause the best of the values not ``taken``; ends at the first that finds none."""
    parts: list[Part] = []
    used: set[tuple[int, int]] = set()
    pool = [(index, s) for index, s in enumerate(kept or region)]
    chosen_from = {id(s) for s in region}
    for clause in clauses:
        best: tuple[float, int, Item] | None = None
        for index, statement in pool:
            for order, item in enumerate(_values(statement, asked)):
                if (index, order) in used or not _fits(item, clause) or item in taken:
                    continue
                score = (
                    _clause_score(asked, statement, item, clause, id(statement) in chosen_from)
                    + 0.01 * index
                    - 0.02 * order
                )
                if best is None or score > best[0]:
                    best = (score, index * 1000 + order, item)
        if best is None:
            return parts
        used.add((best[1] // 1000, best[1] % 1000))
        parts.append(Part("", clause, best[2]))
    return parts


def _plain_list(asked: Question, region: list[Statement]) -> list[Part]:
    """Values without words (46元；4元) answer the asked clauses in their order."""
    clauses = [a for a in asked.asked if re.search("多少|几|多[长远高重大久宽深厚快]|[是=]", a.clause)]
    text = "".join(s.text for s in region)
    items = [i for s in region for i in _values(s, asked)]
    words = re.sub("答案?|所以|因此|分别|依次|[是为和:,;、。\\s]", "", text)
    if len(items) != len(clauses) or len(words) > sum(i.end - i.start for i in items) + 2:
        return []
    fits = all(_fits(i, a) for i, a in zip(items, clauses, strict=True))
    return [Part("", a, i) for a, i in zip(clauses, items, strict=True)] if fits else []


def _given(item: Quantity, asked: Question) -> bool:
    """Whether the question states this value (in any unit's name)."""
    return not item.result and any(value == item.value for value, _ in asked.givens)


def _clause_score(asked: Question, statement: Statement, item: Item, clause: Asked, in_region: bool) -> float:
    text = strip_denied(statement.text)
    near = select.local(text, item)
    share = len(clause.pairs & pairs(near)) / max(1, len(clause.pairs))
    chars = {c for p in clause.pairs for c in p}
    share += 0.5 * len(chars & set(near)) / max(1, len(chars))
    named = isinstance(item, Quantity) and any(
        u.name in {x.name for x in clause.expect.units} for u in item.units
    )
    measured = isinstance(item, Quantity) and any(u.dim in clause.expect.dims for u in item.units)
    rate = (
        isinstance(item, Quantity)
        and item.form == "percent"
        and not re.search("率|几折|几成|百分|%|占", clause.clause)
    )
    one = isinstance(item, Quantity) and item.value == 1 and statement.text[item.start] == "一"
    return (
        3 * share
        - (1.0 if one else 0.0)
        - (2.0 if rate else 0.0)
        - (1.5 if isinstance(item, Quantity) and _given(item, asked) else 0.0)
        + (1.0 if named or measured else 0.0)
        + (0.8 if in_region else 0.0)
        + (0.3 if statement.rank >= 3 else 0.0)
    )


def compare_parts(
    asked: Question, gold: list[Part], predicted: str, found: Conclusion, kind: str
) -> tuple[bool, str, str, str]:
    """The verdict's fields for an answer of several parts."""
    gold_text = "，".join(map(str, gold))
    if found.statement is None:
        return False, gold_text, "", found.reason
    if _wanted(asked) >= 2:
        mine = _gather(asked, found.region, found)
    else:
        ranged = _RANGE_ASKED.search(asked.main.clause) and _range(asked, found.statement)
        answers = _answers(found.statement, asked)
        run = _last_run(found.statement.text, answers)
        mine = ranged or [Part("", asked.main, i) for i in (run if len(run) == len(gold) else answers)]
        if len(mine) < len(gold):
            mine = _unnamed(asked, found.region, found.kept, len(gold))
    shown = "，".join(map(str, mine))
    if len(mine) < len(gold):
        return False, gold_text, shown, "a part is missing"
    by_name = all(p.name for p in gold) and all(p.name for p in mine)
    if by_name:
        named = {p.name: p for p in mine}
        missing = [p.name for p in gold if p.name not in named]
        if missing:
            return False, gold_text, shown, f"{missing[0]} is missing"
        wrong = [p.name for p in gold if not _same(p, named[p.name], asked)]
        return not wrong, gold_text, shown, f"{wrong[0]} differs" if wrong else "every part agrees"
    ordered = (len(asked.asked) >= 2 and len(asked.labels) < 2) or bool(
        (len(asked.labels) >= 2 and _ORDERED.search(found.statement.text))
        or _SEQUENCE.search(asked.text)
        or _TUPLE.search(found.statement.text)
    )
    if ordered:
        ok = len(mine) == len(gold) and all(_same(g, p, asked) for g, p in zip(gold, mine, strict=False))
    else:
        ok = len(mine) == len(gold) and _same_set(gold, mine, asked)
    return ok, gold_text, shown, "every part agrees" if ok else "a part differs"


def _same_set(gold: list[Part], mine: list[Part], asked: Question) -> bool:
    """Whether the parts pair off in some order."""
    left = list(mine)
    for part in gold:
        match = next((p for p in left if _same(part, p, asked)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same(gold: Part, mine: Part, asked: Question) -> bool:
    view = replace(asked, asked=[gold.asked])
    return quantities.items(gold.value, mine.value, view)[0]
