"""No file and no pipe is read or written in whatever the user's locale says: GB18030, GBK, latin-1, POSIX."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPO

MODULES = sorted(p for room in ("hpc", "glmjobs") for p in (REPO / room).rglob("*.py"))
OWN = ("Run", "Agreement")
"""Classes of ours with an open() that opens no text."""

TEXT = ("text", "universal_newlines")


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _mode(call: ast.Call) -> str:
    """The mode of an open(); "r" where it is not said, "" where it cannot be read off."""
    at = (
        0
        if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") not in ("io", "os")
        else 1
    )
    given = next(
        (k.value for k in call.keywords if k.arg == "mode"), call.args[at] if len(call.args) > at else None
    )
    return "r" if given is None else str(given.value) if isinstance(given, ast.Constant) else ""


def without_encoding(source: str) -> Iterator[int]:
    """Lines of calls that take the locale's encoding."""
    for call in [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]:
        words = {k.arg for k in call.keywords}
        name = _name(call)
        if "encoding" in words or None in words:
            continue
        if (name == "read_text" and not call.args) or (name == "write_text" and len(call.args) < 2):
            yield call.lineno
        elif name in ("open", "fdopen", "NamedTemporaryFile", "TextIOWrapper"):
            value = getattr(call.func, "value", None)
            owner = getattr(getattr(value, "func", value), "id", "")
            if owner in OWN:
                continue
            if owner in ("os", "gzip", "tarfile", "webbrowser", "safetensors") and name == "open":
                continue
            mode = "r" if name == "TextIOWrapper" else _mode(call)
            if "b" not in mode and (mode or name != "NamedTemporaryFile"):
                yield call.lineno
        elif name in ("run", "Popen", "check_output") and any(
            k.arg in TEXT and isinstance(k.value, ast.Constant) and k.value.value for k in call.keywords
        ):
            yield call.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(REPO)))
def test_every_text_has_an_encoding(path: Path) -> None:
    assert list(without_encoding(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "open(p)", "open(p, 'w')", "p.open()", "p.open('a')", "p.read_text()", "p.write_text(t)", "os.fdopen(d, 'w')",
        "subprocess.run(c, text=True)", "subprocess.Popen(c, universal_newlines=True)", "io.TextIOWrapper(raw)",
    ],
)  # fmt: skip
def test_what_takes_the_locales_encoding_is_seen(line: str) -> None:
    assert list(without_encoding(line)) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'rb')", "p.open('wb')", "p.open(encoding='utf-8')", "os.open(p, 0)", "subprocess.run(c)",
        "p.read_text('utf-8')", "subprocess.run(c, text=True, encoding='utf-8')", "open(p, mode='ab')",
    ],
)  # fmt: skip
def test_what_does_not_is_not(line: str) -> None:
    assert list(without_encoding(line)) == []
