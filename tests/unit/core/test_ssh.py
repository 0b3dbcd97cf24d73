"""Commands over ssh, against a real sshd: what comes back, one connection for all, Ctrl-C, refusals in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc.core import ssh
from hpc.core.errors import NotFit
from hpc.core.ssh import LOST, Remote
from tests.support import sshd
from tests.support.paths import REPO
from tests.support.sshd import Sshd


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture
def remote(daemon: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setenv(ssh.PROGRAM, daemon.client())
    monkeypatch.setattr(ssh, "sockets", lambda: tmp_path)
    made = Remote("cluster")
    yield made
    made.close()


HOSTILE = ["it's", 'a "b"', "$(touch hacked)", "`id`", "a;b|c&d", "*", "", "中文 ", "-o", "!x", "\\n"]


def test_words_output_and_exit_code_come_back(
    remote: Remote, daemon: Sshd, capfd: pytest.CaptureFixture[str]
) -> None:
    before = daemon.logins
    assert remote.run('printf "%s\\0" "$@"; echo no >&2; exit 42', HOSTILE) == 42
    said = capfd.readouterr()
    assert said.out.split("\0")[:-1] == HOSTILE and said.err == "no\n"
    for code in (0, 1, 2, 3):
        assert remote.run('exit "$1"', [str(code)]) == code
    assert remote.ask("tr a-z A-Z; exit 3", given="größe 中".encode()) == (3, "GRößE 中".encode(), "")
    assert daemon.logins == before + 1, "one connection serves all of them"
    assert (remote.socket.stat().st_mode & 0o077) == 0


def test_output_comes_as_it_is_written(remote: Remote, tmp_path: Path) -> None:
    """The command there waits for what is done here after its first line has come."""
    go = tmp_path / "go"
    script = f"echo begun; while [ ! -e {go} ]; do sleep 0.05; done; echo ended"
    code = f"from hpc.core.ssh import Remote; print(Remote('cluster').run({script!r}), flush=True)"
    env = {**os.environ, "XDG_RUNTIME_DIR": "", "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        go.touch()
        assert process.stdout.read() == "ended\n0\n"


def test_ctrl_c_reaches_the_command_there(remote: Remote, tmp_path: Path) -> None:
    program = "import time\ntry: print(1, flush=True); time.sleep(60)\nexcept KeyboardInterrupt: exit(130)"
    script = f'exec "$1" -c "{program}"'
    code = f"import sys; from hpc.core.ssh import Remote; print(Remote('cluster').run({script!r}, [sys.executable]))"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "130\n"
    assert time.monotonic() - began < 30


def test_a_lost_connection_tells_nothing_to_the_command_there(
    remote: Remote, daemon: Sshd, tmp_path: Path
) -> None:
    began, go, done = tmp_path / "began", tmp_path / "go", tmp_path / "done"
    script = f"touch {began}; while [ ! -e {go} ]; do sleep 0.05; done; touch {done}"
    code = f"from hpc.core.ssh import Remote; raise SystemExit(Remote('cluster').run({script!r}))"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL) as process:
        appears(began)
        daemon.cut()
        assert process.wait(timeout=30) == LOST
    go.touch()
    appears(done)
    assert remote.run("exit 7") == 7, "a new connection is made"


def appears(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


def refused(login: str = "cluster") -> str:
    with pytest.raises(NotFit) as error:
        Remote(login).run("true")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_refusal_is_one_line(
    daemon: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ssh, "sockets", lambda: tmp_path)
    monkeypatch.setenv(ssh.PROGRAM, daemon.client("stranger"))
    assert "takes none of your keys" in refused() and f"ssh -fNM -S {tmp_path}" in refused()
    monkeypatch.setenv(ssh.PROGRAM, daemon.client())
    right = (daemon.folder / "host.pub").read_text()
    daemon.know("")
    assert "its host key is not known here: log in once by hand" in refused()
    daemon.know((daemon.folder / "stranger.pub").read_text())
    assert "its host key is not the one that you know" in refused()
    daemon.know(right)
    monkeypatch.setenv(ssh.PROGRAM, daemon.client(host="no-such-host.invalid"))
    assert "there is no host of this name" in refused()
    port, daemon.port = daemon.port, 1
    monkeypatch.setenv(ssh.PROGRAM, daemon.client())
    daemon.port = port
    assert "nothing answers ssh there" in refused()
    monkeypatch.setenv(ssh.PROGRAM, "/nowhere/ssh")
    assert refused() == "/nowhere/ssh: cannot be started: No such file or directory; install OpenSSH's client"
    assert capfd.readouterr().err == ""


def test_a_directory_for_sockets_that_others_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path("/tmp", f"s{os.getpid()}")
    short.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    try:
        assert ssh.sockets() == short / "glmjobs" and (short / "glmjobs").stat().st_mode & 0o777 == 0o700
        (short / "glmjobs").chmod(0o755)
        with pytest.raises(NotFit, match="closed to others"):
            ssh.sockets()
    finally:
        (short / "glmjobs").rmdir()
        short.rmdir()
