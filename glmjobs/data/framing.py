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
from typing import Any, Literal, Protocol

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

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str: ...


@dataclass(frozen=True)
class Frame:
    """The constant parts: ``before`` question ``between`` answer ``behind``, and the labels' own two."""

    before: list[int]
    between: list[int]
    behind: list[int]
    labels_between: list[int]
    labels_behind: list[int]

    @classmethod
    def of(cls, family: FamilyLike, tokenizer: Any, label_sop: bool) -> Frame:
        """Raises WorkFailed where the family's frame isn't made of constant parts."""
        ids, labels = _framed(family, tokenizer, [_SOURCE], [_TARGET], label_sop)
        if ids.count(_SOURCE) != 1 or ids.count(_TARGET) != 1 or labels.count(_TARGET) != 1:
            raise WorkFailed(f"family {family.name}: its frame doesn't hold question and answer once each")
        source, target, label = ids.index(_SOURCE), ids.index(_TARGET), labels.index(_TARGET)
        frame = cls(
            ids[:source],
            ids[source + 1 : target],
            ids[target + 1 :],
            labels[source + 1 : label],
            labels[label + 1 :],
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

    def left_out(self, frame: Frame, source: int, target: int) -> str | None:
        """Why an example of so many tokens is left out; None: it is kept, its question cut to :meth:`source`."""
        if target > self.target(frame):
            return "long answer"
        if source > self.source() and self.too_long == "drop":
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
