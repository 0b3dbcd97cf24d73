"""Predictions on disk: killed anywhere, torn anywhere, spread anyhow, every row is there exactly once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from glmjobs.marking import Verdict
from glmjobs.scoring import evaluate
from glmjobs.scoring import predictions as store
from glmjobs.scoring.evaluate import Settings, Work, answer, finish
from glmjobs.scoring.judges import meaning
from glmjobs.scoring.predictions import Answer, Prediction, Shard, Writer, model_fingerprint, row_key
from glmjobs.scoring.test_sets import Question
from glmjobs.scoring.text_metrics import text_scores
from hpc.core.errors import BadInput, WorkFailed

ROWS = 30


@pytest.fixture
def work(tmp_path: Path) -> Work:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "chatglm"}')
    (model / "model.safetensors").write_bytes(random.Random(0).randbytes(5000))
    questions = [
        Question(i + 1, f"小明有{i}个苹果，又买了1个，一共有几个？", f"{i + 1}") for i in range(ROWS)
    ]
    return Work.of(model, questions, tmp_path / "scores", Settings())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers without a model: every third is wrong. Records the positions that were asked for."""
    positions: list[int] = []

    def answers(work: Work, todo: list[int], stop: Callable[[], bool]) -> Any:
        def each() -> Iterator[tuple[int, str, int, str]]:
            for p in sorted(todo, reverse=True):
                positions.append(p)
                yield p, f"答：一共有{p + 1 + (p % 3 == 0)}个。\n", 5, "stop"

        return evaluate._Answers(each(), "test", frozenset([4]))

    monkeypatch.setattr(evaluate, "_answers", answers)
    return positions


def merged(work: Work) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work.folder / "predictions.jsonl").open(encoding="utf-8")]


def check_whole(work: Work) -> dict[str, Any]:
    summary = finish(work)
    assert summary is not None
    rows = merged(work)
    assert [row["id"] for row in rows] == [q.id for q in work.questions]
    assert list(rows[0]) == list(Prediction.__dataclass_fields__)
    assert summary["rows"] == ROWS
    assert summary["correct"] == ROWS - len(range(0, ROWS, 3))
    assert json.loads((work.folder / "summary.json").read_text(encoding="utf-8")) == summary
    return summary


def test_one_part(work: Work, asked: list[int]) -> None:
    assert finish(work) is None
    assert answer(work, Shard()) == ROWS
    summary = check_whole(work)
    assert summary["finish"] == {"stop": ROWS, "length": 0}
    assert summary["interval"][0] < summary["accuracy"] < summary["interval"][1]
    assert sum(part["rows"] for part in summary["by_length"].values()) == ROWS
    assert sum(part["rows"] for part in summary["by_answer_type"].values()) == ROWS
    assert summary["tokens"] == 5 * ROWS
    assert summary["computed_on"] == {"test": ROWS}
    assert summary["questions_cut"] == 1
    assert answer(work, Shard()) == 0
    assert len(asked) == ROWS


@pytest.mark.parametrize("count", [2, 3, 8, 40])
def test_many_parts(work: Work, asked: list[int], count: int) -> None:
    for index in random.Random(count).sample(range(1, count + 1), count):
        assert finish(work) is None
        answer(work, Shard(index, count))
    check_whole(work)
    assert sorted(asked) == list(range(ROWS))


