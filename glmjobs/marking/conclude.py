"""What a solution concludes: the last conclusion counts.

:mod:`~glmjobs.marking.sentences` tells what becomes of each sentence; where none that stays is marked as the answer,
:data:`CHOICES` picks the conclusion among them.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from glmjobs.marking.question import Kind, Question
from glmjobs.marking.sentence import PHRASES, State, fits, says_new
from glmjobs.marking.sentences import step
from glmjobs.marking.statements import Rank, Read, Statement, operand, split
from glmjobs.marking.tables import Rule
from glmjobs.marking.values.items import Quantity, show
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

    @cached_property
    def new(self) -> list[int]:
        """Those that say more than the question does; all where none does."""
        found = [
            i
            for i, s in enumerate(self.kept)
            if not all(isinstance(x, Quantity) for x in s.items) or says_new(s.items, self.question)
        ]
        return found or list(range(len(self.kept)))

    @cached_property
    def best(self) -> float:
        return max(self.kept[i].overlap for i in self.new)

    @property
    def end(self) -> Statement:
        return self.kept[-1]

    def of(self, rank: Rank, share: float) -> list[int]:
        return [i for i, s in enumerate(self.kept) if s.rank is rank and s.overlap >= share * self.best]

    @cached_property
    def concluding(self) -> list[int]:
        """Bare conclusions and so-sentences in the question's words."""
        found = sorted(self.of(Rank.BARE, 0) + self.of(Rank.SO_RESTATED, 0.6))
        return [i for i in found if not self._only_a_share(self.kept[i])] or found

    @property
    def so(self) -> Statement:
        return self.kept[self.concluding[-1]]

    @cached_property
    def restated(self) -> list[int]:
        found = self.of(Rank.RESTATED, 0.6)
        found = [i for i in found if not self._known_total(self.kept[i])] or found
        return [i for i in found if i in self.new]

    @cached_property
    def fitting(self) -> list[int]:
        return [i for i, s in enumerate(self.kept) if fits(s.items, self.question)]

    def of_asked_kind(self, statement: Statement) -> bool:
        """Whether a value has a unit of the asked dimension (解得x=6 has none, 面积=12×6=72平方厘米 has)."""
        dims = self.question.main.expect.dims
        return any(u.dim in dims for i in statement.items if isinstance(i, Quantity) for u in i.units)

    def _only_a_share(self, statement: Statement) -> bool:
        """Percentages alone where a measure is asked (还剩4米。也就是说，还剩绳子的40%)."""
        asks = self.question.kind is Kind.NUMBER and self.question.main.expect.units
        shares = any(isinstance(i, Quantity) and i.form == "percent" for i in statement.items)
        return bool(asks) and shares and not self.of_asked_kind(statement)

    def _known_total(self, statement: Statement) -> bool:
        """It only repeats a total that is known (总计花费150元 where the price of one is asked)."""
        asked = re.search("共|总|合计", self.question.main.clause)
        total = re.search("总计|合计|总共|一共", statement.text)
        return bool(total) and not asked and not says_new(statement.items, self.question)

    def computes_on(self) -> bool:
        """The last statement goes on with the chosen value (240个。4小时就是240×4=960个)."""
        end, names = self.end, self.question.main.expect.names
        turn = PHRASES["difference"].search(end.text)
        if self.so is end or (turn and turn[0] not in self.question.main.clause):
            return False  # 现价204元。也就是说，便宜了240-204=36元
        quantities = [i for i in end.items if isinstance(i, Quantity)]
        return any(i.result and any(u.name in names for u in i.units) for i in quantities) and any(
            operand(end.text, show(i.value))
            for i in self.so.items
            if isinstance(i, Quantity) and i.value != 1
        )


def _finishes(k: Kept) -> bool:
    return k.end.rank >= Rank.RESTATED and k.end.overlap >= 0.6 * k.best and k.of_asked_kind(k.end)


_FINAL = re.compile("(?:所以|因此|因而|综上|故|最终|最后)")

