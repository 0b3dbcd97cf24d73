"""What a question asks: which quantities, in which unit, to which precision, among which choices."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from glmjobs.marking.normalise import normalise
from glmjobs.marking.values import scan, units
from glmjobs.marking.values.units import Unit

MAX_QUESTION = 6000

_OPTION = re.compile(
    r"(?:^|[\s,。;:?!()\[（、\u4e00-\u9fff\d%])([A-H])\s?[.、:)．]\s?(?=\S)|"
    r"[(\[]([A-H])[)\]]\s?(?=\S)"
)
_NUMBERED_OPTION = re.compile(r"[(]([1-6])[)]")
_ASK = re.compile(
    "多少|几(?!个小朋友|乎|年来|天来)|多[长远高重大久宽深厚快](?!于)|什么|谁|哪|吗|是否|"
    "能否|可否|求|计算|算出|[=是为](?=[?_( ]*$)|( ?)|"
    "\\?|______|多少倍|怎样|如何|判断|比较|化简|化成|写出|解方程"
)
_MEASURE = (
    (re.compile("多长时间|多久|用时|时长|多少时间|需要的时间|所需时间|时间是"), "time"),
    (re.compile("多少钱|几钱|价格|售价|单价|总价|原价|现价|利润|费用|花费|成本|金额|多少利息"), "CNY"),
    (re.compile("面积"), "area"),
    (re.compile("体积|容积"), "volume"),
    (re.compile("速度是|速度为|的速度|多快"), "speed"),
    (re.compile("多长|多远|多高|多深|多宽|多厚|周长|距离|路程|长度|高度|半径|直径|边长|棱长"), "length"),
    (re.compile("多重|质量|重量|体重"), "mass"),
    (re.compile("多大|年龄|几岁"), "age"),
)
_HOW_MUCH = re.compile(r"(?:多少|几)\s?(?:个(?=小时|钟头|月|星期|世纪|季度|礼拜))?")
_STATED = re.compile(
    r"\(?(?:单位[:是为]?|以|用)\s?\"?([^\s,。;)\"]{1,8}?)\"?(?:为单位|作单位|做单位|[)。,]|"
    r"$)"
)
_PER = re.compile("每(?:个|一)?")
_PERCENT = re.compile("百分之几|百分之多少|百分比|百分数|百分点|百分率|几个百分|用%")
_RATE = re.compile(
    "几分之几|[率占].{0,12}(?:多少|几)|(?<![效功周斜心])率(?:[。?]|$|"
    "是多少|为多少|有多)|可能性|浓度|含.{1,2}量是"
)
_RATIO = re.compile(
    "[甲乙丙丁]:[甲乙丙丁]|几比几|比是多少|的比是|比为多少|的比为|之比|最简(?:单的)?(?:整数)?比|"
    "求.{0,20}的比(?![值例]|.{0,4}[多少])|比例尺|的比(?:[?。]|$)|比例(?:是|为)(?:多少|什么|"
    "几)"
)
_CLOCK = re.compile(
    "几点|(?<!经过)(?<!需要)(?<!用了)几时(?!到|能)|什么时[候刻间]|何时|几时几分|什么时间|时刻"
)
_DATE = re.compile("几月几[日号]|哪一?天|什么日期|几号|哪年|哪一年")
_WEEKDAY = re.compile("(?:星期|周|礼拜)几")
_YES_NO = re.compile(
    "吗|是否|能否|可否|够不够|能不能|对不对|是不是|会不会|可不可以|行不行|有没有可能|"
    "正确与否|合不合|判断.{0,8}(?:对错|正误)|对还是错|正确还是错误|"
    r"^判断[:题]|([\u4e00-\u9fff])不\1"
)
_NUMBERS_ASKED = re.compile(
    "(?:数|解)(?:都|分别)?[有是]哪[些几]|哪[些几]个?(?:[整自质素合奇偶因约倍]|自然)数"
)
_WHO = re.compile("谁|哪(?![里儿])|什么(?!时)|哪个|哪种")
_PLACES = {"一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "1": 1, "2": 2, "3": 3, "4": 4}
_POSITIONS = {
    "整数": 0, "个位": 0, "元": 0, "十分位": 1, "百分位": 2, "千分位": 3, "万分位": 4, "十位": -1,
    "百位": -2, "千位": -3, "万位": -4,
    "亿位": -8, "角": 1, "分": 2, "米": 0, "千克": 0, "吨": 0, "厘米": 0, "十分之一": 1, "百分之一": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """Round to ``places`` decimals (negative: tens …), of the percentage where ``percent``; or significant
    digits."""

    places: int = 0
    percent: bool = False
    significant: int = 0


@dataclass
class Expect:
    """The unit an answer would have: multiplier (万 …), readings, and at least the dimension."""

    units: tuple[Unit, ...] = ()
    multiplier: int = 1
    dim: str = ""
    per: tuple[Unit, ...] = ()

    @property
    def dims(self) -> frozenset[str]:
        """Every dimension an answer may have (度: angle, temperature, energy); empty where none is known."""
        return frozenset(u.dim for u in self.units) or frozenset({self.dim} - {""})


@dataclass
class Asked:
    """One asked quantity: its clause, the clause's character pairs, its unit and kind."""

    clause: str
    pairs: frozenset[str]
    expect: Expect
    kind: str


