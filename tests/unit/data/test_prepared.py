"""The data directory: right, whole or absent, and made once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmjobs.data import MadeSource, Prepared, prepare
from glmjobs.data import prepared as prepared_module
from glmjobs.data.rows import question_key, question_text
from glmjobs.data.sources import open_source
from hpc.core.errors import BadInput, WorkFailed
from tests.support.jsonl import write_jsonl


def row(question: str, answer: str = "\n答", query: str = "") -> dict[str, str]:
    return {"instruction": question, "input": query, "output": answer, "other": "x"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "belle.json", [row(f"问题{i}？", f"\n答案{i}\u2028。") for i in range(1, 101)]
    )


def test_the_contract(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run" / "data"
    done = prepare(source, out, dev_rows="1-10")
    assert sorted(entry.name for entry in out.iterdir()) == ["dev.jsonl", "prepare.json", "train.jsonl"]
    train = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    dev = [json.loads(line) for line in (out / "dev.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [r["id"] for r in dev] == list(range(1, 11)) and [r["id"] for r in train] == list(range(11, 101))
    assert dev[0] == {"id": 1, "instruction": "问题1？", "input": "", "output": "\n答案1\u2028。"}
    record = json.loads((out / "prepare.json").read_text(encoding="utf-8"))
    assert record == done.record
    assert (record["rows"], record["train"], record["dev"], record["unused"]) == (100, 90, 10, 0)
    assert record["source"] == str(source)
    assert record["overlap"] == {"train_rows_removed": 0, "rows": [], "checked": True, "dev_in_train": 0}
    assert record["dropped"] == [] and record["dropped_by_reason"] == {}
    for file in record["files"]:
        content = (out / file["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
    assert Prepared.load(out) == done
    assert [r.id for r in done.rows("train")] == list(range(11, 101))


def test_columns_are_renamed_and_queries_kept(tmp_path: Path) -> None:
    rows = [{"content": f"q{i}", "context": "c" if i % 2 else "", "summary": f"a{i}"} for i in range(10)]
    done = prepare(
        write_jsonl(tmp_path / "f.json", rows), tmp_path / "o", dev_rows="1",
        prompt_column="content", query_column="context", response_column="summary",
    )  # fmt: skip
    found = list(done.rows("train"))
    assert [(r.instruction, r.input, r.output) for r in found[:2]] == [("q1", "c", "a1"), ("q2", "", "a2")]
    assert [question_text(r.instruction, r.input) for r in found[:2]] == ["q1\nc", "q2"]


@pytest.mark.parametrize("dev", ["1-3", "4-6", "2,9"])
def test_no_dev_question_is_trained_on(tmp_path: Path, dev: str) -> None:
    """Wherever the dev rows stand in the file, and however the question is typed."""
    rows = [row(f"问{i}，共几个？") for i in range(1, 10)]
    rows += [
        row("问2, 共几个?", "\n别的答"),
        row(" 问5，共几个？ "),
        row("问2，共几个？", query="再问"),
        row("问9，共几个"),
    ]
    source = write_jsonl(tmp_path / "f.json", rows)
    done = prepare(source, tmp_path / "o", dev_rows=dev)
    keys = {part: [question_key(question_text(r.instruction, r.input)) for r in done.rows(part)]  # type: ignore[arg-type]
            for part in ("train", "dev")}  # fmt: skip
    assert not set(keys["train"]) & set(keys["dev"])
    expected = {"1-3": [10], "4-6": [11], "2,9": [10, 13]}[dev]
    assert done.record["overlap"] == {
        "train_rows_removed": len(expected), "rows": expected, "checked": True, "dev_in_train": 0,
    }  # fmt: skip
    assert done.train == len(keys["train"]) == 13 - len(keys["dev"]) - len(expected)
    kept = prepare(source, tmp_path / "o2", dev_rows=dev, deduplicate=False)
    assert kept.record["overlap"]["dev_in_train"] == len(expected)
    assert kept.train == done.train + len(expected)


def test_dropped_rows_and_the_numbering(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "f.json", [row(f"问{i}") for i in range(1, 9)])
    lines = source.read_text(encoding="utf-8").split("\n")
    lines[1], lines[4] = "{broken", ""
    source.write_text("\n".join(lines), encoding="utf-8")
    done = prepare(source, tmp_path / "o", dev_rows="1-3", train_rows="6-")
    assert [r.id for r in done.rows("dev")] == [1, 3]
    assert [r.id for r in done.rows("train")] == [6, 7, 8]
    assert done.record["unused"] == 1
    assert [(d["line"], d["reason"]) for d in done.record["dropped"]] == [
        (2, "broken JSON"),
        (5, "blank line"),
    ]
    assert done.dropped_by_reason == {"broken JSON": 1, "blank line": 1}


def test_idempotent(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "o"
    done = prepare(source, out, dev_rows="1-10")
    before = {entry.name: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in out.iterdir()}
    monkeypatch.setattr(prepared_module, "_write", lambda *_: pytest.fail("it was made again"))
    assert prepare(source, out, dev_rows="1-10") == done
    assert before == {entry.name: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in out.iterdir()}
    moved = source.rename(source.with_name("moved.json"))
    assert (
        prepare(moved, out, dev_rows="1-10").fingerprint == done.fingerprint
    )  # the content counts, not the name


def test_another_setting_or_content_or_a_damaged_file_is_made_anew(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    prints = [prepare(source, out, dev_rows="1-10").fingerprint]
    done = prepare(source, out, dev_rows="1-11")
    prints.append(done.fingerprint)
    assert done.dev == 11
    source.write_text(source.read_text(encoding="utf-8").replace("问题50", "问题五十"), encoding="utf-8")
    prints.append(prepare(source, out, dev_rows="1-11").fingerprint)
    assert len(set(prints)) == 3
    (out / "train.jsonl").write_text("{}")
    with pytest.raises(BadInput, match="not a whole data directory"):
        Prepared.load(out)
    assert (
        prepare(source, out, dev_rows="1-11").train
        == len((out / "train.jsonl").read_bytes().splitlines())
        == 89
    )


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([row("q")] * 4, {}, r"data.dev_rows = '1-10000' reaches row 10000, but .*f.json has 4 rows"),
        (
            [row("q")] * 4,
            {"dev_rows": "1"},
            "no train row is left of its 4 rows: all 3 train rows ask questions of dev",
        ),
        ([row("q")] * 4, {"dev_rows": "1-4"}, "no train row is left"),
        (
            [{"instruction": 1}] + [row("q")] * 3,
            {"dev_rows": "1"},
            r"no dev row is left of its 4 rows \(1 unusable\)",
        ),
        ([{"a": 1}] * 4, {"dev_rows": "1"}, "no column 'instruction'"),
        ([row("q")] * 4, {"dev_rows": "1", "train_rows": "1-2"}, "both hold row 1"),
    ],
)
def test_bad_input_leaves_nothing(
    tmp_path: Path, rows: list[Any], options: dict[str, str], message: str
) -> None:
    source = write_jsonl(tmp_path / "f.json", rows)
    with pytest.raises(BadInput, match=message):
        prepare(source, tmp_path / "new" / "o", **options)  # type: ignore[arg-type]
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.json"]


def test_bad_input_leaves_what_was_there(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    done = prepare(source, out, dev_rows="1-10")
    with source.open("a", encoding="utf-8") as file:
        file.write("broken\n" * 200)
    with pytest.raises(BadInput, match=r"broken JSON .* in 200 of 300 rows"):
        prepare(source, out, dev_rows="1-10")
    assert Prepared.load(out) == done
    assert len(list(out.iterdir())) == 3


def dies_at(point: int, source: Path, out: Path) -> bool:
    """Run prepare in a fork that dies at the ``point``-th fsync, rename or removal; False: it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = point

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return call(*args, **kwargs)

        return wrapped

    try:
        os.fsync = counted(os.fsync)
        for name in ("replace", "unlink", "mkdir"):
            setattr(Path, name, counted(getattr(Path, name)))
        prepare(source, out, dev_rows="1-10")
    finally:
        os._exit(0)


