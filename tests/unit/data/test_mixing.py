"""Several sources: nothing lost or repeated unless asked, the same choice everywhere, counts and dev rows by source."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from glmjobs import prepare as command
from glmjobs.cli import run_command
from glmjobs.data.mixing import Mixed, prepare_mixed, source_of
from glmjobs.data.prepared import Prepared
from glmjobs.planning.estimate import work_of
from glmjobs.recipe.loading import parse
from glmjobs.run.lengths import sample
from glmjobs.run.submit_checks import check_data
from hpc.core.errors import BadInput
from tests.support.jsonl import write_jsonl


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """40 rows of BELLE's form, and 20 conversations; the last asks what a dev row of the first asks."""
    belle = [{"instruction": f"甲{i}？", "input": "", "output": f"{i}"} for i in range(1, 41)]
    talks: list[Any] = [
        {"messages": [{"role": "user", "content": f"乙{i}？"}, {"role": "assistant", "content": f"{i}"}]}
        for i in range(1, 21)
    ]
    talks[-1]["messages"][0]["content"] = "甲2？"
    return write_jsonl(tmp_path / "belle.jsonl", belle), write_jsonl(tmp_path / "talks.jsonl", talks)


def mixed(files: tuple[Path, Path], out: Path, *, seed: int = 0, **talks: Any) -> Prepared:
    sources = [
        Mixed("belle", files[0], dev_rows="1-4"),
        Mixed("talks", files[1], **{"dev_rows": "1-2", **talks}),
    ]
    return prepare_mixed(sources, out, seed=seed)


def read(done: Prepared) -> Counter[str]:
    return Counter(row.question for row in done.rows("train"))


def test_all_rows_once_and_dev_rows_in_turn(files: tuple[Path, Path], tmp_path: Path) -> None:
    done = mixed(files, tmp_path / "d")
    assert (done.train, done.dev) == (36 + 17, 6) and set(read(done).values()) == {1}
    assert "甲2？" not in read(done) and done.record["overlap"]["rows"] == [60]
    assert [row.id for row in done.rows("dev")] == [1, 41, 2, 42, 3, 4]
    assert [source_of(done.record, row.id) for row in done.rows("dev")][:2] == ["belle", "talks"]
    belle, talks = done.record["sources"]
    assert (belle["first"], belle["rows"], belle["dev"], belle["train"], belle["read"]) == (1, 40, 4, 36, 36)
    assert (talks["first"], talks["form"], talks["train"], talks["read"], talks["unread"]) == (
        41,
        "messages",
        17,
        17,
        0,
    )
    assert Prepared.load(tmp_path / "d").record == done.record
    again = mixed(files, tmp_path / "d")
    assert again.fingerprint == done.fingerprint
    lines = (tmp_path / "d" / "train.jsonl").read_bytes()
    mixed(files, tmp_path / "other")
    assert (tmp_path / "other" / "train.jsonl").read_bytes() == lines


@pytest.mark.parametrize(("given", "often"), [
    ({"weight": 0.5}, {0: 9, 1: 8}), ({"weight": 2.0}, {2: 17}), ({"weight": 1.5}, {1: 8, 2: 9}),
    ({"rows": 5}, {0: 12, 1: 5}),
])  # fmt: skip
def test_what_is_asked_for(
    files: tuple[Path, Path], tmp_path: Path, given: Any, often: dict[int, int]
) -> None:
    """A seeded choice; repeated only where a weight above 1 asks for it."""
    done = mixed(files, tmp_path / "d", **given)
    found = read(done)
    talks = [f"乙{i}？" for i in range(3, 20)]
    assert Counter(found[question] for question in talks) == often
    assert sum(found[f"甲{i}？"] for i in range(1, 41)) == 36, "the other source is as it was"
    source = done.record["sources"][1]
    assert source["read"] == sum(times * n for times, n in often.items()) and source["unread"] == often.get(
        0, 0
    )
    assert done.record["unused"] == often.get(0, 0)
    other = mixed(files, tmp_path / "o", seed=1, **given)
    assert other.fingerprint != done.fingerprint
    assert (read(other) == found) == (set(often) == {2}), "another seed, another choice"


