"""A real sshd of a test's own: on a high port, with its own host key, letting in one key."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = shutil.which("sshd") or "/usr/sbin/sshd"


def require_sshd() -> None:
    """Skip where there is none that could be started."""
    if not Path(PROGRAM).exists() or not shutil.which("ssh-keygen"):
        pytest.skip("no sshd here (Debian: openssh-server): commands over ssh are not tested")
    if os.getuid() == 0:
        try:
            pwd.getpwnam("sshd")
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        except (KeyError, OSError):
            pytest.skip("sshd has no user or directory of its own here: commands over ssh are not tested")


class Sshd:
    """The daemon, and a client's configuration in which ``cluster`` is its host. ``log``: what it did."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None) -> None:
        self.folder, self.log = folder, folder / "sshd.log"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "mine", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized").write_text((folder / "mine.pub").read_text())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        exported = " ".join(f'"{name}={value}"' for name, value in (environ or {}).items())
        lines = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"PidFile {folder}/pid",
            f"AuthorizedKeysFile {folder}/authorized", "StrictModes no", "UsePAM no", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "PermitRootLogin yes", "LogLevel VERBOSE",
            *([f"SetEnv {exported}"] if exported else []),
        ]  # fmt: skip
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        self.know((folder / "host.pub").read_text())
        self.process: subprocess.Popen[bytes] | None = None

    def know(self, key: str) -> None:
        """The host key that the client expects; "": none."""
        known = f"[127.0.0.1]:{self.port} {key}" if key else ""
        (self.folder / "known_hosts").write_text(known)

    def client(self, key: str = "mine", host: str = "127.0.0.1") -> str:
        """The words of an ssh whose ``cluster`` is this host."""
        lines = [
            "Host cluster", f"HostName {host}", f"Port {self.port}", f"User {pwd.getpwuid(os.getuid()).pw_name}",
            f"IdentityFile {self.folder}/{key}", "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.folder}/known_hosts", "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking ask",
        ]  # fmt: skip
        config = self.folder / f"ssh_config-{key}-{host}"
        config.write_text("\n".join(lines) + "\n")
        return f"ssh -F {config}"

    def start(self) -> None:
        """Until it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=log, stdin=subprocess.DEVNULL
            )
        end = time.monotonic() + 60
        while b"listening" not in self.log.read_bytes():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """The daemon ends, and the connections with it."""
        assert self.process is not None
        self.cut()
        self.process.terminate()
        self.process.wait(timeout=10)

    def cut(self) -> None:
        """All connections are lost; what runs in them is not told."""
        import psutil

        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name() == "sshd":
                    child.kill()

    @property
    def logins(self) -> int:
        """Connections that it has let in so far."""
        return self.log.read_text().count("Accepted publickey")


@contextlib.contextmanager
def running(folder: Path, environ: dict[str, str] | None = None) -> Iterator[Sshd]:
    """A daemon for as long as the block runs; skips where there can be none."""
    require_sshd()
    made = Sshd(folder, environ)
    made.start()
    try:
        yield made
    finally:
        made.stop()
