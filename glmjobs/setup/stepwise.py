"""Steps, and how they are gone through and told. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Protocol

from glmjobs.setup.asking import Answers

AGAIN = "the same command, given again, goes on from here"


class Step(Protocol):
    """One step of the way.

    Attributes:
        title: its name in the transcript, 12 letters at most.
    """

    title: str

    def found(self) -> str:
        """What makes it done, in words, looked up where it lies; "" where it is still to be done."""

    def ask(self) -> None:
        """Ask what has to be known to do it."""

    def would(self) -> str:
        """What is going to be done, in words."""

    def do(self) -> str:
        """Do it; what was done, in words."""

    def by_hand(self) -> str:
        """The command that does the same."""


def go(steps: Iterable[Step], answers: Answers, *, dry: bool = False) -> None:
    """Go through the steps, doing what is not done; ``dry``: only say it."""
    for step in steps:
        with answers.refused():
            take(step, dry=dry)


def take(step: Step, *, dry: bool) -> None:
    """One of them."""
    if found := step.found():
        tell(step.title, found)
        return
    step.ask()
    if found := step.found():  # what was answered is there
        tell(step.title, found)
        return
    if dry:
        tell(step.title, f"would {step.would()}")
    else:
        tell(step.title, f"{step.would()} …")
        tell("", step.do())
    tell("", f"by hand: {step.by_hand()}")


def tell(title: str, words: str) -> None:
    """Lines of the transcript."""
    for number, line in enumerate(words.splitlines()):
        print(f"{'' if number else title:<12} {line}")
    sys.stdout.flush()
