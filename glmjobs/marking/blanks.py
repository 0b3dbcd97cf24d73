"""Questions with blanks: what a text fills into each, told by the words around the blank or by its place in a list.

夹角是( )°，分针走了( )°: a solution that says the sentence again is laid on the question's words, the last time that it
says them; one that lists 60；180 is taken piece by piece.
"""

from __future__ import annotations

import re
from itertools import pairwise

_BLANK = re.compile(r"\(\s?[?_]*\s?\)(?!里)|(?<=[=<>])\s?\?+|(?<=[\d)\u4e00-\u9fff]=)(?=\s|$)")
"""( ), =?, and nothing behind an equals sign."""
_BOX = re.compile("□(?!里)")
_HOLE = "\ufffc"
_CLAUSE = re.compile(r",(?!\d)|[;。\n]|(?<=\d)\s+(?=[\d(])|(?<==\ufffc)\s+")
_SPACE = re.compile(r"[ ⟦⟧]")
_APART = re.compile(r"\n|(?<=[\d%]) (?=[\d(])")
_FILL = r"((?:\(\d\)[,、和]?){1,20}|(?:[约是为]{0,2}[-+(√\d.a-z]STOP{0,40}?)|(?:(?=STOP)[\u4e00-\u9fff]){1,8}?|[=<>])"
"""A number or an expression, a few words, or a sign; ``STOP`` is what it may go on with."""
_LONGEST = 10
"""How many of the characters before a clause's first blank a solution says at most."""
_LISTS = (r"[;,、\n]|\(\d\)", r"[;\n]|\(\d\)", "[;,、\n和]", r"\s+")
_NO_FILL = re.compile(r"多少|几|什么|\?|_|□")
_GAP = 200
"""Characters at most between one clause's blanks and the next one's."""
CONVERSION = re.compile(r"\d+(?:\.\d+)?[\u4e00-\u9fff]+=")
"""8022元=?角."""
_MOST = 40
"""Blanks that are looked at one by one; a question with more has its answer as a whole."""
_LONGEST_PIECE = 40
"""Characters of a piece of a list."""
_READ = 4000
"""Characters of a solution's end that are laid on the question."""


def clauses(question: str) -> list[list[str]]:
    """The clauses of a normalised question that have blanks, each as the texts around its blanks."""
    text = _BLANK.sub(_HOLE, question)
    text = text if _HOLE in text else _BOX.sub(_HOLE, text)
    if text.count(_HOLE) > _MOST:
        return []
    return [_SPACE.sub("", c).rstrip(".").split(_HOLE) for c in _CLAUSE.split(text) if _HOLE in c]


def asked(question: str, around: list[list[str]]) -> list[str]:
    """For each blank the question, with a clause at its end that asks for this blank."""
    plain = _BOX.sub("多少", _BLANK.sub("多少", question))
    return [f"{plain}\n{a[-12:]}多少{b[:8]}?" for c in around for a, b in pairwise(c)]


def fills(around: list[list[str]], text: str, final: str) -> list[str]:
    """What ``text``, or the list that is its ``final`` words, fills into the blanks; [] where it does not say it."""
    found: list[str] = []
    if any(set("".join(c[1:-1])) <= set("和与、") for c in around if len(c) > 2):
        return []  # ( )和( ): in any order
    source = _SPACE.sub("", _APART.sub("。", text[-_READ:]))
    for contexts in reversed(around):
        said = _laid_on(contexts, source)
        if not said or (found and len(source) - said.end() > _GAP):
            return _listed(around, final)
        found, source = [*said.groups(), *found], source[: said.start()]
    return found


def _laid_on(contexts: list[str], source: str) -> re.Match[str] | None:
    """The last place where a solution says one clause, with something where the blanks are."""
    first, *mids, last = contexts
    if not all(mids):
        return None  # ( )( ): where the one ends nothing tells
    # a fill ends where the next words begin, so that there is one way to lay a clause on a text
    fill = _FILL.replace("STOP", f"[^,;。\\n=<>{re.escape(''.join(m[0] for m in mids))}]")
    inner = fill.join(["", *map(re.escape, mids), ""])
    converted = CONVERSION.fullmatch(first)
    least = len(first) if converted else 0
    for left in range(max(least, min(len(first), _LONGEST)), least - 1, -1):
        begin = first[len(first) - left :]
        if begin not in source:
            continue
        for end in dict.fromkeys((last[:3], last[:1], "")):
            if len(begin) + sum(map(len, mids)) + len(end) < 2:
                continue
            pattern = re.compile(f"{re.escape(begin)}{inner}{re.escape(end) or '(?=[,;。(]|$)'}")
            said = [m for m in pattern.finditer(source) if not any(map(_NO_FILL.search, m.groups()))]
            if converted:
                said = [m for m in said if re.fullmatch(r"[\d.,]+", m[1])]
            if said:
                return said[-1]
    return None


def _listed(around: list[list[str]], text: str) -> list[str]:
    """The pieces of a list of as many as there are blanks, without the question's words beside them; or []."""
    beside = [pair for contexts in around for pair in pairwise(contexts)]
    for separator in _LISTS:
        pieces = [p.strip() for p in re.split(separator, text.strip(" 。.;,")) if p.strip()]
        if len(pieces) == len(beside) and max(map(len, pieces)) <= _LONGEST_PIECE:
            said = [_laid_on(list(pair), _SPACE.sub("", p)) for pair, p in zip(beside, pieces, strict=True)]
            return [m[1] if m else p for m, p in zip(said, pieces, strict=True)]
    return []
