"""The CUDA branches of training, resuming, scoring and measuring, on two pretended GPUs (tests.support.pretended_gpus).

What they come to is compared with ZeRO-2 in float32: stages and precisions, a stop and a resume, and whether a task
sees all GPUs or its own alone change nothing but the rounding. Runs on either stack (``make test-cluster-stack``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("deepspeed")

from glmjobs.recipe import loading as recipes
from glmjobs.run.directory import Run, Shape
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core.files import read_json, read_jsonl
from hpc.runtime.stop import EXIT_REQUEUE
from tests.support.paths import CONFIGS, REPO
from tests.support.pretended_gpus import Job

STEPS = 4
RECIPE: dict[str, Any] = {
    "name": "pretended",
    "model": {"make": {"hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 500, "max_positions": 256}},
    "data": {"make": {"rows": 80}, "dev_rows": "1-10", "max_source_length": 128, "max_target_length": 128},
    "train": {
        "device": "cuda", "packing": True, "pack_length": 256, "activation_checkpointing": True,
        "per_device_batch_size": 4, "learning_rate": 1e-3, "max_steps": STEPS, "logging_steps": 1, "save_steps": 100,
        "compile": False,  # minutes, over all runs
    },
    "score": {"rows": 4, "max_new_tokens": 4, "base": False},
}  # fmt: skip
ROUNDING = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 3e-2}
"""Relative, of losses and gradient norms, in each precision."""


class Bench:
    """Runs in one folder, their jobs done in one process that believes in GPUs: its imports take longest."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, list[Job]()

    def run(self, name: str, **settings: Any) -> Run:
        """A run with these settings of ``train``."""
        raw = json.loads(json.dumps(RECIPE))
        raw["train"].update(settings)
        if settings.get("optimizer_offload"):  # DeepSpeed's own Adam for that takes minutes to compile
            stage = raw["train"]["zero_stage"]
            config = json.loads((CONFIGS / "deepspeed" / f"zero{stage}.json").read_text())
            file = self.folder / f"zero{stage}-torch-adam.json"
            file.write_text(json.dumps({**config, "zero_force_ds_cpu_optimizer": False}))
            raw["train"]["deepspeed"] = str(file)
        return Run.create(
            self.folder / name, recipes.parse(raw), Profile(name="test"), Shape(nodes=1, gpus=2)
        )

    def job(self, run: Run, stage: str, **how: Any) -> None:
        """To be done next."""
        self.jobs.append(Job(stage, str(run.path), **how))

    def do(self) -> list[list[int] | None]:
        """Do the jobs; the exit codes of each one's ranks."""
        file = self.folder / "jobs.json"
        file.write_text(json.dumps([asdict(job) for job in self.jobs]))
        env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        for name in (
            "DS_ACCELERATOR",
            "CUDA_VISIBLE_DEVICES",
        ):  # what a training on the CPU has hidden GPUs by
            env.pop(name, None)
        command = [sys.executable, "-m", "tests.support.pretended_gpus", str(file)]
        done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        found, self.jobs = [Job(**job).codes for job in json.loads(file.read_text())], []
        return found


def said(run: Run) -> str:
    """What both ranks wrote last."""
    return "\n".join(
        f"== {file}\n{file.read_text()[-3000:]}" for file in sorted(run.path.glob("pretended-*.log"))
    )


def figures(run: Run) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    assert run.done("train"), said(run)
    rows = read_jsonl(run.checkpoints / "train_log.jsonl")
    found = [(row["loss"], row["grad_norm"]) for row in rows]
    assert len(found) == STEPS, said(run)
    return found


def same(run: Run, other: Run) -> None:
    """Equal, to the rounding of the run's precision."""
    tolerance = ROUNDING[run.recipe.train.precision]
    for one, two in zip(figures(run), figures(other), strict=True):
        assert one == pytest.approx(two, rel=tolerance), (figures(run), figures(other))