@dataclass
class Question:
    """A question as read. ``labels``: the names of the asked parts (长, 宽); ``givens``: values stated as
    known."""

    text: str
    kind: str = "number"
    asked: list[Asked] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    precision: Precision | None = None
    options: dict[str, str] = field(default_factory=dict)
    givens: set[tuple[Fraction, str]] = field(default_factory=set)
    context: dict[str, list[Unit]] = field(default_factory=dict)
    approximate: bool = False
    others: list[str] = field(default_factory=list)
    subject: str = ""
    predicate: str = ""

    @property
    def main(self) -> Asked:
        """The (last) asked quantity."""
        return self.asked[-1]


_STOP = re.compile("[多少几请问那么的了呢吗是?求共一个有要需0-9.,。:;!()+\\-×÷*/=的]")


def pairs(clause: str) -> frozenset[str]:
    """Character pairs of the words that carry meaning."""
    plain = _STOP.sub("", clause[:400])
    return frozenset(plain[i : i + 2] for i in range(len(plain) - 1)) or frozenset(plain)


@lru_cache(maxsize=256)
def read(question: str) -> Question:
    """Parse a question; never raises. The result is shared: it is read, not changed."""
    text = normalise(question[: 2 * MAX_QUESTION])[:MAX_QUESTION].strip()
    result = Question(text)
    body = _options(text, result)
    clauses = _asked_clauses(body)
    result.asked = [_asked(clause, body) for clause in clauses] or [_asked(body[-60:], body)]
    result.kind = _kind(body, result)
    result.precision = _precision(text, result)
    result.labels = _labels(clauses, result)
    result.others = _others(body, result)
    result.subject, result.predicate = _spoken_of(result)
    result.approximate = bool(re.search("大约|约是|约为|约有|估计|估算|约(?:多少|几)|大概", body))
    for item in scan.scan(body):
        if isinstance(item, scan.Quantity):
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
    if len(run) < 2:
        return text
    for index, (_, letter, end) in enumerate(run):
        stop = run[index + 1][0] if index + 1 < len(run) else len(text)
        result.options[letter] = (
            text[end:stop].strip(" ,。;([\n").rstrip(")]")
            if index + 1 < len(run)
            else text[end:stop].split("\n")[0].strip(" ,。;\n")
        )
    return text[: run[0][0]].rstrip(" ([\n")


def _asked_clauses(body: str) -> list[str]:
    sentences = [s for s in re.split(r"(?<=[。?!;\n])|(?<=[^.]\.)(?=[^\d.\s])", body) if s.strip()]
    questions = [s for s in sentences if "?" in s and _ASK.search(s)] or [
        s for s in sentences if re.search("求|计算|算出|多少|几分之几|写出|判断|化简", s)
    ][-2:]
    clauses: list[str] = []
    for sentence in questions:
        parts = re.split(
            r",(?!\d)|(?<![甲乙丙丁]):(?!\d)|(?<=[\u4e00-\u9fff])和(?=几|多少)",
            re.sub(r"\([^()]{0,40}\)", "", sentence),
        )
        asking = [
            p
            for p in parts
            if re.search(
                "多少|几(?!个小朋友|乎)|多[长远高重大久宽深厚快](?!于)|谁|哪|什么|吗|是否|能否|求|算", p
            )
        ]
        if clauses and not asking and (again := _AGAIN.fullmatch(parts[-1].strip())):
            tail = _HOW_MANY.search(clauses[-1])
            asking = [again[1] + tail[0]] if tail else []  # 一天要喝多少盒？一周呢？
        asking = asking or parts[-1:]
        asking = _keep_last_per_clause(parts, asking)
        clauses.extend(asking)
    return clauses[:8]


