"""Names and other words: who or which, in which order, or that there is no difference; else the words themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question, squeeze
from glmjobs.marking.sentence import MARKED
from glmjobs.marking.statements import strip_denied
from glmjobs.marking.tables import phrase
from glmjobs.marking.values import units

_NAME = re.compile(
    "小(?![的于数时学组公])[\u4e00-\u9fff]|[甲乙丙丁戊己][队店车厂班城种商超市场仓]?|方[案法][一二三四甲乙1-4A-D]|"
    "第[一二三四1-4][\u4e00-\u9fff]{1,2}|[A-D](?:店|队|车|种|超市|商店|公司|套餐|班|组|品?牌|方案|款|型|家)|"
    "[正长]方[形体]|(?:等腰|等边|直角|锐角|钝角){,2}三角形|[红黄蓝绿白黑]球|圆[形柱锥]?(?!周)|平行四边形|[菱梯]形|(?<![\u4e00-\u9fff])球体?|"
    "[一二三四五六]班|[一二三四五六\\d]\\(\\d{1,2}\\)班|[\u4e00-\u9fff]{2,3}(?:超市|商店|公司|商场)|[大小][杯盒瓶袋包桶]|"
    "[男女]生|大于|小于|等于|[><]|[上下]午|星期[一二三四五六日天]"
)
_COLOUR = re.compile("[红黄蓝绿白黑紫橙灰粉棕]色")
_LISTED = re.compile("([\u4e00-\u9fffA-Z]{1,5})(?:[和与、或]|还是)([\u4e00-\u9fffA-Z]+?)(?=[两谁哪,、和的比中?。]|$)")
_ALIKE = re.compile("(?<!不)(?<!不是)(?<!并不)(?:一样|同样|相同|相等|等[长重高大多]|没有(?:差别|区别|谁))")
_ADJECTIVE = re.compile("便宜|划算|省钱|合算|小(?![\u4e00-\u9fff](?![些点]))|[快慢多少大高矮低长短重轻贵早晚远近先]")
_LESS = dict(zip("快多大高长重早远", "慢少小矮短轻晚近", strict=True)) | {"贵": "便宜"}
_LESS |= {v: k for k, v in _LESS.items()} | {"划算": "贵", "合算": "贵", "省钱": "贵", "低": "高", "先": "晚"}
_COMPARED = re.compile("比.{1,8}?(便宜|[快慢多少大小高矮低长短重轻贵早晚远近])")
_IN_ORDER = re.compile("顺序|排列|排序|从.到.")
_SIGN = re.compile("(大于|>)|(小于|<)|=|等于|相等|一样")
_NUMBER = r"\d[\d./]{0,20}"
_SIDES = re.compile(rf"({_NUMBER})\s?([<>])\s?({_NUMBER})")
_TERM = r"[a-z](?:_?\d)?(?![a-z\d(])"
_CHAIN = re.compile(rf"(?<![a-zA-Z\d_)]){_TERM}(?:(?:\s?>\s?{_TERM})+|(?:\s?<\s?{_TERM})+)")
_MORE = re.compile(rf"({_NUMBER}|[a-z]_?\d?)比({_NUMBER}|[a-z]_?\d?)(?:更|要)?([大多高长重小少低短轻])")
_BLANK = re.compile(r"(?<=\d)\s?[○〇◯]\s?(?=\d)")
_REFUSED = phrase("refused")


@dataclass(frozen=True)
class Names(Answer):
    """``name``: put first in the asked sense ("" where none); ``order``: where one is asked; ``text``: the words.

    ``alike``: no difference is said (一样多); ``refused``: that there is no solution, or none can be found.
    """

    kind = "text"
    name: str
    text: str
    order: tuple[str, ...] = ()
    alike: bool = False
    refused: bool = False

    def __str__(self) -> str:
        return (", ".join(self.order) or self.name or squeeze(_last_words(self.text)))[:60]

    @classmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        if refuses(text, question):
            return Found(cls("", text, refused=True), fired=(("refused", text[-60:]),))

        def speaks(sentence: str) -> list[str]:
            if said := subject(question, sentence):
                return said
            short = len(squeeze(sentence)) <= 20 or MARKED.search(sentence) or _ALIKE.search(sentence)
            bare = not squeeze(MARKED.split(sentence)[-1])  # 最终答案是：
            return [sentence] if short and not bare and gold is not None else []

        found = conclude(text, question, speaks)
        if found.statement is None and gold is not None:
            return Found(None, found.reason, tuple(found.fired))
        said = found.statement.text if found.statement else text
        name = (subject(question, said) or [""])[0]
        ordered = names(question, said) if _IN_ORDER.search(question.text) else []
        order = tuple(n for n in ordered if n in question.text and len(n) > 1)
        said = text if gold is None else said
        return Found(cls(name, said, order, says_alike(said, question)), fired=tuple(found.fired), sure=0.8)

    def equals(self, other: Answer, question: Question) -> Match:
        if not isinstance(other, Names) or self.refused or other.refused:
            return Match.of(isinstance(other, Names) and self.refused == other.refused, "refusal")
        if len(self.order) > 2:
            return Match.of(self.order == other.order, "order")
        if self.alike or other.alike:
            return Match.of(self.alike == other.alike, "name (no difference)")
        sign = _sign(self.text)
        full = _BLANK.sub(sign, question.text) if sign and _BLANK.search(question.text) else ""  # < means 0.5<2/3
        if (mine := ordered(full) or ordered(self.text)) and (theirs := ordered(other.text)):
            return Match.of(mine == theirs, "relation")
        if sign and "比" not in self.text and re.search("比较|[<>○填]|[(] ?[)]|一样", question.text):
            return Match.of(sign == _sign(other.text), "relation")
        if self.name and other.name:
            return Match.of(same_name(self.name, other.name), "name")
        return Match.of(self._in_words(other), "words")

    def _in_words(self, other: Names) -> bool:
        """Whether the words of one stand in the other's, not denied there (不在同一直线上)."""
        core, said = _content(_last_words(self.text)), _content(strip_denied(other.text))
        if not core:
            return False
        if core in units.UNITS:  # 米 is not 厘米, 分钟 is 分
            mine = max((u for u in units.UNITS if said.endswith(u)), key=len, default="")
            return any(a == replace(b, name=a.name) for a in units.UNITS[core] for b in units.UNITS.get(mine, []))
        before, found, _ = said.rpartition(core)
        denied = re.search("[不非没无]$", before) and not re.search("[不非没无]", core)
        part = len(said) > 1 and not re.search(r"\d", said) and said in core
        return (bool(found) and not denied) or part


