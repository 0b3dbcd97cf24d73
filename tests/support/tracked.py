"""A run directory that looks trained, and what trackers have of it, read back from their own files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from glmjobs.recipe.loading import load
from glmjobs.run.directory import Run, Shape
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.files import read_jsonl, write_json
from tests.support.paths import CONFIGS

Steps = list[tuple[int, dict[str, float]]]


def made_run(path: Path, *settings: str) -> Run:
    """A run that has not trained yet."""
    return Run.create(
        path, load(CONFIGS / "tiny.yaml", list(settings)), Profile(name="x"), Shape(nodes=1, gpus=1)
    )


def train(run: Run, first: int, last: int, *, scale: float = 1.0, evaluate: int = 4) -> None:
    """One attempt from ``first`` on: rows from there on that an attempt before it has left are dropped, as
    RunLog does."""
    log = run.checkpoints / "train_log.jsonl"
    log.parent.mkdir(exist_ok=True)
    rows = [row for row in read_jsonl(log) if row["step"] < first]
    for step in range(first, last + 1):
        row = {
            "time": timestamps.stamp(1.7e9 + step),
            "step": step,
            "loss": scale / step,
            "learning_rate": 1e-4,
        }
        rows.append(
            {**row, "grad_norm": None if step == 2 else 1.5, "tokens_per_s": 10.0, "tokens": 8 * step}
        )
        if step % evaluate == 0:
            dev = {"dev_loss": scale / step + 1, "dev_token_accuracy": 0.5, "dev_answers": None}
            rows.append({"time": timestamps.stamp(1.7e9 + step + 0.5), "step": step, **dev})
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def finish(run: Run) -> None:
    """The training is done, and both models are scored."""
    ledger.append(
        run.path, "measured", stage="train", step=1, tokens_per_s=10.0, peak_host_bytes=1000, mfu=None
    )
    ledger.write_marker(run.path, "train", outcome="done", started=timestamps.now())
    for which, accuracy in (("base", 0.25), ("finetuned", 0.75)):
        write_json_in(run.scores / which / "summary.json", {"accuracy": accuracy})


def write_json_in(path: Path, value: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


def wandb_steps(folder: Path) -> Steps:
    """The history in wandb's offline files, in the order in which ``wandb sync`` would send them."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted(folder.glob("offline-run-*/*.wandb")):
        for raw in log_records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(raw)
            if record.WhichOneof("record_type") == "history":
                items = {(i.key or "/".join(i.nested_key)): i.value_json for i in record.history.item}
                values = {name: float(text) for name, text in items.items() if "/" in name}
                found.append((record.history.step.num, values))
    return found


def log_records(file: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after wandb's 7 bytes of its own."""
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def swanlab_steps(folder: Path) -> Steps:
    """The scalars in SwanLab's offline files, by its own reader, a step's together."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    found: Steps = []
    for file in sorted(folder.glob("run-*/*.swanlab")):
        reader = DataStoreReader()
        reader.open(file)
        while (raw := reader.scan()) is not None:
            record = Record()
            record.ParseFromString(raw)
            if not record.HasField("scalar"):
                continue
            scalar = record.scalar
            if found and found[-1][0] == scalar.step and scalar.key not in found[-1][1]:
                found[-1][1][scalar.key] = scalar.value.number
            else:
                found.append((scalar.step, {scalar.key: scalar.value.number}))
    return found


def mlflow_steps(key: str) -> Steps:
    """What the MLflow server (or database) of the environment has of the run with this key."""
    from mlflow import MlflowClient

    client = MlflowClient()
    numbers = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(numbers, f"tags.`glmjobs.key` = '{key}'")
    by_step: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        for metric in history:
            assert name not in by_step.setdefault(metric.step, {}), f"{name} twice at step {metric.step}"
            by_step[metric.step][name] = metric.value
    return sorted(by_step.items())
