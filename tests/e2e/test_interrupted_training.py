"""A training that is killed any number of times ends with the same weights, to the bit, as one that was left alone."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from glmjobs.run import evaluations
from glmjobs.run.directory import Run
from glmjobs.zero import committed
from hpc.chain import ledger
from hpc.core.files import read_json, read_jsonl
from tests.support.small_training import (
    INITIAL_SCALE_POWER,
    Training,
    differences,
    kill,
    logged,
    make_run,
    moving_scale,
    shims,
    small_model,
)  # fmt: skip

SHORT, LONG = 3, 32
"""Kills in the everyday form and in the long one."""

SETTINGS = ("train.eval_steps=3", "train.keep=best", "train.neftune_alpha=5", "train.label_smoothing=0.1")
"""Evaluated at steps that are saved, and at others, of which the best are saved for it; with all that draws numbers."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with dropout, and a DeepSpeed configuration whose loss scale moves."""
    folder = tmp_path_factory.mktemp("inputs")
    return {"folder": folder, "model": small_model(folder), "deepspeed": moving_scale(folder)}


def run_of(inputs: dict[str, Path], tmp_path: Path, name: str, steps: int, *more: str) -> Run:
    settings = (f"train.max_steps={steps}", f"train.deepspeed={inputs['deepspeed']}", *SETTINGS, *more)
    return make_run(tmp_path, name, inputs["model"], *settings)


def reached(run: Run, step: int, file: str) -> bool:
    """Whether a checkpoint of that step or a later one (that step's may be deleted by now) is there, with ``file``."""
    found = [path for path in run.checkpoints.glob("checkpoint-*") if (path / file).exists()]
    return any(int(path.name.partition("-")[2]) >= step for path in found)


class Pace(NamedTuple):
    """How fast an undisturbed training is on this machine, in seconds: kills have to land while one runs."""

    start: float
    step: float


def pace(run: Run) -> Pace:
    """From the ledger and the log of a training that has ended."""
    begun = _seconds(ledger.events(run.path, event="attempt", stage="train")[0])
    log = list(read_jsonl(run.checkpoints / "train_log.jsonl"))
    steps = log[-1]["step"] - log[0]["step"]
    return Pace(_seconds(log[0]) - begun, (_seconds(log[-1]) - _seconds(log[0])) / steps)


def _seconds(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(str(record["time"]).replace("Z", "+00:00")).timestamp()


def moment(training: Training, kind: str, random_: random.Random, usual: Pace) -> list[int] | None:
    """Wait for a moment of the attempt that runs now; the ranks' process ids, None where the training has ended."""
    pids: list[int] | None = training.until(training.ranks)
    if pids is None:
        return None
    found = committed.newest(training.run.checkpoints)
    target = (found.step if found else 0) + 2 * random_.randint(1, 2)
    if kind == "starting":
        time.sleep(random_.uniform(0, usual.start))
    elif kind == "saving":  # it has begun, and is not committed, or was this very instant
        training.until(lambda: reached(training.run, target, ""), pause=0.0005)
        time.sleep(random_.uniform(0, usual.step))
    else:  # in one of the steps after it
        training.until(lambda: reached(training.run, target, committed.COMMITTED), pause=0.0005)
        time.sleep(random_.uniform(0, 1.5 * usual.step))
    return pids


def interrupt(training: Training, kills: int, seed: int, usual: Pace) -> Counter[str]:
    """Kill a rank ``kills`` times; how often in which phase it was hit (as its last heartbeat or the disk tells)."""
    random_ = random.Random(seed)
    hits: Counter[str] = Counter()
    plan = ["saving", "step", "saving", "starting", "step", "saving", "step", "step"]
    while sum(hits.values()) < kills:
        kind = plan[sum(hits.values()) % len(plan)]
        pids = moment(training, kind, random_, usual)
        if pids is None:
            break
        attempts = len(training.events("attempt"))
        half = [c for c in committed.scan(training.run.checkpoints) if c.problem is not None]
        if not kill(random_.choice(pids)):
            break
        hits["half-saved" if half and kind != "starting" else kind] += 1
        training.until(lambda n=attempts: len(training.events("attempt")) > n)  # type: ignore[misc]
    return hits


def check(
    inputs: dict[str, Path], tmp_path: Path, kills: int, steps: int, seed: int, *more: str
) -> Counter[str]:
    """Train undisturbed and interrupted, and compare; where the kills hit."""
    environ = shims(inputs["folder"])
    whole, broken = (run_of(inputs, tmp_path, name, steps, *more) for name in ("whole", "broken"))
    with Training(whole, environ=environ) as training:
        assert training.wait() == 0, training.said()
    broken.save_request.touch()
    with Training(broken, limit=kills + 1, environ=environ) as training:
        hits = interrupt(training, kills, seed, pace(whole))
        assert training.wait() == 0, training.said()
    assert sum(hits.values()) == kills, f"the training ended after {hits}"
    ended = ledger.events(broken.path, event="ended", stage="train")
    assert [e["outcome"] for e in ended] == ["failed"] * kills + ["done"]
    assert not broken.save_request.exists(), "a checkpoint was asked for, too"
    last = f"checkpoint-{steps}"
    assert differences(whole.checkpoints / last, broken.checkpoints / last) == []
    assert logged(whole) == logged(broken), "the log reads as if nothing had happened"
    assert [r["step"] for r in logged(broken) if "dev_loss" in r] == sorted({*range(0, steps + 1, 3), steps})
    chosen = [evaluations.choose(r.checkpoints, r.recipe.train) for r in (whole, broken)]
    assert chosen[0].path.name == chosen[1].path.name and chosen[0].why == chosen[1].why
    results: list[Any] = [read_json(r.checkpoints / "train_results.json") for r in (whole, broken)]
    assert results[0]["train_loss"] == results[1]["train_loss"]
    scales = {s["loss_scale"] for s in _scales(whole)}
    assert scales != {2.0**INITIAL_SCALE_POWER}, (
        "the scale never moved: this test would miss that it was not resumed"
    )
    return hits


def _scales(run: Run) -> list[dict[str, Any]]:
    """Loss scales in the checkpoints that are left."""
    import torch

    found = []
    for checkpoint in committed.scan(run.checkpoints):
        file = next(checkpoint.path.glob("global_step*/*rank_0*optim_states.pt"))
        state = torch.load(file, weights_only=False, map_location="cpu")["optimizer_state_dict"]
        found.append({"step": checkpoint.step, "loss_scale": float(state["loss_scaler"].cur_scale)})
    return found


@pytest.mark.timeout(900)
def test_killed_ranks_leave_no_trace(inputs: dict[str, Path], tmp_path: Path) -> None:
    check(inputs, tmp_path, SHORT, steps=24, seed=1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: torch.compile needs one on a CPU")
@pytest.mark.timeout(1800)
def test_with_compiled_blocks(inputs: dict[str, Path], tmp_path: Path) -> None:
    from glmjobs.compat import COMPILES_ONCE

    if not COMPILES_ONCE:
        pytest.skip("torch 2.5 and later compile here")
    check(inputs, tmp_path, SHORT, 24, 3, "train.compile=true")
    [kept] = ledger.events(tmp_path / "broken", event="compiled", stage="train")
    assert kept["compiled"]


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_killed_ranks_leave_no_trace_long(inputs: dict[str, Path], tmp_path: Path) -> None:
    hits = check(inputs, tmp_path, LONG, steps=1000, seed=2)
    print(f"{sum(hits.values())} kills: {dict(hits)}")
    assert hits["half-saved"] >= 3, hits
