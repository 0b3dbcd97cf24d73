"""Commands on another machine, over one OpenSSH connection that all of them share. Standard library only.

The first command opens the connection (ssh's ``ControlMaster``), which then stays for :data:`PERSIST_SECONDS`; its
socket is in a directory that nobody else can enter. There is no daemon but ssh's own. Keys, ports, jump hosts are what
``~/.ssh/config`` says of the host. Nothing is asked: an unknown host, or one that takes no key of ours, is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpc.core.errors import NotFit
from hpc.core.process import die_with_parent

PERSIST_SECONDS = 600
CONNECT_SECONDS = 20
LOST = 255
"""ssh's exit code where the connection could not be made, or was lost."""

PROGRAM = "GLMJOBS_SSH"
"""The variable with the words of another ssh, such as ``ssh -F config``."""


class Remote:
    """A login on another machine.

    Args:
        login: ``user@host``, or what ``~/.ssh/config`` calls a host.
    """

    def __init__(self, login: str) -> None:
        self.login = login
        way = f"{os.environ.get(PROGRAM, '')} {login}"
        self.socket = sockets() / hashlib.sha256(way.encode()).hexdigest()[:16]

    def connect(self) -> None:
        """See that there is a connection.

        Raises:
            NotFit: there can be none; why, in one line.
        """
        if _quiet([*self._ssh(), "-O", "check", self.login])[0] == 0:
            return
        code, said = _quiet([*self._ssh(), "-n", self.login, "true"])
        if code == LOST:
            raise NotFit(why_not(self.login, said, self.socket))

    def run(self, script: str, words: Sequence[str] = ()) -> int:
        """Run a script for ``sh`` there, which has ``words`` as $1, $2, …; its output comes out here as it is written.

        Ctrl-C here is SIGINT there, for the process of the script (or what it has become by ``exec``).

        Returns:
            The script's exit code; :data:`LOST` where the connection was lost, and what it did is not known.
        """
        self.connect()
        # A line on its input is an interrupt; a lost connection, which is the input's end, is none.
        listen = "exec 3<&0 </dev/null; { read -r _ <&3 && kill -INT $$; } >/dev/null 2>&1 & exec 3<&-; "
        command = [*self._ssh(), "-T", self.login, shell(listen + script, words)]
        with (
            subprocess.Popen(
                command, stdin=subprocess.PIPE, start_new_session=True, preexec_fn=die_with_parent
            ) as process,
            _interrupts_go_to(process) as given_up,
        ):
            code = process.wait()
        if given_up:
            raise KeyboardInterrupt
        return code

    def ask(self, script: str, words: Sequence[str] = (), *, given: bytes = b"") -> tuple[int, bytes, str]:
        """Run a short script there; its exit code, what it wrote, and its complaints. ``given``: its input."""
        self.connect()
        command = [*self._ssh(), "-T", self.login, shell(script, words)]
        done = subprocess.run(command, input=given, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")

    def close(self) -> None:
        """End the shared connection, if there is one."""
        _quiet([*self._ssh(), "-O", "exit", self.login])

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes", "ControlMaster": "auto", "ControlPath": self.socket, "ControlPersist": PERSIST_SECONDS,
            "ConnectTimeout": CONNECT_SECONDS, "ServerAliveInterval": 15, "ServerAliveCountMax": 4,
        }  # fmt: skip
        program = shlex.split(os.environ.get(PROGRAM) or "ssh")
        return [*program, *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def shell(script: str, words: Sequence[str] = ()) -> str:
    """A command line for whatever shell a login has (csh too): ``sh`` runs the script with ``words`` as $1, $2, ….

    >>> shell('echo "$1"', ["it's"])
    'exec sh -c \\'echo "$1"\\' sh \\'it\\'"\\'"\\'s\\''
    """
    return "exec " + shlex.join(["sh", "-c", script, "sh", *words])


def sockets() -> Path:
    """A directory of our own for sockets. (Their paths may have some hundred characters at most.)

    Raises:
        NotFit: there is one that others can enter.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(base, "glmjobs") if base and len(base) < 40 else Path("/tmp", f"glmjobs-{os.getuid()}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    try:
        seen = folder.lstat()
    except OSError:
        return Path(
            tempfile.mkdtemp(prefix="glmjobs-", dir="/tmp")
        )  # shared with nobody, not even the next command
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o077:
        raise NotFit(f"{folder}: is to be a directory of your own, closed to others (chmod 700)")
    return folder


SAID = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the one that you know: ask there why, "
     "then `ssh-keygen -R {host}`"),
    ("Host key verification failed", "its host key is not known here: log in once by hand, compare it: `ssh {login}`"),
    ("Could not resolve hostname", "there is no host of this name: {host}"),
    ("Permission denied", "it takes none of your keys: put one there (`ssh-copy-id {login}`); where a code or password "
     "is asked for, open the connection by hand: `ssh -fNM -S {socket} {login}`"),
    ("Too many authentication failures", "too many keys were offered: name one in ~/.ssh/config (IdentitiesOnly yes)"),
    ("Connection refused", "nothing answers ssh there: is the port right (~/.ssh/config)?"),
    ("timed out", "no answer within {seconds} s: is the network or VPN there?"),
    ("No route to host", "no way to this host: is the network or VPN there?"),
    ("Bad configuration option", "this ssh does not know an option of ~/.ssh/config"),
)  # fmt: skip
"""What ssh writes (OpenSSH's own English; it has no other), and what it means; the first that is found counts."""


def why_not(login: str, said: str, socket: Path) -> str:
    """Why there is no connection, in one line."""
    host = login.rpartition("@")[2]
    for words, meaning in SAID:
        if words in said:
            told = meaning.format(host=host, login=login, socket=socket, seconds=CONNECT_SECONDS)
            return f"{login}: {told}"
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "ssh said nothing")
    return f"{login}: no connection: {last}"


def _quiet(command: Sequence[str]) -> tuple[int, str]:
    """Exit code, and what was said. (In a file: the process that keeps the connection would hold a pipe open.)"""
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, check=False,
                env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except OSError as error:
            raise NotFit(
                f"{command[0]}: cannot be started: {error.strerror}; install OpenSSH's client"
            ) from None
        said.seek(0)
        return done.returncode, said.read().decode("utf-8", "replace")


@contextlib.contextmanager
def _interrupts_go_to(process: subprocess.Popen[bytes]) -> Iterator[list[bool]]:
    """Ctrl-C goes to the command there; pressed once more, it is not waited for, and the list is not empty."""
    sent: list[bool] = []
    given_up: list[bool] = []

    def interrupt(*_: object) -> None:
        if sent:
            given_up.append(True)
            process.terminate()
            return
        sent.append(True)
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(b"\n")
            process.stdin.flush()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield given_up
    finally:
        signal.signal(signal.SIGINT, before)