def in_child(action: Callable[[], Any]) -> int:
    """Run in a forked process; the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_killed_after_every_row_and_torn_at_random(work: Work, asked: list[int]) -> None:
    """SIGKILL after each number of rows, the last line then cut at a random byte, other shard numbers each
    time."""
    rng = random.Random(0)
    for kill_at in range(1, ROWS + 1):
        for path in work.folder.glob("*"):
            path.unlink()
        shard = Shard(1, 1)

        def kill(done: int, of: int, kill_at: int = kill_at) -> None:
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(lambda shard=shard, kill=kill: answer(work, shard, on_row=kill)) == signal.SIGKILL
        assert len(work.missing()) == ROWS - kill_at
        path = shard.path(work.folder)
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        cut = rng.randrange(0, len(lines[-1]))
        path.write_bytes(whole[: len(whole) - len(lines[-1]) + cut])
        missing = work.missing()
        assert len(missing) == ROWS - kill_at + 1
        asked.clear()
        count = rng.randrange(1, 5)
        for index in range(1, count + 1):
            answer(work, Shard(index, count))
        assert sorted(asked) == missing
        check_whole(work)


def die_after(lines: int) -> None:
    """SIGKILL to this process when it has run so many lines of the modules that write predictions."""
    files, left = {store.__file__, evaluate.__file__}, lines

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


@pytest.mark.parametrize("deaths", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_killed_at_any_line(work: Work, asked: list[int], deaths: int) -> None:
    """Killed while opening, cutting a torn line, between two rows, merging; up to four processes side by side, shards
    numbered anew each time."""
    text_scores("一个", "一个")  # loads its dictionary here, not in every child
    rng = random.Random(1)
    folder, killed, merges = work.folder, 0, 0
    while killed < deaths:
        count = rng.randrange(1, 5)
        before = store.collect(folder, work.keys)
        children = []
        for index in range(1, count + 1):
            lines = int(10 ** rng.uniform(1, 4.3))
            child = os.fork()
            if child == 0:
                with suppress(BaseException):
                    die_after(lines)
                    answer(work, Shard(index, count))
                    finish(work)
                os._exit(0)
            children.append(child)
        killed += sum(os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in children)
        after = store.collect(folder, work.keys)
        assert all(after[key] == record for key, record in before.items()), "lost, or done again"
        if (folder / "summary.json").exists():  # written last: then all of it is there
            assert json.loads((folder / "summary.json").read_text())["rows"] == ROWS
            assert [row["id"] for row in merged(work)] == [q.id for q in work.questions]
            merges += 1
            shutil.rmtree(folder)
    assert merges >= deaths // 40
    missing = work.missing()
    answer(work, Shard())
    assert sorted(asked) == missing
    check_whole(work)
    found = [record["key"] for record in store.records(folder)]
    assert sorted(found) == sorted(work.keys), "every row was answered once, over all attempts"


def test_torn_at_every_byte(work: Work, asked: list[int]) -> None:
    """Whatever is left of a file's last line: the lines before it stay, and what is appended stands alone."""
    answer(work, Shard(), stop=lambda: len(asked) == 3)
    path = Shard().path(work.folder)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    assert last > 200
    for cut in range(1, last + 1):
        path.write_bytes(whole[:-cut])
        assert len(work.missing()) == ROWS - 2
        with Writer(work.folder, Shard()):
            pass
        assert path.read_bytes() == whole[:-last]


def test_rows_done_twice_count_once(work: Work, asked: list[int]) -> None:
    """Two numbers of shards at once, as after a resubmission that overlaps the old job."""
    answer(work, Shard(1, 2))
    copy = work.folder / "predictions.shard-1-of-3.jsonl"
    copy.write_bytes(Shard(1, 2).path(work.folder).read_bytes() * 2)
    answer(work, Shard(2, 2))
    check_whole(work)


def test_another_models_predictions_are_not_taken(work: Work, asked: list[int]) -> None:
    answer(work, Shard())
    check_whole(work)
    weights = bytearray((work.model_dir / "model.safetensors").read_bytes())
    weights[2500] ^= 1
    (work.model_dir / "model.safetensors").write_bytes(weights)
    other = Work.of(work.model_dir, work.questions, work.folder, work.settings)
    assert len(other.missing()) == ROWS
    assert finish(other) is None
    answer(other, Shard())
    check_whole(other)
    longer = Work.of(work.model_dir, work.questions, work.folder, Settings(max_new_tokens=99))
    assert len(longer.missing()) == ROWS
    same = Work.of(work.model_dir, work.questions, work.folder, Settings(batch_size=3))
    assert finish(same) is not None


