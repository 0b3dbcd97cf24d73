"""A training with trackers beside it, killed and resumed twice: each tracker lists each step once, with the figures of
the log; and it trains to the same bits as one without."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from glmjobs import track
from glmjobs.tracking import state
from hpc.core.files import read_jsonl
from tests.support import tracked
from tests.support.small_training import Training, differences, kill, logged, make_run, small_model

LAST = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server of this test's own."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (
                    tmp_path / "server.log"
                ).read_text()
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_and_resumed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    trackers = [name for name in ("wandb", "swanlab", "mlflow") if find_spec(name) is not None]
    if find_spec("flask") is None and "mlflow" in trackers:
        trackers.remove("mlflow")  # the client alone, without its server
    if not trackers:
        pytest.skip("no tracker is installed: pip install -r configs/stacks/track.txt")
    if "mlflow" in trackers:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    for name, value in {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline", "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    names = (f"train.max_steps={LAST}", "train.save_steps=4", "train.logging_steps=1", "train.eval_steps=3")
    names = (*names, "data.dev_rows=1-20", "train.precision=fp32")
    model = small_model(tmp_path)
    plain = make_run(tmp_path, "plain", model, *names)
    run = make_run(tmp_path, "run", model, *names, f"track=[{','.join(trackers)}]")
    with Training(plain, limit=9) as training:
        assert training.wait() == 0, training.said()
    with Training(run, limit=9) as training:
        for at in (6, 10):  # past the checkpoints of steps 4 and 8
            started = len(training.events("attempt"))
            ranks = training.until(lambda n=started: training.ranks() if training.step() >= at else None)  # noqa: B023
            assert ranks, training.said()
            kill(ranks[0])
            training.until(lambda n=started: len(training.events("attempt")) > n)
        assert training.wait() == 0, training.said()
    assert len(training.events("attempt")) == 3
    assert differences(*(r.checkpoints / f"checkpoint-{LAST}" for r in (plain, run))) == []
    assert logged(plain) == logged(run)
    for tracker in trackers:
        end = time.monotonic() + 60
        while track.main(["sync", str(run.path), "--to", tracker]) and time.monotonic() < end:
            time.sleep(0.5)  # the last of the attempt's own sending
        assert track.main(["sync", str(run.path), "--to", tracker]) == 0
        folder = state.folder(run.path) / tracker
        readers = {"wandb": tracked.wandb_steps, "swanlab": tracked.swanlab_steps}
        found = readers[tracker](folder) if tracker in readers else tracked.mlflow_steps(run.file.key)
        losses = [(step, values["train/loss"]) for step, values in found if "train/loss" in values]
        dev = [(step, values["dev/loss"]) for step, values in found if "dev/loss" in values]
        rows = list(read_jsonl(run.checkpoints / "train_log.jsonl"))
        assert losses == [(row["step"], pytest.approx(row["loss"])) for row in rows if "loss" in row]
        assert dev == [(row["step"], pytest.approx(row["dev_loss"])) for row in rows if "dev_loss" in row]
        assert [step for step, _ in losses] == list(range(1, LAST + 1)) and [s for s, _ in dev] == [
            0,
            3,
            6,
            9,
            12,
        ]