CHOICES: tuple[Rule[Kept], ...] = (
    Rule(
        "final_so",
        "last",
        lambda k: (
            k.concluding
            and k.end.rank >= Rank.SO
            and _FINAL.match(k.end.text)
            and says_new(k.end.items, k.question)
            and fits(k.end.items, k.question)
        ),
        "所以，甲、乙、丙分别是78、64、90。",
    ),
    Rule(
        "goes_on_computing", "last", lambda k: k.concluding and k.computes_on(), "240个。4小时就是240×4=960个"
    ),
    Rule(
        "end_is_nearer",
        "last",
        lambda k: (
            k.concluding
            and k.end.rank >= Rank.RESTATED
            and k.end.overlap > k.so.overlap
            and k.so.rank < Rank.BARE
            and fits(k.end.items, k.question)
        ),
        "所以一份是3颗。小明还剩9颗糖。",
    ),
    Rule(
        "end_has_the_unit",
        "last",
        lambda k: k.concluding and _finishes(k) and not k.of_asked_kind(k.so),
        "解得x=6。还剩6颗。",
    ),
    Rule("last_so", "concluding", lambda k: k.concluding, "所以小明还剩9颗糖"),
    Rule(
        "answer_first",
        "restated",
        lambda k: k.restated and k.kept[k.restated[-1]].overlap >= max(0.5, 2 * k.end.overlap),
        "小明还剩9颗糖。15-6=9。",
    ),
    Rule(
        "end_concludes",
        "last",
        lambda k: PHRASES["only_concludes"].search(k.end.text),
        "所以面积是72平方厘米",
    ),
    Rule("last_that_fits", "fitting", lambda k: k.fitting, "15-6=9颗"),
)
"""Which statement is the conclusion where none is marked, the first that fires; the last where none does."""


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
    if _loops(raw[-1]):
        return Conclusion(None, [], reason="no conclusion: the text loops", fired=fired)
    chosen, rule = _choose(kept, question)
    fired.append((rule, kept[chosen].text))
    if kept[chosen].rank < Rank.RESTATED and _no_end(kept[chosen], state, raw, question):
        return Conclusion(None, [], reason="no conclusion: the text stops in its working", fired=fired)
    return Conclusion(kept[chosen], kept[chosen:], kept, fired=fired)


def _choose(kept: list[Statement], question: Question) -> tuple[int, str]:
    """The conclusion's position and the rule that chose it."""
    marked = [i for i, s in enumerate(kept) if s.rank is Rank.MARKED]
    if marked:
        chosen = marked[-1]
        for i in range(chosen + 1, len(kept)):
            near = kept[i].overlap >= 0.75 * kept[marked[-1]].overlap
            if kept[i].rank is Rank.BARE or (kept[i].rank is Rank.SO_RESTATED and near):
                chosen = i
        return chosen, "marked" if chosen == marked[-1] else "concluded_anew"
    k = Kept(kept, question)
    rule = next((r for r in CHOICES if r.when(k)), None)
    where: list[int] = {"concluding": k.concluding, "restated": k.restated, "fitting": k.fitting}.get(
        rule.effect if rule else "", []
    )
    return (where[-1] if where else len(kept) - 1), rule.id if rule else "last"


def _bare(text: str, speaks: Read) -> bool:
    """A lone short answer: 9, 9颗, x=9, 3/4小时."""
    talk = ("supposed", "withdrawn")
    return (
        len(text) <= 24
        and bool(speaks(text))
        and (len(text) <= 4 or not PHRASES["unfinished"].search(text))
        and not re.search("因为|首先|先算|如果|\\?|或|可能", text)
        and not any(PHRASES[name].search(text) for name in talk)
    )


_REPEATED = re.compile(r"(.{4,40}?)\1{3}")


def _loops(text: str) -> bool:
    """Whether a sentence's end says a phrase four times over; digits alone may repeat (0.3333…)."""
    return any(re.search("[\u4e00-\u9fff]", m[1]) for m in _REPEATED.finditer(text[-400:]))


def _no_end(statement: Statement, state: State, raw: list[str], question: Question) -> bool:
    """Working that breaks off, loops, or only repeats the question concludes nothing."""
    if Counter(raw)[statement.text] >= 4:
        return True
    trailing = [a for a in state.after if not any(PHRASES[n].search(a) for n in ("remark", "check"))]
    if trailing:
        end = trailing[-1]
        if any(PHRASES[n].search(end) for n in ("unfinished", "so")) or not PHRASES["ends_well"].search(end):
            return True
    return statement.text == raw[-1] and bool(PHRASES["unfinished"].search(raw[-1]))
