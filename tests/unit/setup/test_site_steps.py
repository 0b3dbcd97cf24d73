"""Recipe and profile: what was answered for another recipe is out, and mistakes are said first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmjobs.setup.asking import FILE, Answers
from glmjobs.setup.settled import Settled
from glmjobs.setup.site_steps import ChooseRecipe, DraftProfile, check_options
from hpc.core.errors import BadInput


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLMJOBS_CLUSTER", raising=False)
    return tmp_path


def choose(home: Path, **options: Any) -> str:
    return ChooseRecipe(Settled(Answers(home / FILE, options, yes=True))).found()


def test_answers_for_another_recipe_are_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "data.make.rows=300"
    said = choose(home, recipe="configs/tiny.yaml", overrides=[rows], model=None)
    assert said == "configs/tiny.yaml: a small model made for it, built as ChatGLM-6B, all parameters"
    assert choose(home).endswith(f"\nwith --set {rows}, kept in {FILE}")
    assert capsys.readouterr().out == ""
    assert (
        choose(home, recipe="configs/chatglm6b.yaml") == "configs/chatglm6b.yaml: ChatGLM-6B, all parameters"
    )
    assert f"no longer: --set {rows}, kept in {FILE}" in capsys.readouterr().out
    assert json.loads((home / FILE).read_text()) == {"recipe": "configs/chatglm6b.yaml"}


def test_a_setting_takes_the_place_of_those_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose(home, recipe="configs/tiny.yaml", overrides=["train.epochs=1", "data.make.rows=300"])
    choose(home, overrides=["train.epochs=1"])
    assert capsys.readouterr().out.startswith("  no longer: --set data.make.rows=300, kept")
    assert json.loads((home / FILE).read_text())["overrides"] == ["train.epochs=1"]
    (home / FILE).write_text(json.dumps({"recipe": "configs/tiny.yaml", "overrides": ["train.epochs=no"]}))
    with pytest.raises(BadInput, match=rf"epochs.*\(with --set train.epochs=no, kept in {FILE}"):
        choose(home)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "weird name"}, "--name 'weird name': letters"),
        ({"nodes": "many"}, "--nodes many: a whole number"),
        ({"gpu_memory": "0"}, "--gpu-memory 0: a whole number"),
        ({"account": "two words"}, "--account 'two words': a name"),
    ],
)
def test_options_that_cannot_be_right(options: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_options(options)
    assert str(caught.value).startswith(said)


def test_a_profile_in_no_directory_is_said_before_it_is_drafted(home: Path) -> None:
    with pytest.raises(BadInput, match=r"cluster profile nowhere/my prof.yaml: nowhere: no such directory"):
        DraftProfile(Settled(Answers(home / FILE, {"cluster": "nowhere/my prof.yaml"}))).found()