@pytest.mark.parametrize("before", ["", "1-20"])
def test_killed_at_any_write(source: Path, tmp_path: Path, before: str) -> None:
    """What a killed process leaves counts as unfinished or is the old data, and the next one finishes."""
    expected = prepare(source, tmp_path / "whole", dev_rows="1-10")
    for point in range(60):
        out = tmp_path / f"o{point}"
        if before:
            prepare(source, out, dev_rows=before)
        if not dies_at(point, source, out):
            break
        try:
            assert Prepared.load(out).dev in (10, 20)
        except BadInput:
            assert not (out / "prepare.json").exists()
        again = prepare(source, out, dev_rows="1-10")
        assert again.fingerprint == expected.fingerprint
        assert not (out / ".prepare-unfinished").exists() or Prepared.load(out) == again
        assert (out / "train.jsonl").read_bytes() == (tmp_path / "whole" / "train.jsonl").read_bytes()
    assert 10 <= point < 60


def test_leftovers_of_killed_writers_go_once_they_are_old(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    old, fresh = out / ".beside-train.jsonl-1-aa", out / ".beside-train.jsonl-2-bb"
    for path in (old, fresh):
        path.write_text("x")
    os.utime(old, (0, 0))
    prepare(source, out, dev_rows="1-10")
    assert not old.exists() and fresh.exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "file: not a directory"), ("file/o", "file: not a directory"), ("gone", "gone: not a directory"),
        ("/proc/o", "/proc/o: cannot be made a directory"), ("n" * 300, "cannot be made a directory"),
    ],
)  # fmt: skip
def test_a_place_that_can_be_no_directory(source: Path, tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "gone").symlink_to("nothing")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=re.escape(said)) as caught:
        prepare(source, tmp_path / place, dev_rows="1-10")
    assert "\n" not in str(caught.value) and "(--out)" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["train.jsonl", "dev.jsonl", "prepare.json"])
