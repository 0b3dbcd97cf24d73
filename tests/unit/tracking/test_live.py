"""Beside a training: a tracker that hangs, fails or is killed ends by itself, and nobody waits for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmjobs.tracking import live, state
from tests.support import tracked

PROGRAM = """
import sys
from glmjobs import track
from glmjobs.tracking import live

live.EVERY_SECONDS, live.AGAIN_SECONDS, live.LAST_SECONDS = 0.2, (0.2, 1.0), float(sys.argv[1])
sys.exit(track.main(["follow", sys.argv[2], "--to", sys.argv[3]]))
"""
SOON = 60.0


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def follower(
    run: Path, tracker: str, environ: dict[str, str], seconds: float = 30.0
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, str(seconds), str(run), tracker]
    env = {**os.environ, "HOME": str(run.parent), "no_proxy": "127.0.0.1", **environ}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=live._aside,
        start_new_session=True,
    )


def until(what: object, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SOON
    while not what():  # type: ignore[operator]
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("tracker", ["wandb", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_a_server_that_never_answers(tmp_path: Path, silent: str, tracker: str) -> None:
    pytest.importorskip(tracker)
    run = tracked.made_run(tmp_path / "run", f"track=[{tracker}]")
    tracked.train(run, 1, 5)
    environ = {"WANDB_BASE_URL": silent, "WANDB_API_KEY": "0" * 40, "MLFLOW_TRACKING_URI": silent}
    process = follower(run.path, tracker, environ, seconds=2.0)
    until(lambda: (state.folder(run.path) / f".{tracker}").is_dir(), process)  # it is at the tracker
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(SOON) == -signal.SIGKILL, "cut off, whatever the tracker waited for"


@pytest.mark.slow
def test_a_server_that_comes_later(tmp_path: Path) -> None:
    """Failures are counted and tried again; the signals of a training that is to stop do not end the sending."""
    pytest.importorskip("wandb")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    run = tracked.made_run(tmp_path / "run", "track=[wandb]")
    tracked.train(run, 1, 5)
    process = follower(
        run.path, "wandb", {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "0" * 40}
    )
    until(lambda: state.load(run.path, "wandb").failures >= 2, process)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        process.send_signal(number)
    before = state.load(run.path, "wandb").failures
    until(lambda: state.load(run.path, "wandb").failures > before, process)
    _, said = process.communicate(b"", timeout=SOON)
    assert process.returncode == 0 and "no way from" in said.decode() and "Traceback" not in said.decode()
    assert "no way from" in live.remarks(run)[0]


def test_what_is_left_is_sent_when_the_training_is_gone(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tracked.made_run(tmp_path / "run", "track=[wandb]")
    for first, last in ((1, 5), (4, 9), (7, 12)):  # three attempts, two of them killed
        process = follower(run.path, "wandb", {"WANDB_MODE": "offline"})
        tracked.train(run, first, last)
        if last == 12:
            tracked.finish(run)
        process.communicate(b"", timeout=SOON)
        assert process.returncode == 0
    found = tracked.wandb_steps(state.folder(run.path) / "wandb")
    assert [step for step, _ in found] == list(range(1, 13))


def test_a_python_that_cannot_start_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked.made_run(tmp_path / "run", "track=[wandb,mlflow]")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    live.start(run)
    live.last(run)
    said = capfd.readouterr().err.splitlines()
    assert [line.split(" is")[0] for line in said[:2]] == ["warning: wandb", "warning: mlflow"]
    assert said[2:] == ["track: wandb: No such file or directory", "track: mlflow: No such file or directory"]