def test_more_rows_later_keep_the_first(work: Work, asked: list[int]) -> None:
    few = Work.of(work.model_dir, work.questions[:10], work.folder, work.settings)
    answer(few, Shard())
    summary = finish(few)
    assert summary is not None
    assert summary["rows"] == 10
    assert len(work.missing()) == ROWS - 10
    edited = [work.questions[0]._replace(gold="99"), *work.questions[1:10]]
    assert Work.of(work.model_dir, edited, work.folder, work.settings).missing() == [0]
    answer(work, Shard())
    check_whole(work)
    assert len(asked) == ROWS


def test_rejudging_needs_no_model(work: Work, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    answer(work, Shard())
    monkeypatch.setattr(meaning, "judge", lambda *texts: Verdict(False, "", "", "strict"))
    summary = finish(work)
    assert summary is not None
    assert summary["correct"] == 0
    assert {row["reason"] for row in merged(work)} == {"strict"}


def test_foreign_lines_are_passed_over(work: Work, asked: list[int]) -> None:
    answer(work, Shard(1, 2))
    with Shard(1, 2).path(work.folder).open("ab") as file:
        file.write(b'null\n[1]\n{"key": 3}\nnot json\n{"key": "0123456789abcdef"}\n\xff\xfe\n')
    answer(work, Shard(2, 2))
    check_whole(work)


def test_one_writer_a_shard(work: Work, asked: list[int]) -> None:
    work.folder.mkdir()
    with Writer(work.folder, Shard(1, 2)):
        with pytest.raises(WorkFailed, match="another process is scoring shard 1/2"):
            Writer(work.folder, Shard(1, 2))
        with Writer(work.folder, Shard(2, 2)):
            pass


def test_a_full_disk_is_one_line(work: Work, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WorkFailed, match=r"predictions\.shard-1-of-1\.jsonl: cannot write: No space left"):
        answer(work, Shard())


def test_merge_is_atomic_and_repeatable(
    work: Work, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(work, Shard())
    check_whole(work)
    before = {p.name: p.read_bytes() for p in work.folder.iterdir()}
    check_whole(work)
    assert {p.name: p.read_bytes() for p in work.folder.iterdir()} == before
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(WorkFailed, match="No space left"):
        finish(work)
    assert {p.name: p.read_bytes() for p in work.folder.iterdir()} == before


def test_text_of_every_kind_survives(work: Work) -> None:
    text = '行一\n行二\u2028三\x00\ud800</script>😀\t"\\'
    prediction = Answer(1, text, text, text, 1, "stop")
    with Writer(work.folder, Shard()) as writer:
        writer.append("k" * 16, prediction, 0.1)
        writer.append("l" * 16, prediction, 0.1)
    found = store.collect(work.folder, ["k" * 16, "l" * 16])
    assert len(found) == 2
    assert found["k" * 16]["prediction"].replace("\\ud800", "\ud800") == text


@pytest.mark.parametrize("text", ["9/8", "0/4", "1", "a/b", "1/", "-1/2", "1/2/3", "", "١/٢"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(BadInput, match="write I/N with I from 1 to N"):
        Shard.parse(text)


def test_shards_partition() -> None:
    assert Shard.parse("3/8") == Shard(3, 8)
    for count in (1, 3, 8):
        parts = [Shard(i, count).mine(range(50)) for i in range(1, count + 1)]
        assert sorted(position for part in parts for position in part) == list(range(50))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_fingerprint_follows_content_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(random.Random(1).randbytes(3_000_000))
    (tmp_path / "b" / "README.md").write_text("x")
    assert model_fingerprint(tmp_path / "a") == model_fingerprint(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert model_fingerprint(tmp_path / "a") != model_fingerprint(tmp_path / "b")
    row = {"id": 1, "question": "q", "gold": "g"}
    assert row_key("x", row) == row_key("x", {**row, "other": 1})
    assert len({row_key("x", row), row_key("y", row), row_key("x", {**row, "id": "1"})}) == 3
