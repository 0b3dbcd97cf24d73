"""The one form every data set is brought into: an instruction, an optional input, an output."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import NamedTuple

_END_MARKS = "。？！?!.…:："


class Row(NamedTuple):
    """One example. ``id`` is its row number in the source, counted from 1."""

    id: int
    instruction: str
    input: str
    output: str


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
and response. They are not read here; a row that has one loses it."""


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
