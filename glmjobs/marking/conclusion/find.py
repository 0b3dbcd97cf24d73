"""What a solution concludes: the last conclusion counts, not what is withdrawn or supposed, nor checks and remarks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from glmjobs.marking import phrases
from glmjobs.marking.conclusion.statement import (
    Statement,
    operand,
    overlap,
    speaks_of_another,
    split,
    strip_denied,
)
from glmjobs.marking.normalise import BOX_OPEN
from glmjobs.marking.question import Question, pairs
from glmjobs.marking.values import scan
from glmjobs.marking.values.scan import Quantity

Speaks = Callable[[str], list[Any]]
"""Which answers of the asked kind a statement puts forward; none for working and talk."""


@dataclass
class Conclusion:
    """What was concluded: the statement, everything after it that may belong to it, or why there is none."""

    statement: Statement | None
    region: list[Statement]
    reason: str = ""
    kept: list[Statement] = field(default_factory=list)
    source: str = ""


def find(text: str, question: Question, kind: str, speaks: Speaks) -> Conclusion:
    """The conclusion of a normalised solution. ``speaks(statement_text) -> list`` tells which answers (of
    the asked
    kind) a statement puts forward; a statement without any is working or talk."""
    raw = split(text)
    if not raw:
        return Conclusion(None, [], "empty")
    if len(raw) == 1 and _bare(raw[0], speaks):
        only = Statement(raw[0], 3.0, 0.0, speaks(raw[0]))
        return Conclusion(only, [only], "", [only])
    state = _Walk(question, speaks)
    for index, sentence in enumerate(raw):
        state.step(sentence, index == len(raw) - 1)
    found = state.decide(raw)
    found.source = "\n".join(raw)
    return found


def _bare(sentence: str, speaks: Speaks) -> bool:
    """A lone short answer: 9, 9颗, x=9, 3/4小时."""
    return (
        len(sentence) <= 24
        and bool(speaks(sentence))
        and (len(sentence) <= 4 or not phrases.UNFINISHED.search(sentence))
        and not re.search("因为|首先|先算|如果|\\?|或|可能", sentence)
        and not phrases.HYPOTHETICAL.search(sentence)
        and not phrases.CLAIM.search(sentence)
        and not phrases.HARD.search(sentence)
    )


_REPEATED = re.compile(r"(.{4,40}?)\1{3}")


def _loops(sentence: str) -> bool:
    """Whether a sentence's end says a phrase four times over; digits alone may repeat (0.3333…)."""
    return any(re.search("[\u4e00-\u9fff]", m[1]) for m in _REPEATED.finditer(sentence[-400:]))


