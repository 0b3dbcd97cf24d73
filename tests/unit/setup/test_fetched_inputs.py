"""Model and data: what is there is used where it lies; what is named is fetched, from a hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs.fetch import BEGUN
from glmjobs.setup.asking import FILE, Answers
from glmjobs.setup.input_steps import FetchData, FetchModel
from glmjobs.setup.settled import Settled
from hpc.core.errors import BadInput, NotFit
from tests.support.hub import serve

RECIPE = """\
name: small
model: {family: chatglm, path: models/small}
data: {path: data/school_math_0.25M.json, dev_rows: 1-4}
"""
ROWS = b"".join(b'{"instruction": "%d+1=?", "input": "", "output": "2"}\n' % n for n in range(20))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ChatGLM-6B."""
    pytest.importorskip("torch")
    from tests.support.small_families import SMALL

    folder = tmp_path_factory.mktemp("model")
    SMALL["chatglm"](folder)
    return folder


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("huggingface_hub")
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    data = {
        "datasets/BelleGroup/school_math_0.25M": {"school_math_0.25M.json": ROWS},
        "datasets/me/mine": {"a.jsonl": ROWS},
    }
    with serve({"models/THUDM/small": files, **data}) as address:
        # read when huggingface_hub is imported, which an earlier test may have done
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", address)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield address


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


def settled(home: Path, **options: Any) -> Settled:
    return Settled(Answers(home / FILE, {"recipe": "small.yaml", **options}, yes=True))


def test_what_is_published_is_proposed_and_fetched(hub: str, home: Path) -> None:
    so_far = settled(home)
    for step, where in (
        (FetchModel(so_far), "models/small"),
        (FetchData(so_far), "data/school_math_0.25M.json"),
    ):
        assert step.found() == ""
        step.ask()
        assert step.found() == ""
        assert where in step.do() and where in step.found()
    assert so_far.overrides == []
    assert FetchModel(settled(home)).found() == "models/small: ChatGLM-6B"


def test_other_data_have_a_directory_of_their_own(hub: str, home: Path) -> None:
    so_far = settled(home, data="me/mine")
    step = FetchData(so_far)
    assert step.found() == "" and step.by_hand().endswith("glmjobs.fetch data me/mine --into data/mine")
    assert step.do().startswith("data/mine/a.jsonl")
    assert so_far.overrides == [f"data.path={home}/data/mine/a.jsonl"]
    with pytest.raises(BadInput, match=r"data/mine: was fetched from .*me/mine; .* move it away"):
        FetchData(settled(home, data="you/mine")).found()


def test_what_is_there_is_used_where_it_lies(model: Path, home: Path) -> None:
    (home / "rows.jsonl").write_bytes(ROWS)
    so_far = settled(home, model=str(model), data="rows.jsonl")
    assert FetchModel(so_far).found() == f"{model}: ChatGLM-6B"
    assert FetchData(so_far).found() == "rows.jsonl, 0.0 MB"
    assert so_far.overrides == [f"model.path={model}", f"data.path={home}/rows.jsonl"]
    recipe = so_far.recipe()
    assert (recipe.model.path, recipe.data.path) == (str(model), f"{home}/rows.jsonl")


def test_a_fetch_by_hand_that_was_broken_off_is_none(model: Path, home: Path) -> None:
    place = home / "models" / "small"
    place.parent.mkdir()
    place.symlink_to(model)
    assert FetchModel(settled(home)).found() == "models/small: ChatGLM-6B"
    place.unlink()
    place.mkdir()
    (place / BEGUN).write_text("{}")
    (place / "config.json").write_bytes((model / "config.json").read_bytes())
    assert FetchModel(settled(home)).found() == ""


def test_what_cannot_be_a_model_is_said(home: Path) -> None:
    with pytest.raises(BadInput):
        FetchModel(settled(home, model=str(home))).found()
    with pytest.raises(BadInput, match="neither a path that exists nor a hub id"):
        FetchModel(settled(home, model="no such thing")).ask()


def test_recipes_without_files(home: Path) -> None:
    for step in (FetchModel, FetchData):
        assert step(settled(home, recipe="configs/tiny.yaml")).found() == "as the recipe says, without a file"


def test_what_a_recipe_has_no_place_for_is_refused(home: Path) -> None:
    for step, option in ((FetchModel, "model"), (FetchData, "data")):
        with pytest.raises(BadInput, match=rf"^--{option} /nowhere: configs/tiny.yaml has no {option}.path"):
            step(settled(home, recipe="configs/tiny.yaml", **{option: "/nowhere"})).found()


def test_a_hub_that_is_not_there_is_said_with_other_ways(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(words: list[str]) -> int:
        raise NotFit("https://huggingface.co cannot be reached")

    monkeypatch.setattr("glmjobs.fetch.main", unreachable)
    step = FetchModel(settled(home, model="THUDM/small"))
    with pytest.raises(NotFit, match=r"cannot be reached .*--model PATH.*--hub URL"):
        step.do()


def test_a_path_that_cannot_be_used_is_refused_when_it_is_answered(home: Path) -> None:
    """So that a person is asked again at once."""
    (home / "rows.jsonl").write_bytes(b'{"number": 1}\n')
    (home / "other").mkdir()
    (home / "other" / "config.json").write_text('{"model_type": "bert"}')
    for step, text in (
        (FetchData, "rows.jsonl"),
        (FetchModel, "other"),
        (FetchData, ""),
        (FetchModel, "a b"),
    ):
        with pytest.raises(BadInput):
            step(settled(home)).checked(text)
    (home / "several").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (home / "several" / name).write_bytes(ROWS)
    with pytest.raises(BadInput, match="name the data file itself"):
        FetchData(settled(home, data="several")).found()
