"""The forms in which people have their data, training data and test sets alike: one declaration each.

A :class:`Form` says by which columns it is told, which of them hold the question and the answer, what of the answer is
the gold one, and which judge marks it. :func:`find_form` finds the form of a row; :func:`read_turns` reads a
conversation, :func:`read_question` a question of a test set. To add a form, add a row to :data:`FORMS`: the first whose
columns a row has is taken, so the special ones stand first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from glmjobs.data.rows import Columns
from hpc.core import hints
from hpc.core.errors import BadInput

Value = Mapping[str, Any]
AUTO = "auto"


class Unusable(Exception):
    """Why a row cannot be used. ``reason`` is one of few; ``detail`` is this row's own."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def as_it_is(text: str) -> str:
    """The gold answer is the whole text."""
    return text


def after_hashes(text: str) -> str:
    """What stands behind GSM8K's ``####``; the whole text where there is none."""
    return text.rpartition("####")[2].strip() or text


def boxed(text: str) -> str:
    """What stands in the last ``\\boxed{}`` of a solution, as MATH has it; the whole text where there is none."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return text
    start = text.index("{", start)
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + 1 : at]
    return text


MARKS: dict[Callable[[str], str], str] = {after_hashes: "####", boxed: "\\boxed{}"}
"""What a worked answer's result is marked by, by what finds it; without the mark it finds the whole text."""


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        name: as ``data.form`` and ``score.sets`` say it.
        title: as people say it.
        question: what its question's column is called; of several names the first that a row has.
        gold: the same of the gold answer.
        query: a column that is appended to the question where it is not empty.
        turns: the column of a conversation's turns; then there is no column for a question.
        context: a ``history`` and a ``system`` prompt are read, where a row has them.
        options: columns that hold a choice's options: ``A``, ``B``, … where ``A`` is named, or one list.
        also: columns that must be there, too; by them the form is told from others.
        holds: what the gold answer's text holds where it is this form.
        response: columns that training learns, best first; none: only a test set.
        short: the gold answer from the gold column's text.
        judge: what marks an answer, as ``score.judge`` names it.
    """

    name: str
    title: str
    question: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    query: str = ""
    turns: str = ""
    context: bool = False
    options: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    holds: str = ""
    response: tuple[str, ...] = ()
    short: Callable[[str], str] = as_it_is
    judge: str = "meaning"

    def fits(self, row: Value) -> bool:
        """Whether a row has the form's columns."""
        if self.turns:
            return isinstance(_listed(row.get(self.turns)), list)
        needed: list[Sequence[str]] = [self.question, self.gold, *([self.options] if self.options else [])]
        if any(first_of(row, names) is None for names in needed) or any(
            name not in row for name in self.also
        ):
            return False
        return self.holds in str(row[first_of(row, self.gold) or ""])

    @property
    def trains(self) -> bool:
        """Whether it is training data, too."""
        return bool(self.turns or self.response)

    @property
    def said(self) -> str:
        """Its columns in words."""
        if self.turns:
            return self.turns
        return " and ".join([self.question[0], *self.options[:1], *self.also, self.gold[0]])


_ZH = ("question_zh", "question_zh-cn", "question_cn", "question_chinese")

FORMS: tuple[Form, ...] = (
    Form("messages", "OpenAI's messages", turns="messages", gold=("answer",)),
    Form("sharegpt", "ShareGPT's conversations", turns="conversations", gold=("answer",)),
    Form("xtuner", "XTuner's conversation", turns="conversation"),
    Form(
        "choice", "questions with options, as C-Eval, CMMLU and MMLU", question=("question", "Question"),
        options=("A", "choices", "options"), gold=("answer", "Answer", "label"), judge="choice",
    ),
    Form(
        "math23k", "Math23K and Ape210K", question=("original_text", "question_chinese"), gold=("ans", "result"),
        also=("equation",),
    ),
    Form(
        "math", "MATH", question=("problem",), gold=("solution", "answer"), response=("solution",), short=boxed,
    ),
    Form(
        "gsm8k-zh", "GSM8K with its Chinese translation", question=_ZH, gold=("answer_only", "answer_zh", "answer"),
        response=("answer_zh",), short=after_hashes,
    ),
    Form("mgsm", "MGSM", question=("question",), gold=("answer_number",)),
    Form(
        "gsm8k", "GSM8K", question=("question",), gold=("answer",), response=("answer",), holds="####",
        short=after_hashes,
    ),
    Form("mgsm", "MGSM", question=("question",), gold=("answer",)),
    Form("cmath", "CMATH", question=("input", "question"), gold=("golden",)),
    Form("belle", "BELLE's columns", question=("instruction",), query="input", gold=("output",), response=("output",)),
    Form(
        "alpaca", "alpaca's columns", question=("instruction",), query="input", gold=("output",), response=("output",),
        context=True,
    ),
)  # fmt: skip
"""Every form, special ones first. Of one name with several rows, any row of it will do."""

