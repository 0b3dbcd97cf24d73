"""GPU samples, TensorBoard, time left, and the automatic save interval."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmjobs.data.packing import plan_epochs
from hpc.runtime import gpu_monitor
from hpc.runtime.gpu_monitor import GpuWatch, job_gpu_indices, watching


class Nvml:
    """A pretended driver with two GPUs; the second one doesn't tell its power."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.sampled = threading.Event()
        self.shut = 0

    def nvmlInit(self) -> None:
        if not self.count:
            raise RuntimeError("NVML: driver not loaded")

    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=90 + handle, memory=50)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=(handle + 1) * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self.sampled.set()
        if handle == 1:
            raise RuntimeError("NVML: not supported")
        return 301_500


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_gpu_is_sampled_into_the_run(tmp_path: Path) -> None:
    nvml = Nvml()
    with watching(tmp_path, 0, nvml=nvml, node="node1"):
        assert nvml.sampled.wait(10)
    assert nvml.shut == 1
    found = rows(tmp_path / "gpu" / "node1.jsonl")
    assert len(found) >= 4  # one at the start, one at the end
    first, second = found[:2]
    assert first.pop("time").endswith("Z")
    assert first == {"node": "node1", "gpu": 0, "utilisation": 90, "memory": 2**30, "power": 301.5}
    assert (second["gpu"], second["memory"], second["power"]) == (1, 2**31, None)


def test_one_process_of_a_node_watches(tmp_path: Path) -> None:
    with watching(tmp_path, 1, nvml=Nvml()):
        pass
    assert not (tmp_path / "gpu").exists()


