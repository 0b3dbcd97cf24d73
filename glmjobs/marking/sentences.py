"""What becomes of each sentence of a solution: talk, a check, a correction, or a statement with its rank.

Every sentence goes through :data:`SENTENCES`, the first rule that fires says what becomes of it; those that stay are
ranked by :data:`RANKS`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from glmjobs.marking.question import Kind, Question, pairs
from glmjobs.marking.sentence import BOX, PHRASES, SO, Effect, Sentence, State, echoes, fits, says_new
from glmjobs.marking.statements import Rank, Read, Statement
from glmjobs.marking.tables import Rule
from glmjobs.marking.values.scan import scan


def _supposes(s: Sentence) -> bool:
    if not PHRASES["supposed"].search(s.text):
        return False
    condition = re.split("[,;]|那么|则|就", s.text, maxsplit=1)[0]
    mine = pairs(condition)
    own = re.search("如果|假如|要是|若", s.question.text) and len(mine & pairs(s.question.text)) >= 0.5 * len(mine)
    if s.marked or own:
        return False  # 如果商是两位数: the question's own case
    return any(k.rank >= Rank.RESTATED for k in s.kept) or says_new(scan(condition), s.question)


def _takes_back(s: Sentence) -> str | None:
    """What is left of a sentence that takes an answer back ("" where nothing is), or None where it takes back none."""
    hard = list(PHRASES["withdrawn"].finditer(s.text))
    if not hard:
        return None
    if any(w in s.question.text for w in ("更正", "改正", "错误", "误", "做错", "答错")):
        return None
    head, tail = s.text[: hard[0].start()], s.text[hard[-1].end() :]
    if not s.kept and not s.speaks(tail):
        return None  # nothing to take back: 这句话不对 is a verdict
    if not s.speaks(tail) and re.search("应|正确|才", head):
        tail = head  # 应该是9颗，刚才写错了
    return re.sub("^[了的是,:。!;\\s]+", "", tail)


def _refuses(s: Sentence) -> str | None:
    """What is left of a sentence that says that the question has no answer ("" where nothing is)."""
    found = list(PHRASES["refused"].finditer(s.text))
    asked = s.question.kind in (Kind.CHOICE, Kind.YES_NO) or PHRASES["refused"].search(s.question.text)
    if not found or asked or PHRASES["supposed"].search(s.text):
        return None
    tail = s.text[found[-1].end() :]
    return tail if s.speaks(tail) else ""


_CONCLUDES_ALL = re.compile("(?:所以|因此|故|最终|正确)的?答案")

SENTENCES: tuple[Rule[Sentence], ...] = (
    Rule(
        "another_task",
        Effect.OVER,
        lambda s: PHRASES["next_task"].search(s.text) and any(k.rank >= Rank.RESTATED for k in s.kept),
        "答案是7。\n问题：5+5等于几？",
    ),
    Rule(
        "checks",
        Effect.SKIP,
        lambda s: PHRASES["check"].search(s.text) and s.kept and not _CONCLUDES_ALL.search(s.text),
        "验算：9+6=15",
    ),
    Rule(
        "remarks",
        Effect.SKIP,
        lambda s: PHRASES["remark"].search(s.text) and BOX not in s.text and not _CONCLUDES_ALL.search(s.text),
        "注意：另外还有3颗",
    ),
    Rule("supposes", Effect.SKIP, _supposes, "如果每人10颗，就不够了"),
    Rule("takes_back", Effect.REPLACE, _takes_back, "不对，应该是9颗"),
    Rule("refuses", Effect.REPLACE, _refuses, "一共120颗，所以无法确定他吃了几颗"),
)
"""What becomes of a sentence, the first that fires; one on which none does is ranked."""


# How much a statement looks like the conclusion

_PLAIN_SIGNS = re.compile(r"[\d\s,。:.=+\-×÷*/()]")


def _announces(s: Sentence) -> bool:
    """那么他付的金额就是两数之积: every value stands before what is drawn from it."""
    found = list(SO.finditer(s.text))
    rest = s.text[found[-1].end() :] if found else ""
    return bool(re.search("[是为等].*[积和差商]$", rest.rstrip("。"))) and not s.speaks(rest)


RANKS: tuple[Rule[Sentence], ...] = (
    Rule("marked_answer", Rank.MARKED, lambda s: s.marked, "答：还剩9颗"),
    Rule("announced_result", Rank.WORKING, _announces, "那么他付的金额就是两数之积"),
    Rule(
        "bare_conclusion",
        Rank.BARE,
        lambda s: (
            SO.search(s.text)
            and len(_PLAIN_SIGNS.sub("", SO.sub("", s.text))) <= 4
            and fits(s.items, s.question)
        ),
        "所以9颗",
    ),
    Rule(
        "so_in_its_words",
        Rank.SO_RESTATED,
        lambda s: s.near >= 0.25 and SO.search(s.text) and fits(s.items, s.question),
        "所以小明还剩9颗糖",
    ),
    Rule(
        "in_its_words", Rank.RESTATED, lambda s: s.near >= 0.25 and fits(s.items, s.question), "小明还剩9颗糖"
    ),
)
"""The rank of a statement, the first that fires; WORKING where none does."""


def _rank(s: Sentence) -> Statement:
    if not s.state.fired and _ALONE.fullmatch(s.text):
        return Statement(s.text, Rank.MARKED, s.near, s.items, "alone")
    rule = next((r for r in RANKS if r.when(s)), None)
    other = Rank.SO if SO.search(s.text) else Rank.WORKING
    rank, near, id = (rule.effect, s.near, rule.id) if rule else (other, s.near, other.name.lower())
    if rank is not Rank.MARKED and s.text.endswith(":"):
        rank, id = Rank.WORKING, "announces"  # 代入上式，得：
    verdict = isinstance(s.items[0], bool) and _VERDICT.match(s.text)
    if (s.state.announced and not s.marked) or verdict:
        rank, id = Rank.MARKED, "announced"
    return Statement(s.text, rank, near, s.items, id)


_VERDICT = re.compile(".{,6}$|(?:是的?|对的?|不|否|[不能够]+),")
_ALONE = re.compile(r"\d[\d.,/]*[\u4e00-\u9fff]{1,2}。?")
"""18040角, before its reason."""
_ANNOUNCES = re.compile(r"(?<![得求算]出)(?:答案|答|结论|结果)[是为]?[:\]]\s*$")


def _keep(s: Sentence) -> State:
    """The state with the sentence's statement, where it puts an answer forward."""
    state = s.state
    broken = s.last and PHRASES["unfinished"].search(s.text) and not s.marked
    option = s.question.options and not state.fired and re.match(r"\s?\(?[A-H]", s.text)  # (B)… and its reasons
    if broken or (echoes(s.text, s.question) and not option) or not s.items:
        return replace(state, announced=bool(_ANNOUNCES.search(s.text)))
    statement = _rank(s)
    fired = (*state.fired, (statement.rule, s.text))
    return replace(state, kept=(*state.kept, statement), announced=False, fired=fired)


def step(question: Question, speaks: Read, last: int, state: State, entry: tuple[int, str]) -> State:
    """The state after one more sentence, ``entry``: its position and text; ``last``: the last one's position."""
    index, text = entry
    if state.over:
        return state
    s = Sentence(text, state, question, speaks, index == last)
    rule, found = next(
        ((r, f) for r in SENTENCES if (f := r.when(s)) not in (None, False, [], ())), (None, None)
    )
    if rule is None:
        return _keep(s)
    state = replace(state, fired=(*state.fired, (rule.id, text)), over=rule.effect is Effect.OVER)
    if rule.effect is Effect.REPLACE:
        state = replace(state, kept=(), withdrawn=True)
        return _keep(replace(s, text=str(found), state=state)) if found else state
    return state
