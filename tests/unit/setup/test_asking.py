"""Questions: options, answers kept, proposals, and a person who answers wrongly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from glmjobs.setup.asking import FILE, Answers, whole_number, yes_or_no
from hpc.core.errors import BadInput


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``person("many", "2")`` answers so; what is asked goes into the list that is returned."""

    def sits_there(*texts: str) -> list[str]:
        asked: list[str] = []
        replies: Iterable[str] = iter(texts)

        def reply(question: str) -> str:
            asked.append(question)
            try:
                return next(replies)  # type: ignore[call-overload, no-any-return]
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", reply)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        return asked

    return sits_there


def test_wrong_answers_are_asked_again_with_a_line(
    tmp_path: Path, person: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = person("many", "-1", "9", "２", "2")
    answers = Answers(tmp_path / FILE, {"gpus": None})
    assert answers.ask("gpus", "GPUs", 1, whole_number(1, 8)) == 2
    assert asked == ["? GPUs [1]: "] * 5
    assert capsys.readouterr().out == "  a whole number from 1 to 8\n" * 4
    assert json.loads((tmp_path / FILE).read_text()) == {"gpus": "2"}


def test_an_answer_is_asked_for_once(tmp_path: Path, person: Callable[..., list[str]]) -> None:
    person("")
    assert Answers(tmp_path / FILE, {}).ask("nodes", "Nodes", 3, whole_number(1, 8)) == 3
    asked = person()
    assert Answers(tmp_path / FILE, {}).ask("nodes", "Nodes", 1, whole_number(1, 8)) == 3
    assert asked == []
    changed = Answers(tmp_path / FILE, {"nodes": "4"})
    assert changed.ask("nodes", "Nodes", 1, whole_number(1, 8)) == 4 and changed.changed == {"nodes"}
    with pytest.raises(BadInput, match=r"^--nodes 4: a whole number from 1 to 2$"):
        changed.ask("nodes", "Nodes", 1, whole_number(1, 2))


def test_what_holds_for_one_call_is_not_kept(tmp_path: Path, person: Callable[..., list[str]]) -> None:
    answers = Answers(tmp_path / FILE, {"name": "mine"}, {"submit": False})
    assert answers.ask("submit", "Submit", "yes", yes_or_no, keep=False) is False
    answers.keep("name", "submit")
    assert json.loads((tmp_path / FILE).read_text()) == {"name": "mine"}


def test_what_was_answered_and_is_wrong_by_now_is_asked_again(
    tmp_path: Path, person: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    person("8")
    assert Answers(tmp_path / FILE, {}).ask("gpus", "GPUs", 8, whole_number(1, 8)) == 8
    person("4")
    assert Answers(tmp_path / FILE, {}).ask("gpus", "GPUs", 4, whole_number(1, 4)) == 4
    assert "8, as it was answered: a whole number from 1 to 4\n" in capsys.readouterr().out
    willing = Answers(tmp_path / FILE, {}, yes=True)
    with pytest.raises(
        BadInput, match=rf"^4, as it was answered for --gpus \(kept in .*{FILE}\): a whole number"
    ):
        willing.ask("gpus", "GPUs", 2, whole_number(1, 2))
    assert json.loads((tmp_path / FILE).read_text()) == {"gpus": "4"}


def test_with_nobody_to_ask_the_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    answers = Answers(tmp_path / FILE, {})
    with pytest.raises(
        BadInput, match=r"nobody can be asked here: say --gpu-memory VALUE, or --yes, which takes 80"
    ):
        answers.ask("gpu_memory", "Memory", 80, whole_number(1, 1000))
    with pytest.raises(BadInput, match=r"say --rehearse or --no-rehearse, or --yes"):
        answers.ask("rehearse", "Rehearse", "yes", yes_or_no)
    willing = Answers(tmp_path / FILE, {}, yes=True)
    assert willing.ask("gpu_memory", "Memory", 80, whole_number(1, 1000)) == 80
    with pytest.raises(BadInput, match=r"it has no proposal: say --data VALUE$"):
        willing.ask("data", "Data", None, str)


def test_the_end_of_input_is_a_person_who_leaves(tmp_path: Path, person: Callable[..., list[str]]) -> None:
    person()
    with pytest.raises(KeyboardInterrupt):
        Answers(tmp_path / FILE, {}).ask("nodes", "Nodes", 1, whole_number(1, 8))
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"nodes": '])
def test_a_damaged_file_of_answers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BadInput, match="delete the file, and all is asked again"):
        Answers(tmp_path / FILE, {})
    assert (tmp_path / FILE).read_text() == text


def test_of_a_step_that_is_refused_nothing_is_kept(tmp_path: Path) -> None:
    first = Answers(tmp_path / FILE, {"stack": "nope"}, yes=True)
    with pytest.raises(BadInput), first.refused():
        first.keep("stack")
        raise BadInput("no such stack")
    assert not (tmp_path / FILE).exists()
    Answers(tmp_path / FILE, {"stack": "current"}).keep("stack")
    answers = Answers(tmp_path / FILE, {"stack": "nope", "wheelhouse": "/x"}, yes=True)
    with pytest.raises(BadInput), answers.refused():
        answers.keep("stack", "wheelhouse")
        raise BadInput("no such stack")
    assert json.loads((tmp_path / FILE).read_text()) == {"stack": "current"}
    with pytest.raises(KeyboardInterrupt), answers.refused():
        answers.keep("wheelhouse")
        raise KeyboardInterrupt  # interrupted is not refused
    assert json.loads((tmp_path / FILE).read_text()) == {"stack": "current", "wheelhouse": "/x"}


@pytest.mark.parametrize("text", ['{"nodes": 3}', '{"overrides": [1]}', '{"recipe": {"name": "x"}}'])
def test_answers_that_nobody_gave_are_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BadInput, match="no answer; delete the file"):
        Answers(tmp_path / FILE, {})
