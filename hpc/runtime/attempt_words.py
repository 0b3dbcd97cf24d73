"""The command line of :mod:`hpc.runtime.attempt`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hpc.core.errors import BadInput

ATTEMPTS_WITHOUT_PROGRESS = 3


@dataclass
class Words:
    """The command line: ``RUN [--limit N] [--mark] [--queued] [--advice TEXT] --stage NAME COMMAND … …``.

    Attributes:
        limit: attempts in a row without a new checkpoint that are one too many.
        mark: a stage is done when its command ends with 0; else its command says so by itself.
        queued: the elements of this job's array are its attempts, one after the other.
        advice: what to do where the time limit is too short.
    """

    run: Path
    stages: list[tuple[str, list[str]]] = field(default_factory=list)
    limit: int = ATTEMPTS_WITHOUT_PROGRESS
    mark: bool = False
    queued: bool = False
    advice: str = ""


def parse(argv: list[str]) -> Words:
    """The command line as :class:`Words`."""
    usage = (
        "python -m hpc.runtime.attempt RUN [--limit N] [--mark] [--queued] [--advice TEXT] "
        "--stage NAME COMMAND … [--stage NAME COMMAND …]"
    )
    if len(argv) < 4 or argv[0].startswith("--"):
        raise BadInput(f"usage: {usage}")
    words, rest = Words(Path(argv[0]).absolute()), argv[1:]
    while rest and rest[0] in ("--limit", "--mark", "--queued", "--advice"):
        option, value = rest[0], rest[1] if len(rest) > 1 else ""
        if option == "--limit" and not value.isdigit():
            raise BadInput(f"--limit {value}: a number of attempts; usage: {usage}")
        if option == "--limit":
            words.limit = int(value)
        elif option == "--advice":
            words.advice = value
        elif option == "--queued":
            words.queued = True
        else:
            words.mark = True
        rest = rest[1 if option in ("--mark", "--queued") else 2 :]
    stages = words.stages
    for word in rest:
        if word == "--stage":
            stages.append(("", []))
        elif not stages:
            raise BadInput(f"{word}: expected --stage; usage: {usage}")
        elif not stages[-1][0]:
            stages[-1] = (word, [])
        else:
            stages[-1][1].append(word)
    if not stages or not all(name and command for name, command in stages):
        raise BadInput(f"every --stage needs a name and a command; usage: {usage}")
    if not words.run.is_dir():
        raise BadInput(f"{words.run}: no such run directory")
    return words
