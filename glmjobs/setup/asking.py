"""Questions: what an option says, else what was answered before, else the proposal (``--yes``), else a person is asked.

Standard library only: the first question is asked before there is an environment.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hpc.core.errors import BadInput, HpcError
from hpc.core.files import write_json

FILE = "glmjobs-setup.json"

Value = TypeVar("Value")


@dataclass
class Answers:
    """What is known of what a person wants.

    Attributes:
        file: keeps the answers from one call to the next.
        options: of this call, by name; None where one was not given.
        once: likewise, which hold for this call alone.
        changed: names of the options that say something else than before.
        yes: proposals are taken, nobody is asked.
        keeps: answers are written down.
    """

    file: Path
    options: Mapping[str, Any]
    once: Mapping[str, Any] = field(default_factory=dict)
    yes: bool = False
    keeps: bool = True
    before: dict[str, Any] = field(init=False)
    changed: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.before = read_answers(self.file)
        self.options = {name: value for name, value in self.options.items() if value not in (None, [])}
        self.changed = {name for name, value in self.options.items() if self.before.get(name) != value}

    def known(self, name: str) -> Any:
        """An answer that was given, by an option or before; None: none."""
        return next(
            (of[name] for of in (self.once, self.options, self.before) if of.get(name) is not None), None
        )

    def keep(self, *options: str, **answers: Any) -> None:
        """Write answers down: those that options of these names gave, and others."""
        found = {name: self.options[name] for name in options if name in self.options} | answers
        if {**self.before, **found} != self.before:
            self.before.update(found)
            if self.keeps:
                write_json(self.file, self.before)

    def drop(self, *names: str) -> dict[str, Any]:
        """Answers kept that hold no longer; those that there were."""
        return {name: self.before.pop(name) for name in names if name in self.before}

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Of a step that is refused, no answer is kept: else the next call would be refused for what nobody typed."""
        before = dict(self.before)
        try:
            yield
        except HpcError:
            if self.before != before:
                self.before = before
                if self.keeps and before:
                    write_json(self.file, before)
                elif self.keeps:
                    self.file.unlink(missing_ok=True)
            raise

    def ask(
        self, name: str, question: str, proposal: object, check: Callable[[str], Value], *,
        keep: bool = True, note: str = "",
    ) -> Value:  # fmt: skip
        """An answer, checked; asked again, with a line saying why, as long as it is wrong.

        Args:
            name: of the option that answers it.
            proposal: what Enter answers; None: there is none.
            check: what makes a value of the text; raises BadInput.
            keep: it holds for the next call, too.
            note: lines that are shown before a person is asked.

        Raises:
            BadInput: the option's value, or the answer kept, is wrong; or there is nobody to ask.
        """
        option = f"--{name.replace('_', '-')}"
        if (given := self.known(name)) is not None:
            try:
                value = check(str(given))
            except BadInput as error:
                said = str(error).removeprefix(f"{given}: ")
                if name in self.options or name in self.once:
                    raise BadInput(f"{option} {shlex.quote(str(given))}: {said}") from None
                if self.yes or not sys.stdin.isatty():  # a proposal in its place would be another model, say
                    raise BadInput(
                        f"{given}, as it was answered for {option} (kept in {self.file}): {said}"
                    ) from None
                print(f"  {given}, as it was answered: {said}")
            else:
                self.keep(name)
                return value
        if self.yes and proposal is not None:
            text = str(proposal)
            value = check(text)
        elif self.yes or not sys.stdin.isatty():
            way = "it has no proposal: say" if self.yes else "nobody can be asked here: say"
            more = "" if self.yes or proposal is None else f", or --yes, which takes {proposal or 'none'}"
            word = f"{option} or --no-{name}" if proposal in ("yes", "no") else f"{option} VALUE"
            raise BadInput(f"{question}? {way} {word}{more}")
        else:
            if note:
                print(note)
            text, value = self._prompt(question, proposal, check)
        if keep:
            self.keep(**{name: text})
        return value

    def _prompt(self, question: str, proposal: object, check: Callable[[str], Value]) -> tuple[str, Value]:
        shown = "" if proposal is None else f" [{proposal or 'none'}]"
        while True:
            try:
                text = input(f"? {question}{shown}: ").strip()
            except EOFError:
                print()
                raise KeyboardInterrupt from None
            if not text and proposal is not None:
                text = str(proposal)
            try:
                return text, check(text)
            except BadInput as error:
                print(f"  {error}")


def read_answers(file: Path) -> dict[str, Any]:
    """The answers kept; none where there is no file.

    Raises:
        BadInput: something else has that name, or was written into it.
    """
    if file.is_dir():
        raise BadInput(f"{file}: a directory, where answers are to be kept; move it away")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{file}: not the answers that were kept; delete the file, and all is asked again")
    for name, value in found.items():
        if not all(isinstance(one, (str, bool)) for one in (value if isinstance(value, list) else [value])):
            raise BadInput(f"{file}: {name}: no answer; delete the file, and all is asked again")
    return found


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """A check for numbers within bounds."""

    def check(text: str) -> int:
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise BadInput(f"a whole number from {lowest} to {highest}")
        return int(text)

    return check


def yes_or_no(text: str) -> bool:
    """A check for yes and no."""
    if text.lower() in ("y", "yes", "true"):
        return True
    if text.lower() in ("n", "no", "false"):
        return False
    raise BadInput("yes or no")


def one_of(*choices: str) -> Callable[[str], str]:
    """A check for one of some names."""

    def check(text: str) -> str:
        if text not in choices:
            raise BadInput(f"one of {', '.join(choices)}")
        return text

    return check
