"""What a question asks: which quantities, in which unit, to which precision, among which choices.

:func:`read` makes a :class:`Question` of it. Its ``kind`` is what the question alone tells; the gold may correct that
(:mod:`~glmjobs.marking.answers`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import cached_property, lru_cache

from glmjobs.marking import names, precision
from glmjobs.marking.normalise import normalise
from glmjobs.marking.precision import Precision
from glmjobs.marking.values import units
from glmjobs.marking.values.items import Quantity
from glmjobs.marking.values.scan import scan
from glmjobs.marking.values.units import Unit

MAX_QUESTION = 6000
"""Characters of a question that are read."""


class Kind(str, Enum):
    """The kind of answer a question asks for."""

    NUMBER, TEXT, CHOICE, YES_NO = "number", "text", "choice", "yes/no"
    PERCENT, DISCOUNT, TENTHS, RATE, RATIO = "percent", "discount", "tenths", "rate", "ratio"
    CLOCK, DATE, WEEKDAY = "clock", "date", "weekday"


RATES = (Kind.PERCENT, Kind.RATE, Kind.DISCOUNT, Kind.TENTHS, Kind.RATIO)
TIMES = (Kind.CLOCK, Kind.DATE, Kind.WEEKDAY)

_KINDS = {
    kind: re.compile(pattern)
    for kind, pattern in (
        (Kind.PERCENT, "百分之[几多]|百分[比数点率]|几个百分|用%|多少\\s?%"),
        (Kind.DISCOUNT, "几折|什么折扣|折扣是"),
        (Kind.TENTHS, "几成(?!立)"),
        (Kind.WEEKDAY, "(?:星期|周|礼拜)(?:几|多少)"),
        (Kind.CLOCK, "几点|计时法|(?<![过要了行])几时(?!到|能)|什么时[候刻间]|何时|时刻"),
        (Kind.DATE, "几月几[日号]|哪一?天|什么日期|[几多少]号|哪一?年"),
        (Kind.RATIO, "[甲乙丙]:[乙丙丁]|几比几|比[是为]多少|的比[是为?。]|之比|最简|比例(?:尺|[是为][多几])"),
    )
}
"""What a clause asks for by its words, the first that fits."""
_RATE = re.compile(
    "几分之几|[率占].{0,12}(?:多少|几)|(?<![效功周斜心])率(?:[。?]|$|[是为]多少|有多)|可能性|浓度|含.{1,2}量是"
)
_YES_NO = re.compile(
    "吗|是否|[能可]否|够不够|可不可以|有没有可能|正确与否|对还是错|正确还是错误|判断.{0,8}(?:对错|正误)|([\u4e00-\u9fff])不\\1"
)
_JUDGE = re.compile(r"^\s?判断|\(判断|对还是错|正确还是错误")
_WHO = re.compile(
    "谁|(?<![数解别][有是])哪(?![里儿]|[些几]个?.{0,2}数)|什么(?!时)|第几象限|[\u4e00-\u9fff]还是[\u4e00-\u9fff]"
)
_HOW_MUCH = re.compile("多少|几(?!象限)|多[长远高重大久宽深厚快](?!于)")

_MEASURES = {
    "time": re.compile("多长时间|多久|用时|时长|多少时间|[需的]时间|时间是"),
    "CNY": re.compile("多少钱|几钱|价格|[售单总原现]价|利润|费用|花费|成本|金额|利息"),
    "area": re.compile("面积"),
    "volume": re.compile("[体容]积"),
    "length": re.compile("多[长远高深宽厚]|周长|距离|路程|[长高]度|半径|直径|[边棱]长"),
    "mass": re.compile("多重|[质重]量|体重"),
}
"""The dimension that a clause names without a unit."""
_BEFORE_UNIT = re.compile(r"(?:多少|几)\s?(?:个(?=小时|钟头|月|星期|世纪|季度|礼拜))?")
_SCALE = re.compile("(百万|千万|万|亿)(?!元店)")
_SCALES = {"万": 10**4, "亿": 10**8, "千万": 10**7, "百万": 10**6}
_PER = re.compile("每(?:个|一)?")
_MARKS = re.compile("平均|考|成绩|得分|满分|测验|比赛|竞赛|语文|数学|英语|扣|加分")

_OPTION = re.compile(
    r"(?:^|[\s,。;:?!()\[（、\u4e00-\u9fff\d%])(?<![角∠])([A-H])\s?[.、:)．]\s?(?=\S)|[(\[]([A-H])[)\]]\s?(?=\S)"
)
_SENTENCE = re.compile(r"(?<=[。?!;\n])|(?<=[^.]\.)(?=[^\d.\s])")
_COMMAND = re.compile("求|计算|算出|多少|写出|判断|化简")
_CLAUSE = re.compile(r",(?!\d)|(?<![甲乙丙丁]):(?!\d)")
_ASKS = re.compile("多少|几(?!个小朋友|乎)|多[长远高重大久宽深厚快](?!于)|谁|哪|什么|吗|[是能]否|求|算")
_NO_WORDS = re.compile("[多少几请问那么的了呢吗是?求共一个有要需0-9.,。:;!()+\\-×÷*/=的]")
_BLANK = r"(?:\(\s*(?:\?|_+)?\s*\)|□)"
_FILLED_BLANK = re.compile(rf"(?<=[\u4e00-\u9fff=<>≈])\s?{_BLANK}|{_BLANK}(?=\s?[\u4e00-\u9fff])")
_ASKED_OUTRIGHT = re.compile(r"[?？_□○]|[(（](?!精确|保留|结果)|多少|几")
_UNDERSCORES = re.compile(r"[(（]\s*_{2,}\s*[)）]|_{2,}")  # not bold print
_LATEX_BLANK = re.compile(
    r"\\?\$\s*\\q?quad\s*\\?\$|(?:\$\$)?\\underline\s?\{\s*\}(?:\$\$)?|[(（]\s*\$?\\q?quad\$?\s*[)）]"
)
_LOST_BLANK = re.compile(
    r"(?<=[\u4e00-\u9fff=＝≈:：]) +(?=[\u4e00-\u9fff%％．。，,；;°]|[cdkm]?m\b|k?g\b|m?[lL]\b)|"
    r"(?<=[\u4e00-\u9fff=≈]) +\Z"
)
"""Where a question has lost its underscores: 一共有 颗糖果．"""


@dataclass
class Expect:
    """The unit an answer would have: multiplier (万 …), readings, and at least the dimension."""

    units: tuple[Unit, ...] = ()
    multiplier: int = 1
    dim: str = ""
    per: tuple[Unit, ...] = ()

    @cached_property
    def dims(self) -> frozenset[str]:
        """Every dimension an answer may have (度: angle, temperature, energy); empty where none is known."""
        return frozenset(u.dim for u in self.units) or frozenset({self.dim} - {""})

    @cached_property
    def names(self) -> frozenset[str]:
        """The unit's names."""
        return frozenset(u.name for u in self.units)


