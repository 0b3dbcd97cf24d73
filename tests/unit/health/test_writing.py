"""How fast a folder is written to: with fsync, within bounds, and nothing stays behind."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from hpc.health import writing


def test_it_is_measured_and_cleaned_up(tmp_path: Path) -> None:
    began = time.monotonic()
    rate = writing.write_speed(tmp_path, streams=4, most=40 << 20)
    assert rate > 0 and (40 << 20) / rate <= time.monotonic() - began
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        writing.write_speed(tmp_path / "gone")


@pytest.mark.parametrize(
    ("first", "most", "wrote"),
    [
        (1 << 30, 1 << 40, [(16, 1), (64, 4)]),  # 256 MiB at most, whatever is asked for
        (30 << 20, 1 << 40, [(16, 1), (15, 4)]),  # two seconds of it
        (5 << 20, 1 << 40, [(16, 1)]),
        (1 << 30, 1 << 20, [(16, 1)]),
    ],
)
def test_it_is_bounded(
    first: int, most: int, wrote: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[int, int]] = []

    def written(folder: Path, each: int, streams: int) -> float:
        done.append((each >> 20, streams))
        return float(first)

    monkeypatch.setattr(writing, "_written", written)
    writing.write_speed(tmp_path, streams=4, most=most)
    assert done == wrote


def test_a_disk_without_room_for_more_is_measured_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = writing._write

    def short(probe: Path, data: bytes, size: int) -> int:
        if size != writing.FIRST_BYTES:
            probe.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return one(probe, data, size)

    monkeypatch.setattr(writing, "_write", short)
    monkeypatch.setattr(writing, "SECONDS", 1e9)
    assert writing.write_speed(tmp_path, streams=2, most=64 << 20) > 0
    assert list(tmp_path.iterdir()) == []


def test_as_many_files_as_streams_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(writing, "_write", lambda probe, data, size: seen.append(probe.name) or size)
    monkeypatch.setattr(writing, "SECONDS", 1e9)
    writing.write_speed(tmp_path, streams=3, most=64 << 20)
    assert len(seen) == 4 and len(set(seen)) == 3