class _Walk:
    """One pass over the statements, in order."""

    def __init__(self, question: Question, speaks: Speaks) -> None:
        self.question, self.speaks = question, speaks
        self.plain_question = re.sub(r"[\s。.,;!]", "", question.text)
        self.kept: list[Statement] = []
        self.corrected = False
        self.withdrawn = False
        self.cut = False
        self.checking = False
        self.pending_marker = False
        self.explaining = False
        self.other_way = False
        self.repeats: dict[str, int] = {}
        self.after: list[str] = []
        self.over = False

    def step(self, sentence: str, last: bool) -> None:
        if self.over or self._another_task(sentence):
            self.over = True
            return
        sentence, self.cut = self._cut(sentence)
        self.repeats[sentence] = self.repeats.get(sentence, 0) + 1
        refuted = phrases.REFUTED.search(sentence) if phrases.HYPOTHETICAL.search(sentence) else None
        if refuted:
            sentence = sentence[refuted.end(1) :]
        if self._refuses(sentence):
            return
        denied = phrases.REMARK.search(sentence) and phrases.DENIES.search(sentence)
        if denied and self.speaks(sentence[denied.end() :]):
            sentence = sentence[denied.end() :]  # 有人认为是23盆，这是不对的，…一共24盆
        turned = self._others(sentence)
        if turned is not None:
            self.kept.clear()
            self.corrected = True
            self._add(turned, list(phrases.STRONG.finditer(turned)), last)
            return
        strong = list(phrases.STRONG.finditer(sentence))
        if self._ignored(sentence, bool(strong)):
            return
        body = self._withdraw(sentence)
        if body is None:
            return
        strong = list(phrases.STRONG.finditer(body))
        self._add(body, strong, last)

    def _another_task(self, sentence: str) -> bool:
        """After a conclusion, a made-up question of the model's own: what follows answers that one."""
        if not phrases.NEXT_TASK.search(sentence) or not any(s.rank >= 2 for s in self.kept):
            return False
        return not self._echoes(phrases.NEXT_TASK.sub("", sentence))

    def _cut(self, sentence: str) -> tuple[str, bool]:
        """A sentence that ends in 所以 or 接着 without going on: the broken end is dropped."""
        match = phrases.DANGLING.search(sentence)
        return (sentence[: match.start()], True) if match and match.start() else (sentence, bool(match))

    def _others(self, sentence: str) -> str | None:
        """有人认为是12，其实是9: the part after the turn, where it gives an answer of its own."""
        match = phrases.TURN.search(sentence)
        if not match or not phrases.CLAIM.search(sentence[: match.start()]):
            return None
        tail = sentence[match.end() :]
        return tail if self.speaks(tail) else None

    def _ignored(self, sentence: str, strong: bool) -> bool:
        if (
            phrases.MARKING.search(sentence)
            and not re.search(BOX_OPEN, sentence)
            and not self._marked_value(sentence)
        ):
            return True
        if phrases.QUESTION_END.search(sentence) and BOX_OPEN not in sentence:
            self.pending_marker = False
            return True
        check = phrases.CHECK.search(sentence)
        if check and (self.kept or "代入" not in check[0]):
            self.checking = True
            return not (strong and not self.kept) and not re.search("(?:所以|因此|故|最终)答案", sentence)
        if phrases.REMARK.search(sentence) and not (strong and BOX_OPEN in sentence):
            self.checking = False
            return not re.search("(?:所以|因此|故|最终|正确)的?答案", sentence)
        if phrases.HYPOTHETICAL.search(sentence):
            return self._hypothesis(sentence)
        if not strong and self._answered():
            self.explaining = self.explaining or bool(phrases.EXPLAINED.search(sentence))
            self.other_way = self.other_way or bool(phrases.OTHER_WAY.search(sentence))
            if self.other_way and not (sentence.endswith("。") and overlap(sentence, self.question) >= 0.5):
                return not phrases.REASON_CONCLUDES.search(sentence)
            if self.explaining or phrases.REASON.search(sentence):
                return not phrases.REASON_CONCLUDES.search(sentence)
        solved = self.kept and phrases.SOLVED.search(self.kept[-1].text)
        if (
            solved
            and phrases.AT_THAT_TIME.match(sentence)
            and not phrases.AT_THAT_TIME.search(self.question.text)
        ):
            return True
        if self.checking and not strong and not phrases.MEDIUM.search(sentence):
            return True
        self.checking = False
        return False

    def _answered(self) -> bool:
        """Whether an answer stands already: a marked one, or the first sentence in the question's words."""
        first = self.kept[0] if self.kept else None
        if first is None or any(s.rank >= 3 for s in self.kept):
            return first is not None
        if any(s.rank >= 2.5 and s.overlap >= 0.4 and self._fits(s.items) for s in self.kept):
            return True
        said_first = len(self.kept) == 1 and (
            first.rank >= 2
            or (len(self.repeats) == 2 and (first.overlap >= 0.2 or isinstance(first.items[0], bool)))
        )
        return said_first and self._fits(first.items)

    def _marked_value(self, sentence: str) -> bool:
        """A claim about marking inside a sentence that also concludes keeps the conclusion before it."""
        head = phrases.MARKING.split(sentence, maxsplit=1)[0]
        return bool(phrases.STRONG.search(head) or phrases.MEDIUM.search(head)) and bool(self.speaks(head))

    def _hypothesis(self, sentence: str) -> bool:
        if any(s.rank >= 2 for s in self.kept):
            return True
        condition = re.split("[,;]|那么|则|就", sentence, maxsplit=1)[0]
        if re.search("(?:假设|如果|若|假如)[^,]{0,6}(?:全部?|都)|[a-zA-Z]", condition):
            return False  # the method of 鸡兔同笼, or an unknown
        if re.search("假设|设想|假定|试想|反之|答案", condition):
            return True
        found = scan.scan(condition)
        return self._says_new(found) or (
            not any(isinstance(i, Quantity) for i in found)
            and "如果" not in self.question.text
            and "若" not in self.question.text
            and not re.search("那么|则|就", sentence)
        )

    def _says_new(self, items: list[Any]) -> bool:
        """Whether one of the quantities is none of the question's."""
        known = {v for v, _ in self.question.givens}
        return any(isinstance(i, Quantity) and i.value not in known for i in items)

    def _new(self) -> set[int]:
        """Which statements say more than the question does; all where none does."""
        new = {
            index
            for index, s in enumerate(self.kept)
            if not all(isinstance(i, Quantity) for i in s.items) or self._says_new(s.items)
        }
        return new or set(range(len(self.kept)))

    def _withdraw(self, sentence: str) -> str | None:
        """Handle 不对/更正; what is left of the sentence, or None when nothing is."""
        if phrases.RIGHT_AFTER_ALL.search(sentence) or any(
            w in self.question.text for w in ("更正", "改正", "错误", "误", "做错", "答错")
        ):
            return sentence
        if not self.kept and phrases.ABOUT_A_CLAIM.match(sentence):
            return sentence
        hard = list(phrases.HARD.finditer(sentence))
        if hard and not self.kept and hard[0].start() == 0:
            return sentence
        if hard and not self.kept and not self.speaks(sentence[hard[-1].end() :]):
            return sentence  # nothing to withdraw: 这句话不对 is a verdict
        denies_value = (
            hard
            and phrases.DENIED.search(sentence)
            and hard[0].start() > 0
            and self.speaks(sentence[: hard[0].start()])
            and not re.search("应|改|更正|纠正|修正|订正", sentence)
        )
        if (
            denies_value
            and sentence[: hard[0].start()].rstrip()[-1:] in (",", "。")
            and hard[0].end() < len(sentence)
        ):
            denies_value = not self.speaks(sentence[hard[-1].end() :])  # 27棵，不对，…45棵
        if hard and not (re.match("(?:若|如果|假如)", sentence)):
            tail = sentence[hard[-1].end() :]
            head = sentence[: hard[0].start()]
            if denies_value and not self._same_as_kept(head):
                return strip_denied(sentence)
            if (
                re.match("[了的]?[,:。]?", tail)
                and not self.speaks(tail)
                and self.kept
                and self.speaks(head)
                and re.search("应|正确|才", head)
            ):
                tail = head
            self.kept.clear()
            self.corrected = self.withdrawn = True
            tail = re.sub("^[了的是,:。!;\\s]+", "", tail)
            return tail or None
        if phrases.SOFT.search(sentence):
            self.corrected = True
        return sentence

    def _refuses(self, sentence: str) -> bool:
        """条件不足，无法确定: no answer stands any more, unless one follows."""
        match = phrases.UNDETERMINED.search(sentence)
        if (
            not match
            or phrases.UNDETERMINED.search(self.question.text)
            or self.speaks(sentence[match.end() :])
        ):
            return False
        self.kept.clear()
        self.withdrawn = True
        return True

    def _same_as_kept(self, head: str) -> bool:
        said = {str(x) for x in self.speaks(head)}
        return any(said & {str(i) for i in s.items} for s in self.kept)

    def _add(self, body: str, strong: list[re.Match[str]], last: bool) -> None:
        broken = last and phrases.UNFINISHED.search(body) and not strong and self.kept
        items = [] if broken or (self._echoes(body) and not strong) else self.speaks(body)
        if not items and re.match("答|所以答案", body) and speaks_of_another(body, self.question):
            self.kept.clear()  # 答：女生有20人, where the boys are asked
            self.withdrawn = True
        if not items:
            self.pending_marker = (bool(strong) and len(body) <= strong[-1].end() + 12) or bool(
                re.search("(?:答案|答|结论|结果)[是为]?[:]\\s*$", body)
            )
            self.after.append(body)
            return
        near = overlap(body, self.question)
        rank = self._rank(body, strong, near, items)
        if (self.pending_marker and not strong) or (isinstance(items[0], bool) and len(body) <= 6):
            rank = 3.0
        self.pending_marker = False
        if not self.kept and rank < 2 and self._only_a_value(body, items):
            rank, near = 2.0, 1.0  # the answer first: 21美元。每周3.5美元。
        statement = Statement(body, rank, near, items)
        self.kept.append(statement)
        self.after.clear()

    def _only_a_value(self, body: str, items: list[Any]) -> bool:
        item = items[0]
        bare = len(items) == 1 and isinstance(item, Quantity) and not item.result
        if bare and not item.units and body.rstrip()[-1:] != "。":
            return False  # 1. 2. number steps; lines of digits are written arithmetic
        return bare and not (body[: item.start] + body[item.end :]).strip(" 。.!") and self._fits(items)

    def _echoes(self, body: str) -> bool:
        """Whether the sentence stands in the question word for word."""
        plain = re.sub(r"[\s。.,;!]", "", body)
        return len(plain) >= 6 and plain in self.plain_question

    def _rank(self, body: str, strong: list[re.Match[str]], near: float, items: list[Any]) -> float:
        medium = bool(phrases.MEDIUM.search(body))
        if self.cut and not strong:
            return 1.0
        if strong and not (
            re.match("综上", strong[-1][0]) and len(strong) == 1 and near == 0.0 and len(body) > 40
        ):
            return 3.0
        if (
            medium
            and len(re.sub(r"[\d\s,。:.=+\-×÷*/()]", "", phrases.MEDIUM.sub("", body))) <= 4
            and self._fits(items)
        ):
            return 2.6
        if self.corrected and not phrases.STEP.search(body):
            return 2.6
        if near >= 0.25 and self._fits(items):
            return 2.5 if medium else 2.0
        if medium:
            return 1.5
        return 1.0

    def _fits(self, items: list[Any]) -> bool:
        expect = self.question.main.expect
        if not expect.units and expect.dim not in ("area", "volume"):  # 求面积: a length is a step towards it
            return True
        found = [i for i in items if isinstance(i, Quantity)]
        return not found or any(not i.units or any(u.dim in expect.dims for u in i.units) for i in found)

    def decide(self, raw: list[str]) -> Conclusion:
        kept = self.kept
        if not kept:
            why = "the answer is withdrawn and not replaced" if self.withdrawn else "no conclusion"
            return Conclusion(None, [], why)
        if _loops(raw[-1]):
            return Conclusion(None, [], "no conclusion: the text loops")
        marked = [i for i, s in enumerate(kept) if s.rank >= 3]
        new = self._new()
        best = max(kept[i].overlap for i in new)
        if marked:
            chosen = marked[-1]
            for i in range(chosen + 1, len(kept)):
                if kept[i].rank >= 2.5 and (
                    kept[i].overlap >= 0.75 * kept[chosen].overlap or kept[i].rank == 2.6
                ):
                    chosen = i
        else:
            chosen = self._unmarked(best, new)
            if chosen < 0:
                return Conclusion(None, [], "no conclusion: the working ends without one")
        if kept[chosen].rank < 2 and self._no_end(kept[chosen], raw):
            return Conclusion(None, [], "no conclusion: the text stops in its working")
        return Conclusion(kept[chosen], kept[chosen:], "", kept)

    def _unmarked(self, best: float, new: set[int]) -> int:
        kept = self.kept
        last = len(kept) - 1
        bare = [i for i, s in enumerate(kept) if s.rank == 2.6]
        restated = [i for i, s in enumerate(kept) if s.rank == 2.5 and s.overlap >= 0.6 * best]
        candidates = bare + restated
        candidates = [i for i in candidates if not self._only_a_share(kept[i])] or candidates
        if candidates and self._computes_on(kept[max(candidates)], kept[last]):
            return last
        if candidates:
            chosen, end = kept[max(candidates)], kept[last]
            if (
                end.rank >= 2.0
                and end.overlap > chosen.overlap
                and chosen.rank < 2.6
                and self._fits(end.items)
            ):
                return last
            finishes = end.rank >= 2.0 and end.overlap >= 0.6 * best and self._of_asked_kind(end)
            return last if finishes and not self._of_asked_kind(chosen) else max(candidates)
        plain = [i for i, s in enumerate(kept) if s.rank == 2.0 and s.overlap >= 0.6 * best]
        plain = [i for i in plain if not self._known_total(kept[i])] or plain
        plain = [i for i in plain if i in new]
        if plain and self._of_asked_kind(kept[last]) and not self._of_asked_kind(kept[plain[-1]]):
            return last
        if plain and (plain[-1] == last or not self._closes(kept[last])):
            return plain[-1]
        if plain and kept[plain[-1]].overlap >= max(0.5, 2 * kept[last].overlap):
            return plain[-1]  # the answer in the question's words, then its working
        fitting = [i for i, s in enumerate(kept) if self._fits(s.items)]
        if fitting and fitting[-1] != last and phrases.CONCLUDES.search(kept[last].text):
            return last  # 12×6=72，所以面积是72平方厘米, where the width is asked
        return fitting[-1] if fitting else last

    def _only_a_share(self, statement: Statement) -> bool:
        """Whether it gives percentages alone where a measure is asked (还剩4米。也就是说，还剩绳子的40%)."""
        found = [i for i in statement.items if isinstance(i, Quantity)]
        asks = self.question.kind == "number" and self.question.main.expect.units
        return bool(asks and any(i.form == "percent" for i in found)) and not self._of_asked_kind(statement)

    def _computes_on(self, chosen: Statement, end: Statement) -> bool:
        """Whether the last statement goes on with a chosen value (240个。4小时就是240×4=960个)."""
        names = {u.name for u in self.question.main.expect.units}
        if (
            chosen is end
            or not names
            or not any(
                i.result and any(u.name in names for u in i.units)
                for i in end.items
                if isinstance(i, Quantity)
            )
        ):
            return False
        turn = phrases.DIFFERENCE.search(end.text)
        if turn and turn[0] not in self.question.main.clause:
            return False  # 现价204元。也就是说，便宜了240-204=36元
        return any(
            operand(end.text, scan.show(i.value))
            for i in chosen.items
            if isinstance(i, Quantity) and i.value != 1
        )

    def _known_total(self, statement: Statement) -> bool:
        """Whether it only repeats a total that is known (总计花费150元 where the price of one is asked)."""
        asks_it = re.search("共|总|合计", self.question.main.clause)
        return (
            not asks_it
            and bool(re.search("总计|合计|总共|一共", statement.text))
            and not self._says_new(statement.items)
        )

    def _of_asked_kind(self, statement: Statement) -> bool:
        """Whether a value has a unit of the asked dimension (解得x=6 has none, 面积=12×6=72平方厘米 has)."""
        dims = self.question.main.expect.dims
        quantities = [i for i in statement.items if isinstance(i, Quantity)]
        return any(u.dim in dims for i in quantities for u in i.units)

    def _closes(self, statement: Statement) -> bool:
        return "=" in statement.text or bool(phrases.MEDIUM.search(statement.text))

    def _no_end(self, statement: Statement, raw: list[str]) -> bool:
        """Working that breaks off, loops, or only repeats the question concludes nothing."""
        ending = raw[-1]
        if self.repeats.get(statement.text, 0) >= 4 or self.cut:
            return True
        trailing = [
            a
            for a in self.after
            if not phrases.CLOSING.search(a) and not phrases.REMARK.search(a) and not phrases.CHECK.search(a)
        ]
        if trailing and (
            phrases.UNFINISHED.search(trailing[-1])
            or phrases.STEP.search(trailing[-1])
            or phrases.MEDIUM.search(trailing[-1])
            or not phrases.ENDS_WELL.search(trailing[-1])
        ):
            return True
        if statement.text == ending and phrases.UNFINISHED.search(ending):
            return True
        if "=" not in statement.text and "≈" not in statement.text:
            return self._echo(statement) or bool(
                phrases.STEP.search(statement.text)
                and len(raw) > 1
                and not phrases.MEDIUM.search(statement.text)
            )
        return False

    def _echo(self, statement: Statement) -> bool:
        """Whether a statement only says again what the question says."""
        if self._says_new(statement.items) or isinstance(statement.items[0], bool):
            return False
        mine = pairs(statement.text)
        theirs = pairs(self.question.text)
        whole = frozenset(self.question.text[i : i + 2] for i in range(len(self.question.text) - 1))
        return len(mine) > 3 and len(mine & (theirs | whole)) >= 0.8 * len(mine)