NAMES = tuple(dict.fromkeys(form.name for form in FORMS))
TRAINING = tuple(dict.fromkeys(form.name for form in FORMS if form.trains))
PLAIN = ("belle", "alpaca")
"""Forms whose columns a recipe may call otherwise (``data.prompt_column`` and so on)."""


def first_of(row: Value, names: Iterable[str]) -> str | None:
    """The first of these columns that a row has with something in it; else the first that it has at all."""
    there = [name for name in names if name in row]
    return next((name for name in there if row[name] not in (None, "")), there[0] if there else None)


def named(name: str) -> tuple[Form, ...]:
    """The forms of that name.

    Raises:
        BadInput: there is none.
    """
    found = tuple(form for form in FORMS if form.name == name.lower())
    if not found:
        raise BadInput(f"form = {name!r}: none of the forms here ({', '.join((AUTO, *NAMES))})")
    return found


def find_form(row: Value, columns: Columns | None = None) -> Form | None:
    """The form of a row by its columns; None: it is none of them.

    Args:
        columns: what a recipe calls the three parts; a row that has them is of a plain form.
    """
    if columns is not None and columns.prompt in row and columns.response in row:
        return plain_form(row)
    found = next((form for form in FORMS if form.fits(row)), None)
    return plain_form(row) if found is not None and found.name in PLAIN else found


def plain_form(row: Value) -> Form:
    """BELLE's form, or alpaca's where the columns say that there is a history or a system prompt."""
    return named("alpaca" if {"history", "system"} & row.keys() else "belle")[0]


def unlike(name: str, row: Value, field: str = "") -> str:
    """Why a named form doesn't fit a row, and what it looks like, in words; ``field``: the recipe's that named it."""
    have = ", ".join(map(repr, list(row)[:12])) or "none"
    looks = find_form(row)
    wanted = " or ".join(dict.fromkeys(form.said for form in named(name)))
    hint = "choose another form"
    if looks is not None:
        named_so = hints.setting(field, looks.name) if field else f"form {looks.name}"
        hint = f"it looks like {looks.title}: {named_so}"
    return f"{field or 'form'} = {name} needs {wanted}, but its rows have {have}; {hint}"


