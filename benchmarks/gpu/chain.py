"""A whole chain on one GPU, as a user starts it: ZeRO-2, float16, recomputation; cancelled after its first checkpoint,
healed, consolidated, scored, reported."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import Findings, Missing, Place

CONFIGS = Path(__file__).parents[2] / "configs"
SECONDS = 150  # for each of the two halves
SAVE = 5  # steps


def run(place: Place) -> Findings:
    """Submit, cancel once a checkpoint counts, heal, and read the report."""
    if importlib.util.find_spec("deepspeed") is None:
        raise Missing("deepspeed is not installed")
    found = Findings()
    os.environ["GLMJOBS_RUNS"] = str(place.out / "runs")
    run_dir = place.out / "runs" / "gpu"
    started = time.monotonic()
    submitted = command("submit", "--recipe", str(CONFIGS / "tiny.yaml"), "--nodes", "1", "--gpus", "1",
                        "--executor", "local", "--name", "gpu", *settings(place))  # fmt: skip
    if submitted.returncode:
        found.missed.append(f"submit: {submitted.stderr.strip()[-300:]}")
        return found
    try:
        follow(found, run_dir, started)
    finally:
        command("cancel", "gpu")  # where it was cut off: a local chain lives in a session of its own
    return found


def follow(found: Findings, run_dir: Path, started: float) -> None:
    """From the submitted chain to its report."""
    first = run_dir / "checkpoints" / f"checkpoint-{SAVE}" / "committed.json"
    while not first.is_file():
        if time.monotonic() - started > SECONDS or state(found)["train"] in ("failed", "done"):
            found.missed.append(f"no checkpoint at step {SAVE}: {command('status', 'gpu').stdout[-600:]}")
            return
        time.sleep(0.5)
    command("cancel", "gpu")
    found.figures["seconds until cancelled"] = time.monotonic() - started
    healed = command("heal", "gpu", "--follow")
    found.figures["seconds"] = time.monotonic() - started
    stages = state(found)
    found.figures["stages"] = stages
    found.missed += [f"{stage}: {how}" for stage, how in stages.items() if how != "done"]
    if healed.returncode:
        found.missed.append(f"heal: {(healed.stdout + healed.stderr).strip()[-600:]}")
        return
    document = json.loads((run_dir / "report" / "report.json").read_text(encoding="utf-8"))
    log = [
        json.loads(line)
        for line in (run_dir / "checkpoints" / "train_log.jsonl").read_text("utf-8").splitlines()
    ]
    found.figures["loss"] = [log[0]["loss"], log[-1]["loss"]]
    found.figures["accuracy"] = {
        m["model"]: f"{m['correct']} of {m['rows']}" for m in document["accuracy"]["models"]
    }
    found.bound("last loss against the first", log[-1]["loss"] / log[0]["loss"], 0.95)


def settings(place: Place) -> list[str]:
    """The recipe's overrides: short, in half precision on a GPU."""
    half = "float16" if place.device == "cuda" else "float32"
    values = {
        "train.precision": "fp16" if place.device == "cuda" else "fp32", "train.activation_checkpointing": "true",
        "train.save_steps": SAVE, "train.epochs": 1, "data.make.rows": 400 if place.short else 6000,
        "data.dev_rows": "1-32", "score.rows": 32, "score.dtype": half, "score.max_new_tokens": 32,
        "consolidate.dtype": half, "train.device": place.device,
    }  # fmt: skip
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def state(found: Findings) -> dict[str, str]:
    """Every stage's state, as status gives it."""
    done = command("status", "gpu", "--json")
    try:
        document: Any = json.loads(done.stdout)
        return {stage["stage"]: stage["state"] for stage in document["stages"]}
    except (ValueError, KeyError):
        found.missed.append(f"status: {(done.stdout + done.stderr)[-300:]!r}")
        return {"train": "failed"}


def command(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """One of the commands that people type."""
    line = [sys.executable, "-m", f"glmjobs.{name}", *words]
    return subprocess.run(line, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS)
