"""A checkpoint counts whole or not at all; a save that fails costs only itself; resume takes the newest good one."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs.training import save
from glmjobs.training.agreement import Agreement
from glmjobs.training.resume import resume_point, unreadable
from glmjobs.training.save import Saver, Writes, is_disk_error
from glmjobs.zero import committed as checkpoints
from hpc.core.errors import BadInput

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def write(folder: Path, size: int = 1000) -> None:
    """A checkpoint's files."""
    shards = folder / "global_step1"
    shards.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": torch.arange(size)}, shards / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "trainer_state.json").write_text("{}")


def committed(folder: Path, step: int, world_size: int = 1) -> Path:
    path = folder / f"checkpoint-{step}"
    write(path)
    checkpoints.commit(path, step, world_size)
    return path


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def saver(tmp_path: Path, events: list[dict[str, Any]]) -> Saver:
    def record(event: str, **fields: Any) -> None:
        events.append({"event": event, **fields})

    return Saver(tmp_path, 2, Agreement(), record, estimate=lambda: 10_000, world_size=1, syncs=True)


def steps(folder: Path) -> list[int]:
    """Steps that count, newest first."""
    return [c.step for c in checkpoints.scan(folder) if c.problem is None]


def failing(error: Exception, folder: Path) -> Callable[[], None]:
    def fail() -> None:
        write(folder)
        raise error

    return fail


def test_good_saves_are_kept_up_to_the_limit(saver: Saver, tmp_path: Path) -> None:
    for step in (2, 4, 6):
        assert saver.save(step, lambda step=step: write(tmp_path / f"checkpoint-{step}"))  # type: ignore[misc]
    assert steps(tmp_path) == [6, 4]
    assert saver.seconds is not None and saver.failed is None


