"""The one form every data set is brought into: an instruction, an optional input, an output; before it, where the row
is a conversation, what was said earlier and a system prompt."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

_END_MARKS = "。？！?!.…:："
LossOn = Literal["all", "last"]


class Row(NamedTuple):
    """One example. ``id`` is its row number in the source, counted from 1.

    Of a conversation, ``instruction`` and ``output`` are the last question and its answer, ``history`` the turns
    before, each ``(question, answer)``.
    """

    id: int
    instruction: str
    input: str
    output: str
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As a line of train.jsonl: ``history`` and ``system`` stand there only where the row has them."""
        plain = {"id": self.id, "instruction": self.instruction, "input": self.input, "output": self.output}
        history = {"history": [list(turn) for turn in self.history]} if self.history else {}
        return {**plain, **history, **({"system": self.system} if self.system else {})}

    @classmethod
    def of(cls, value: dict[str, Any]) -> Row:
        """From :meth:`as_dict`'s form."""
        history = tuple((asked, answered) for asked, answered in value.get("history", ()))
        plain = (value["id"], value["instruction"], value["input"], value["output"])
        return cls(*plain, history, value.get("system", ""))

    @property
    def question(self) -> str:
        """What is asked last."""
        return question_text(self.instruction, self.input)

    @property
    def alone(self) -> bool:
        """Nothing was said before: no conversation."""
        return not self.history and not self.system


class Asked(NamedTuple):
    """One answer to be learned: the question, what was said before it, and the answer."""

    question: str
    history: tuple[tuple[str, str], ...]
    system: str
    answer: str

    @property
    def alone(self) -> bool:
        """Nothing was said before: no conversation."""
        return not self.history and not self.system


def answers(row: Row, loss_on: LossOn = "all") -> Iterator[Asked]:
    """Every answer of a row that is learned, first to last: all of a conversation's, or the last alone."""
    if loss_on == "all":
        for at, (question, answer) in enumerate(row.history):
            yield Asked(question, row.history[:at], row.system, answer)
    yield Asked(row.question, row.history, row.system, row.output)


class Columns(NamedTuple):
    """What the source calls the three parts. ``query`` empty: the prompt stands alone."""

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"


CONTEXT = (
    "history", "system", "system_prompt", "messages", "conversations", "conversation", "chosen", "rejected", "tools",
    "functions",
)  # fmt: skip
"""Columns that, in the usual forms of instruction data, hold something a model is meant to see besides prompt, query
and response. Where a row's form (:mod:`glmjobs.data.forms`) does not read one of them, the row loses it."""


def question_text(instruction: str, input: str = "") -> str:
    """What the model is asked: the instruction, and on the next line the input where there is one."""
    return f"{instruction}\n{input}" if input else instruction


def question_key(question: str) -> bytes:
    """16 bytes that are equal exactly for equal questions, however they are typed.

    Compared are the characters after Unicode NFKC (full width folds to half), without case, white space and
    the sentence's end mark.
    """
    text = "".join(unicodedata.normalize("NFKC", question).casefold().split()).rstrip(_END_MARKS)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def row_key(row: Row) -> bytes:
    """:func:`question_key` of all that the model is given: "go on" after other words is another question."""
    if row.alone:
        return question_key(row.question)
    return question_key(
        "\0".join([row.system, *(text for turn in row.history for text in turn), row.question])
    )
