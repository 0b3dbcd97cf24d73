"""The index beside the runs: never wrong, whatever happens to it; and what it saves, counted in files read."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import runs
from glmjobs.run import index as module
from glmjobs.run import read_state as reading
from hpc.chain import ledger
from hpc.core import timestamps
from tests.support.paths import REPO

CHAIN = ("preflight", "train", "consolidate", "score", "report")
LONG_AGO = 1_790_000_000


def make(folder: Path, name: str, *, done: int = len(CHAIN)) -> Path:
    """A run whose first ``done`` stages are done and whose next one failed, all of it a while ago."""
    run = folder / name
    (run / "stages").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    (run / "run.yaml").write_text("{}\n", encoding="utf-8")
    events: list[dict[str, Any]] = [
        {"event": "submitted", "stage": s, "job": str(at), "executor": "local"}
        for at, s in enumerate(CHAIN, 7)
    ]
    for at, stage in enumerate(CHAIN[: done + 1], 7):
        outcome = "done" if at - 7 < done else "failed"
        events.append({"event": "attempt", "stage": stage, "job": str(at), "gpus": 1})
        events.append({"event": "ended", "stage": stage, "job": str(at), "outcome": outcome, "exit_code": 1})
        if outcome == "done":
            marker = {
                "stage": stage,
                "outcome": "done",
                "ended": timestamps.stamp(LONG_AGO + 100),
                "seconds": 1.0,
            }
            (run / "stages" / f"{stage}.json").write_text(json.dumps(marker), encoding="utf-8")
    lines = [json.dumps({"time": timestamps.stamp(LONG_AGO + i), **e}) + "\n" for i, e in enumerate(events)]
    (run / "ledger.jsonl").write_text("".join(lines), encoding="utf-8")
    (run / "checkpoints" / "train_log.jsonl").write_text("", encoding="utf-8")
    settle(run)
    return run


def settle(run: Path) -> None:
    """As if nothing had been changed for a while."""
    for name in module.SOURCES:
        os.utime(run / name, (LONG_AGO, LONG_AGO))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", "/nowhere")  # no Slurm to ask
    for name in ("a", "b", "c"):
        make(tmp_path / "runs", name)
    make(tmp_path / "runs", "failed", done=1)
    return tmp_path / "runs"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The runs whose ledger is read."""
    seen: list[str] = []
    read = ledger.read

    def counted(run: Path) -> list[dict[str, Any]]:
        seen.append(run.name)
        return read(run)

    monkeypatch.setattr(reading.ledger, "read", counted)
    yield seen


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert runs.main(["--json"]) == 0
    return {row["run"]: row for row in json.loads(capsys.readouterr().out)}


def test_the_second_time_nothing_is_read_and_the_same_is_said(
    folder: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = listed(capsys)
    assert sorted(reads) == ["a", "b", "c", "failed"]
    assert {name: row["state"] for name, row in first.items()} == {
        "a": "done",
        "b": "done",
        "c": "done",
        "failed": "failed",
    }
    reads.clear()
    assert listed(capsys) == first and reads == []
    assert runs.main([]) == 0 and reads == []


def test_what_changed_is_read_again(
    folder: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    listed(capsys)
    reads.clear()
    ledger.append(folder / "failed", "attempt", stage="train", job="8", gpus=1)
    assert listed(capsys)["failed"]["state"] == "running" and set(reads) == {"failed"}
    reads.clear()
    (folder / "b" / "stages" / "report.json").unlink()  # by hand, the ledger as it was
    assert listed(capsys)["b"]["state"] != "done" and set(reads) >= {"b"}


def test_same_size_and_time_but_another_file(
    folder: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    listed(capsys)
    reads.clear()
    path = folder / "a" / "ledger.jsonl"
    other = path.with_name("other")
    other.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    os.utime(other, (LONG_AGO, LONG_AGO))
    other.replace(path)
    listed(capsys)
    assert reads == ["a"]


def test_what_was_changed_a_moment_ago_is_not_kept(
    folder: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    os.utime(folder / "a" / "ledger.jsonl")
    listed(capsys)
    reads.clear()
    listed(capsys)
    assert reads == ["a"]


def test_what_runs_is_read_every_time(
    folder: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.append(folder / "a", "attempt", stage="train", job="8", gpus=1)
    settle(folder / "a")
    listed(capsys)
    reads.clear()
    listed(capsys)
    assert set(reads) == {"a"}


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "empty", "noise", "other shape", "folder", "of other code"]
)
def test_a_damaged_index_is_written_anew(
    damage: str,
    folder: Path,
    reads: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = listed(capsys)
    path = folder / module.NAME
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "of other code":
        monkeypatch.setattr(module, "__version__", "another")
    else:
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        shapes = {"cut": data[: len(data) // 2], "flipped": bytes(flipped), "empty": b"", "noise": os.urandom(300),
                  "other shape": _signed(b'["x"]')}  # fmt: skip
        path.write_bytes(shapes[damage])
    reads.clear()
    assert listed(capsys) == first and len(reads) == len(first)
    reads.clear()
    assert listed(capsys) == first
    assert reads == [] or damage == "folder"


def _signed(text: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def test_where_it_cannot_be_written_all_works_without(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", refused)
        first = listed(capsys)
    assert not (folder / module.NAME).exists()
    assert listed(capsys) == first and (folder / module.NAME).exists()


def test_two_at_once_leave_a_whole_one(folder: Path) -> None:
    from glmjobs.run.locate import directories

    found: list[list[str]] = []
    start = threading.Barrier(4)

    def one() -> None:
        start.wait(30)
        states = reading.read_states(directories(), ask_slurm=False, index=module.Index(folder))
        found.append([s.state for s in states])

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4 and all(states == found[0] for states in found)
    assert set(module.Index(folder).entries) == {"a", "b", "c", "failed"}


def test_runs_that_are_gone_leave_the_index(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(capsys)
    (folder / "c" / "run.yaml").unlink()
    listed(capsys)
    assert set(module.Index(folder).entries) == {"a", "b", "failed"}


def test_the_index_is_no_run_and_nobody_elses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert REPO.is_dir() and module.NAME not in listed(capsys)
    assert (folder / module.NAME).stat().st_mode & 0o777 == 0o600