def kind_of(value: object) -> str:
    """What a value of a JSON text or a table is, in words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    kinds = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


# Conversations


class Talk(NamedTuple):
    """A conversation: its system prompt, ``(question, answer)`` turns before the last, the last question and answer."""

    system: str
    history: tuple[tuple[str, str], ...]
    question: str
    answer: str


_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
_TOOL_ROLES = {"tool", "function", "observation", "function_call", "tool_call", "ipython"}
TOOLS = "tools or function calls, which are not read"


def read_turns(form: Form, row: Value, *, open_end: bool = False) -> Talk:
    """A conversation's turns.

    Args:
        open_end: the last question may stand without an answer (a test set has the gold answer beside it).

    Raises:
        Unusable: it has tools, pictures or roles that are not known, or questions and answers don't alternate.
    """
    if any(_listed(row.get(name)) for name in ("tools", "functions")):
        raise Unusable(TOOLS)
    turns = _listed(row.get(form.turns))
    if not isinstance(turns, list) or not turns:
        found = "an empty list" if turns == [] else kind_of(turns)
        raise Unusable(f"{form.turns!r} is no list of turns", f"found {found}")
    system, question = _text_or_empty(row, "system"), None
    pairs: list[tuple[str, str]] = []
    for role, text in [step for turn in turns for step in _steps(turn)]:
        if role == "system":
            if pairs or question is not None:
                raise Unusable("a system prompt in the middle of a conversation")
            system = f"{system}\n{text}" if system else text
        elif role == "user":
            if question is not None:
                raise Unusable("two questions in a row, without an answer between")
            question = text
        else:
            if question is None:
                raise Unusable(
                    "two answers in a row" if pairs else "a conversation that begins with an answer"
                )
            pairs.append((question, text))
            question = None
    if question is not None:
        if not open_end:
            raise Unusable("a conversation that ends with a question")
        pairs.append((question, ""))
    if not pairs:
        raise Unusable("a conversation without a question")
    return Talk(system, tuple(pairs[:-1]), *pairs[-1])


def _steps(turn: object) -> list[tuple[str, str]]:
    """``(role, text)`` of a turn; XTuner's holds question and answer at once."""
    if not isinstance(turn, Mapping):
        raise Unusable("a turn that is no object", f"found {kind_of(turn)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise Unusable(TOOLS)
    if "role" not in turn and "from" not in turn and "input" in turn and "output" in turn:
        said = [("system", turn.get("system")), ("user", turn["input"]), ("assistant", turn["output"])]
        return [(role, _said(text)) for role, text in said if role != "system" or text]
    role = str(turn.get("role", turn.get("from"))).lower()
    if role in _TOOL_ROLES:
        raise Unusable(TOOLS)
    if role not in _ROLES:
        raise Unusable("a turn of an unknown role", f"found {role!r}")
    return [(_ROLES[role], _said(turn.get("content", turn.get("value"))))]


def _said(content: object) -> str:
    """A turn's words; of content in parts (OpenAI's list), the texts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Unusable("pictures or other parts that are no text")
        return "".join(map(str, parts))
    if content is None:
        return ""
    if not isinstance(content, str):
        raise Unusable("a turn that is not text", f"found {kind_of(content)}")
    return content


def read_history(row: Value) -> tuple[tuple[str, str], ...]:
    """The turns in alpaca's (and THUDM's) ``history``: a list of ``[question, answer]``.

    Raises:
        Unusable: it is no such list.
    """
    given = _listed(row.get("history"))
    if not given:
        return ()
    turns = given if isinstance(given, list) else [given]
    pairs = [turn for turn in turns if isinstance(turn, (list, tuple)) and len(turn) == 2]
    if len(pairs) < len(turns) or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise Unusable("'history' is no list of [question, answer]")
    return tuple((asked, answered) for asked, answered in pairs)


def read_system(row: Value) -> str:
    """Alpaca's ``system``.

    Raises:
        Unusable: it is not text.
    """
    return _text_or_empty(row, "system")


def _text_or_empty(row: Value, column: str) -> str:
    text = row.get(column)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise Unusable(f"{column!r} is not text", f"found {kind_of(text)}")
    return text


def _listed(value: object) -> object:
    """A list, also one that a table holds as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


# Test sets


class Asking(NamedTuple):
    """A question of a test set as a model is asked it, and its gold answer."""

    question: str
    gold: str
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""


CHOOSE = "请选出正确的选项。"
"""What a question with options ends with."""


def read_question(form: Form, row: Value, first: int | None = None) -> Asking:
    """A row of a test set.

    Args:
        first: from which number a choice's options are counted where the gold answer is a number; :func:`counted_from`.

    Raises:
        Unusable: a column is missing or empty, or not what the form has there.
    """
    if form.turns:
        return _asked_last(form, row)
    question = _text(row, form.question)
    unread = [] if form.context else [name for name in ("history", "system") if row.get(name)]
    if unread:
        raise Unusable(f"{unread[0]!r} would not be shown to the model; name the form alpaca, which reads it")
    if form.options:
        options = read_options(form, row)
        shown = "\n".join(f"{letter}. {text}" for letter, text in options.items())
        return Asking(f"{question}\n{shown}\n{CHOOSE}", _letter(_text(row, form.gold), options, first))
    more = row.get(form.query) if form.query else None
    question = f"{question}\n{more}" if more else question
    history, system = (read_history(row), read_system(row)) if form.context else ((), "")
    return Asking(question, form.short(_text(row, form.gold)), history, system)


