"""Small trainings that are started as a job starts them, to be interrupted: GLM with dropout, float16 with a loss scale
that moves, two ranks on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glmjobs.recipe import loading as recipes
from glmjobs.run.directory import Run, Shape
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core.files import read_json, read_jsonl
from tests.support.paths import REPO
from tests.support.small_families import small_glm

PATIENCE = 900.0
INITIAL_SCALE_POWER = 8
BASE: dict[str, Any] = {
    "name": "small",
    "data": {"make": {"rows": 300}, "dev_rows": "1-20", "max_source_length": 96, "max_target_length": 96},
    "train": {
        "device": "cpu", "precision": "fp16", "packing": True, "pack_length": 128, "per_device_batch_size": 4,
        "gradient_accumulation": 2, "learning_rate": 1e-3, "activation_checkpointing": False, "epochs": 50,
        "save_steps": 2, "logging_steps": 3, "warmup_ratio": 0.1, "scheduler": "cosine",
    },
}  # fmt: skip


def small_model(folder: Path) -> Path:
    """A small GLM with dropout, as GLM-10B trains."""
    path = small_glm(folder / "glm")
    config = json.loads((path / "config.json").read_text())
    config.update(embedding_dropout_prob=0.1, attention_dropout_prob=0.1, output_dropout_prob=0.1)
    (path / "config.json").write_text(json.dumps(config))
    return path


def moving_scale(folder: Path) -> Path:
    """ZeRO-2 with a loss scale that doubles every third step, so that it matters when a resume gets it wrong."""
    config = json.loads((REPO / "configs" / "deepspeed" / "zero2.json").read_text())
    config["fp16"].update(loss_scale_window=3, initial_scale_power=INITIAL_SCALE_POWER)
    path = folder / "moving-scale.json"
    path.write_text(json.dumps(config))
    return path


FLOAT16 = '''
import sys

class Finder:
    """DeepSpeed refuses float16 on CPUs without instructions for it; torch computes it on all, only slowly."""

    def find_spec(self, name, path=None, target=None):
        if name == "deepspeed.runtime.engine":
            from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

            CPU_Accelerator.is_fp16_supported = lambda self: True
        return None

sys.meta_path.insert(0, Finder())
'''


def shims(folder: Path, text: str = FLOAT16) -> dict[str, str]:
    """The environment in which every Python process runs ``text`` first."""
    (folder / "shims").mkdir(exist_ok=True)
    (folder / "shims" / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": f"{folder / 'shims'}:{REPO}"}


def make_run(folder: Path, name: str, model: Path, *overrides: str, gpus: int = 2) -> Run:
    """A run directory of its own for the small recipe."""
    raw = json.loads(json.dumps({**BASE, "model": {"family": "glm", "path": str(model)}}))
    recipe = recipes.parse(raw, overrides=list(overrides))
    return Run.create(folder / name, recipe, Profile(name="test"), Shape(nodes=1, gpus=gpus))


class Training:
    """The batch process of a train job, here: it starts two ranks, and starts them again when they fail."""

    def __init__(self, run: Run, *, limit: int = 3, environ: dict[str, str] | None = None) -> None:
        self.run = run
        logs = run.jobs("train")
        logs.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "hpc.runtime.attempt",
            str(run.path),
            "--limit",
            str(limit),
            "--stage",
            "train",
        ]
        command += [
            sys.executable,
            "-m",
            "hpc.runtime.local_launch",
            "--nproc",
            str(run.shape.gpus),
            "--log",
            str(logs),
            "--",
        ]
        command += [sys.executable, "-m", "glmjobs.train", str(run.path)]
        env = {**os.environ, "PYTHONPATH": str(REPO), **(environ or {})}
        self.output = logs / "batch.out"
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(
                command, cwd=REPO, env=env, stdout=file, stderr=file, start_new_session=True
            )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its ranks die with it
            self.process.wait()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Until the batch process ends; its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended within {timeout:g} s\n{self.said()}") from None

    def until(self, what: Callable[[], Any], timeout: float = PATIENCE, pause: float = 0.002) -> Any:
        """Until something is true (its value) or the batch process has ended (None)."""
        end = time.monotonic() + timeout
        while self.process.poll() is None:
            if value := what():
                return value
            assert time.monotonic() < end, f"not within {timeout:g} s\n{self.said()}"
            time.sleep(pause)
        return what()

    def beat(self, rank: int) -> dict[str, Any] | None:
        """A rank's heartbeat of the attempt that runs now."""
        beat = read_json(self.run.jobs("train") / "heartbeat" / f"rank-{rank}.json")
        return beat if beat and _alive(int(beat["pid"])) else None

    def ranks(self) -> list[int] | None:
        """Process ids of all ranks, once all have started."""
        beats = [self.beat(rank) for rank in range(self.run.shape.gpus)]
        return [int(b["pid"]) for b in beats if b] if all(beats) else None

    def step(self, since: str = "") -> int:
        """The last step logged after the time ``since``."""
        lines = read_jsonl(self.run.checkpoints / "train_log.jsonl")
        return max((int(r["step"]) for r in lines if str(r["time"]) > since), default=0)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The ledger's events of one kind."""
        return ledger.events(self.run.path, event=event, stage="train")

    def log(self, rank: int = 0) -> str:
        """What a rank wrote."""
        path = self.run.jobs("train") / f"rank-{rank}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def said(self) -> str:
        """Everything written so far, for a failure's message."""
        return (
            f"{self.output.read_text()}\n== rank 0\n{self.log(0)[-3000:]}\n== rank 1\n{self.log(1)[-3000:]}"
        )


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; False where the process is gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def differences(a: Path, b: Path) -> list[str]:
    """Where two finished checkpoints differ: every tensor bit by bit, every number; [] where nowhere."""
    found: list[str] = []
    names = sorted(str(f.relative_to(a)) for f in a.rglob("*.pt*"))
    assert len([n for n in names if "optim_states" in n]) == 2, names
    assert names == sorted(str(f.relative_to(b)) for f in b.rglob("*.pt*"))
    for name in names:
        one, other = (torch.load(folder / name, weights_only=False, map_location="cpu") for folder in (a, b))
        _compare(name, one, other, found)
    for name in [f.name for f in a.glob("loop_state_*.json")]:
        _compare(name, read_json(a / name), read_json(b / name), found)
    return found


def _compare(where: str, one: Any, other: Any, found: list[str]) -> None:
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
        if (
            not same
            or one.contiguous()
            .view(-1)
            .view(torch.uint8)
            .ne(other.contiguous().view(-1).view(torch.uint8))
            .any()
        ):
            found.append(where)
    elif isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            found.append(where)
            return
        for key in one:
            _compare(f"{where}/{key}", one[key], other[key], found)
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            found.append(where)
            return
        for i, (x, y) in enumerate(zip(one, other, strict=True)):
            _compare(f"{where}/{i}", x, y, found)
    elif isinstance(one, int | float | str | bytes | bool | type(None)) and one != other:
        found.append(f"{where}: {one!r} != {other!r}")


def logged(run: Run) -> list[dict[str, Any]]:
    """The log without times and speeds, evaluations included."""
    lines = read_jsonl(run.checkpoints / "train_log.jsonl")
    told = (
        "step",
        "loss",
        "grad_norm",
        "learning_rate",
        "tokens",
        "dev_loss",
        "dev_token_accuracy",
        "dev_set",
    )
    return [{key: row[key] for key in told if key in row} for row in lines]
