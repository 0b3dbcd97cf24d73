"""Yes and no, which agree by meaning: 够 is 够了, 可以, 是的."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question
from glmjobs.marking.sentence import MARKED
from glmjobs.marking.statements import REASON, split

_YES = re.compile(
    r"^(?:是的?|对的?|正确|能|可以|够|会|有|√|T|真|(?i:yes|true)|成立|合理|符合|合格|相等|一样|公平|行|足够|来得及|超过了?|可能)[了的啊]?$"
)
_NO = re.compile(
    r"^(?:否|不|错误?的?|不正确|不对|不是|不能|不可以|不够|不会|没有|×|F|X|x|假|(?i:no|false)|不成立|不合理|不符合|不合格|"
    r"不相等|不一样|不公平|不行|来不及|不足|没超过|无法|不可能|不一定|未必)[了的啊]?$"
)
NEGATION = re.compile(
    "无(?!论|误|关|疑|需|法)|不(?!但|仅|只|过|管|论|同意|多于|少于|到)|没有?(?!错|问题)|无法|未(?!来)|否(?!则)|"
    "错误|错(?!过)|(?<![\\d)\\s])×(?![\\d(\\s])|(?i:\\bno\\b|\\bfalse\\b)"
)
_AFFIRM = re.compile(
    "够|能|可以|[买装坐放吃用]得[起下完]|是的|正确|对的?(?!折|应|称|比|于)|会|√|足够|足以|成立|合理|符合|相等|一样|来得及|可行|"
    "有|是|合格|公平|(?i:\\byes\\b|\\btrue\\b)|行"
)
_AFFIRM_AMOUNT = re.compile("够|能|可以|正确|来得及|成立|足|得[起下完]")
_DOUBLE = re.compile("不(?:是)?不|没有?不(?:够|足|对)|不会不|并非不|没错|没有错|无误|没问题")
_KINDS = (
    ("质数|素数", "合数"), ("奇数|单数", "偶数|双数"), ("真分数", "假分数|带分数"), ("正数", "负数"),
    ("有理数", "无理数"),     ("锐角", "直角", "钝角"), ("闰年", "平年"), ("(?<![不成])正比", "反比"),
)  # fmt: skip
"""Kinds of which a thing can be only one: 合数 denies 质数."""
_OPPOSITES = dict(zip("多少大小高低快慢长短重轻早晚近远", "少多小大低高慢快短长轻重晚早远近", strict=True))
_OPPOSITES |= {"贵": "便宜", "便宜": "贵", "高": "[低矮]", "划算": "亏"}
_PREDICATES = tuple(
    re.compile(p)
    for p in (
        r"([\u4e00-\u9fff]{1,2})不\1",
        "是否([\u4e00-\u9fff]{1,3})",
        "(能)否|(可)否",
        "([\u4e00-\u9fff]得[\u4e00-\u9fff])吗",
        "(够|能|可以|会|来得及|相等|一样|足够|成立|正确|合理|公平|超过|贵|便宜|对|(?<!所)有)[^,。]{0,12}吗",
        "(便宜|划算|[快慢多少大小高矮低长短重轻贵早晚远近])(?:一些|一点)?吗",
        "(是)[^,。]{0,12}吗",
    )
)
_CLAIM = re.compile("^(?:这|此|该|以上|题中)?(?:一?句话|个?(?:说法|判断|[表叙描]述|命题|结论))是?")
_EDGES = " 。.!;,:\"'()[]⟦⟧"


@dataclass(frozen=True)
class YesNo(Answer):
    """Yes or no."""

    kind = "yes/no"
    yes: bool

    def __str__(self) -> str:
        return "yes" if self.yes else "no"

    @classmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        bare = text.strip(" 。.!")
        if gold is None and is_verdict(bare):
            return Found(cls(bool(_YES.match(bare))), fired=(("bare_verdict", bare),))

        def speaks(sentence: str) -> list[bool]:
            verdict = polarity(sentence, question)
            return [] if verdict is None else [verdict]

        found = conclude(text, question, speaks)
        if found.statement:
            return Found(cls(bool(found.statement.items[0])), fired=tuple(found.fired), sure=0.9)
        last = polarity(split(text)[-1], question) if gold is None and text else None
        return Found(None if last is None else cls(last), found.reason, tuple(found.fired), 0.7)

    def equals(self, other: Answer, question: Question) -> Match:
        return Match.of(self == other, "verdict")


def is_verdict(text: str) -> bool:
    """Whether a bare text is yes or no."""
    return bool(_YES.match(text) or _NO.match(text))


def _predicate(question: Question) -> str:
    """The word that the question asks yes or no about: 够 of 够不够."""
    for pattern in _PREDICATES:
        if match := pattern.search(question.main.clause):
            word = next(g for g in match.groups() if g)
            return "是" if word[0] in "为是" else word
    return ""


def polarity(text: str, question: Question) -> bool | None:
    """True for yes, False for no, None where a statement decides nothing."""
    plain = REASON.sub("", text).strip(_EDGES)
    marks = list(MARKED.finditer(plain))
    if marks and plain[marks[-1].end() :].strip():
        plain = plain[marks[-1].end() :].strip(_EDGES)
    pieces = re.split("[,;:。]", plain)
    for piece in (pieces[0], pieces[-1]):
        bare = piece.strip(_EDGES)
        bare = re.sub("^(?:所以|因此|故|答案?|是的?因为|即)", "", bare) or bare
        bare = _CLAIM.sub("", bare) or bare
        if is_verdict(bare):
            return bool(_YES.match(bare))
    word, clauses = _predicate(question), re.split("[,;。]", plain)
    spoken = [c for c in clauses if word and word in c] or [
        c for c in clauses if re.search("所以|因此|故", c)
    ]
    for piece in reversed(spoken or clauses):
        verdict = _piece(piece, word, question)
        if verdict is not None:
            return verdict
    return None


def _of_another_kind(piece: str, question: Question) -> bool:
    """Whether it says 是合数 where 质数 is asked."""
    for kinds in _KINDS:
        mine = [kind for kind in kinds if re.search(kind, question.main.clause)]
        if len(mine) == 1 and not re.search(mine[0], piece):
            other = any(re.search(kind, piece) for kind in kinds if kind != mine[0])
            return other and not NEGATION.search(piece)
    return False


def _piece(piece: str, word: str, question: Question) -> bool | None:
    piece = re.sub("如果|因为|由于", "", piece)
    if _DOUBLE.search(piece):
        return True
    if word == "是" and _of_another_kind(piece, question):
        return False
    if word and word in piece:
        before = piece[: piece.rfind(word)][-6:]
        return not (
            NEGATION.search(before) or re.search(f"{re.escape(word)}[^,。]{{0,4}}(?:不[到了成]|错误)", piece)
        )
    opposite = _OPPOSITES.get(word)
    if (opposite and re.search(opposite, piece)) or NEGATION.search(piece):
        return False
    if _AFFIRM.search(piece) and (not re.search(r"\d", piece) or _AFFIRM_AMOUNT.search(piece)):
        return True
    return None
