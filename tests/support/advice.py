"""docs/when-things-fail.md as a table: what is seen, what it means, what to do; and typing what it says."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from glmjobs.cli import run_command
from tests.support.paths import REPO

PAGE = REPO / "docs" / "when-things-fail.md"


class Row(NamedTuple):
    """One line of the page. ``words``: what is seen, as it is quoted."""

    section: str
    words: tuple[str, ...]
    advice: str


def rows() -> list[Row]:
    """Every symptom of the page's tables."""
    found, section = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith(("| what you see", "| ---")):
            seen, _, advice = line.strip("| ").split(" | ")
            quoted = [a or b for a, b in re.findall(r"`` (.+?) ``|`([^`]+)`", seen)] or [seen]
            found.append(Row(section, tuple(quoted), advice))
    return found


def advice_for(words: str) -> str:
    """What the page says to do where these words are seen."""
    return next(row.advice for row in rows() if words in row.words)


def commands(words: str, run: Path) -> list[list[str]]:
    """The commands of the advice, as a shell splits them: ``heal`` alone is heal RUN."""
    advice = advice_for(words)
    typed = [shlex.split(line) for line in re.findall(r"`(python -m glmjobs\.[^`]+)`", advice)]
    if not typed and re.match(r"heal\b|`logs`; (?:mend the cause; )?heal\b|make room; heal\b", advice):
        typed = [["python", "-m", "glmjobs.heal", "RUN"]]
    assert typed, f"no command in {advice!r}"
    return [[str(run) if word == "RUN" else word for word in line] for line in typed]


def follow(words: str, run: Path) -> None:
    """Type the first command of the advice, in this process; it takes it."""
    _, _, module, *rest = commands(words, run)[0]
    assert run_command(import_module(module).main, rest) == 0


def seen(words: str, text: str) -> bool:
    """Whether a text has these words of the page, whose ellipses stand for anything."""
    pattern = ".*".join(re.escape(piece) for piece in words.split("…"))
    return re.search(pattern, " ".join(text.split())) is not None