@pytest.mark.parametrize(
    "error",
    [
        NO_SPACE,
        OSError(errno.EROFS, "Read-only file system"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_failed_save_costs_only_itself(
    saver: Saver, tmp_path: Path, events: list[dict[str, Any]], error: Exception, capsys: Any
) -> None:
    committed(tmp_path, 2)
    assert not saver.save(4, failing(error, tmp_path / "checkpoint-4"))
    assert steps(tmp_path) == [2] and not (tmp_path / "checkpoint-4").exists(), "the room is given back"
    assert saver.failed is not None and saver.failed.rank == 0
    assert [(e["event"], e["step"], e["last_checkpoint"]) for e in events] == [("save_failed", 4, 2)]
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "checkpoint-4 was not saved" in said
        and "newest checkpoint is checkpoint-2" in said
    )
    assert saver.save(6, lambda: write(tmp_path / "checkpoint-6")) and saver.failed is None


def test_a_wrong_program_is_not_a_full_disk(saver: Saver, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        saver.save(2, failing(RuntimeError("CUDA out of memory"), tmp_path / "checkpoint-2"))


def test_real_torch_save_to_a_full_device_is_a_disk_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(Exception) as caught:
        torch.save({"weights": torch.zeros(1 << 20)}, full)
    assert is_disk_error(caught.value)


def test_after_the_first_error_nothing_more_is_written() -> None:
    writes, done = Writes(), []

    def fail() -> None:
        raise NO_SPACE

    writes.do("a", fail)
    writes.do("b", done.append, 1)
    assert done == [] and writes.problem == "a: No space left on device"


def test_room_is_looked_for_before(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for step in (2, 4):
        committed(tmp_path, step)
    monkeypatch.setattr(save, "free_bytes", lambda _: 100)
    written = []
    assert not saver.save(6, lambda: written.append(6))
    assert written == [] and steps(tmp_path) == [4], "older ones make room, the newest never does"
    assert "No space left" not in capsys.readouterr().err and "are free in" in str(saver.failed)


def test_older_ones_make_room(saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (2, 4):
        committed(tmp_path, step)
    monkeypatch.setattr(save, "free_bytes", lambda _: 100 if (tmp_path / "checkpoint-2").exists() else 10**9)
    assert saver.save(6, lambda: write(tmp_path / "checkpoint-6"))
    assert steps(tmp_path) == [6, 4]


@pytest.mark.parametrize(("later", "ended"), [(3, "saved"), (99, "given up"), (99, "told to stop")])
def test_the_last_save_waits_for_room(
    later: int, ended: str, saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Room that somebody makes is taken; a signal, or the end of patience, ends the waiting. Each look is a beat."""
    monkeypatch.setattr(save, "ROOM_PAUSE", 0.01)
    monkeypatch.setattr(save, "ROOM_PATIENCE", 0.2 if ended == "given up" else 60.0)
    looks: list[int] = []
    monkeypatch.setattr(save, "free_bytes", lambda _: 10**9 if len(looks) >= later else 100)

    def beat() -> bool:
        looks.append(1)
        return ended == "told to stop" and len(looks) > 5

    saved = saver.save_last(6, lambda: write(tmp_path / "checkpoint-6"), beat)
    assert saved is (ended == "saved") and steps(tmp_path) == ([6] if saved else [])
    said = capsys.readouterr().err
    assert "waiting for room" in said and "training goes on" not in said
    assert len(looks) == 3 if saved else len(looks) > 5


def test_a_last_save_that_fails_otherwise_waits_for_nothing(saver: Saver, tmp_path: Path) -> None:
    failing_write = failing(OSError(errno.EFBIG, "File too large"), tmp_path / "checkpoint-6")
    assert not saver.save_last(6, failing_write, lambda: pytest.fail("it waits"))


def test_estimate_counts_weights_and_adam() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False).half(), torch.nn.Linear(10, 10).half())
    model[1].weight = model[0].weight
    model[1].bias.requires_grad = False
    assert save.estimate(model) == 100 * (2 + 12) + 2 * 10 * 2, "tied weights once, frozen ones twice"
    model.peft_config = {}
    assert save.estimate(model) == 100 * (2 + 12), "of a LoRA frozen ones not at all"
    model[0].weight.requires_grad = False
    assert save.estimate(model) == 100 * 2, (
        "DeepSpeed saves a frozen weight that is tied under its second name"
    )


def test_a_save_says_its_rate(saver: Saver, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert saver.save(2, lambda: write(tmp_path / "checkpoint-2", 300_000))
    assert re.search(r"checkpoint-2: 2\.4 MB saved in \d+ s, [\d,]+ MB/s", capsys.readouterr().err)


def test_flushing_is_seen_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large file is flushed a byte a piece appears beside it; at the end nothing of that is left."""
    monkeypatch.setattr(checkpoints, "SYNC_BYTES", 1 << 16)
    folder, seen, fsync = tmp_path / "checkpoint-2", [], os.fsync
    write(folder, 100_000)  # 800 kB: 12 pieces and the rest

    def noting(descriptor: int) -> None:
        seen.append(sum(f.stat().st_size for f in folder.glob(f"{checkpoints.FLUSHING}*")))
        fsync(descriptor)

    monkeypatch.setattr(checkpoints.os, "fsync", noting)
    checkpoints.sync(folder)
    assert max(seen) == 12
    assert not list(folder.glob(f"{checkpoints.FLUSHING}*"))


def test_leavings_of_a_broken_save_are_not_listed(saver: Saver, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "stale.pt").write_text("of another attempt")
    assert saver.save(2, lambda: write(tmp_path / "checkpoint-2"))
    assert not (tmp_path / "checkpoint-2" / "stale.pt").exists()


def test_rotation_never_takes_the_newest_committed(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        committed(tmp_path, step)
    write(tmp_path / "checkpoint-8")  # being written, or broken off
    for keep in (0, 1):
        checkpoints.rotate(tmp_path, keep)
        assert steps(tmp_path) == [6] and (tmp_path / "checkpoint-8").exists()


def test_resume_passes_over_what_is_not_whole_and_says_why(tmp_path: Path, capsys: Any) -> None:
    committed(tmp_path, 2)
    for step in (4, 6, 8, 10, 12):
        committed(tmp_path, step)
    (tmp_path / "checkpoint-12" / checkpoints.COMMITTED).unlink()
    shard = "global_step1/zero_pp_rank_0_mp_rank_00_optim_states.pt"
    (tmp_path / "checkpoint-10" / shard).unlink()
    with (tmp_path / "checkpoint-8" / shard).open("ab") as file:
        file.write(b"more")
    data = bytearray((tmp_path / "checkpoint-6" / shard).read_bytes())
    data[data.index(b"\x07\0\0\0\0\0\0\0\x08")] ^= 1  # in the tensor's own bytes: the size stays
    (tmp_path / "checkpoint-6" / shard).write_bytes(data)
    text = tmp_path / "checkpoint-4" / "trainer_state.json"
    text.write_text("}{")
    told: list[str] = []
    found = resume_point(
        tmp_path, Agreement(), 1, lambda name, why: told.append(f"passing over {name}: {why}")
    )
    assert found == tmp_path / "checkpoint-2"
    said = capsys.readouterr().err
    for step, why in (
        (12, "not committed"),
        (10, "is missing"),
        (8, "bytes instead of"),
        (6, "checksum"),
        (4, "read"),
    ):
        assert any(f"checkpoint-{step}:" in line and why in line for line in said.splitlines()), (step, said)
    assert said.splitlines() == [*told, "resuming from checkpoint-2"]


def test_nothing_good_means_the_beginning(tmp_path: Path, capsys: Any) -> None:
    assert resume_point(tmp_path / "none", Agreement(), 1) is None
    write(tmp_path / "checkpoint-2")
    assert resume_point(tmp_path, Agreement(), 1) is None
    assert "starting at the beginning" in capsys.readouterr().err


def test_another_number_of_ranks_is_said(tmp_path: Path) -> None:
    committed(tmp_path, 2, world_size=8)
    with pytest.raises(BadInput, match="saved by 8 ranks and this attempt has 4"):
        resume_point(tmp_path, Agreement(), 4)


def test_ranks_share_the_reading(tmp_path: Path) -> None:
    path = committed(tmp_path, 2)
    (path / "trainer_state.json").write_text(json.dumps({})[:-1])
    said = [unreadable(path, rank, 2) for rank in range(2)]
    assert [text is None for text in said].count(False) == 1