_AGAIN = re.compile(r"([^,。?]{1,12})呢\?")
_HOW_MANY = re.compile("(?:多少|几).*")


def _keep_last_per_clause(parts: list[str], asking: list[str]) -> list[str]:
    """'已知…求…' narrows to what really asks; a clause with 几 in the data part is dropped when a later one
    asks."""
    strong = [p for p in asking if re.search("多少|几|多[长远高重大久]|各", p)]
    if len(strong) > 1:
        strong = [
            p for p in strong if not re.search("^(?:如果|若|已知|其中.{0,4}几|拿出几|用了几)", p)
        ] or strong
    return strong or asking


def _asked(clause: str, body: str) -> Asked:
    expect = Expect()
    for match in reversed(list(_HOW_MUCH.finditer(clause))):
        at = match.end()
        scale = re.compile("(万|亿|千万|百万)(?!元店)").match(clause, at)
        if scale:
            expect.multiplier = {"万": 10**4, "亿": 10**8, "千万": 10**7, "百万": 10**6}[scale[1]]
            at = scale.end()
        found, end = units.match(clause, at)
        if found:
            expect.units = _of_meaning(found, body)
            if (clause[at : at + 1] == "个" and found[0].name != "个") or match[0].endswith("个"):
                expect.units += (Unit("个", "count"),)  # 3个 for 几个小时
            divider = re.compile(r"/|每").match(clause, end)
            bottom, _ = units.match(clause, divider.end()) if divider else ([], end)
            if bottom:
                expect.units = tuple(units.per(found, bottom))
            break
        if clause.startswith("钱", at):
            break
    stated = _STATED.search(body)
    if not expect.units and stated:
        expect.units = tuple(_named_unit(stated[1]))
    if not expect.units and "单位" in body:
        for match in re.finditer(r"单位[:是为]\s?([^\s)。,;]{1,6})", body):
            expect.units = tuple(units.match(match[1], 0)[0]) or expect.units
    for pattern, dim in _MEASURE:
        if pattern.search(clause):
            expect.dim = dim
            break
    if expect.units:
        expect.dim = expect.units[0].dim
    for match in _PER.finditer(clause):
        found, _ = units.match(clause, match.end())
        if found:
            expect.per = tuple(found)
    return Asked(clause, pairs(clause), expect, "")


def _of_meaning(found: list[Unit], body: str) -> tuple[Unit, ...]:
    """分 is a mark, a minute or a cent: the question's other words tell which."""
    if {u.dim for u in found} >= {"score", "time"} and found[0].name == "分":
        if re.search("平均|考|成绩|得分|满分|测验|比赛|竞赛|语文|数学|英语|扣|加分", body):
            return tuple(u for u in found if u.dim == "score")
        if re.search("小时|分钟|时间|秒|每分|走|行驶", body):
            return tuple(u for u in found if u.dim == "time")
    return tuple(found)


def _named_unit(name: str) -> list[Unit]:
    """千米/时, 英里每小时, 平方米 (the whole name must be a unit)."""
    found, end = units.match(name, 0)
    if found and end < len(name) and name[end] in "/每":
        bottom, _ = units.match(name, end + 1)
        return units.per(found, bottom) if bottom else found
    return found if end == len(name) else []


def _kind(body: str, result: Question) -> str:
    if result.options:
        return "choice"
    text = " ".join(a.clause for a in result.asked)
    for kind, pattern in (
        ("percent", _PERCENT), ("discount", re.compile("几折|什么折扣|折扣是")),
        ("tenths", re.compile("几成(?!立)")),
        ("weekday", _WEEKDAY), ("clock", _CLOCK), ("date", _DATE), ("ratio", _RATIO),
    ):  # fmt: skip
        if pattern.search(text):
            if kind == "clock" and re.search("多少|多长时间|多久", text) and not re.search("几点|几时", text):
                continue
            return kind
    if re.search("百分(?:比|数)(?:表示|表达|形式)|用百分数|化成百分数", body):
        return "percent"
    if (
        _RATE.search(text)
        and not re.search("[元人个只米克本]\\?|效率", text[-4:])
        and not result.main.expect.units
    ):
        return "rate"
    how_much = re.search("多少|几|多[长远高重大久宽深厚快](?!于)", text)
    if (_YES_NO.search(text) and not how_much) or re.search(r"^\s?判断|\(判断|对还是错|正确还是错误", body):
        return "yesno"
    if _NUMBERS_ASKED.search(text):
        return "number"
    if (_WHO.search(text) or re.search("[\u4e00-\u9fff]还是[\u4e00-\u9fff]", text)) and not how_much:
        return "text"
    return "number"


