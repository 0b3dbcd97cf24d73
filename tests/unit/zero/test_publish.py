"""A model directory appears whole or not at all: disks, locks, kills, and what stands there already."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero import manifest, output_files, pipeline, publish
from glmjobs.zero.consolidate import Options, consolidate
from glmjobs.zero.safetensors_file import read_tensors
from hpc.core.errors import BadInput, NotFit, WorkFailed
from tests.support.small_checkpoints import fails

pytest.importorskip("torch", reason="checkpoints to read are made with torch")


def test_full_disk_is_said_before(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_bavail, f_frsize = 10, 10

    monkeypatch.setattr("os.statvfs", lambda path: Disk)
    with pytest.raises(NotFit, match="needed here"):
        consolidate(checkpoint, checkpoint.parent / "out", Options(fsync=False))
    assert not (checkpoint.parent / "out").exists() and not list(checkpoint.parent.glob(".out*"))


def test_disk_that_fills_up(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    fails(checkpoint, "disk is full")


def test_existing_output_is_not_touched(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(BadInput, match="exists already"):
        consolidate(checkpoint, out, Options(fsync=False))
    assert (out / "mine").read_text() == "x"


@pytest.mark.slow
def test_killed_at_random_moments(bench: Any, tmp_path: Path, repo: Path) -> None:
    """SIGKILL at 40 moments: the output is absent or whole; a rerun finishes and cleans up."""
    source, out = tmp_path / "checkpoint-10", tmp_path / "out"
    bench.make_checkpoint(source, bench.model_shapes(0.05), 3, 4, False)
    command = [sys.executable, "-m", "glmjobs.consolidate", str(source), str(out), "--dtype", "float32"]
    whole, _ = bench.measure(command)
    shutil.rmtree(out)
    generator = random.Random(7)
    finished = 0
    for _ in range(40):
        process = subprocess.Popen(command, cwd=repo, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            process.wait(generator.uniform(0.0, whole * 1.05))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if out.exists():
            manifest.verify(out)
            finished += 1
            shutil.rmtree(out)
    assert finished < 40
    subprocess.run(command, cwd=repo, check=True, capture_output=True)
    manifest.verify(out)
    assert len(read_tensors(out / "model.safetensors")) == len(bench.model_shapes(0.05))
    assert not list(tmp_path.glob(".out*"))


def test_replace_takes_only_model_directories(checkpoint: Path) -> None:
    here = checkpoint.parent
    other, file = here / "other", here / "file"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    file.write_text("x")
    before = sorted(here.rglob("*"))
    for target in (checkpoint, checkpoint / "global_step10", here, other, file, Path("/"), here / "other/.."):
        with pytest.raises(BadInput, match="replaced"):
            consolidate(checkpoint, target, Options(replace=True, fsync=False))
        assert sorted(here.rglob("*")) == before
    out = here / "out"
    out.mkdir()  # an empty one
    for dtype in ("float32", "bfloat16"):
        consolidate(checkpoint, out, Options(dtype=dtype, replace=True, fsync=False))
        assert manifest.verify(out)["dtype"] == dtype
    with pytest.raises(BadInput, match="replaced"):
        consolidate(checkpoint, out, Options(replace=True, fsync=False), base=out)
    assert not list(here.glob(".*"))


def test_replaced_directory_is_put_back(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = checkpoint.parent / "out"
    consolidate(checkpoint, out, Options(dtype="float32", fsync=False))
    rename = Path.rename

    def fails_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(WorkFailed, match="cannot be put in place"):
        consolidate(checkpoint, out, Options(dtype="bfloat16", replace=True, fsync=False))
    assert manifest.verify(out)["dtype"] == "float32"
    monkeypatch.undo()
    # Killed between the two renames: the next attempt puts it back.
    work = out.with_name(".out.partial")
    work.mkdir()
    out.rename(work / "old")
    publish.clean(out)
    assert manifest.verify(out)["dtype"] == "float32" and not work.exists()


def test_one_process_a_target(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    with publish.publishing(out) as new:
        (new / "x").write_text("x")
        with pytest.raises(WorkFailed, match="another process is writing"):
            consolidate(checkpoint, out, Options(fsync=False))
        publish.clean(out)
        with publish.publishing(out.with_name("*")):
            pass
    assert (out / "x").exists() and not list(out.parent.glob(".*"))


def test_folder_taken_away_before_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process cleans up between a folder's making and its lock: it is made again."""
    out, lock, times = tmp_path / "out", fcntl.flock, iter(range(3))

    def late(handle: int, how: int) -> None:
        if next(times) == 0:
            for made in tmp_path.glob(".out.partial*"):
                shutil.rmtree(made)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with publish.publishing(out) as new:
        (new / "x").write_text("x")
    assert (out / "x").exists() and not list(tmp_path.glob(".*"))


def test_no_locks_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with publish.publishing(tmp_path / "out") as new, publish.publishing(tmp_path / "other"):
        (new / "x").write_text("x")
    assert (tmp_path / "out/x").exists() and not list(tmp_path.glob(".*"))


def test_disk_without_fallocate(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc then writes single bytes, which a file opened past the page cache refuses."""
    called = []

    def refuses(*_: object) -> None:
        called.append(1)
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(pipeline, "is_local", lambda directory: True)
    monkeypatch.setattr(output_files.os, "posix_fallocate", refuses)
    out, usual = checkpoint.parent / "out", checkpoint.parent / "usual"
    consolidate(checkpoint, out, Options(dtype="float32", fsync=False))
    manifest.verify(out)
    if not called:
        pytest.skip("no direct writing on this disk")
    monkeypatch.undo()
    consolidate(checkpoint, usual, Options(dtype="float32", fsync=False))
    assert (out / "model.safetensors").read_bytes() == (usual / "model.safetensors").read_bytes()
