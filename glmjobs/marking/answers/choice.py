"""Choices: by letter, or by the text or the value of the option."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question, squeeze
from glmjobs.marking.sentence import MARKED

_SEVERAL = r"[A-H](?:\s?[、,和与及\s]?\s?[A-H](?!选?项|[是的错对正]))*"
_BARE = re.compile(r"[(\[]?([A-H](?:[、, ]?[A-H])*)[)\].。]?")
_LETTER = re.compile(r"(?<![A-Za-z∠△])([A-H])(?=[\s.。,;:)\]⟧!\"(\u4e00-\u9fff]|$)")
_CHOSEN = re.compile(
    r"(?:选择?|答案|选项|应为|(?i:answer)|结果)[^A-H\n。,;]{0,8}?[(\[⟦\"]?\s?"
    rf"({_SEVERAL})(?![A-Za-z\d])(\s?或者?\s?[A-H])?"
)
_SMALL = re.compile(r"(?:选择?|答案|选项)[是为:]?\s?[(\[]?([a-h])(?![a-z\d])")
_RIGHT = re.compile(r"(?<![A-Za-z])([A-H])选?项?[^A-H。,;]{0,12}?(?:正确|符合|是对的|成立|满足)")
_WRONG = re.compile(
    rf"{_SEVERAL}(?:选?项)?[^A-H。,;]{{0,14}}?(?:错|不正确|不对|不符|不是|排除|不成立)|(?:排除|不选|不是|不能选|而非|不在)(?:选项)?{_SEVERAL}"
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
        text = text.upper() if len(text) == 1 else text
        if bare := _BARE.fullmatch(text):
            return Found(cls(_sorted(bare[1])), fired=(("bare_letter", text),))
        found = conclude(text, question, lambda t: _letters(t, question))
        letters = str(found.statement.items[0]) if found.statement else ""
        if letters in ("", COMPETING):
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
    plain = _SMALL.sub(lambda m: m[0][:-1] + m[1].upper(), plain)
    said = list(_CHOSEN.finditer(plain))
    if said and said[-1][2]:
        return [COMPETING]
    chosen = _BOX.findall(plain) or [m[1] for m in said]
    if not chosen and (first := _FIRST.match(plain)) and (len(plain) < 40 or not question.options):
        chosen = [first[1]]
    chosen = chosen or _RIGHT.findall(plain)
    if not chosen and (not question.options or MARKED.search(plain) or re.search("所以|因此|故|应该?是", plain)):
        chosen = _LETTER.findall(plain)[-1:]
    return [_sorted(chosen[-1])] if chosen else _by_text(plain, question)


def _by_text(plain: str, question: Question) -> list[str]:
    """The option whose text or value the statement gives."""
    options = {k: squeeze(v) for k, v in question.options.items() if squeeze(v)}
    zone = list(MARKED.finditer(plain)) or list(re.finditer("所以|因此|故|即|[=是为:]", plain))
    tail = squeeze(plain[zone[-1].end() :] if zone else plain)
    said = re.sub("^(?:应该?)?(?:选择?|是|为)", "", tail)
    whole = [k for k, v in options.items() if len(v) > 1 and _contains(squeeze(plain), v)]
    hits = [k for k, v in options.items() if said in (v, _UNIT.sub("", v))]
    hits = hits or [k for k, v in options.items() if len(v) > 1 and _contains(tail, v)]
    if _MANY.search(question.text):
        return ["".join(hits)] if hits else []
    longest = max(hits, key=lambda k: len(options[k]), default="")
    if len(whole) == 1:
        return whole
    return [longest] if hits and all(options[k] in options[longest] for k in hits) else []


def _contains(tail: str, option: str) -> bool:
    """Whether an option stands in a text, and is no piece of a longer number there."""
    before, found, after = tail.partition(option)
    return bool(found) and not (option[0].isdigit() and before[-1:].isdigit()) and not after[:1].isdigit()
