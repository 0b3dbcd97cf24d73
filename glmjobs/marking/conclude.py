"""What a solution concludes: the last conclusion counts.

:mod:`~glmjobs.marking.sentences` tells what becomes of each sentence; where none that stays is marked as the answer,
:data:`CHOICES` picks the conclusion among them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from functools import cached_property

from glmjobs.marking.question import Question
from glmjobs.marking.sentence import PHRASES, State, fits, says_new
from glmjobs.marking.sentences import step
from glmjobs.marking.statements import Rank, Read, Statement, split
from glmjobs.marking.tables import Rule
from glmjobs.marking.values.items import Quantity
from glmjobs.marking.values.scan import scan


@dataclass
class Conclusion:
    """What was concluded: the statement, it and everything after it (``region``), all that was said (``kept``).

    ``reason``: why there is none; ``fired``: the rules that fired, each with the words.
    """

    statement: Statement | None
    region: list[Statement]
    kept: list[Statement] = field(default_factory=list)
    source: str = ""
    reason: str = ""
    fired: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """The statements that stayed, none of them marked, for :data:`CHOICES`."""

    kept: list[Statement]
    question: Question

    @property
    def end(self) -> Statement:
        return self.kept[-1]

    @cached_property
    def best(self) -> float:
        """How near the nearest statement is."""
        return max(s.overlap for s in self.kept)

    @cached_property
    def concluding(self) -> list[int]:
        """Bare conclusions and so-sentences in the question's words, or the end where it is nearer still."""
        near, end = 0.6 * self.best, len(self.kept) - 1
        found = [
            i
            for i, s in enumerate(self.kept)
            if s.rank is Rank.BARE or (s.rank is Rank.SO_RESTATED and s.overlap >= near and _STRONG.search(s.text))
        ]
        anew = found and self.end.rank is Rank.RESTATED and self._new(self.end)
        return [end] if anew and self.end.overlap > self.kept[found[-1]].overlap else found

    @cached_property
    def restated(self) -> list[int]:
        """What says something new in the question's words, where the end is far from them."""
        near = max(0.6 * self.best, 0.5, 2 * self.end.overlap)
        return [
            i
            for i, s in enumerate(self.kept)
            if s.rank is Rank.RESTATED and s.overlap >= near and self._new(s)
        ]

    def _new(self, statement: Statement) -> bool:
        return not isinstance(statement.items[0], Quantity) or says_new(statement.items, self.question)

    @cached_property
    def fitting(self) -> list[int]:
        return [i for i, s in enumerate(self.kept) if fits(s.items, self.question)]

    @cached_property
    def final(self) -> list[int]:
        """The last statement, where it begins as a conclusion does."""
        clause = _FINAL_CLAUSE.search(self.end.text)
        says = clause and any(getattr(i, "start", -1) > clause.start() for i in self.end.items)
        return [len(self.kept) - 1] if says or _FINAL.match(self.end.text) else []


_STRONG = re.compile("所以|因此|因而|故|综上|∴|那么|一共|总共")
_FINAL = re.compile("(?:所以|因此|因而|综[上合]|故|最终|最后)")
_FINAL_CLAUSE = re.compile(f"[,;]{_FINAL.pattern}[^,;]*$")

CHOICES: tuple[Rule[Kept], ...] = (
    Rule("final_so", 0, lambda k: k.final, "所以，甲、乙、丙分别是78、64、90。"),
    Rule("last_so", 0, lambda k: k.concluding, "所以小明还剩9颗糖"),
    Rule("answer_first", 0, lambda k: k.restated, "小明还剩9颗糖。15-6=9。"),
    Rule("last_that_fits", 0, lambda k: k.fitting, "15-6=9颗"),
)
"""Which statements may be the conclusion where none is marked: the last of those that the first rule names."""


def conclude(text: str, question: Question, speaks: Read, *, gold: bool = False) -> Conclusion:
    """The conclusion of a normalised solution; a ``gold`` always has one: its last statement with a value.

    Args:
        speaks: tells which answers of the asked kind a statement puts forward.
    """
    raw = split(text)
    found = _conclude(raw, question, speaks) if raw else Conclusion(None, [], reason="empty")
    found.source = "\n".join(raw)
    if found.statement is None and gold:
        for sentence in reversed(raw):
            if items := speaks(sentence) or list(scan(sentence)):
                only = Statement(sentence, Rank.MARKED, 0.0, items, "gold_ends")
                return Conclusion(only, [only], [only], found.source, fired=[("gold_ends", sentence)])
    return found


def _conclude(raw: list[str], question: Question, speaks: Read) -> Conclusion:
    if len(raw) == 1 and _bare(raw[0], speaks):
        only = Statement(raw[0], Rank.MARKED, 0.0, speaks(raw[0]), "bare_answer")
        return Conclusion(only, [only], [only], fired=[("bare_answer", raw[0])])
    state = functools.reduce(functools.partial(step, question, speaks, len(raw) - 1), enumerate(raw), State())
    kept, fired = list(state.kept), list(state.fired)
    if not kept:
        why = "the answer is withdrawn and not replaced" if state.withdrawn else "no conclusion"
        return Conclusion(None, [], reason=why, fired=fired)
    chosen, rule = _choose(kept, question)
    fired.append((rule, kept[chosen].text))
    return Conclusion(kept[chosen], kept[chosen:], kept, fired=fired)


def _choose(kept: list[Statement], question: Question) -> tuple[int, str]:
    """The conclusion's position and the rule that chose it."""
    marked = [i for i, s in enumerate(kept) if s.rank is Rank.MARKED]
    if marked:
        chosen = marked[-1]
        for i in range(chosen + 1, len(kept)):
            worked = "=" in kept[marked[-1]].text  # 答：剩下62-8=54个。每盒9个，所以能装54÷9=6盒。
            concludes = _FINAL.match(kept[i].text) or (worked and _FINAL_CLAUSE.search(kept[i].text))
            anew = kept[i].rank is Rank.SO_RESTATED and concludes
            if kept[i].rank is Rank.BARE or (anew and says_new(kept[i].items, question)):
                chosen = i
        return chosen, "marked" if chosen == marked[-1] else "concluded_anew"
    k = Kept(kept, question)
    for rule in CHOICES:
        if found := rule.when(k):
            return found[-1], rule.id
    return len(kept) - 1, "last"


def _bare(text: str, speaks: Read) -> bool:
    """A lone short answer: 9, 9颗, x=9, 3/4小时."""
    cut = len(text) > 4 and PHRASES["unfinished"].search(text)
    talk = any(PHRASES[name].search(text) for name in ("supposed", "withdrawn", "refused"))
    return len(text) <= 24 and bool(speaks(text)) and not cut and not talk
