"""What went wrong, as one line: from an exception, from an exit code, or from what a process wrote before it ended.

The last line of a message is not what it says, and what is written after it (warnings, the end of other ranks) even
less: a message is taken whole, and of a chain of exceptions the first and the last.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from pathlib import Path

from hpc.core.errors import HpcError

LIMIT = 500
"""Characters of a message that are kept: of a longer one its beginning, which says what is wrong, and its end."""

_SAY_LITTLE = (LookupError, AssertionError, AttributeError, UnicodeError, json.JSONDecodeError)
"""Exceptions whose text needs the line of code beside it."""


def one_line(text: str) -> str:
    """The text with its white space as single blanks; the middle of a long one left out, visibly."""
    text = " ".join(text.split())
    tail = LIMIT // 5
    return text if len(text) <= LIMIT else f"{text[: LIMIT - tail - 3]} … {text[-tail:]}"


def message_of(error: BaseException) -> str:
    """An error in words.

    One of this toolkit is its text; one of the system the file and what it says; any other has its class in front,
    without the module, and, where its text says little, the line of code behind.
    """
    said = _words(error)
    notes = one_line(" ".join(map(str, getattr(error, "__notes__", ()))))
    first = error if isinstance(error, HpcError) else _origin(error)
    if notes:
        said += f" ({notes})"
    return one_line(said if first is error else _chained(_words(first), said))


def _origin(error: BaseException) -> BaseException:
    """The first of a chain of exceptions."""
    while (
        before := error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    ) is not None:
        error = before
    return error


def _chained(first: str, last: str) -> str:
    return last if first in last else f"{first}; then {last}"


def _words(error: BaseException) -> str:
    text = one_line(str(error))
    if isinstance(error, HpcError):
        return text
    if isinstance(error, SystemExit):
        return text if isinstance(error.code, str) else exit_words(int(error.code or 0))
    if isinstance(error, KeyboardInterrupt):
        return "interrupted from the keyboard"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        text = text or "out of host memory"
    frames = traceback.extract_tb(error.__traceback__)
    if frames and (not text or isinstance(error, _SAY_LITTLE)):
        text = f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})".lstrip()
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def exit_words(code: int) -> str:
    """How a process ended, by its exit code as a shell gives it: 128+N where signal N ended it."""
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    why = {
        "SIGKILL": "killed; out of memory?",
        "SIGSEGV": "a crash in compiled code",
        "SIGBUS": "/dev/shm full?",
    }
    return f"ended by {name} ({why.get(name, f'exit code {code}')})"


IMAGE = "HPC_CONTAINER_IMAGE"
"""The variable that names the image of a job's tasks, inside and outside."""

_NO_MODULE = re.compile(r"No module named '?(\w+)")


def missing_package(said: str) -> str | None:
    """What to do about a Python package that ``said`` misses; None where it is about something else."""
    if (missing := _NO_MODULE.search(said)) is None:
        return None
    image = os.environ.get(IMAGE)
    where = f"the image {image}" if image else f"the Python environment {sys.prefix}"
    setting = "environment.container.image, or its python" if image else "environment.python"
    return (
        f"{where} has no Python package {missing[1]}: install it there, or name another ({setting}, in the cluster "
        "profile)"
    )


_KILLED = re.compile(r"oom[-_ ]kill|out of memory: killed|\bout of memory$", re.IGNORECASE)
_ERROR = re.compile(r"(?:[\w./-]+(?:\[\d+\])?: )*(?:fatal )?(?:error|fatal): ", re.IGNORECASE)
_CRASH = re.compile(
    r"(?:\S+: line \d+:\s+\d+ )?(?:Segmentation fault|Bus error|Aborted|Illegal instruction)\b"
)
_AFTERMATH = re.compile(
    r"srun: error: .*(?:Exited with exit code|: Terminated|: Killed)|slurmstepd: error: \*\*\* "
)
_CHAINED = ("The above exception was the direct cause", "During handling of the above exception")
_RANK = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)


def said_in(text: str) -> str | None:
    """What a log says went wrong; None where nothing in it does.

    The word that memory ran out wins, whose ranks cannot tell; then the error or exception that came last.
    """
    lines = _RANK.sub("", text).splitlines()
    killed = next((line for line in lines if _KILLED.search(line) and "Error" not in line), None)
    if killed is not None:
        return one_line(killed)
    found: str | None = None
    at, chained = 0, False
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("Traceback (most recent call last)"):
            raised, at = _raised(lines, at)
            found = _chained(found, raised) if chained and found else raised or found
            chained = False
        elif line.startswith(_CHAINED):
            chained = True
        elif _NO_MODULE.search(line):  # of `python -m`, which has no traceback
            found = line
        elif line.lstrip().startswith("what():"):  # of a C++ exception that nobody caught
            found = line.partition("what():")[2].strip()
        elif _CRASH.match(line):
            found = found or line
        elif _ERROR.match(line) and not _AFTERMATH.match(line):
            found = line.removeprefix("error: ")
    return one_line(found) if found else None


def _raised(lines: list[str], at: int) -> tuple[str, int]:
    """The message behind the frames of a traceback, all its lines, and where it ends."""
    while at < len(lines) and lines[at].startswith((" ", "\t")):
        at += 1
    end = at + 1
    while (
        end < len(lines)
        and lines[end].strip()
        and not re.match(r"srun:|slurmstepd:|error: |\S+:\d+: ", lines[end])
    ):
        end += 1
    message = re.sub(r"^(?:\w+\.)+(?=[A-Z])", "", " ".join(lines[at:end]))
    return re.sub(r"^(?:BadInput|NotFit|WorkFailed|HpcError): ", "", message), end


def tail_of(log: Path, start: int = 0, size: int = 65536) -> str:
    """The last ``size`` bytes of a file from byte ``start`` on, as text; "" where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - size))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