def _last_words(text: str) -> str:
    return MARKED.split(text)[-1] or text


def _content(text: str) -> str:
    """The words without those that carry no meaning: 在同一条直线上 is 在同一直线上."""
    plain = squeeze(text)
    return re.sub("[的了着一是它个条种只互相位于在]", "", plain) or plain


def refuses(text: str, question: Question) -> bool:
    """Whether a text ends in saying that nothing can be determined, or that there is no solution."""
    said = [s for s in re.split(r"(?<=[。!;\n])", text) if s.strip()][-2:]
    last = said if said and not re.search(r"\d", said[-1]) else said[-1:]  # 无解。请检查题目条件。
    return any(map(_REFUSED.search, last)) and not _REFUSED.search(question.text)


def says_alike(text: str, question: Question) -> bool:
    """Whether a text says that there is no difference, where who or which is asked."""
    asks = re.search("谁|哪", question.main.clause) and not re.search("一样|相等|相同", question.text)
    return bool(asks) and bool(_ALIKE.search(MARKED.split(text)[-1] if len(text) > 40 else text))


def names(question: Question, text: str) -> list[str]:
    """Names that could answer 谁 or 哪个, in order."""
    plain, clause = strip_denied(text), question.main.clause
    if "颜色" in clause:
        return _COLOUR.findall(plain)
    listed = [n for m in _LISTED.finditer(question.text) for n in (m[1].removeprefix("是"), m[2]) if n in clause]
    asked = re.sub("第[一二三四五]名", "", question.text) if re.search("第[一二三四五]名", clause) else question.text
    known, said = _NAME.findall(asked) + listed, _NAME.findall(plain)
    longer = [n for n in said if any(k in n and k != n for k in known)]  # 等腰三角形, where 三角形 is asked about
    known = [k for k in known if not any(k in n for n in longer)] + longer
    found = sorted((plain.find(n), -len(n), n) for n in dict.fromkeys(known) if n and n in plain)
    return [n for *_, n in found] or said