def _asked_last(form: Form, row: Value) -> Asking:
    talk = read_turns(form, row, open_end=True)
    beside = first_of(row, form.gold)
    gold = _text(row, form.gold) if beside is not None and row[beside] is not None else talk.answer
    if not gold.strip():
        raise Unusable("no gold answer: the last turn is empty")
    return Asking(talk.question, gold, talk.history, talk.system)


def _text(row: Value, names: Sequence[str]) -> str:
    """The text, or the number as text, in the first of these columns."""
    column = first_of(row, names)
    if column is None:
        raise Unusable(f"column {names[0]!r} is missing")
    value = row[column]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        found = "is empty" if value is None else f"is {kind_of(value)}, not text"
        raise Unusable(f"column {column!r} {found}")
    if not str(value).strip():
        raise Unusable(f"column {column!r} is empty")
    return str(value)


_LABEL = re.compile(r"\s*[(（]?([A-Za-z])(?:[)）]|[.．、:：])\s*")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_options(form: Form, row: Value) -> dict[str, str]:
    """A choice's options by their letters, from columns ``A``, ``B``, … or from one list.

    Raises:
        Unusable: there are fewer than two, or one is not text.
    """
    column = first_of(row, form.options)
    if column == "A":
        given: list[Any] = []
        for letter in _LETTERS:
            if row.get(letter) in (None, ""):
                break
            given.append(row[letter])
    else:
        found = _listed(row[str(column)])
        given = found if isinstance(found, list) else []
    texts = [str(option) for option in given if isinstance(option, (str, int, float))]
    if len(texts) < 2 or len(texts) != len(given):
        raise Unusable(f"column {column!r} holds no options")
    labels = [_LABEL.match(text) for text in texts]
    if all(labels) and [label[1].upper() for label in labels if label] == list(_LETTERS[: len(texts)]):
        texts = [text[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
    return dict(zip(_LETTERS, texts, strict=False))


def _letter(gold: str, options: Mapping[str, str], first: int | None) -> str:
    """The gold letter(s), from letters, ``(B) text``, an option's own text, or its number."""
    gold = gold.strip().translate(_NARROW)
    if gold.isdigit() and gold not in options.values() and first is not None:
        at = int(gold) - first
        if 0 <= at < len(options):
            return _LETTERS[at]
        raise Unusable("a gold answer that is none of the options", f"found {gold}")
    if all(letter in options for letter in gold.upper()):
        return gold.upper()
    same = [letter for letter, text in options.items() if text.strip() == gold]
    label = _LABEL.match(gold)
    if len(same) == 1:
        return same[0]
    if label and label[1].upper() in options:
        return label[1].upper()
    raise Unusable("a gold answer that is none of the options", f"found {gold[:40]!r}")


_NARROW = {0xFF21 + at: letter for at, letter in enumerate(_LETTERS)}


def counted_from(form: Form, rows: Iterable[Value]) -> int | None:
    """Whether gold answers that are numbers count a choice's options from 0 or from 1; None: none is a number.

    Raises:
        BadInput: the rows leave it open, or contradict each other.
    """
    low = high = False
    numbers = 0
    for row in rows:
        try:
            gold, options = _text(row, form.gold).strip(), read_options(form, row)
        except Unusable:
            continue
        if not gold.isdigit() or gold in options.values():
            continue
        numbers += 1
        low, high = low or gold == "0", high or gold == str(len(options))
    if not numbers:
        return None
    if low == high:
        why = (
            "both 0 and the number of options occur" if low else "neither 0 nor the number of options occurs"
        )
        raise BadInput(f"gold answers are numbers, and {why}: write letters (A, B, …)")
    return 0 if low else 1