def test_refusals(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"talks: rows = 18, but it has 17 train rows; ask for fewer, or for weight"
    ):
        mixed(files, tmp_path / "d", rows=18)
    assert not (tmp_path / "d" / "prepare.json").exists()
    with pytest.raises(BadInput, match=r"none has dev_rows"):
        prepare_mixed([Mixed("belle", files[0])], tmp_path / "e")
    with pytest.raises(BadInput, match=r"none\.jsonl: no such file"):
        prepare_mixed([Mixed("a", tmp_path / "none.jsonl", dev_rows="1")], tmp_path / "e")


def test_a_source_of_another_form_or_in_the_way(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The refusal names the source, and nothing of it is in the way of a file that was there."""
    with pytest.raises(
        BadInput, match=r"data\.sources: talks: .*talks\.jsonl: form = math needs .*: form: messages"
    ):
        mixed(files, tmp_path / "d", form="math")
    assert mixed(files, tmp_path / "d", form="messages").record["sources"][1]["form"] == "messages"
    with pytest.raises(BadInput, match=r"data\.sources: talks: dev_rows = '1-21' reaches row 21"):
        mixed(files, tmp_path / "d", dev_rows="1-21")
    (tmp_path / "o").mkdir()
    moved = files[0].rename(tmp_path / "o" / "train.jsonl")
    before = moved.read_bytes()
    with pytest.raises(BadInput, match=r"o/train\.jsonl: would be overwritten by what is prepared from it"):
        mixed((moved, files[1]), tmp_path / "o")
    assert moved.read_bytes() == before and [entry.name for entry in (tmp_path / "o").iterdir()] == [
        "train.jsonl"
    ]


def recipe(files: tuple[Path, Path], **data: Any) -> Any:
    sources = [
        {"name": "belle", "path": str(files[0]), "dev_rows": "1-4"},
        {"name": "talks", "path": str(files[1]), "rows": 5},
    ]  # fmt: skip
    return {"model": {"make": {}}, "data": {"sources": sources, **data}}


def test_the_command(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(recipe(files)), encoding="utf-8")
    assert run_command(command.main, ["--recipe", str(path), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "train rows in an epoch" in shown and "│ talks" in shown and "not read" in shown
    assert Prepared.load(tmp_path / "out").train == 36 + 5
    made = parse(recipe(files))
    work = work_of(made, None)
    assert work.sources == {"belle": 36, "talks": 5} and (work.rows, work.known) == (41, True)
    assert [check_data(data) for data in made.data.apart()] == [str(file) for file in files]
    assert [len(sample(data)[0]) for data in made.data.apart()] == [36, 20]


A = {"name": "a", "path": "x", "dev_rows": "1"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"path": "x"}, "give exactly one of data.path, data.make and data.sources"),
        ({"dev_rows": "1-5"}, "data.dev_rows = 1-5: with data.sources, say it of a source"),
        ({"form": "belle"}, "data.form = belle: with data.sources, say it of a source"),
        ({"sources": [{"name": "a", "path": "x"}]}, "none has dev_rows"),
        ({"sources": [A] * 2}, "two are called 'a'"),
        ({"sources": [A | {"weight": 2, "rows": 3}]}, "give weight or rows, not both"),
        ({"sources": [A | {"weight": 0}]}, "weight"),
        ({"sources": [A | {"dev_rows": "5-1"}]}, "a range goes upwards"),
        ({"sources": [A | {"form": "cmath"}]}, "none of the forms of training data"),
        ({"sources": [{"path": "x"}]}, "name"),
    ],
)  # fmt: skip
def test_bad_sources_are_one_line(files: tuple[Path, Path], data: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(recipe(files, **data))
    assert said in str(error.value) and "\n" not in str(error.value)