@dataclass
class Asked:
    """One asked quantity: its clause, the clause's character pairs, its unit."""

    clause: str
    pairs: frozenset[str]
    expect: Expect


@dataclass
class Question:
    """A question as read.

    ``asked``: what it asks, the last counts most; ``labels``: names of the asked parts (长, 宽); ``others``: names of
    other quantities of the same kind (乙仓 where 甲仓 is asked);
    ``givens``: the values it states, with their unit's name; ``context``: its units by dimension.
    """

    text: str
    kind: Kind = Kind.NUMBER
    asked: list[Asked] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    precision: Precision | None = None
    approximate: bool = False
    options: dict[str, str] = field(default_factory=dict)
    givens: set[tuple[Fraction, str]] = field(default_factory=set)
    context: dict[str, list[Unit]] = field(default_factory=dict)

    @property
    def main(self) -> Asked:
        """The (last) asked quantity."""
        return self.asked[-1]

    @cached_property
    def known(self) -> frozenset[Fraction]:
        """The values that the question states."""
        return frozenset(value for value, _ in self.givens)

    @cached_property
    def plain(self) -> str:
        """Its text without spaces and stops."""
        return squeeze(self.text)


_STOPS = re.compile(r"[\s。,.;:!\"'()\[\]⟦⟧]")


def squeeze(text: str) -> str:
    """Text without spaces, stops, quotes and brackets, to compare wordings."""
    return _STOPS.sub("", text)


def pairs(clause: str) -> frozenset[str]:
    """Character pairs of the words that carry meaning."""
    plain = _NO_WORDS.sub("", clause[:400])
    return frozenset(plain[i : i + 2] for i in range(len(plain) - 1)) or frozenset(plain)


