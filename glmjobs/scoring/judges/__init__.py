"""Judges: from a question, its gold answer and a prediction to a verdict. One small module each, one interface.

    from glmjobs.scoring.judges import load

    verdict = load("exact").mark("3+4=?", "#### 7", "7.")

A judge is chosen by name (:data:`JudgeName`), as a recipe's ``score.judge`` and a test set's form give it. None imports
torch; a judge that lacks what it needs says so when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from glmjobs.text import in_short

if TYPE_CHECKING:  # a recipe's schema takes the names from here, and should not wait for the marker's tables
    from glmjobs.marking import Verdict

JudgeName = Literal["meaning", "exact", "choice", "math-verify", "verifier"]
"""``meaning``: the rules of :mod:`glmjobs.marking`. ``exact``: equal as text. ``choice``: the letter of an option.
``math-verify``: the package of that name. ``verifier``: a model that is asked."""

JUDGES: tuple[JudgeName, ...] = get_args(JudgeName)


class Judge(Protocol):
    """What marks answers."""

    name: JudgeName
    at_once: int
    """Rows that it marks side by side, each in a thread; 1: one after the other."""

    def mark(self, question: str, gold: str, prediction: str) -> Verdict:
        """The verdict on one answer; "not marked" where it can give none.

        Raises:
            WorkFailed: it can give none on any row, as where no server answers.
        """
        ...


@dataclass(frozen=True)
class Endpoint:
    """A model that is asked for verdicts, behind an OpenAI-compatible server.

    Attributes:
        url: up to and with the version: "http://127.0.0.1:8000/v1".
        model: its name there.
        prompt: with {question}, {gold} and {prediction} to be filled in; None: one for any chat model.
        timeout_seconds: for one reply.
        attempts: how often a row is asked for.
        at_once: rows asked for side by side.
    """

    url: str
    model: str
    prompt: str | None = None
    timeout_seconds: float = 60.0
    attempts: int = 5
    at_once: int = 8


@dataclass(frozen=True)
class Judging:
    """Who marks: the first judge decides the accuracy, a second is held against it.

    Attributes:
        names: one judge or two.
        endpoint: of the judge "verifier".
    """

    names: tuple[JudgeName, ...] = ("meaning",)
    endpoint: Endpoint | None = None

    def load(self, folder: Path | None = None) -> list[Judge]:
        """The judges; what the verifier says is kept in ``folder``.

        Raises:
            BadInput, NotFit: see :func:`load`.
        """
        return [load(name, self.endpoint, folder) for name in self.names]


BY_MEANING = Judging()
"""The marker alone."""


def load(name: JudgeName, endpoint: Endpoint | None = None, folder: Path | None = None) -> Judge:
    """A judge by its name.

    Args:
        name: one of :data:`JUDGES`.
        endpoint: of the judge "verifier".
        folder: where the judge "verifier" keeps what it was told; None: nowhere.

    Raises:
        BadInput: the judge "verifier" without an endpoint.
        NotFit: a package that the judge needs is not installed.
    """
    from glmjobs.scoring.judges import choice, exact, math_verify, meaning, verifier

    if name == "verifier":
        return verifier.Verifier.of(endpoint, folder)
    made: dict[str, Callable[[], Judge]] = {
        "meaning": meaning.Meaning, "exact": exact.Exact, "choice": choice.Choice,
        "math-verify": math_verify.MathVerify,
    }  # fmt: skip
    return made[name]()


def mark_all(judge: Judge, rows: Sequence[tuple[str, str, str]]) -> Iterator[Verdict]:
    """The verdicts on rows of (question, gold, prediction), in their order."""
    if judge.at_once == 1:
        yield from (judge.mark(*row) for row in rows)
        return
    pool = ThreadPoolExecutor(judge.at_once)
    try:
        left = iter(rows)
        # A few ahead of those at work, not all: whoever ends early does not wait for thousands.
        asked = [pool.submit(judge.mark, *row) for row in islice(left, 2 * judge.at_once)]
        while asked:
            verdict = asked.pop(0).result()
            asked += [pool.submit(judge.mark, *row) for row in islice(left, 1)]
            yield verdict
    finally:
        pool.shutdown(cancel_futures=True)


def not_marked(reason: str, gold_value: str = "") -> Verdict:
    """No verdict, and why."""
    from glmjobs.marking import Verdict

    return Verdict(False, gold_value, "", reason, "not marked", 0.0)


def shown(text: Any) -> str:
    """A value as a table holds it."""
    return in_short(" ".join(str(text).split()))
