"""Stages without torch, for chaos in seconds: what they compute is a stand-in, what they leave on disk is not.

    python tests/support/light_stage.py RUN glmjobs.STAGE

Training is two ranks that fold each step into a hash, save it by the toolkit's committed checkpoints, resume from the
newest that counts and stop when told. A step lost, done twice or taken from a broken file gives other weights. Scoring
appends to the toolkit's own shard files. Jobs, ranks, attempts, ledger, markers and verdicts are the real ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from glmjobs.run.directory import Run
from glmjobs.scoring import predictions as store
from glmjobs.zero import committed
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.files import read_jsonl, write_atomic
from hpc.runtime.failures import record_failure
from hpc.runtime.rendezvous import Rank, discover_rank
from hpc.runtime.stop import EXIT_REQUEUE, StopFlag

STEPS, SAVE_STEPS, STEP_SECONDS, KEEP = 800, 25, 0.02, 3
ROWS, ROW_SECONDS = 24, 0.1
PATIENCE = 60.0
COPIES = 64
"""A shard holds its state so many times: 4 KiB, of which a fault can cut half."""


def main() -> int:
    run, stage = Run.open(sys.argv[1]), sys.argv[2].removeprefix("glmjobs.")
    started = timestamps.now()
    flag = StopFlag().install()
    rank = 0
    try:
        if stage == "train":
            place = discover_rank(run.jobs("train"))
            rank = place.rank
            die_early(run, rank)
            return train(run, place, flag, started)
        if stage == "score":
            return score(run, flag, started)
        if stage == "consolidate":
            return consolidate(run, started)
        ledger.write_marker(run.path, stage, outcome="done", started=started)
        return 0
    except OSError as error:
        print(f"error: {stage}: {error.strerror}", file=sys.stderr)
        record_failure(run.jobs(stage), rank, error)
        return 1


def die_early(run: Run, rank: int) -> None:
    """Where a fault wants it (``early-death`` in the run directory), this rank ends before it can say so: once."""
    told = run.path / "early-death"
    if told.exists() and told.read_text() == str(rank):
        told.unlink()
        print("ImportError: a module that is not there on this node", file=sys.stderr)
        os._exit(1)


def shard(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.bin"


def state_of(folder: Path, rank: int) -> bytes:
    return shard(folder, rank).read_bytes()[:64]


def train(run: Run, place: Rank, flag: StopFlag, started: str) -> int:
    """All steps of one rank, from the newest checkpoint that counts."""
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    resume = committed.newest(run.checkpoints)
    begin = resume.step if resume else 0
    state = state_of(resume.path, place.rank) if resume else b"%064d" % place.rank
    log = run.checkpoints / "train_log.jsonl"
    if place.rank == 0:
        kept = [json.dumps(line) + "\n" for line in read_jsonl(log) if line["step"] <= begin]
        write_atomic(log, "".join(kept))
    for step in range(begin + 1, STEPS + 1):
        time.sleep(STEP_SECONDS)
        state = hashlib.sha256(state + b"%d" % step).hexdigest().encode()
        save = step % SAVE_STEPS == 0
        if place.rank == 0:
            with log.open("a") as file:
                file.write(json.dumps({"time": timestamps.now(), "step": step, "loss": 1 / step}) + "\n")
            saved = step if save else step - step % SAVE_STEPS
        if save:
            keep(run, place, step, state)
        if place.rank == 0:
            ledger.write_progress(
                run.path, "train", step=step, of=STEPS, loss=1 / step, checkpoint=saved or None
            )
        if save and flag.requested and step < STEPS:
            return EXIT_REQUEUE
    if place.rank == 0:
        ledger.write_marker(run.path, "train", outcome="done", started=started, figures={"steps": STEPS})
    return 0


def keep(run: Run, place: Rank, step: int, state: bytes) -> None:
    """Write this rank's part; rank 0 commits once the parts of all are whole."""
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(shard(folder, place.rank), state * COPIES)
    if place.rank != 0:
        return
    end = time.monotonic() + PATIENCE
    parts = [shard(folder, rank) for rank in range(place.world_size)]
    while not all(part.exists() and part.stat().st_size == 64 * COPIES for part in parts):
        if time.monotonic() > end:
            raise OSError(0, f"not all ranks have saved step {step}")
        time.sleep(0.01)
    committed.commit(folder, step, place.world_size)
    committed.rotate(run.checkpoints, KEEP)


def consolidate(run: Run, started: str) -> int:
    """The last checkpoint's parts become the weights."""
    last = committed.newest(run.checkpoints)
    if last is None or last.step != STEPS:
        print(f"error: no checkpoint of step {STEPS}", file=sys.stderr)
        return 1
    run.model.mkdir(parents=True, exist_ok=True)
    weights = b"".join(state_of(last.path, rank) for rank in range(2))
    write_atomic(run.model / "model.safetensors", weights)
    ledger.write_marker(run.path, "consolidate", outcome="done", started=started)
    return 0


def score(run: Run, flag: StopFlag, started: str) -> int:
    """This element's rows of both models; whoever finds none missing merges."""
    part = store.Shard(
        int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")) + 1,
        int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1")),
    )
    models = {"base": b"base", "finetuned": (run.model / "model.safetensors").read_bytes()}
    keys = [str(row) for row in range(ROWS)]
    for which, weights in models.items():
        folder = run.scores / which
        with store.Writer(folder, part) as writer:
            there = store.collect(folder, keys)
            for row in part.mine(range(ROWS)):
                if flag.requested:
                    return EXIT_REQUEUE
                if str(row) not in there:
                    time.sleep(ROW_SECONDS)
                    text = hashlib.sha256(weights + b"%d" % row).hexdigest()
                    writer.append(str(row), prediction(row, text), ROW_SECONDS)
    for which in models:
        folder = run.scores / which
        found = store.collect(folder, keys)
        if len(found) < ROWS:
            return 0
        store.merge(folder, found, keys, {"rows": ROWS, "correct": 0, "accuracy": 0.0})
    ledger.write_marker(run.path, "score", outcome="done", started=started)
    return 0


def prediction(row: int, text: str) -> store.Prediction:
    return store.Prediction(
        id=row, question="", gold="", prediction=text, tokens=1, finish="stop", correct=False, gold_value=None,
        predicted_value=None, reason="",
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
