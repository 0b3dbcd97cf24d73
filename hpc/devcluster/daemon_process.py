"""Processes we started, told apart from all others: by pid and start time, by namespace, by environment."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any

# Daemons listen below the range the kernel takes ports of outgoing connections from (32768 up by default).
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Process:
    """One process; ``started`` (clock ticks since boot) and ``boot`` make the pid unmistakable."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process ``pid``, or None. A zombie is dead: it still answers ``kill -0``."""
        stat = _stat(pid)
        if stat is None or stat[0] in "ZX":
            return None
        return cls(pid, int(stat[19]), boot_id())

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Process:
        """The inverse of ``vars()``."""
        return cls(int(data["pid"]), int(data["started"]), str(data["boot"]))

    @property
    def alive(self) -> bool:
        """Whether this very process runs, not another one that got its number."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # reap it, should it be our own child
        return Process.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send a signal, if it is still the same process."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def boot_id() -> str:
    """Changes with every start of the machine; start times are comparable within one only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on (field 3 is index 0); the name before it may contain anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def spawn(args: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> Process:
    """Start a daemon in the foreground mode of its own, in a session of its own, its output appended to
    ``log``."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            args,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    child.returncode = (
        0  # it outlives us on purpose: no ResourceWarning, no reaping behind Process.alive's back
    )
    return Process.of(child.pid) or Process(child.pid, -1, boot_id())


def stop(processes: Sequence[Process], *, patience: float = 5.0) -> None:
    """End processes: SIGTERM, then SIGKILL for those still there after ``patience`` seconds."""
    for process in processes:
        process.signal(signal.SIGTERM)
    if not wait_until(lambda: not any(p.alive for p in processes), patience):
        for process in processes:
            process.signal(signal.SIGKILL)
        wait_until(lambda: not any(p.alive for p in processes), 5.0)


def wait_until(condition: Callable[[], bool], timeout: float, *, every: float = 0.03) -> bool:
    """Poll ``condition`` until it holds or ``timeout`` seconds are over; whether it held."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(every)
    return True


def find(*, hosts: Mapping[str, Path], slurm_conf: Path) -> list[Process]:
    """Processes of a cluster's nodes: slurmd, steps, and whatever their jobs started.

    Args:
        hosts: node → the file that the node sees as /etc/hosts. A process that sees this very file lives
        on that node,
            whatever its parent, session or environment. (The number of a namespace would not do: it is
            given to another one as soon as the last process is gone.)
        slurm_conf: where namespaces are not allowed, an environment naming this file and one of the nodes
        tells.
    """
    files = {key for path in hosts.values() if (key := _file_key(path))}
    found = []
    for pid in _pids():
        if pid == os.getpid():
            continue
        if _file_key(Path(f"/proc/{pid}/root/etc/hosts")) in files or _named_node(pid, slurm_conf) in hosts:
            process = Process.of(pid)
            if process is not None:
                found.append(process)
    return found


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _file_key(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _named_node(pid: int, slurm_conf: Path) -> str | None:
    """The node that the environment of ``pid`` names, if it names our slurm.conf as well."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    environ = dict(word.split(b"=", 1) for word in words if b"=" in word)
    if environ.get(b"SLURM_CONF") != os.fsencode(slurm_conf):
        return None
    return os.fsdecode(environ.get(b"SLURMD_NODENAME", b"")) or None


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """One free TCP port for each name."""
    found: dict[str, int] = {}
    held: list[socket.socket] = []
    random = SystemRandom()
    try:
        for _ in range(200 * len(names)):
            if len(found) == len(names):
                return found
            trial = socket.socket()
            held.append(trial)
            with contextlib.suppress(OSError):
                trial.bind(("", random.choice(PORTS)))
                found[names[len(found)]] = trial.getsockname()[1]
    finally:
        for trial in held:
            trial.close()
    raise OSError(f"no {len(names)} free TCP ports from {PORTS.start} to {PORTS.stop}")
