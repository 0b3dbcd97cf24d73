"""Every command and setting that a message offers can be typed as it stands: quoted, its module and options there."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs.recipe.schema import Recipe
from hpc.batch.profile import Profile
from hpc.core import hints
from hpc.core.config_files import field_names
from tests.support.paths import REPO

FILES = [f for room in ("hpc", "glmjobs") for f in sorted((REPO / room).rglob("*.py"))]
UNKNOWN = "7"
"""What stands in a test for a word that only a run knows: a path, a number and a name."""
KNOWN = {"trouble.stage": "train", "TRACKERS[0]": "wandb", "file.stem": "wandb"}
GIVEN = {"*self.words": ["model", "org/name", "--into", "here"], "*self._words()": ["--stack", "current"]}
"""Words that an object keeps."""
NO_MESSAGES = {"hpc/core/hints.py", "hpc/batch/script.py"}  # the latter writes scripts, and quotes by itself


def trees() -> Iterator[tuple[str, ast.Module]]:
    for file in FILES:
        yield str(file.relative_to(REPO)), ast.parse(file.read_text(encoding="utf-8"))


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every ``hints.name(…)``, with its place."""
    return [
        (f"{path}:{node.lineno}", node)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"hints.{name}"
    ]


def words_of(call: ast.Call, tree_words: dict[str, list[str]]) -> list[str]:
    """The call's words; ``*names`` as they were put together just before."""
    found: list[str] = []
    for arg in call.args:
        if isinstance(arg, ast.Starred):
            found += tree_words.get(ast.unparse(arg.value), GIVEN.get(ast.unparse(arg), []))
        else:
            found.append(
                str(arg.value) if isinstance(arg, ast.Constant) else KNOWN.get(ast.unparse(arg), UNKNOWN)
            )
    return found


def tuples(path: str) -> dict[str, list[str]]:
    """The tuples of words that a module gives names."""
    tree = ast.parse((REPO / path).read_text(encoding="utf-8"))
    return {
        ast.unparse(node.targets[0]): [
            str(e.value) if isinstance(e, ast.Constant) else UNKNOWN for e in node.value.elts
        ]
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
    }


class Parsed(Exception):
    """The command line was taken."""


def typed(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the words to the module's own parser; fails where it does not take them."""
    original = argparse.ArgumentParser.parse_args
    intermixed = argparse.ArgumentParser.parse_intermixed_args

    def parse(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        original(self, args, namespace)
        raise Parsed

    def mixed(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        intermixed(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_intermixed_args", mixed)
    name = f"{module}.__main__" if (REPO / Path(*module.split("."))).is_dir() else module
    with pytest.raises(Parsed):
        importlib.import_module(name).main(words)


COMMANDS = calls("command")


@pytest.mark.parametrize(("place", "call"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_an_offered_command_takes_its_words(
    place: str, call: ast.Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, *words = words_of(call, tuples(place.partition(":")[0]))
    typed(module, words, monkeypatch)


def test_an_offered_setting_is_a_field() -> None:
    fields = {*field_names(Recipe), *(f"cluster.{name}" for name in field_names(Profile))}
    from glmjobs.data import validating

    offered = {ast.unparse(c.args[0]): place for place, c in calls("setting")}
    named = {word.strip("'"): place for word, place in offered.items() if word.startswith("'")}
    assert len(named) >= 5
    assert {*named, *validating._SETTINGS.values()} <= fields
    computed = {word for word in offered if not word.startswith("'")}
    assert (
        computed
        == {
            "field",
            "_SETTINGS[part]",
            "*item.split('=', 1)",
            "*setting.split('=', 1)",
        }
    )  # the user's, the above, plan's fields, those of glmjobs.run.efficiency (its test has a recipe take them)


def commands_in(text: str) -> list[str]:
    return re.findall(r"python -m (?:glmjobs|hpc)[\w.]*(?: [\w./<>=-]+)*", text)


def docstrings(tree: ast.Module) -> set[int]:
    """Lines of strings that stand alone."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def test_messages_put_commands_together_by_hints_alone() -> None:
    """In no other text is a value put into a command, which a blank or a star in it would break."""
    for path, tree in trees():
        if path in NO_MESSAGES:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.JoinedStr):
                continue
            for part, following in zip(node.values, [*node.values[1:], None], strict=True):
                text = part.value if isinstance(part, ast.Constant) else ""
                open_command = re.search(r"(python -m |--set |iconv |git |scontrol )[^`;,()]*$", str(text))
                if open_command and isinstance(following, ast.FormattedValue):
                    said = ast.unparse(following.value)
                    quoted = (
                        "quote" in said
                        or said in ("info.id", "overrides[0]", "item")
                        or "!r" in ast.unparse(node)
                    )
                    assert quoted, f"{path}:{node.lineno}: {open_command[0]}{{{said}}}: see hpc.core.hints"


def test_commands_that_stand_in_texts_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    for path, tree in trees():
        alone = docstrings(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node.lineno in alone:
                continue
            for line in commands_in(node.value):
                seen += 1
                module = line.split()[2]
                place = REPO / Path(*module.split("."))
                assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), (
                    f"{path}: {line}"
                )
                for option in re.findall(r"--[a-z-]+", line):
                    source = (
                        place.with_suffix(".py")
                        if place.with_suffix(".py").is_file()
                        else place / "__main__.py"
                    )
                    text = source.read_text(encoding="utf-8")
                    shared = option == "--set" and "add_overrides(" in text
                    assert shared or f'"{option}"' in text, f"{path}: {line}"
    assert seen > 20


SHELLS = [shell for shell in ("bash", "zsh", "dash") if shutil.which(shell)]
NASTY = (
    "a b", "it's", 'say "x"', "$HOME", "`id`", "columns[0]", "*", "?", "{a,b}", "~", "模型/数据",
    "!!", "#1", "a;b", "a&b",
    "x>y", "\\", "%", "-", "(1)", "tab\there",
)  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("text", NASTY)
def test_shells_take_hints_as_they_were_meant(shell: str, text: str, tmp_path: Path) -> None:
    line = f"{hints.command('glmjobs.heal', text)} {hints.setting('data.prompt_column', text)}"
    (tmp_path / "a and b").touch()
    done = subprocess.run(
        [shell, "-c", f'python() {{ printf "%s\\n" "$@"; }}\n{line}'],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["-m", "glmjobs.heal", text, "--set", f"data.prompt_column={text}"]
    assert shlex.split(line)[1:] == done.stdout.splitlines()
