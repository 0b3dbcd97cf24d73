"""What every command that people type shares: errors, wrong words too, become one line and an exit code, a reader
that goes away or Ctrl-C ends it quietly, and text is UTF-8 whatever the locale says. Standard library only."""

from __future__ import annotations

import argparse
import contextlib
import errno
import locale
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from hpc.core.errors import NOT_ALLOWED, BadInput, HpcError

NOT_OURS = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EISDIR,
    errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE,
})  # fmt: skip
"""Errors of the system that are a state of its disks or limits, not a fault of the program."""

READER_GONE = 141
"""Exit code where the reader of the output went away (128 + SIGPIPE), as `| head -1` does."""


def run_command(main: Callable[[list[str] | None], int], argv: list[str] | None = None) -> int:
    """Call ``main`` and return the process's exit code.

    0 done, 1 the work failed, 2 bad input, 3 this machine or cluster is not fit for it; 130 after Ctrl-C.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: `>&-`
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    if argv is None:
        read_utf8()
    try:
        try:
            return _run(main, argv)
        finally:  # here, and not when Python ends, where nobody could catch it
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return READER_GONE


def _run(main: Callable[[list[str] | None], int], argv: list[str] | None) -> int:
    try:
        with _words_as_bad_input():
            return main(argv)
    except BrokenPipeError:
        raise
    except HpcError as error:
        print(f"error: {error_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UnicodeEncodeError as error:
        if error.encoding.replace("_", "-").lower() != "utf-8":  # asked for, by PYTHONIOENCODING or a terminal
            lacks = error.object[error.start : error.end][:80]
            print(
                f"error: the output's encoding, {error.encoding}, lacks {lacks!a}; set PYTHONIOENCODING=utf-8",
                file=sys.stderr,
            )
            return 2
        # a path or an argument with bytes that are no text
        print(f"error: {error.object[:80]!r}: not UTF-8 text; take another name", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        where = f"{Path(os.fsdecode(error.filename)).absolute()}: " if error.filename is not None else ""
        if error.errno in NOT_ALLOWED:
            print(
                f"error: {where}{error.strerror}; it takes a place that you may read and write",
                file=sys.stderr,
            )
            return BadInput.exit_code
        room = "; make room there, then do this again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        print(f"error: {where}{error.strerror}{room}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _words_as_bad_input() -> Iterator[None]:
    """Words that a parser doesn't take are :class:`BadInput`, where argparse would print several lines of usage."""

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise BadInput(f"{message}; see {parser.prog} --help")

    usual = argparse.ArgumentParser.error  # exchanged here, so that no parser has to be of a class of its own
    argparse.ArgumentParser.error = refuse  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = usual  # type: ignore[method-assign]


def read_utf8() -> None:
    """Start this process again in Python's UTF-8 mode (PEP 540) where a locale such as zh_CN.GB18030 would have it read
    and write names and files otherwise than the nodes do; a terminal goes on being written to in its own encoding."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8" and sys.executable:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    codeset = locale.nl_langinfo(locale.CODESET)
    for stream in (sys.stdout, sys.stderr):
        if sys.flags.utf8_mode and stream.isatty() and codeset not in ("UTF-8", "ANSI_X3.4-1968"):
            stream.reconfigure(encoding=codeset, errors="replace")  # type: ignore[union-attr]


def error_line(error: BaseException) -> str:
    """An error's text with its line breaks shown as blanks."""
    return " ".join(str(error).split())