@pytest.mark.parametrize("read", ["as it is", "by a link", "elsewhere"])
def test_no_file_is_overwritten_that_was_not_prepared_there(
    source: Path, tmp_path: Path, name: str, read: str
) -> None:
    """Neither the data that are read, by whichever name, nor other files that are called so."""
    out = tmp_path / "o"
    out.mkdir()
    mine = out / name
    mine.write_bytes(source.read_bytes())
    link = tmp_path / "link.jsonl"
    link.symlink_to(mine)
    given = {"as it is": mine, "by a link": link, "elsewhere": source}[read]
    with pytest.raises(BadInput, match=r"would be overwritten.*name another directory") as caught:
        prepare(given, out, dev_rows="1-10")
    assert "\n" not in str(caught.value)
    assert mine.read_bytes() == source.read_bytes() and [entry.name for entry in out.iterdir()] == [name]


def test_what_may_not_be_read_or_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad input; a full disk is none. Root may write everywhere: the system's errors are raised here."""
    for number, kind in ((errno.EACCES, BadInput), (errno.EROFS, BadInput), (errno.ENOSPC, WorkFailed)):
        error = OSError(number, os.strerror(number))
        monkeypatch.setattr(
            prepared_module, "remove_stale", lambda *_, error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(kind, match=f"cannot write the prepared data: {os.strerror(number)}"):
            prepare(source, tmp_path / "o", dev_rows="1-10")
    closed = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "stat", lambda *_, **__: (_ for _ in ()).throw(closed))
    with pytest.raises(BadInput, match="cannot be read: Permission denied"):
        open_source(source)


def test_what_was_prepared_is_not_prepared_from_itself(source: Path, tmp_path: Path) -> None:
    done = prepare(source, tmp_path / "o", dev_rows="1-10")
    with pytest.raises(BadInput, match=r"train\.jsonl: would be overwritten by what is prepared from it"):
        prepare(done.path("train"), tmp_path / "o", dev_rows="1-2")
    assert Prepared.load(tmp_path / "o") == done
    assert prepare(done.path("train"), tmp_path / "p", dev_rows="1-2").train == done.train - 2


def test_made_problems(tmp_path: Path) -> None:
    done = prepare(MadeSource(300, 5), tmp_path / "o", dev_rows="1-50")
    assert (done.train, done.dev) == (250, 50)
    assert done.record["overlap"]["train_rows_removed"] == 0
    assert prepare(MadeSource(300, 6), tmp_path / "p", dev_rows="1-50").fingerprint != done.fingerprint
    assert prepare(MadeSource(300, 5), tmp_path / "q", dev_rows="1-50").fingerprint == done.fingerprint


def test_no_torch_and_no_numpy_needed() -> None:
    code = (
        "import sys, glmjobs.data; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
