"""Starting, stopping and hurting a dev cluster."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from hpc.core import hints
from hpc.core.errors import BadInput, HpcError, NotFit
from hpc.core.files import lock, write_json
from hpc.devcluster import commands, config, daemon_process
from hpc.devcluster.config import Layout, Options
from hpc.devcluster.daemon_process import Process
from hpc.slurm import client as slurm

# Longest path that leaves room for spool/<node>/<node>_<job>.<step> within a Unix socket's 107 bytes.
MAX_SHORT = 50
# Seconds a daemon may take until it answers; it takes less than one on an idle machine.
START_TIMEOUT = 60.0
# Free memory that a database in /dev/shm asks for (bytes).
FAST_ROOM = 512 << 20


def default_dir() -> Path:
    """$HPC_DEVCLUSTER_DIR, else hpc-devcluster under $XDG_STATE_HOME or ~/.local/state, else under the temp
    directory."""
    if named := os.environ.get("HPC_DEVCLUSTER_DIR"):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    home = Path(state) if state else Path("~/.local/state").expanduser()
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK):
            return home / "hpc-devcluster"
    return Path(tempfile.gettempdir()) / f"hpc-devcluster-{os.getuid()}"


class DevCluster:
    """A real Slurm on this machine with pretended nodes and GPUs; a context manager.

    Args:
        directory: everything it writes lies here (default: :func:`default_dir`), but for sockets where this path is
            too long for them, and databases, which live in memory where that is possible. ``down`` removes all but
            the logs.
        options: how it looks; or :class:`Options`' fields by name: ``DevCluster(d, nodes=4, accounting=True)``.
    """

    def __init__(
        self, directory: Path | str | None = None, options: Options | None = None, **fields: Any
    ) -> None:
        if options is not None and fields:
            raise TypeError("give either options or its fields")
        self.root = Path(directory if directory is not None else default_dir()).absolute()
        self.options = options or Options(**fields)
        self._state: dict[str, Any] = {}

    def __enter__(self) -> DevCluster:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.down()

    # -- up, down, status, env

    def up(self) -> bool:
        """Start it; False if the same cluster was up already.

        Raises:
            NotFit: daemons are missing, or did not start (the line says which, and its last words).
            BadInput: another cluster is up in this directory, or the directory holds other things.
        """
        commands.require_programs(self.options.accounting)
        with self._lock():
            self._read()
            if self._state and not self._gone():
                return False
            try:
                self._start()
            except BaseException:
                self._clean()
                raise
        return True

    def down(self) -> bool:
        """Stop every process of it and remove its files, logs excepted; False if there was nothing."""
        if not self.root.is_dir():
            return False
        with self._lock():
            self._read()
            was_up = bool(self._state)
            self._clean()
        return was_up

    def env(self) -> dict[str, str]:
        """The variables that make Slurm's commands talk to this cluster.

        Raises:
            NotFit: it is not up.
        """
        self._read()
        if not self._state.get("daemons"):
            up = hints.command("hpc.devcluster", "up", "--dir", self.root)
            raise NotFit(f"{self.root}: no cluster is up here: `{up}` starts one")
        return {"SLURM_CONF": str(self.where.slurm_conf)}

    def environ(self) -> dict[str, str]:
        """This process's environment, cleaned of any surrounding job, with :meth:`env` in it."""
        return slurm.clean_env(os.environ) | self.env() | {"PATH": commands.search_path()}

    def status(self) -> dict[str, Any]:
        """Directory, options, daemons (name → pid, alive) and nodes (name → Slurm's state), as plain data."""
        self._read()
        daemons = {
            name: {"pid": data["pid"], "alive": Process.from_json(data).alive}
            for name, data in self._state.get("daemons", {}).items()
        }
        nodes: dict[str, str] = {}
        # Without munged the commands would wait for a minute or more.
        if daemons and all(d["alive"] for name, d in daemons.items() if name in ("munged", "slurmctld")):
            with contextlib.suppress(HpcError):
                nodes = slurm.node_states(env=self.environ(), timeout=10.0, pauses=())
        return {
            "dir": str(self.root),
            "up": bool(daemons) and all(d["alive"] for d in daemons.values()),
            "options": self._state.get("options", {}),
            "daemons": daemons,
            "nodes": nodes,
            "notes": self._state.get("notes", []),
        }

    # -- hurting it

    def kill(self, daemon: str, *, hard: bool = True) -> None:
        """End one daemon (``slurmctld``, ``slurmd.node1``, ``slurmdbd``, ``mariadb``, ``munged``):
        SIGKILL, or SIGTERM where not ``hard``."""
        self._read()
        victim = self._process(daemon)
        victim.signal(signal.SIGKILL if hard else signal.SIGTERM)
        if not daemon_process.wait_until(lambda: not victim.alive, 20.0):
            raise NotFit(f"devcluster: {daemon} (pid {victim.pid}) does not end")

    def restart(self, daemon: str) -> None:
        """Start one daemon again (ending it first, should it run) and wait until it answers."""
        with self._lock():
            self._read()
            daemon_process.stop([self._process(daemon)])
            self._launch(daemon, fresh=False)
            self._save()
        self._await(daemon)

    def kill_controller(self, *, hard: bool = False) -> None:
        """End slurmctld; ``hard`` is SIGKILL, after which Slurm may forget or repeat jobs."""
        self.kill("slurmctld", hard=hard)

    def restart_controller(self) -> None:
        """Start slurmctld again; it reads its saved state."""
        self.restart("slurmctld")

    def lose_state(self) -> None:
        """slurmctld dies and comes back without its saved state: no job is known any more, and numbers start anew."""
        self.kill_controller(hard=True)
        shutil.rmtree(self.where.saved)
        self.where.saved.mkdir()
        self.restart_controller()
        for node in Options.from_json(self._state["options"]).node_names:
            self._await_usable(node)

    def kill_node(self, node: str, *, mark_down: bool = True) -> None:
        """A node dies: slurmd, its steps and every process of its jobs, by SIGKILL.

        Slurm notices after ``slurmd_timeout`` seconds; ``mark_down`` tells it at once (its jobs become
        NODE_FAIL or are requeued).
        """
        self._read()
        victims = [self._process(f"slurmd.{node}"), *self._processes_of(node)]
        for victim in victims:
            victim.signal(signal.SIGKILL)
        daemon_process.wait_until(lambda: not any(v.alive for v in victims), 20.0)
        if mark_down:
            slurm.update_node(node, "down", reason="killed by devcluster", env=self.environ())

    def restart_node(self, node: str) -> None:
        """Start the node's slurmd again and make Slurm use it."""
        self.restart(f"slurmd.{node}")
        if slurm.node_states(env=self.environ()).get(node, "").startswith(("down", "drain")):
            with contextlib.suppress(slurm.SlurmRefused):  # it came back by itself meanwhile
                slurm.update_node(node, "resume", env=self.environ())
        self._await_usable(node)

    # -- starting

    @property
    def where(self) -> Layout:
        """Where its files lie, once it is up."""
        munge = self._state.get("munge")
        return Layout(
            self.root, Path(self._state["short"]), Path(self._state["fast"]), Path(munge) if munge else None
        )

    def _gone(self) -> bool:
        """Whether what the state tells of is wholly dead (after a restart of the machine, say); cleans up
        if so.

        Raises:
            NotFit: it is half dead.
            BadInput: it lives, with other options.
        """
        daemons = self._state["daemons"]
        dead = [name for name, data in daemons.items() if not Process.from_json(data).alive]
        if len(dead) == len(daemons):
            self._clean()
            return True
        if dead or set(daemons) != set(self._daemon_names(Options.from_json(self._state["options"]))):
            raise NotFit(
                f"{self.root}: half dead ({', '.join(dead) or 'not all started'}): {self._down_first()}, then `up`"
            )
        running = Options.from_json(self._state["options"])
        if running != self.options:
            raise BadInput(
                f"{self.root}: a cluster of {running.nodes} nodes x {running.gpus} GPUs with other options"
                f" is up: {self._down_first()} first, or give another directory by --dir"
            )
        return False

    @staticmethod
    def _daemon_names(options: Options) -> list[str]:
        accounting = ["mariadb", "slurmdbd"] if options.accounting else []
        shared = [] if options.beside else ["munged", *accounting]
        return [*shared, "slurmctld", *(f"slurmd.{node}" for node in options.node_names)]

    def _start(self) -> None:
        self._prepare_directories()
        names = self._daemon_names(self.options)
        self._state["ports"] = daemon_process.free_ports([name for name in names if name != "munged"])
        if self.options.beside:
            self._share(DevCluster(self.options.beside))
        self._write_files()
        self._save()
        slurmds = [name for name in names if name.startswith("slurmd.")]
        for name in names:
            self._launch(name, fresh=True)
            self._save()
            if name not in slurmds:
                self._await(name)
        for name in slurmds:
            self._await(name)

    def _share(self, other: DevCluster) -> None:
        """Use another cluster's munge and slurmdbd."""
        other.env()
        if "slurmdbd" not in other._state["daemons"]:
            raise BadInput(
                f"{other.root}: this cluster has no accounting to share: start it with --accounting"
            )
        self._state["ports"]["slurmdbd"] = other._state["ports"]["slurmdbd"]
        self._state["munge"] = str(other.where.munge_socket)

    def _prepare_directories(self) -> None:
        if {path.name for path in self.root.iterdir()} - {"lock", "log"}:
            raise BadInput(
                f"{self.root}: holds other things than a dev cluster: give an empty directory by --dir"
            )
        shutil.rmtree(self.root / "log", ignore_errors=True)
        short, fast = self.root / "run", self.root / "var"
        if len(os.fsencode(short)) > MAX_SHORT:
            short = Path(tempfile.mkdtemp(prefix="hpc-dev-", dir="/tmp"))
        self._state = {
            "options": self.options.to_json(), "short": str(short), "fast": str(fast),
            "ports": {}, "daemons": {}, "notes": [],
        }  # fmt: skip
        self._save()
        with contextlib.suppress(OSError):
            if shutil.disk_usage("/dev/shm").free > FAST_ROOM:
                self._state["fast"] = tempfile.mkdtemp(prefix="hpc-dev-", dir="/dev/shm")
                self._save()
        where = self.where
        spools = [where.spool(node) for node in self.options.node_names]
        for path in (where.etc, where.log, where.var, where.devices, where.saved, where.database, *spools):
            path.mkdir(parents=True, exist_ok=True)

    def _write_files(self) -> None:
        where, ports = self.where, self._state["ports"]
        host = socket.gethostname().partition(".")[0]
        cgroups = self.options.cgroups and self._cgroups_work()
        version = commands.slurm_version()
        if not self.options.beside:
            _write(where.etc / "munge.key", secrets.token_bytes(128), 0o600)
        _write(where.slurm_conf, config.slurm_conf(self.options, where, host, ports, cgroups, version))
        _write(where.etc / "gres.conf", config.gres_conf(self.options, where))
        for node in self.options.node_names:
            _write(where.hosts(node), config.hosts_file(self.options, host))
        if cgroups:
            _write(where.etc / "cgroup.conf", config.cgroup_conf())
        if self.options.job_submit:
            _write(where.etc / "job_submit.lua", self.options.job_submit)
        if self.options.accounting and not self.options.beside:
            password = secrets.token_hex(16)
            _write(where.etc / "slurmdbd.conf", config.slurmdbd_conf(where, host, ports, password), 0o600)
            _write(where.etc / "init.sql", config.mariadb_init(password), 0o600)
        for i in range(self.options.gpus):
            # A link to a character device is one in Slurm's eyes, and needs neither root nor mknod.
            (where.devices / f"nvidia{i}").symlink_to("/dev/null")

    def _cgroups_work(self) -> bool:
        controllers = [Path("/sys/fs/cgroup") / name for name in ("freezer", "memory", "cpuset")]
        if config.is_root() and all(os.access(c, os.W_OK) and (c / "tasks").exists() for c in controllers):
            return True
        self._note("cgroup v1 cannot be used here: jobs are tracked without (no OUT_OF_MEMORY state)")
        return False

    def _launch(self, name: str, *, fresh: bool) -> None:
        """Start one daemon and note its process; ``fresh`` where it has no state to go on from."""
        where = self.where
        environ = {
            "PATH": commands.search_path(),
            "HOME": str(Path("~").expanduser()),
            "LC_ALL": "C.UTF-8",
            "SLURM_CONF": str(where.slurm_conf),
        }
        if name == "mariadb" and fresh:
            commands.install_database(where)
        started = daemon_process.spawn(
            self._command(name, fresh), env=environ, cwd=where.var, log=where.log / f"{name}.out"
        )
        self._state["daemons"][name] = vars(started)

    def _command(self, name: str, fresh: bool) -> list[str]:
        where = self.where
        if name == "munged":
            return commands.munged(where)
        if name == "mariadb":
            return commands.mariadbd(where, self._state["ports"][name])
        if name == "slurmdbd":
            return commands.slurmdbd()
        if name == "slurmctld":
            return commands.slurmctld(where, fresh=fresh)
        node = name.removeprefix("slurmd.")
        namespace = commands.namespace(where, node)
        if namespace is None:
            self._note("no namespaces allowed here: `hostname` is this machine's on every node")
        return commands.slurmd(where, node, namespace or [])

    # -- waiting

    def _await(self, name: str) -> None:
        """Wait until a daemon answers.

        Raises:
            NotFit: it ended, or did not answer in time; with the last words of its log.
        """
        watched = self._process(name)
        answers = False

        def settled() -> bool:
            nonlocal answers
            answers = self._answers(name)
            return answers or not watched.alive

        daemon_process.wait_until(settled, START_TIMEOUT)
        if not answers:
            what = "does not answer" if watched.alive else "ended at its start"
            raise NotFit(f"devcluster: {name} {what}: {self._last_words(name)} (logs: {self.root / 'log'})")

    def _answers(self, name: str) -> bool:
        if name == "munged":
            return self.where.munge_socket.is_socket()
        if name in ("mariadb", "slurmdbd"):
            return _listening(self._state["ports"][name])
        if name == "slurmctld":
            return slurm.controller_up(env=self.environ(), timeout=10.0)
        # Down or drained is an answer too: unknown and not responding (*) are not.
        state = self._node_state(name.removeprefix("slurmd."))
        return bool(state) and not state.startswith("unk") and not state.endswith("*")

    def _node_state(self, node: str) -> str:
        try:
            return slurm.node_states(env=self.environ(), timeout=10.0, pauses=()).get(node, "")
        except HpcError:
            return ""

    def _await_usable(self, node: str) -> None:
        usable = ("idle", "mixed", "allocated", "completing")
        if not daemon_process.wait_until(lambda: self._node_state(node) in usable, START_TIMEOUT):
            raise NotFit(f"devcluster: {node} stays {self._node_state(node)!r} (logs: {self.root / 'log'})")

    def _last_words(self, name: str) -> str:
        for suffix in (".out", ".log"):
            with contextlib.suppress(OSError):
                text = (self.where.log / f"{name}{suffix}").read_text(encoding="utf-8", errors="replace")
                lines = [line.strip() for line in text.splitlines() if line.strip()]
                telling = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
                if lines:
                    return "; ".join((telling or lines)[-2:])
        return "nothing in its log"

    # -- stopping and remembering

    def _process(self, name: str) -> Process:
        daemons = self._state.get("daemons", {})
        if name not in daemons:
            raise BadInput(
                f"devcluster: no daemon {name!r} (there are: {', '.join(daemons) or 'none, it is not up'})"
            )
        return Process.from_json(daemons[name])

    def _processes_of(self, node: str | None = None) -> list[Process]:
        """slurmd, steps and job processes of one node, or of all."""
        nodes = Options.from_json(self._state["options"]).node_names if node is None else [node]
        return daemon_process.find(
            hosts={n: self.where.hosts(n) for n in nodes}, slurm_conf=self.where.slurm_conf
        )

    def _down_first(self) -> str:
        return f"`{hints.command('hpc.devcluster', 'down', '--dir', self.root)}`"

    def _clean(self) -> None:
        """Stop all its processes and remove all its files but the logs."""
        if not self._state:
            return
        daemons = {name: Process.from_json(data) for name, data in self._state["daemons"].items()}
        daemon_process.stop(
            [p for name, p in daemons.items() if name.startswith("slurm") and name != "slurmdbd"]
        )
        daemon_process.stop(self._processes_of(), patience=0.0)
        if self._state["options"]["cgroups"]:
            _remove_cgroups(Options.from_json(self._state["options"]).node_names)
        # What the databases would still write is removed below.
        daemon_process.stop(
            [p for name, p in daemons.items() if name in ("slurmdbd", "mariadb")], patience=0.2
        )
        daemon_process.stop([p for name, p in daemons.items() if name == "munged"])
        for path in (
            self.where.short,
            self.where.fast,
            *(self.root / name for name in ("etc", "dev", "var")),
        ):
            shutil.rmtree(path, ignore_errors=True)
        (self.root / "state.json").unlink(missing_ok=True)
        self._state = {}

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up`, `down` or `restart` at a time."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / "lock").open("a", encoding="utf-8")
        except OSError as error:
            raise BadInput(
                f"{self.root}: {error.strerror}: give a directory you may write by --dir"
            ) from None
        with handle:
            lock(handle.fileno())
            yield

    def _read(self) -> None:
        path = self.root / "state.json"
        try:
            self._state = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            self._state = {}
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: cannot be read ({error}): is this a dev cluster's directory?") from None

    def _save(self) -> None:
        write_json(self.root / "state.json", self._state)

    def _note(self, text: str) -> None:
        if text not in self._state["notes"]:
            self._state["notes"].append(text)


def _remove_cgroups(nodes: list[str]) -> None:
    """Remove the empty control groups slurmd leaves behind; they would hurt the next start."""
    for node in nodes:
        for top in Path("/sys/fs/cgroup").glob(f"*/slurm_{node}"):
            for group, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # not empty: another cluster's
                    Path(group).rmdir()


def _write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