@pytest.mark.parametrize("nvml", [Nvml(0), None])
def test_without_a_gpu_nothing_happens(
    nvml: Nvml | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No driver; no module."""

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(gpu_monitor.importlib, "import_module", missing)
    watch = GpuWatch(tmp_path, nvml=nvml)
    assert not watch.start()
    watch.stop()
    assert not (tmp_path / "gpu").exists()


def test_a_full_disk_does_not_end_the_training(tmp_path: Path) -> None:
    """A file where the samples' folder has to be: nothing can be written, first to last."""
    (tmp_path / "gpu").write_text("in the way")
    nvml = Nvml()
    with watching(tmp_path, 0, nvml=nvml, interval=0.01):
        assert nvml.sampled.wait(10)
        nvml.sampled.clear()
        assert nvml.sampled.wait(10), "a sample that could not be written was the last"
    assert nvml.shut == 1
    assert (tmp_path / "gpu").read_text() == "in the way"


def test_gpus_of_others_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_GPUS", "2,3")
    assert job_gpu_indices(8) == [2, 3]
    assert job_gpu_indices(2) == [0, 1]  # confined: the driver shows two, counted from 0
    monkeypatch.delenv("SLURM_JOB_GPUS")
    assert job_gpu_indices(3) == [0, 1, 2]


# ---------------------------------------------------------------- the training's own log


def trainer_for(folder: Path) -> Any:
    (folder / "checkpoints").mkdir(exist_ok=True)
    return SimpleNamespace(
        args=SimpleNamespace(output_dir=str(folder / "checkpoints"), world_size=2),
        health=SimpleNamespace(none_finite=False), skipped_steps=0,
    )  # fmt: skip


def log(folder: Path, done: int, steps: list[int], total: int = 40, peak: Any = None) -> Any:
    """Log these steps from an attempt that goes on after ``done``."""
    from glmjobs.training.telemetry import RunLog
    from glmjobs.training.train_data import Reading

    trainer = trainer_for(folder)
    plan = plan_epochs([50] * 10, 50, epochs=2, packed=False)
    runlog = RunLog(folder, trainer, total, Reading(plan, [50] * 10, 1), peak)
    state = SimpleNamespace(is_world_process_zero=True, global_step=done)
    runlog.on_train_begin(trainer.args, state, None)
    for step in steps:
        state.global_step = step
        runlog.on_step_end(trainer.args, state, None)
        runlog.on_log(
            trainer.args, state, None, logs={"loss": 1.0 / step, "grad_norm": 0.5, "learning_rate": 1e-5}
        )
    runlog.on_train_end(trainer.args, state, None)
    return runlog


def test_json_lines_and_tensorboard_show_each_step_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log(tmp_path, 0, [1, 10, 20])
    log(tmp_path, 10, [20, 30])  # resumed from checkpoint-10: step 20 is done again
    written = rows(tmp_path / "checkpoints" / "train_log.jsonl")
    assert [r["step"] for r in written] == [1, 10, 20, 30]
    assert {"time", "loss", "grad_norm", "learning_rate", "tokens_per_s"} <= set(written[-1])
    assert [(r["epoch"], r["tokens"]) for r in written] == [(0.1, 50), (1.0, 500), (2.0, 1000), (3.0, 1500)]
    events = accumulator.EventAccumulator(str(tmp_path / "checkpoints" / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        f"train/{name}" for name in ("loss", "grad_norm", "learning_rate", "tokens_per_s")
    }
    losses = events.Scalars("train/loss")
    assert [e.step for e in losses] == [1, 10, 20, 30]
    assert losses[-1].value == pytest.approx(1 / 30)
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("step 30/40") and said[-1].endswith("left") and "\r" not in "".join(said)


def test_mfu_stands_wherever_the_speed_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the GPUs' peak is known; else nothing is said of it."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from glmjobs.run.progress import add_progress
    from glmjobs.run.state import StageState
    from glmjobs.terminal.follow import describe
    from glmjobs.training.mfu import Peak

    log(tmp_path, 0, [10])
    assert "mfu" not in rows(tmp_path / "checkpoints" / "train_log.jsonl")[0]
    assert "MFU" not in capsys.readouterr().err
    log(tmp_path, 10, [20], peak=Peak(1e9))
    written = rows(tmp_path / "checkpoints" / "train_log.jsonl")[-1]
    assert written["mfu"] == pytest.approx(written["tokens_per_s"] / 1e9, rel=1e-3)
    assert f"  MFU {written['mfu']:.1%}" in capsys.readouterr().err
    events = accumulator.EventAccumulator(str(tmp_path / "checkpoints" / "tensorboard")).Reload()
    assert events.Scalars("train/mfu")[-1].value == pytest.approx(written["mfu"])
    stage = StageState(stage="train", state="running")
    add_progress(tmp_path, stage)
    assert stage.mfu == written["mfu"] and "  MFU " in describe(stage)


def test_time_left_is_that_of_this_attempts_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from glmjobs.training.telemetry import Remaining

    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    left = Remaining(100)
    left.start(50)
    assert left.after(50) is None  # nothing done yet
    assert left.after(51) is None  # the first step is warm-up
    clock[0] += 20
    assert left.after(61) == 39 * 2.0


def test_a_terminal_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    log(tmp_path, 0, [1, 10, 40])
    assert "40/40" in terminal.getvalue() and "loss 0.0250" in terminal.getvalue()
    assert terminal.getvalue().count("\n") <= 3


# ---------------------------------------------------------------- save_steps: auto


def test_the_interval_is_the_one_that_loses_least() -> None:
    """Against the lost time itself, C/W + W/(2M), over all intervals."""
    from glmjobs.training.save_interval import interval_seconds, interval_steps

    save, failures = 40.0, 12 * 3600.0
    best = min(range(1, 20_000), key=lambda w: save / w + w / (2 * failures))
    assert interval_seconds(save, failures) == pytest.approx(best, rel=0.01)
    assert interval_steps(save, 2.5, failures) == round(math.sqrt(2 * save * failures) / 2.5)
    assert interval_steps(0.001, 1000, 10) == 1


def drive(auto: Any, clock: list[float], first: int, last: int, save_seconds: float) -> list[int]:
    """Steps of one second each; the steps after which a save was asked for."""
    saved = []
    for step in range(first, last):
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        auto.on_step_begin(None, state, None)
        clock[0] += 1
        control = SimpleNamespace(should_save=False)
        state.global_step = step + 1
        auto.on_step_end(None, state, control)
        if control.should_save:
            clock[0] += save_seconds
            auto.trainer.saver.seconds = save_seconds
            saved.append(step + 1)
    return saved


def test_saves_come_at_the_measured_interval_and_go_on_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glmjobs.training.save_interval import FIRST, AutoSave

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    alone = SimpleNamespace(broadcast=lambda value: value)
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path)), saver=SimpleNamespace(seconds=None, agreement=alone)
    )
    auto = AutoSave(trainer, failure_hours=1.0)
    start = SimpleNamespace(global_step=0, is_world_process_zero=True)
    auto.on_train_begin(None, start, None)
    every = round(math.sqrt(2 * 8 * 3600))
    assert drive(auto, clock, 0, 600, 8.0) == [FIRST, FIRST + every, FIRST + 2 * every]
    assert json.loads((tmp_path / "save_interval.json").read_text())["steps"] == every
    resumed = AutoSave(trainer, failure_hours=1.0)
    resumed.on_train_begin(None, SimpleNamespace(global_step=FIRST + every, is_world_process_zero=True), None)
    trainer.saver.seconds = None
    assert drive(resumed, clock, FIRST + every, 600, 8.0)[0] == FIRST + 2 * every


def test_every_rank_takes_rank_zeros_word(tmp_path: Path) -> None:
    """A rank whose own clock says otherwise saves where rank 0 does."""
    from glmjobs.training.save_interval import AutoSave

    agreement = SimpleNamespace(broadcast=lambda value: 7)
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path)),
        saver=SimpleNamespace(seconds=3.0, agreement=agreement),
    )
    auto = AutoSave(trainer, failure_hours=1.0)
    auto.on_train_begin(None, SimpleNamespace(global_step=0, is_world_process_zero=False), None)
    assert drive(auto, [0.0], 0, 22, 0.0) == [7, 14, 21]


def test_the_recipe_says_what_is_right() -> None:
    from glmjobs.recipe import loading
    from hpc.core.errors import BadInput

    raw = {"model": {"make": {}}, "data": {"make": {}, "dev_rows": "1-100"}}
    assert loading.parse({**raw, "train": {"save_steps": "auto"}}).train.save_steps == "auto"
    for wrong in (0, "often", 2.5, True):
        with pytest.raises(BadInput, match=r"train\.save_steps = .*: a number of steps from 1 on, or auto"):
            loading.parse({**raw, "train": {"save_steps": wrong}})
