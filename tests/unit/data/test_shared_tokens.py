"""Runs of the same data tokenise it once, at whatever moment they start, and none depends on another's files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glmjobs.data import tokenised as tokenised_module
from glmjobs.data.prepared import Prepared, prepare
from glmjobs.data.tokenised import Tokenised, tokenise
from glmjobs.models.family import family_for
from tests.support.char_tokenizer import CharTokenizer


def run(folder: Path, name: str, rows: int = 40) -> Prepared:
    """A run's prepared rows."""
    folder.mkdir(exist_ok=True)
    source = folder / "rows.jsonl"
    if not source.exists():
        lines = [
            {"instruction": f"{n}加{n}等于几", "input": "", "output": f"答案是{2 * n}"} for n in range(rows)
        ]
        source.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return prepare(source, folder / name / "data", dev_rows="1-5")


def tokens(prepared: Prepared, **changes: int) -> Tokenised:
    shared = prepared.directory.parent.parent / ".tokens"
    place = prepared.directory / "tokens"
    return tokenise(
        prepared, "train", CharTokenizer(), family_for("chatglm"), place, shared=shared, **changes
    )  # type: ignore[arg-type]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places where rows were tokenised."""
    found: list[Path] = []
    real = tokenised_module._make

    def noted(place: Path, *rest: object) -> None:
        found.append(place)
        real(place, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenised_module, "_make", noted)
    return found


def same_files(one: Path, other: Path) -> bool:
    names = sorted(file.name for file in one.iterdir())
    return names == sorted(f.name for f in other.iterdir()) and all(
        (one / name).samefile(other / name) for name in names
    )


def test_the_second_run_has_the_firsts_tokens(tmp_path: Path, made: list[Path]) -> None:
    first, second = (tokens(run(tmp_path, name)) for name in ("a", "b"))
    assert len(made) == 1 and same_files(first.directory, second.directory)
    assert first.digest() == second.digest() and first.directory != second.directory
    assert (tmp_path / ".tokens").stat().st_mode & 0o777 == 0o700
    other = tokens(run(tmp_path, "c"), max_source_length=8)
    assert len(made) == 2 and other.fingerprint != first.fingerprint
    shutil.rmtree(tmp_path / "a")
    assert Tokenised.load(second.directory).digest() == second.digest()
    shutil.rmtree(tmp_path / ".tokens")
    assert np.array_equal(Tokenised.load(second.directory).labels, second.labels)
    assert len(tokens(run(tmp_path, "d"))) == len(second) and len(made) == 3


def test_what_no_run_has_goes(tmp_path: Path) -> None:
    tokens(run(tmp_path, "a"))
    shutil.rmtree(tmp_path / "a")
    tokens(run(tmp_path, "b"), max_source_length=9)
    assert len(list((tmp_path / ".tokens").glob("tokenised-*"))) == 1


@pytest.mark.parametrize("damage", ["cut", "marker", "empty"])
def test_what_is_not_whole_is_never_read(damage: str, tmp_path: Path, made: list[Path]) -> None:
    first = tokens(run(tmp_path, "a"))
    kept = tmp_path / ".tokens" / first.directory.name
    if damage == "cut":  # another file of that name: the run's own is not touched
        (kept / "labels.bin").unlink()
        (kept / "labels.bin").write_bytes(b"12")
    elif damage == "marker":
        (kept / "tokenised.json").unlink()
    else:
        shutil.rmtree(kept)
        kept.mkdir()
    second = tokens(run(tmp_path, "b"))
    assert len(made) == 2 and second.digest() == first.digest()
    assert same_files(kept, second.directory), "and the whole one is in its place"


def test_without_hard_links_each_has_its_own(
    tmp_path: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    first, second = (tokens(run(tmp_path, name)) for name in ("a", "b"))
    assert len(made) == 2 and first.digest() == second.digest()
    assert not list((tmp_path / ".tokens").glob("tokenised-*"))


def test_a_folder_that_is_none(tmp_path: Path, made: list[Path]) -> None:
    (tmp_path / ".tokens").write_text("a file")
    assert [len(tokens(run(tmp_path, name))) for name in ("a", "b")] == [35, 35] and len(made) == 2


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit.data import test_shared_tokens as here
from glmjobs.data import tokenised
real = tokenised._make
def noted(*words):
    print("made", flush=True)
    real(*words)
tokenised._make = noted
here.tokens(here.run(Path(sys.argv[2]), sys.argv[3]))
"""


def test_four_runs_at_once_make_it_once(tmp_path: Path) -> None:
    for name in "abcd":
        run(tmp_path, name, rows=3000)
    repo = str(Path(__file__).parents[3])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, repo, str(tmp_path), name], stdout=subprocess.PIPE, text=True, cwd=repo
        )
        for name in "abcd"
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sum(text.count("made") for text in said) == 1
    (kept,) = (tmp_path / ".tokens").glob("tokenised-*")
    assert all(same_files(kept, tmp_path / name / "data" / "tokens" / kept.name) for name in "abcd")