def _precision(text: str, result: Question) -> Precision | None:
    if re.search("四舍五入|近似", text) and re.search("最[大小].{0,2}(?:是|为|可能)|原[来数]|取值", text):
        return None  # the rounding is what is known, not what is asked
    percent = bool(re.search("百分号前|%前", text))
    in_percent = result.kind == "percent"
    match = re.search("百分号前保留([一两二三四1-4])位", text) or re.search(
        "保留([一两二三四1-4])位小数|小数点后([一两二三四1-4])位", text
    )
    match = match or re.search("(?:保留|精确到|取)(?:小数点后)?([一两二三四1-4])位(?!有效|数)", text)
    if match:
        return Precision(_PLACES[next(g for g in match.groups() if g)], percent or in_percent)
    match = re.search("([一两二三四1-4])[位个]有效数字", text)
    if match:
        return Precision(significant=_PLACES[match[1]])
    match = re.search(r"(?:精确到|保留到|四舍五入到|近似到)\s?(0\.(0*)1|1)(?!\d)(%?)", text)
    if match:
        return Precision(0 if match[1] == "1" else len(match[2]) + 1, bool(match[3]) or in_percent)
    match = re.search(
        "(?:精确到|保留到|保留整|保留|四舍五入到|近似到|凑整到|取)(?:最接近的|最近的|整)?(整数|"
        "个位|十分位|百分位|千分位|万分位|十位|百位|千位|万位|亿位|十分之一|百分之一|[元角分]|"
        "米|千克|吨|厘米|平方米|立方米|小时)",
        text,
    )
    if match:
        return Precision(_POSITIONS.get(match[1], 0), in_percent)
    if re.search("保留整|取整数|结果取整|(?:四舍五入|取近似).{0,6}整数", text):
        return Precision(0, in_percent or result.kind == "rate")
    return None


_PERSON = re.compile(
    "小[\u4e00-\u9fff]|爸爸|妈妈|爷爷|奶奶|哥哥|弟弟|姐姐|妹妹|爷爷|[\u4e00-\u9fff](?:老师|"
    "叔叔|阿姨)|父亲|母亲"
)
_SUBJECT = re.compile(
    "^(?:那么|则|请问|问|求|请|这时|此时|现在|原来|算出|"
    "今年)*([\u4e00-\u9fffA-Z]{2,4}?)(?=有|是|为|重|存|现有|还|共|一共|应|每|需|可|能|要|"
    "跑|走|行|用|花|得|卖|买|种|做|吃|看|读|写|今年|[长高宽深厚](?=多少)|的?(?:速度|价格|重量|长度|面积|体积|"
    "年龄|身高|体重|单价|人数|数量))"
)


def _others(body: str, result: Question) -> list[str]:
    """Names parallel to the asked subject (科技书 where 故事书 is asked, 乙仓 where 甲仓 is): another
    quantity's names."""
    if len(result.asked) != 1 or result.labels or result.kind not in ("number", "percent", "rate"):
        return []
    clause = result.main.clause
    match = _SUBJECT.search(clause) or _PERSON_FIRST.match(clause)
    if not match or re.search("[比和与、]|一共|共|总|相差", clause):
        return []
    subject = match[1]
    if subject[0] in "他她它这那":
        return []
    if _PERSON.fullmatch(subject):
        found = _PERSON.findall(body)
    else:
        found = re.findall(f"[\u4e00-\u9fffA-Z]{{{len(subject) - 1}}}{subject[-1]}", body)
    return [n for n in dict.fromkeys(found) if n != subject and not re.search("[的是有了比和与]", n)]


_PERSON_FIRST = re.compile(f"(?:那么|则|请问|问|求|这时|此时|现在|今年)*({_PERSON.pattern})")
_OF_SUBJECT = re.compile(
    "^(?:那么|则|请问|问|求|这时|此时|现在|今年)*([\u4e00-\u9fffA-Z]{2,4}?)(?:今年|现在)?([长高重宽深厚有])(?=多少|几|多[长高重宽])"
)


def _spoken_of(result: Question) -> tuple[str, str]:
    """Subject and predicate of one asked measure: 木棍, 长 of 木棍长多少米."""
    match = _OF_SUBJECT.match(result.main.clause.strip())
    if len(result.asked) != 1 or result.labels or not match or re.search("[比和与、共各]|分别", match[0]):
        return "", ""
    return match[1], match[2]