def test_train_resume_score_and_measure(tmp_path: Path) -> None:
    """The everyday part: each stage, precision and way of seeing GPUs once."""
    bench = Bench(tmp_path)
    plain = bench.run("plain", zero_stage=2, precision="fp32")
    half = bench.run("half", zero_stage=2, precision="fp16", compile="auto")
    three = bench.run("three", zero_stage=3, precision="fp32")
    lora2 = bench.run("lora2", method="lora", zero_stage=2, precision="fp32")
    lora3 = bench.run("lora3", method="lora", zero_stage=3, precision="fp32")
    bench.job(plain, "train")
    bench.job(half, "train", visible=1, stop_after=2)
    bench.job(half, "train", visible=1)
    bench.job(three, "train", visible=1)
    bench.job(lora2, "train", stop_after=2)
    bench.job(lora2, "train")
    bench.job(lora3, "train", visible=1)
    for visible in (1, 2):
        bench.job(plain, "allreduce", visible=visible)
    bench.job(half, "consolidate", ranks=1)
    for visible in (1, 2):
        bench.job(half, "score", visible=visible)
    quiet = [
        bench.run(f"quiet{stage}", zero_stage=stage, precision=precision, logging_steps=STEPS)
        for stage, precision in ((2, "fp16"), (3, "bf16"))
    ]
    for run in quiet:
        bench.job(run, "train", watch=True)
    few = bench.run("few", zero_stage=2, precision="fp32")
    bench.job(few, "train", ranks=3)
    codes = bench.do()
    wanted = [
        [0, 0], [EXIT_REQUEUE] * 2, *[[0, 0]] * 2, [EXIT_REQUEUE] * 2, *[[0, 0]] * 4, [0], *[[0, 0]] * 4, [3, 3, 3],
    ]  # fmt: skip
    assert codes == wanted, (codes, said(half), said(three))
    for run in quiet:
        no_waits_between_logs(run)
    same(half, plain)
    same(three, plain)
    same(lora3, lora2)
    assert read_json(plain.path / "allreduce.json")["backend"] == "nccl"
    speeds = {run.name: list(read_jsonl(run.checkpoints / "train_log.jsonl"))[-1] for run in (plain, half)}
    assert speeds["half"]["mfu"] > 0, "an A100's peak is known"
    assert "mfu" not in speeds["plain"], "but not in float32"
    for run in (plain, half, three, lora3):
        (chosen,) = ledger.events(run.path, event="attention", stage="train")  # a resume keeps it
        assert chosen["milliseconds"][chosen["way"]] > 0
        log = (run.path / "pretended-0.log").read_text()
        assert log.count(f"attention of packed rows: {chosen['way']} (") == (2 if run is half else 1)
    summary = read_json(half.scores / "finetuned" / "summary.json")
    assert summary["computed_on"] == {"cpu float16": 4}, "float16 is a GPU's branch: a CPU would take float32"
    assert all(f"rank {rank} sees 2 GPUs for the 3 ranks" in said(few) for rank in range(3))


def no_waits_between_logs(run: Run) -> None:
    """Of our code: the ranks agree by tensors on the CPU. transformers reads the gradient norm and DeepSpeed whether it
    is finite (float16: whether it overflowed), each step; with dozens of reads DeepSpeed's ZeRO-3 notes in the second
    step in which order it will gather."""
    steps = json.loads((run.path / "waits-0.json").read_text())
    assert len(steps) == STEPS
    for waits in steps[1:-1]:
        ours = [
            line for line in waits if "/glmjobs/" in line and "/glmjobs/training/agreement.py:" not in line
        ]
        assert not ours, ours
        assert any("deepspeed" in line for line in waits), "so that a blind eye shows"
    assert (
        any("/glmjobs/training/health.py:" in line for line in steps[-1])
        or run.recipe.train.precision == "fp16"
    )


MATRIX = [
    {"zero_stage": stage, "method": method, "precision": precision, "optimizer_offload": offload}
    for stage in (1, 2, 3)
    for method in ("full", "lora")
    for precision in ("fp32", "fp16", "bf16")
    for offload in (False, True)
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("visible", [1, 2])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_combination_trains_resumes_and_learns_the_same(
    method: str, visible: int, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    plain = bench.run("plain", zero_stage=2, precision="fp32", method=method)
    bench.job(plain, "train")
    runs = []
    for way in (way for way in MATRIX if way["method"] == method):
        name = "-".join(map(str, [*way.values(), visible]))
        runs.append(bench.run(name, **way))
        bench.job(runs[-1], "train", visible=visible, stop_after=2)
        bench.job(runs[-1], "train", visible=visible)
    codes = bench.do()
    wanted = [[0, 0], *[[EXIT_REQUEUE] * 2, [0, 0]] * len(runs)]
    wrong = [(runs[(at - 1) // 2].name, code) for at, code in enumerate(codes) if code != wanted[at]]
    assert not wrong, wrong
    for run in runs:
        print(run.name, figures(run))
        same(run, plain)
