"""Questions and answers as framed token ids, a whole batch at a time, with the limits on length.

A family's frame puts constant tokens before, between and behind an example's question and answer. They are
found once by framing one example of stand-in ids; a row is then a list concatenation instead of a dozen
look-ups.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

from glmjobs.data.rows import Asked
from hpc.core.errors import WorkFailed

NO_LABEL = -100
TooLong = Literal["drop", "keep_end"]
LEFT_OUT = ("long question", "long answer", BEYOND := "more than the model's positions")
"""Why :meth:`Limits.left_out` leaves an example out."""

# No vocabulary has negative ids, and -100 is taken.
_SOURCE, _TARGET = -11, -22
_PROBE = "小明有12个苹果，\n 每个3.5元。Total?\t[gMASK]<n>  ½é😀"


class FramedExample(Protocol):
    """Token ids and labels of the same length."""

    @property
    def input_ids(self) -> list[int]: ...

    @property
    def labels(self) -> list[int]: ...


class FamilyLike(Protocol):
    """What this package asks of a model family (:class:`glmjobs.models.family.Family` is one)."""

    @property
    def name(self) -> str: ...

    @property
    def positions_apart(self) -> bool: ...

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> FramedExample: ...

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]: ...

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str: ...

    def chat_prompt(
        self, tokenizer: Any, query: str, history: Sequence[tuple[str, str]] = (), system: str = ""
    ) -> list[int]: ...


@dataclass(frozen=True)
class Frame:
    """The constant parts: ``before`` question ``between`` answer ``behind``, and the labels' own two.

    ``opening`` tokens of ``between`` end a prompt, from which generation starts; the rest of it is already learned (the
    new line behind ChatGLM3's ``<|assistant|>``).
    """

    before: list[int]
    between: list[int]
    behind: list[int]
    labels_between: list[int]
    labels_behind: list[int]
    opening: int

    @classmethod
    def of(cls, family: FamilyLike, tokenizer: Any, label_sop: bool) -> Frame:
        """Raises WorkFailed where the family's frame isn't made of constant parts."""
        ids, labels = _framed(family, tokenizer, [_SOURCE], [_TARGET], label_sop)
        if ids.count(_SOURCE) != 1 or ids.count(_TARGET) != 1 or labels.count(_TARGET) != 1:
            raise WorkFailed(f"family {family.name}: its frame doesn't hold question and answer once each")
        source, target, label = ids.index(_SOURCE), ids.index(_TARGET), labels.index(_TARGET)
        prompt = list(family.prompt(tokenizer, [_SOURCE]))
        opening = len(prompt) - source - 1
        if prompt != ids[: source + 1 + opening] or source + opening >= target:
            raise WorkFailed(
                f"family {family.name}: its frame does not begin with what generation starts from"
            )
        frame = cls(
            ids[:source],
            ids[source + 1 : target],
            ids[target + 1 :],
            labels[source + 1 : label],
            labels[label + 1 :],
            opening,
        )
        for asked, answered in (([], [7]), ([5, 6], [7, 8, 9])):  # the shape must not depend on the lengths
            if frame.apply(asked, answered) != _framed(family, tokenizer, asked, answered, label_sop):
                raise WorkFailed(f"family {family.name}: its frame depends on the example")
        if frame.apply([], [7])[1][0] != NO_LABEL:
            raise WorkFailed(
                f"family {family.name}: an example's first token is a target; packed, it would be "
                "predicted from the example before it"
            )
        return frame

    @cached_property
    def tokens(self) -> int:
        """Number of tokens the frame adds."""
        return len(self.before) + len(self.between) + len(self.behind)

    def apply(self, source: list[int], target: list[int]) -> tuple[list[int], list[int]]:
        """Ids and labels of one example."""
        ids = [*self.before, *source, *self.between, *target, *self.behind]
        unlabelled = len(self.before) + len(source)
        return ids, [*[NO_LABEL] * unlabelled, *self.labels_between, *target, *self.labels_behind]

    def answered(self, prompt: list[int], target: list[int]) -> tuple[list[int], list[int]]:
        """The same of a whole prompt (:meth:`FamilyLike.chat_prompt`), which ends as that of a question does."""
        ids = [*prompt, *self.between[self.opening :], *target, *self.behind]
        unlabelled = len(prompt) - self.opening
        return ids, [*[NO_LABEL] * unlabelled, *self.labels_between, *target, *self.labels_behind]

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens that a prompt adds to a question."""
        return len(self.before) + self.opening


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens. As in THUDM's ptuning, the frame counts: a framed example never has more than
    ``max_source_length + max_target_length`` tokens (ChatGLM-6B: question up to source - 1, answer target -
    2).

    Attributes:
        positions: that the model has; None: not known.
        apart: an answer's positions are counted anew, not on from its question's.
    """

    max_source_length: int
    max_target_length: int
    too_long: TooLong
    positions: int | None = None
    apart: bool = False

    def source(self) -> int:
        """Largest number of a question's own tokens."""
        return self.max_source_length - 1

    def target(self, frame: Frame) -> int:
        """Largest number of an answer's own tokens."""
        return self.max_target_length - (frame.tokens - 1)

    def left_out(self, frame: Frame, source: int, target: int, talk: bool = False) -> str | None:
        """Why an example of so many tokens is left out; None: it is kept, its question cut to :meth:`source`. The last
        question of a conversation (``talk``) is never cut."""
        if target > self.target(frame):
            return "long answer"
        if source > self.source() and (self.too_long == "drop" or talk):
            return "long question"
        if (
            self.positions is not None
            and self._positions(frame, min(source, self.source()), target) > self.positions
        ):
            return BEYOND
        return None

    def _positions(self, frame: Frame, source: int, target: int) -> int:
        """Positions that an example takes (those of GLM: Du et al. 2022, section 2.1)."""
        prompt, answer = len(frame.before) + source + len(frame.between), target + len(frame.behind)
        # Of 2D positions the context has one a token; <sop>, its last, counts from 1 with the answer, after a 0.
        return max(prompt - 1, answer + 2) if self.apart else prompt + answer


class Example(NamedTuple):
    """One answer to be learned, in token ids.

    Attributes:
        source: of the question, without frame; of a conversation, the whole prompt.
        target: of the answer, without frame.
        talk: ``source`` is a whole prompt.
        shortened: the oldest turns of the conversation were left out.
    """

    source: list[int]
    target: list[int]
    talk: bool = False
    shortened: bool = False

    def asked(self, frame: Frame) -> int:
        """Number of the question's own tokens; of a conversation, with everything before it."""
        return len(self.source) - (frame.prompt_tokens if self.talk else 0)

    def framed(self, frame: Frame) -> tuple[list[int], list[int]]:
        """Token ids and labels."""
        return (frame.answered if self.talk else frame.apply)(self.source, self.target)


def examples(
    asked: Sequence[Asked], tokenizer: Any, family: FamilyLike, frame: Frame, limits: Limits
) -> list[Example]:
    """Answers in token ids, a batch at a time: questions on their own all at once, conversations one by one."""
    alone = [one for one in asked if one.alone]
    texts = [family.prompt_text(one.question) for one in alone] + [one.answer for one in asked]
    ids = plain_ids(tokenizer, texts) if texts else []
    questions, targets = iter(ids[: len(alone)]), ids[len(alone) :]
    found = []
    for one, target in zip(asked, targets, strict=True):
        if one.alone:
            found.append(Example(next(questions), target))
            continue
        longest = limits.source() + frame.prompt_tokens if limits.too_long == "keep_end" else None
        prompt, shortened = fitting_prompt(family, tokenizer, one.question, one.history, one.system, longest)
        found.append(Example(prompt, target, True, shortened))
    return found


def fitting_prompt(
    family: FamilyLike, tokenizer: Any, question: str, history: Sequence[tuple[str, str]], system: str,
    longest: int | None,
) -> tuple[list[int], bool]:  # fmt: skip
    """A conversation's prompt without so many of its oldest turns that it has at most ``longest`` tokens, and whether
    any was left out. The question and the system prompt stay, however long."""
    for first in range(len(history) + 1):
        prompt = family.chat_prompt(tokenizer, question, history[first:], system)
        if longest is None or len(prompt) <= longest or first == len(history):
            return prompt, first > 0
    raise AssertionError("the last turn always returns")


def _framed(
    family: FamilyLike, tokenizer: Any, source: list[int], target: list[int], label_sop: bool
) -> tuple[list[int], list[int]]:
    framed = family.frame(tokenizer, source, target, label_sop=label_sop)
    return list(framed.input_ids), list(framed.labels)


def plain_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of each text without any frame."""
    found: list[list[int]] = tokenizer(
        texts,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return found


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what decides a tokenizer's ids: its vocabulary and rules, not where it was loaded from.

    A probe text is part of it, so that rules written in Python count as well.
    """
    digest = hashlib.sha256(f"{type(tokenizer).__name__} {plain_ids(tokenizer, [_PROBE])}".encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules.pop("truncation", None)  # set by earlier calls, without effect on ours
        rules.pop("padding", None)
    else:
        rules = tokenizer.get_vocab()
    digest.update(json.dumps(rules, sort_keys=True).encode())
    return digest.hexdigest()
