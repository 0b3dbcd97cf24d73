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
    "(?:是的?|对的?|正确|能|可以|够|会|有|√|T|真|(?i:yes|true)|成立|合理|符合|合格|相等|一样|公平|行|足够|来得及|超过了?|可能)[了的啊]?"
)
_NO = re.compile(
    "(?:否|错误?的?|没有|×|F|X|x|假|(?i:no|false)|没超过|无法|来不及|未必|"
    "不(?:正确|对|是|可?能|可以|够|会|成立|合理|符合|合格|相等|一样|公平|行|足|一定)?)[了的啊]?"
)
_NEGATION = re.compile(
    "无(?!论|误|关|疑|需|法)|不(?!但|仅|只|过|管|论|同意|多于|少于|到)|没有?(?!错|问题)|无法|未(?!来)|否(?!则)|"
    "错误|(?<!没)(?<!没有)错(?!过)|(?<![\\d)\\s])×(?![\\d(\\s])|(?i:\\bno\\b|\\bfalse\\b)"
)
_AFFIRM = re.compile(
    "够|能|可以|[买装坐放吃用]得[起下完]|对的|正确|会|√|足以|成立|合理|符合|相等|一样|来得及|可行|没有?错|无误|没问题|(?i:\\byes\\b|\\btrue\\b)"
)
_KINDS = (
    ("质数|素数", "合数"), ("奇数|单数", "偶数|双数"), ("真分数", "假分数|带分数"), ("正数", "负数"),
    ("有理数", "无理数"), ("锐角", "直角", "钝角"), ("闰年", "平年"), ("(?<![不成])正比", "反比"),
)  # fmt: skip
"""Kinds of which a thing can be only one: 合数 denies 质数."""
_PREDICATE = re.compile(
    r"([\u4e00-\u9fff]{1,2})不\1|是否([\u4e00-\u9fff]{1,3})|([能可])否|([\u4e00-\u9fff]得[\u4e00-\u9fff])吗|"
    "(够|能|可以|会|来得及|相等|一样|足够|成立|正确|合理|公平|超过|贵|便宜|对|(?<!所)有|是)[^,。]{0,12}吗"
)
_OPENING = re.compile(
    "^(?:所以|因此|故|答案?|是的?因为|即)?(?:(?:这|此|该|以上|题中)?(?:一?句话|个?(?:说法|判断|[表叙描]述|命题|结论))是?)?"
)
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
        bare = first_line(text)
        if gold is None and is_verdict(bare):
            return Found(cls(bool(_YES.fullmatch(bare))), fired=(("bare_verdict", bare),))

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


def first_line(text: str) -> str:
    """The first line, bare: of a gold the verdict, before its reasons."""
    return text.strip().partition("\n")[0].strip(" 。.!")


def is_verdict(text: str) -> bool:
    """Whether a bare text is yes or no."""
    return bool(_YES.fullmatch(text) or _NO.fullmatch(text))


def _predicate(question: Question) -> str:
    """The word that the question asks yes or no about: 够 of 够不够."""
    match = _PREDICATE.search(question.main.clause)
    word = next(g for g in match.groups() if g) if match else ""
    return "是" if word[:1] in ("为", "是") else word


def polarity(text: str, question: Question) -> bool | None:
    """True for yes, False for no, None where a statement decides nothing."""
    plain = REASON.sub("", text).strip(_EDGES)
    plain = MARKED.split(plain)[-1].strip(_EDGES) or plain
    clauses = re.split("[,;:。]", plain)
    for piece in (clauses[0], clauses[-1]):
        bare = _OPENING.sub("", piece.strip(_EDGES)) or piece.strip(_EDGES)
        if is_verdict(bare):
            return bool(_YES.fullmatch(bare))
    word = _predicate(question)
    spoken = [c for c in clauses if word and word in c] or [c for c in clauses if re.search("所以|因此|故", c)]
    verdicts = (_piece(piece, word, question) for piece in reversed(spoken or clauses))
    return next((verdict for verdict in verdicts if verdict is not None), None)


def _of_another_kind(piece: str, question: Question) -> bool:
    """Whether it says 是合数 where 质数 is asked."""
    for kinds in _KINDS:
        mine = [kind for kind in kinds if re.search(kind, question.main.clause)]
        if len(mine) == 1 and not re.search(mine[0], piece):
            return any(re.search(kind, piece) for kind in kinds) and not _NEGATION.search(piece)
    return False


def _piece(piece: str, word: str, question: Question) -> bool | None:
    if word == "是" and _of_another_kind(piece, question):
        return False
    if word and word in piece:
        before, _, after = piece.rpartition(word)
        return not (_NEGATION.search(before[-6:]) or after.startswith(("错", "不对", "不正确")))
    if _NEGATION.search(piece):
        return False
    return True if _AFFIRM.search(piece) else None
