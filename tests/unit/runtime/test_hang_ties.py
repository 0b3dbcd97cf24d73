"""Who hangs, where several ranks stopped at the same beat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc.runtime import heartbeat


def beats(folder: Path, *ranks: tuple[int, bool]) -> None:
    """One file a rank: its count, and whether it waits inside a collective operation."""
    for rank, (count, waits) in enumerate(ranks):
        record = {
            "rank": rank, "world_size": len(ranks), "host": f"node{rank}", "pid": 1, "limit": 0.0,
            "phase": "training", "step": 7, "count": count, "in_collective": waits,
        }  # fmt: skip
        heartbeat.path(folder, rank).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("ranks", "behind"),
    [
        ([(5, True), (5, False)], [1]),
        ([(5, True), (5, True)], [0, 1]),
        ([(5, False), (5, False)], [0, 1]),
        ([(5, False), (4, True)], [1]),
        ([(5, False), (4, True), (4, False)], [2]),
    ],
)
def test_the_one_that_waits_for_nobody_is_behind(
    tmp_path: Path, ranks: list[tuple[int, bool]], behind: list[int]
) -> None:
    folder = tmp_path / "heartbeat"
    watch = heartbeat.Watch(folder)
    folder.mkdir()
    beats(folder, *ranks)
    watch.check()
    hang = watch.check()  # the limit of 0 s is over
    assert hang is not None and [b["rank"] for b in hang.behind] == behind


def test_a_rank_outside_torch_is_in_no_collective() -> None:
    assert not heartbeat.in_collective()
