"""Real trainings, two ranks on the CPU: a disk that refuses, a loss that is no number, a rank that hangs."""

from __future__ import annotations

import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero import committed
from hpc.chain import ledger
from tests.support.small_training import Training, kill, make_run, moving_scale, shims, small_model

FP32 = "train.precision=fp32"
LATE = ("loading the model", "preparing", "training")
"""Phases in which nothing but checkpoints is left to write."""

HANGS = """
import signal
import sys
import time


def stuck_here(*_):
    while True:
        time.sleep(60)


if "glmjobs.train" in sys.orig_argv:
    signal.signal(signal.SIGRTMIN, stuck_here)
"""
"""Every rank hangs in Python when it gets SIGRTMIN."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def small_files_only(pid: int, limit: int) -> None:
    """From now on that process can write no file beyond ``limit`` bytes (it gets EFBIG), as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def test_training_outlives_a_disk_that_refuses(model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "refused", model, FP32, "train.max_steps=40")
    with Training(run) as training:
        pids = training.until(training.ranks)
        training.until(lambda: (training.beat(1) or {}).get("phase") in LATE)
        small_files_only(pids[1], 20_000)
        training.until(lambda: training.events("save_failed"))
        small_files_only(pids[1], resource.RLIM_INFINITY)
        assert training.wait() == 0, training.said()
    failed = training.events("save_failed")
    assert failed[0]["rank"] == 1
    assert f"checkpoint-{failed[0]['step']} was not saved (rank 1 on" in training.log(0)
    assert [e["outcome"] for e in training.events("ended")] == ["done"], "no attempt was lost"
    newest = committed.newest(run.checkpoints)
    assert newest is not None and newest.step == 40


def test_last_save_that_fails_fails_the_stage(model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "last", model, FP32, "train.max_steps=4", gpus=1)
    with Training(run) as training:
        [pid] = training.until(training.ranks)
        training.until(lambda: committed.newest(run.checkpoints))
        small_files_only(pid, 20_000)
        code = training.wait()
    if training.events("ended")[-1]["outcome"] == "done":
        pytest.skip("the training was over before the disk could be made to refuse")
    assert code == 1, training.said()
    [ended] = training.events("ended")
    assert "could not be saved" in ended["error"] and "goes on from checkpoint-2" in ended["error"]
    assert not run.done("train") and "trying again cannot help" in training.said()
    newest = committed.newest(run.checkpoints)
    assert newest is not None and newest.step == 2


def test_loss_that_is_no_number_ends_it_with_the_last_good_checkpoint(model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "nan", model, FP32, "train.max_steps=4", "train.scheduler=constant", gpus=1)
    with Training(run) as training:
        assert training.wait() == 0, training.said()
    shutil.rmtree(run.checkpoints / "checkpoint-4")
    (run.path / "stages" / "train.json").unlink()
    text = (run.path / "run.yaml").read_text()
    (run.path / "run.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 1.0e+36"))
    with Training(run) as training:
        assert training.wait() == 1, training.said()
    ended = training.events("ended")[-1]
    assert ended["outcome"] == "failed" and len(training.events("attempt")) == 2, "not tried again"
    said = ended["error"]
    assert "step " in said and "train.precision=bf16" in said and "train.learning_rate=1e+36" in said
    assert "checkpoint-2, saved before, is kept" in said
    assert [c.step for c in committed.scan(run.checkpoints)] == [2], "nothing spoilt was saved"


def test_hanging_rank_is_found_and_the_training_goes_on(model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "hang", model, FP32, "train.max_steps=60", "jobs.heartbeat_seconds=20")
    with Training(run, environ=shims(tmp_path, HANGS)) as training:
        pids = training.until(training.ranks)
        training.until(lambda: committed.newest(run.checkpoints))
        kill(pids[1], signal.SIGRTMIN)
        training.until(lambda: training.events("hung"))
        assert training.wait() == 0, training.said()
    [hung] = training.events("hung")
    assert hung["ranks"] == [1] and hung["step"] >= 2 and hung["seconds"] >= 20
    assert "stuck_here" in training.log(1), "the stack of the rank that hung"
    assert "stuck_here" not in training.log(0), training.log(0)
    assert re.search(r"Current thread.*\n  File .*/torch/distributed/", training.log(0)), (
        f"where the other waited: {training.log(0)}"
    )
    ended = training.events("ended")
    assert [e["outcome"] for e in ended] == ["failed", "done"]
    assert ended[0]["failed_rank"] == 1 and "hung while" in ended[0]["error"]


@pytest.mark.slow
def test_float16_at_the_smallest_loss_scale(tmp_path: Path) -> None:
    model, config = small_model(tmp_path), moving_scale(tmp_path)
    settings = (
        f"train.deepspeed={config}",
        "train.learning_rate=1e36",
        "train.max_steps=60",
        "train.save_steps=50",
    )
    run = make_run(tmp_path, "overflow", model, *settings, "train.warmup_ratio=0", gpus=1)
    with Training(run, environ=shims(tmp_path)) as training:
        assert training.wait() == 1, training.said()
    [ended] = training.events("ended")
    assert "float16 overflows although the loss scale is at its minimum" in ended["error"]
    assert "train.precision=bf16" in ended["error"]


@pytest.mark.slow
def test_a_really_full_disk(model: Path, tmp_path: Path) -> None:
    """A tmpfs with room for two checkpoints and a half (needs the right to mount)."""
    import subprocess

    sized = make_run(tmp_path, "sized", model, FP32, "train.max_steps=2")
    with Training(sized) as training:
        assert training.wait() == 0
    size = committed.size(sized.checkpoints / "checkpoint-2")
    run = make_run(tmp_path, "full", model, FP32, "train.max_steps=8")
    run.checkpoints.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(2.5 * size)}", "tmpfs", str(run.checkpoints)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a tmpfs here")
    try:
        filler = run.checkpoints / "filler"
        filler.write_bytes(b"x" * int(0.8 * size))  # what is left holds one checkpoint and a half
        with Training(run) as training:
            training.until(lambda: "waiting for room" in training.log(0))
            filler.unlink()  # somebody makes room: the last save goes on by itself
            assert training.wait() == 0, training.said()
        failed = training.events("save_failed")
        assert [e["step"] for e in failed] == [4, 6, 8] and all(e["last_checkpoint"] == 2 for e in failed)
        assert "are free in" in failed[0]["error"]
        assert [e["outcome"] for e in training.events("ended")] == ["done"], "no attempt was lost"
        newest: Any = committed.newest(run.checkpoints)
        assert newest.step == 8
    finally:
        subprocess.run(["umount", str(run.checkpoints)], check=False)
    assert ledger.marker(run.path, "train")
