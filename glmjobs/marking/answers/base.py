"""What every kind of answer is: read from a text, compared with another of its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from glmjobs.marking.compare import Match
from glmjobs.marking.question import Question


@dataclass(frozen=True)
class Found:
    """What reading a text found: the answer, or the ``reason`` why there is none.

    ``fired``: the rules that fired, each with the words; ``sure``: how sure the reading is, 0 to 1.
    """

    answer: Answer | None
    reason: str = ""
    fired: tuple[tuple[str, str], ...] = field(default=())
    sure: float = 1.0


class Answer(ABC):
    """An answer of one kind. ``str()`` of it is a short text for people."""

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        """The answer that a normalised text gives; ``gold``: the gold answer, where the text is a prediction."""

    @abstractmethod
    def equals(self, other: Answer, question: Question) -> Match:
        """Whether a prediction's answer ``other`` is this one, the gold's."""