_NAME = re.compile(
    "^(?:那么|则|请问|问|求|请|这时|此时|现在|原来|这个?长方形的?|它的|他们的?|其中|"
    "分别求出?|算出|今年|你知道)+"
)
_SHARE = re.compile("(?:各自|各|分别)")
_BOTH = re.compile(  # 求这组数据的平均数和中位数
    "求.*的((?:(?![和与、的共总比差])[\u4e00-\u9fff]){2,6})[和与]((?:(?![和与、的共总比差多几])[\u4e00-\u9fff]){2,6}|[\u4e00-\u9fff]{2}(?:之和|总[和长价]))(?:是多少)?[。?]?$"
)


def _labels(clauses: list[str], result: Question) -> list[str]:
    """The names of several asked parts: 苹果和梨各多少 → 苹果, 梨."""
    labels: list[str] = _unknowns(result.text)
    for clause in clauses:
        share = _SHARE.search(clause)
        head = clause[: share.start()] if share else ""
        if not share:
            both = _BOTH.search(clause)
            labels.extend(both.groups() if both else ())
            continue
        head = _NAME.sub("", head.strip().rstrip("的,"))
        owner, _, thing = head.rpartition("的")
        if re.search("[和与、及]", thing):
            head = thing
        elif re.search("[和与、及]|[甲乙丙]{2}", owner):
            head = owner  # 苹果和梨的单价
        head = re.sub(
            "(?<=.)(?:这?[两二三四五]|几)(?:个|种|位|名)?(?:人|数|队|班|车|者|船|地|同学|小朋友)?$", "", head
        )
        parts = [p for p in re.split("和|与|、|及|以及|,", head) if p]
        if len(parts) == 1 and re.fullmatch("鸡兔|长宽|甲乙丙?丁?|男女|大小|父子|母女", parts[0]):
            parts = list(parts[0])
        parts = [p for p in parts if not p.isdigit()]
        if len(parts) < 2:
            parts = _listed(result.text, clause)
        if len(parts) >= 2:
            labels.extend(_trim(parts))
    if len(labels) >= 2 and not any(re.search("共|总", label) for label in labels):
        total = [
            c for c in clauses if re.search("共|总", c) and not _SHARE.search(c) and re.search("多少|几", c)
        ]
        labels.extend(["共"] if total else [])
    return labels[:6]


_EQUATION = re.compile(r"[\da-z+\-×*/(). ]{1,40}=[\da-z+\-×*/(). ]{1,40}")


def _unknowns(text: str) -> list[str]:
    """The letters of a system of equations."""
    if "方程组" not in text:
        return []
    letters = sorted({c for m in _EQUATION.finditer(text) for c in m[0] if c.isalpha()})
    return letters if 2 <= len(letters) <= 4 else []


_ENUMERATION = re.compile("(?:[甲乙丙丁戊][、和与,]?){2,5}(?=[两二三四五]|共|一共|合|的和|[\u4e00-\u9fff])")
_GROUP = re.compile(
    "^(?:那么|则|问|这|他们|她们|它们)?的?(?:[两二三四五2-5](?:个|位|名|种)?[\u4e00-\u9fff]{0,3})?$"
)


def _listed(text: str, clause: str) -> list[str]:
    """甲, 乙, 丙 of 三人各分得多少, from where they are listed."""
    head = clause[: match.start()] if (match := _SHARE.search(clause)) else clause
    found = _ENUMERATION.search(text)
    if not found or not _GROUP.match(head):
        return []
    return list(dict.fromkeys(c for c in found[0] if c in "甲乙丙丁戊"))


def _trim(parts: list[str]) -> list[str]:
    """Drop what the parts share in front (这个长方形的长, 宽 → 长, 宽) and trailing verbs."""
    names = []
    for part in parts:
        part = part.rsplit("的", 1)[-1] or part
        names.append(part)
    if len(names[-1]) > len(names[0]) and names[0] in tuple("甲乙丙丁长宽男女"):
        names[-1] = names[-1][: max(1, len(names[0]))]
    return names


def known_number(text: str, givens: set[tuple[Fraction, str]]) -> bool:
    """Whether every number in ``text`` is one the question states."""
    known = {v for v, _ in givens}
    found = [i for i in scan.scan(text) if isinstance(i, scan.Quantity)]
    return bool(found) and all(i.value in known for i in found)


__all__ = ["Asked", "Expect", "Precision", "Question", "known_number", "pairs", "read"]
