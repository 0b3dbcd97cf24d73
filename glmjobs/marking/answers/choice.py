"""Choices: by letter, or by the text or the value of the option."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question, squeeze
from glmjobs.marking.sentence import MARKED

_SEVERAL = r"[A-H](?:\s?[、,和与及\s]?\s?[A-H])*"
_BARE = re.compile(r"[(\[]?([A-H](?:[、, ]?[A-H])*)[)\].。]?")
_LETTER = re.compile(
    r"(?<![A-Za-z∠△])([A-H])(?![A-Za-z\d])(?=\s?(?:选?项|正确|是正|符合|最|对|[\s.。,;:)\]⟧!\"(]|$|[\u4e00-\u9fff]))"
)
_CHOSEN = re.compile(
    r"(?:选择?|答案|选项|应为|(?i:answer)|结果)[^A-H\n。,;]{0,8}?[(\[⟦\"]?\s?"
    r"([A-H](?:\s?[、,和与及\s]?\s?[A-H](?!选?项|是|的|错|对|正))*)(?![A-Za-z\d])(\s?或者?\s?[A-H])?"
)
_SMALL = re.compile(r"(?:选择?|答案|选项)[是为:]?\s?[(\[]?([a-h])(?![a-z\d])")
_RIGHT = re.compile(r"(?<![A-Za-z])([A-H])(?:选项|项)?[^A-H。,;]{0,12}?(?:正确|符合|是对的|成立|满足)")
_WRONG = re.compile(
    r"[A-H](?:[、,和与]?[A-H])*(?:选?项)?[^A-H。,;]{0,14}?(?:错误|不正确|不对|不符|不是|排除|不成立|错)|"
    r"(?:排除|不选|不是|不能选|而不是|而非)(?:选项)?[A-H](?:[、,和与]?[A-H])*|不在[A-H](?:[、,和与]?[A-H])*"
)
_BOX = re.compile(r"⟦\s?[(]?([A-H][A-H、, ]*)[)]?\s?[^⟦⟧]{0,40}⟧")
_FIRST = re.compile(rf"\s?[(\[\"]?\s?({_SEVERAL})\s?(?:[)\]\".:、。,]|$|选?项)")
_UNIT = re.compile("(?<=\\d)[\u4e00-\u9fff]{1,3}$")
_MANY = re.compile("哪些|多选|多项|哪几|所有")
COMPETING = "?"


@dataclass(frozen=True)
class Choice(Answer):
    """The letters chosen, in order of the alphabet."""

    kind = "choice"
    letters: str

    def __str__(self) -> str:
        return self.letters

    @classmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        bare = _BARE.fullmatch(text)
        if bare:
            return Found(cls(_sorted(bare[1])), fired=(("bare_letter", text),))
        found = conclude(text, question, lambda t: _letters(t, question))
        letters = str(found.statement.items[0]) if found.statement else ""
        if not letters or letters == COMPETING:
            why = "competing answers" if letters else "no choice in the conclusion"
            return Found(None, why, tuple(found.fired))
        return Found(cls(letters), fired=tuple(found.fired))

    def equals(self, other: Answer, question: Question) -> Match:
        return Match.of(self == other, "choice")


def is_letters(text: str) -> bool:
    """Whether a bare text is one or several letters of options."""
    return bool(_BARE.fullmatch(text))


def _sorted(letters: str) -> str:
    return "".join(sorted(set(re.findall("[A-H]", letters))))


def _letters(text: str, question: Question) -> list[str]:
    """The letters a statement chooses, as one sorted string in a list; [] where it chooses none."""
    plain = _WRONG.sub(lambda m: " " * len(m[0]), text)
    if small := _SMALL.search(plain):
        plain = plain[: small.start(1)] + small[1].upper() + plain[small.end(1) :]
    chosen = _BOX.findall(plain)
    if not chosen and (found := list(_CHOSEN.finditer(plain))):
        if found[-1][2]:
            return [COMPETING]
        chosen = [m[1] for m in found]
    if not chosen:
        first = _FIRST.match(plain) if len(plain) < 40 or not question.options else None
        chosen = [first[1]] if first else _RIGHT.findall(plain)
    if not chosen and (
        not question.options or MARKED.search(plain) or re.search("所以|因此|故|应该?是", plain)
    ):
        chosen = _LETTER.findall(plain)[-1:]
    return [_sorted(chosen[-1])] if chosen else _by_text(plain, question)


def _by_text(plain: str, question: Question) -> list[str]:
    """The option whose text or value the statement gives."""
    options, many = question.options, bool(_MANY.search(question.text))
    whole = [k for k, v in options.items() if len(squeeze(v)) > 1 and _contains(plain, v)]
    if len(whole) == 1 and not many:
        return whole
    zone = list(MARKED.finditer(plain)) or list(re.finditer("所以|因此|故|即|[=是为:]", plain))
    tail = plain[zone[-1].end() :] if zone else plain
    said = re.sub("^(?:应该?)?(?:选择?|是|为)", "", squeeze(tail))
    hits = [k for k, v in options.items() if v and said in (squeeze(v), _UNIT.sub("", squeeze(v)))]
    hits = hits or [k for k, v in options.items() if len(squeeze(v)) > 1 and _contains(tail, v)]
    if len(hits) > 1 and not many:
        longest = max(hits, key=lambda k: len(options[k]))
        hits = [longest] if all(options[k] in options[longest] for k in hits) else hits
    if len(hits) > 1 and many:
        return ["".join(sorted(hits))]
    return hits if len(hits) == 1 else []


def _contains(tail: str, option: str) -> bool:
    option, tail = squeeze(option), squeeze(tail)
    at = tail.find(option)
    if at < 0:
        return False
    edge = tail[at - 1 : at]
    follows = tail[at + len(option) : at + len(option) + 1]
    return not (option[0].isdigit() and edge.isdigit()) and not follows.isdigit()