def subject(question: Question, text: str) -> list[str]:
    """The name a comparing sentence puts first in the asked sense: 小明比小红快 and 小红比小明慢 both name 小明."""
    plain = strip_denied(text)
    tail = re.split("所以|因此|故|答[:,]|可见", plain)[-1]
    plain = tail if names(question, tail) else plain
    who = re.split("谁|哪", question.text)[-1]  # 谁跑得快？小红还是小丽？
    asked = _ADJECTIVE.search(question.main.clause) or _ADJECTIVE.search(who)
    if not asked:
        return names(question, plain)[:1]
    wanted = asked[0]
    less = _LESS.get(wanted, wanted)
    # 小红更高,比小丽高7厘米: the second clause goes on speaking of 小红
    clauses = [c for c in re.split(r"[,;。](?!\s?[比为])", plain) if names(question, c)]
    said = [c for c in clauses if wanted in c] or [c for c in clauses if less in c]
    plain = said[-1] if said else plain
    found, compared = names(question, plain), _COMPARED.search(plain)
    if wanted not in plain and less in plain:  # the other of two is meant: 小刚慢, 小红比小明慢
        known = found if compared else list(dict.fromkeys(names(question, question.text)))
        return [n for n in known if n != found[0]][:1] if found and len(known) == 2 else found[:1]
    return found[:1]


def same_winner(question: Question, gold: str, said: str) -> bool:
    """Where who and how much are both asked (谁快？快多少？): whether the names agree too."""
    who = [
        a for a in re.split("[?。]", question.text) if re.search("谁|哪[根个种家辆条只位名班组队边支座]", a)
    ]
    if not who:
        return True
    clause = re.split("[,;]", who[-1])[-1]
    view = replace(question, asked=[replace(question.main, clause=clause)])
    wanted, mine = subject(view, gold), subject(view, said)
    return not wanted or (bool(mine) and same_name(wanted[0], mine[0]))


def same_name(a: str, b: str) -> bool:
    """One name in the other, or 乙店 and 乙商店: 甲, 乙 … and A, B … tell apart by themselves."""
    if "三角形" in (a, b):
        return a == b  # names no kind
    return a in b or b in a or (a[0] == b[0] and a[0] in "甲乙丙丁戊己ABCD")


def ordered(text: str) -> tuple[str, ...] | None:
    """The sides of a text's last comparison, the greatest first: 3/4>2/3 and 2/3<3/4 alike; y₁>y₂>y₃."""
    text = _MORE.sub(lambda m: f"{m[1]}{'>' if m[3] in '大多高长重' else '<'}{m[2]}", text)
    text = text.replace("大于", ">").replace("小于", "<")
    if not re.search("[<>]", text):
        return None
    if chains := [m[0].replace("_", "") for m in _CHAIN.finditer(text)]:  # y₁>y₂>y₃
        terms = re.split(r"\s?[<>]\s?", chains[-1])
        return tuple(terms if "<" not in chains[-1] else reversed(terms))
    if not (found := _SIDES.findall(text)):
        return None
    left, sign, right = found[-1]
    return (left, right) if sign == ">" else (right, left)


def _sign(text: str) -> str:
    """The relation a statement ends in: ">", "<" or "=", "" where none."""
    hits = list(_SIGN.finditer(text))
    return "" if not hits else ">" if hits[-1][1] else "<" if hits[-1][2] else "="
