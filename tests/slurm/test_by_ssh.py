"""A cluster that is reached by ssh: a real sshd, a real Slurm behind it, and what is typed on another machine."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from glmjobs import cancel, heal, logs, report, status, submit
from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from hpc.core import ssh
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support import clusters, sshd
from tests.support.paths import REPO
from tests.support.small_chain import SETTINGS, done, ids, starts, with_key
from tests.support.small_there import prefix, profile
from tests.support.sshd import Sshd

pytestmark = pytest.mark.slurm


@pytest.fixture
def daemon(cluster: DevCluster, tmp_path: Path, clean_queue: Any) -> Iterator[Sshd]:
    """The cluster's login node; its runs are in ``there``."""
    clean_queue(cluster)
    environ = {"SLURM_CONF": cluster.environ()["SLURM_CONF"], "GLMJOBS_RUNS": str(tmp_path / "there")}
    (tmp_path / "there").mkdir()
    with sshd.running(tmp_path / "sshd", environ) as made:
        yield made


@pytest.fixture
def laptop(daemon: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine: no Slurm is configured here, and runs are in a folder of its own."""
    clusters.leave(monkeypatch)
    monkeypatch.setenv(ssh.PROGRAM, daemon.client())
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "here"))
    profile(tmp_path, prefix(tmp_path / "env"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text((REPO / "configs" / "tiny.yaml").read_text())
    return tmp_path


def words(*more: str) -> list[str]:
    """submit's words on the laptop."""
    line = ["--recipe", "tiny.yaml", "--cluster", "mine.yaml", "--gpus", "1", *more]
    return [*line, *(word for item in SETTINGS for word in ("--set", item))]


@pytest.fixture
def on_cluster(laptop: Path, cluster: DevCluster) -> Any:
    """``on_cluster(f)`` calls it with this process on the cluster."""

    def call(what: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            clusters.enter(cluster, patch)
            return what()

    return call


def said(capfd: pytest.CaptureFixture[str], main: Any, *line: str, code: int = 0) -> tuple[str, str]:
    assert run_command(main, list(line)) == code, capfd.readouterr()
    out, err = capfd.readouterr()
    return out, err


@pytest.mark.slow
def test_a_run_from_the_laptop(
    laptop: Path, daemon: Sshd, capfd: pytest.CaptureFixture[str], wait_for: Any, on_cluster: Any
) -> None:
    """Submitted, looked at, cancelled, healed, reported, all from there; one connection, no Slurm on the laptop."""
    out, _ = said(capfd, submit.main, *words("--json"))
    announced = json.loads(out)
    assert announced["run"] == "tiny-1" and announced["path"] == str(laptop / "there" / "tiny-1")
    run = Run.open(announced["path"])
    assert announced["jobs"] == ids(run) and not (laptop / "here" / "tiny-1").exists()
    wait_for(lambda: starts(run, "train"), 60)
    out, err = said(capfd, status.main, "tiny-1", "--json")
    stages = {s["stage"]: s for s in json.loads(out)["stages"]}
    assert stages["train"]["state"] == "running" and stages["train"]["job"] == announced["jobs"]["train"]
    assert err == ""
    out, _ = said(capfd, status.main, "tiny-1")
    assert "running" in out and "\x1b" not in out, "no colours where no terminal is"
    assert "\x1b[36mrunning" in on_a_terminal("glmjobs.status", "tiny-1")
    _, err = said(capfd, logs.main, "tiny-1", "--stage", "score", code=2)
    assert err.count("\n") == 1 and "score has no logs" in err
    said(capfd, cancel.main, "tiny-1")
    wait_for(lambda: on_cluster(lambda: gone(run)), 60, "the jobs to be cancelled")
    assert "cancelled" in said(capfd, status.main, "tiny-1")[0]
    (run.path / "go").touch()
    out, _ = said(capfd, heal.main, "tiny-1", "--json")
    assert {job["stage"] for job in json.loads(out)["jobs"]} == {"train", "consolidate", "score", "report"}
    wait_for(lambda: done(run), 90, "the chain to be done")
    out, err = said(capfd, report.main, "tiny-1")
    assert out.rstrip().endswith("there/tiny-1/report/report.html")
    copy = laptop / "here" / "tiny-1.html"
    assert copy.read_bytes() == (run.report / "report.html").read_bytes() and str(copy) in err
    assert daemon.logins == 1, "all of it over one connection"
    out, _ = said(capfd, submit.main, *words("--json", "--dry-run"))
    assert json.loads(out)["dry_run"] and not (laptop / "there" / "tiny-2").exists()
    out, _ = said(capfd, submit.main, *words("--json"))
    assert json.loads(out)["run"] == "tiny-2", "the next name"
    sent = list((laptop / "there" / ".sent").iterdir())
    assert len(sent) == 2 and all(file.stat().st_mode & 0o077 == 0 for file in sent)


def on_a_terminal(*command: str) -> str:
    """What a command writes to a terminal."""
    mine, its = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(REPO), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-m", *command], stdout=its, stdin=its, env=env) as process:
        os.close(its)
        text = b""
        with contextlib.suppress(OSError):  # at its end
            while part := os.read(mine, 4096):
                text += part
        assert process.wait() == 0
    os.close(mine)
    return text.decode()


def gone(run: Run) -> bool:
    return all(info.state.is_final for info in slurm.jobs(list(ids(run).values())).values())


@pytest.mark.slow
def test_data_that_is_here_alone_is_named(laptop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (laptop / "mine.jsonl").write_text('{"instruction": "1 + 1", "output": "2"}\n')
    line = words("--set", "data.make=null", "--set", "data.path=mine.jsonl")
    _, err = said(capfd, submit.main, *line, code=2)
    assert "note: mine.jsonl is on this machine and not there: rsync -a it to cluster:" in err
    assert not list((laptop / "here" / ".elsewhere").glob("*.json")), "its name is free again"


@pytest.mark.parametrize("what", ["goes on there", pytest.param("killed there", marks=pytest.mark.slow)])
def test_a_connection_that_is_lost_during_submit(
    what: str, laptop: Path, daemon: Sshd, capfd: pytest.CaptureFixture[str], wait_for: Any, on_cluster: Any
) -> None:
    """The same command again meets the same run: each job is in the queue once."""
    there, again = laptop / "there", words("--json")
    (there / "hold").touch()
    command = [sys.executable, "-m", "glmjobs.submit", *again]
    pipe, env = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        [held] = wait_for(lambda: list(there.glob("held-*")), 60, "the first job to be accepted")
        daemon.cut()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3 and out == "" and err.count("\n") == 1
    assert "the connection was lost; the same command again finds out" in err
    run = Run.open(there / "tiny-1")
    assert len(ids(run)) == 1
    number = int(held.name.partition("-")[2])
    if what == "killed there":
        psutil.Process(number).send_signal(signal.SIGKILL)
    (there / "hold").unlink()
    out, err = said(capfd, submit.main, *again)
    assert err == "note: tiny-1 was sent before, and no answer came: it is there, and goes on\n"
    assert {job["stage"] for job in json.loads(out)["jobs"]} == {"train", "consolidate", "score", "report"}
    wait_for(lambda: len(ids(run)) == 4, 60)
    assert len(on_cluster(lambda: with_key(run))) == 4, "each job once"
    assert not (there / "tiny-2").exists()
    (run.path / "go").touch()
    wait_for(lambda: done(run), 90, "the chain to be done")
    assert [len(starts(run, stage)) for stage in ("train", "consolidate", "score", "report")] == [1, 1, 2, 1]


@pytest.mark.slow
def test_ctrl_c_while_following_leaves_the_jobs_alone(
    laptop: Path, wait_for: Any, on_cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "glmjobs.submit", *words("--follow")]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        run = wait_for(lambda: started(laptop / "there" / "tiny-1"), 90, "train to start")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    states = on_cluster(lambda: [i.state.is_final for i in slurm.jobs(list(ids(run).values())).values()])
    assert states and not any(states)
    assert "running" in said(capfd, status.main, "tiny-1")[0]


def started(path: Path) -> Run | None:
    return Run.open(path) if (path / "starts" / "train").exists() else None