@lru_cache(maxsize=256)
def read(question: str) -> Question:
    """Read a question; the result is shared: it is read, not changed."""
    question = _UNDERSCORES.sub("( )", _LATEX_BLANK.sub("( )", question[: 2 * MAX_QUESTION]))
    if not _ASKED_OUTRIGHT.search(question):
        question = _LOST_BLANK.sub("( )", question)
    text = normalise(question)[:MAX_QUESTION].strip()
    result = Question(text)
    body = _options(text, result)
    if not result.options and not _JUDGE.search(body):
        body = _FILLED_BLANK.sub("多少", body)
    clauses = _asked_clauses(body)
    last = re.split(r",(?!\d)", body[-120:].rstrip(" .。"))[-1] or body[-60:]
    result.asked = [_asked(clause, body) for clause in clauses or [last]]
    result.kind = _kind(body, result)
    result.precision = precision.asked(text, result.kind in (Kind.PERCENT, Kind.RATE))
    result.approximate = bool(re.search("大约|约是|约为|约有|估计|估算|约(?:多少|几)|大概", body))
    result.labels = names.labels(text, clauses)
    if len(result.asked) == 1 and not result.labels:
        result.others = names.others(body, result.main.clause)
    for item in scan(body):
        if isinstance(item, Quantity):
            result.givens.add((item.value, item.units[0].name if item.units else ""))
            for unit in item.units:
                result.context.setdefault(unit.dim, []).append(unit)
    return result


def _options(text: str, result: Question) -> str:
    """Split off A. … B. …; fills ``result.options`` and returns the stem."""
    found = [(m.start(1) if m[1] else m.start(2), m[1] or m[2], m.end()) for m in _OPTION.finditer(text)]
    run: list[tuple[int, str, int]] = []
    for entry in found:
        if entry[1] == "A":
            run = [entry]
        elif run and ord(entry[1]) == ord(run[-1][1]) + 1:
            run.append(entry)
    if len(run) < 2 or re.match("[B-H][、和与]|[B-H][\u4e00-\u9fff]", text[run[0][2] :]):
        return text  # A、B两数 names two numbers
    stops = [at for at, *_ in run[1:]] + [len(text)]
    for (_, letter, end), stop in zip(run, stops, strict=True):
        result.options[letter] = text[end:stop].strip().split("\n")[0].strip(" ,。;([")
    return text[: run[0][0]].rstrip(" ([\n")


def _asked_clauses(body: str) -> list[str]:
    """The clauses that ask, in order; eight at most."""
    sentences = [s for s in _SENTENCE.split(body) if s.strip()]
    asking = [s for s in sentences if "?" in s] or [s for s in sentences if _COMMAND.search(s)][-2:]
    clauses: list[str] = []
    for sentence in asking:
        parts = _CLAUSE.split(re.sub(r"\([^()]{0,40}[\u4e00-\u9fff][^()]{0,40}\)", "", sentence))
        found = [p for p in parts if _ASKS.search(p)]
        again = re.fullmatch(r"([^,。?]{1,12})呢\?", parts[-1].strip())
        if not found and again and (tail := re.search("(?:多少|几).*", clauses[-1] if clauses else "")):
            found = [again[1] + tail[0]]  # 一天要喝多少盒？一周呢？
        clauses += found or parts[-1:]
    return clauses[:8]


def _asked(clause: str, body: str) -> Asked:
    expect = Expect()
    for match in reversed(list(_BEFORE_UNIT.finditer(clause))):
        at = match.end()
        if scale := _SCALE.match(clause, at):
            expect.multiplier, at = _SCALES[scale[1]], scale.end()
        found, end = units.match(clause, at)
        if found:
            if found[0].name == "分" and _MARKS.search(body):  # not minutes
                found = [u for u in found if u.dim == "score"]
            if clause[end : end + 1] in ("/", "每") and (bottom := units.match(clause, end + 1)[0]):
                found = units.per(found, bottom)
            counted = (Unit("个", "count"),) if match[0].endswith("个") else ()  # 3个 for 几个小时
            expect.units = (*found, *counted)
            break
    named = next((dim for dim, pattern in _MEASURES.items() if pattern.search(clause)), "")
    expect.dim = expect.units[0].dim if expect.units else named
    for match in _PER.finditer(clause):
        found, _ = units.match(clause, match.end())
        expect.per = tuple(found) or expect.per
    return Asked(clause, pairs(clause), expect)


def _kind(body: str, result: Question) -> Kind:
    if result.options:
        return Kind.CHOICE
    text = " ".join(a.clause for a in result.asked)
    for kind, pattern in _KINDS.items():
        if pattern.search(text):
            return kind
    if _RATE.search(text) and not result.main.expect.units:
        return Kind.RATE
    how_much = _HOW_MUCH.search(text)
    if (_YES_NO.search(text) and not how_much) or _JUDGE.search(body):
        return Kind.YES_NO
    return Kind.TEXT if _WHO.search(text) and not how_much else Kind.NUMBER
