"""Starting, stopping and hurting a dev cluster."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hpc import slurm
from hpc.devcluster import config, process
from hpc.devcluster.config import Layout, Options
from hpc.devcluster.process import Process
from hpc.errors import BadInput, HpcError, NotFit

# Unix socket paths end at 107 bytes; the longest name below `short` is spool/<node>/<node>_<job>.<step>.
MAX_ROOT = 50
START_TIMEOUT = 60.0
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
PACKAGES = {
    **dict.fromkeys(("munged",), "munge"),
    **dict.fromkeys(("sbatch", "squeue", "scontrol", "sinfo", "scancel"), "slurm-client"),
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sacctmgr": "slurm-client",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}


def default_dir() -> Path:
    """$HPC_DEVCLUSTER_DIR, else hpc-devcluster under $XDG_STATE_HOME or ~/.local/state, else under the temp directory."""
    if named := os.environ.get("HPC_DEVCLUSTER_DIR"):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    home = Path(state) if state else Path.home() / ".local" / "state"
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK):
            return home / "hpc-devcluster"
    return Path(tempfile.gettempdir()) / f"hpc-devcluster-{os.getuid()}"


class DevCluster:
    """A real Slurm on this machine with pretended nodes and GPUs; a context manager.

    Args:
        directory: everything it writes lies here (default: :func:`default_dir`).
        options: how it looks; or give :class:`Options`' fields by name: ``DevCluster(d, nodes=4, accounting=True)``.
    """

    def __init__(
        self, directory: Path | str | None = None, options: Options | None = None, **fields: Any
    ) -> None:
        self.root = Path(directory if directory is not None else default_dir()).absolute()
        if options is not None and fields:
            raise TypeError("give either options or its fields")
        self._state: dict[str, Any] = {}
        self.options = options or Options(**fields)

    # -- what people and tests call ------------------------------------------------------------------------------

    def __enter__(self) -> DevCluster:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> bool:
        """Start it; False if the same cluster was up already.

        Raises:
            NotFit: daemons are missing, or did not start (the line says which, and its last words).
            BadInput: another cluster is up in this directory, or the directory holds other things.
        """
        self._require_programs()
        with self._lock():
            self._read()
            dead = self.dead()
            if self._state:
                running = Options.from_json(self._state["options"])
                if not dead and running != self.options:
                    raise BadInput(
                        f"{self.root}: a cluster of {running.nodes} nodes x {running.gpus} GPUs with other options is up:"
                        " `down` it first, or give another --dir"
                    )
                if not dead:
                    return False
                if len(dead) < len(self._state["daemons"]):
                    raise NotFit(
                        f"{self.root}: half dead ({', '.join(dead)} not running): `down` it, then `up` again"
                    )
                self._clean()
            try:
                self._start()
            except BaseException:
                self._clean()
                raise
        return True

    def down(self) -> bool:
        """Stop every process of it and remove its state, logs excepted; False if there was nothing."""
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
        if not self._state:
            raise NotFit(f"{self.root}: no cluster is up here: `python -m hpc.devcluster up` starts one")
        return {"SLURM_CONF": str(self.where.slurm_conf)}

    def environ(self) -> dict[str, str]:
        """This process's environment, cleaned of any surrounding job, with :meth:`env` in it."""
        return slurm.clean_env(os.environ) | self.env() | {"PATH": _path()}

    def dead(self) -> list[str]:
        """Names of its daemons that should run and do not."""
        return [
            name for name, data in self._state.get("daemons", {}).items() if not Process.from_json(data).alive
        ]

    def status(self) -> dict[str, Any]:
        """Directory, options, daemons (name → pid, alive) and nodes (name → Slurm's state), as plain data."""
        self._read()
        daemons = {
            name: {"pid": data["pid"], "alive": Process.from_json(data).alive}
            for name, data in self._state.get("daemons", {}).items()
        }
        up = bool(daemons) and all(d["alive"] for d in daemons.values())
        nodes: dict[str, str] = {}
        if daemons.get("slurmctld", {}).get("alive"):
            with contextlib.suppress(HpcError):
                nodes = self.node_states()
        return {
            "dir": str(self.root),
            "up": up,
            "options": self._state.get("options", {}),
            "daemons": daemons,
            "nodes": nodes,
            "notes": self._state.get("notes", []),
        }

    def node_states(self) -> dict[str, str]:
        """Node → state as sinfo writes it (idle, mixed, allocated, down, drained …)."""
        text = slurm.run(["sinfo", "-h", "-N", "-o", "%N %T"], env=self.environ(), pauses=())
        return dict(line.split() for line in text.splitlines() if line.strip())

    # -- hurting it ----------------------------------------------------------------------------------------------

    def kill(self, daemon: str, *, hard: bool = True) -> None:
        """End one daemon (``slurmctld``, ``slurmd.node1``, ``slurmdbd``, ``mariadb``, ``munged``): SIGKILL, or
        SIGTERM where not ``hard``."""
        self._read()
        victim = self._process(daemon)
        victim.signal(signal.SIGKILL if hard else signal.SIGTERM)
        if not process.wait_until(lambda: not victim.alive, 10.0):
            raise NotFit(f"devcluster: {daemon} (pid {victim.pid}) does not end")

    def restart(self, daemon: str) -> None:
        """Start one daemon again (ending it first, should it run) and wait until it answers."""
        with self._lock():
            self._read()
            process.stop([self._process(daemon)])
            self._launch(daemon)
            self._save()
        self._await(daemon)

    def kill_controller(self, *, hard: bool = False) -> None:
        """End slurmctld; ``hard`` is SIGKILL, after which Slurm may forget or repeat jobs."""
        self.kill("slurmctld", hard=hard)

    def restart_controller(self) -> None:
        """Start slurmctld again; it reads its saved state."""
        self.restart("slurmctld")

    def kill_node(self, node: str, *, mark_down: bool = True) -> None:
        """A node dies: slurmd, its steps and every process of its jobs, by SIGKILL.

        Slurm notices after ``slurmd_timeout`` seconds; ``mark_down`` tells it at once (jobs become NODE_FAIL or requeue).
        """
        self._read()
        for victim in [self._process(f"slurmd.{node}"), *self._processes_of(node)]:
            victim.signal(signal.SIGKILL)
        if mark_down:
            self.set_node(node, "down", "killed by devcluster")

    def restart_node(self, node: str) -> None:
        """Start the node's slurmd again and make Slurm use it."""
        self.restart(f"slurmd.{node}")
        if self.node_states().get(node, "").startswith(("down", "drain")):
            self.set_node(node, "resume")
            self._await(f"slurmd.{node}")

    def set_node(self, node: str, state: str, reason: str = "devcluster") -> None:
        """``scontrol update`` of a node's state: drain, down, resume …"""
        args = ["scontrol", "update", f"NodeName={node}", f"State={state}"]
        slurm.run([*args, f"Reason={reason}"] if state != "resume" else args, env=self.environ())

    # -- starting ------------------------------------------------------------------------------------------------

    @property
    def where(self) -> Layout:
        return Layout(self.root, Path(self._state["short"]))

    def _require_programs(self) -> None:
        needed = [
            p
            for p in PACKAGES
            if self.options.accounting or p not in ("slurmdbd", "mariadbd", "mariadb-install-db")
        ]
        missing = [p for p in needed if shutil.which(p, path=_path()) is None]
        if missing:
            packages = " ".join(dict.fromkeys(PACKAGES[p] for p in needed))
            raise NotFit(
                f"devcluster: {', '.join(missing)} not installed:"
                f" apt-get install --no-install-recommends {packages}"
            )

    def _start(self) -> None:
        self._prepare_directories()
        names = [*self._daemon_names()]
        ports = process.free_ports([n for n in names if n != "munged"])
        self._state |= {"options": self.options.to_json(), "ports": ports, "daemons": {}, "notes": []}
        self._write_files(ports)
        self._save()
        for group in (
            ["munged"],
            ["mariadb"],
            ["slurmdbd"],
            ["slurmctld"],
            [n for n in names if n.startswith("slurmd.")],
        ):
            started = [name for name in group if name in names]
            for name in started:
                self._launch(name, fresh=True)
                self._save()
            for name in started:
                self._await(name)

    def _daemon_names(self) -> Iterator[str]:
        yield "munged"
        if self.options.accounting:
            yield "mariadb"
            yield "slurmdbd"
        yield "slurmctld"
        yield from (f"slurmd.{node}" for node in self.options.node_names)

    def _prepare_directories(self) -> None:
        if self.root.is_dir() and set(p.name for p in self.root.iterdir()) - {"lock", "log"}:
            raise BadInput(f"{self.root}: not empty and not a dev cluster's: give another --dir")
        short = self.root / "run"
        if len(os.fsencode(short)) > MAX_ROOT:
            short = Path(tempfile.mkdtemp(prefix="hpc-dev-", dir="/tmp"))
        self._state = {"short": str(short), "daemons": {}}
        self._save()
        where = self.where
        for path in (
            where.etc,
            where.log,
            where.var,
            where.devices,
            where.var / "slurmctld",
            where.short / "spool",
        ):
            path.mkdir(parents=True, exist_ok=True)
        for node in self.options.node_names:
            where.spool(node).mkdir()

    def _write_files(self, ports: dict[str, int]) -> None:
        where, host = self.where, socket.gethostname().partition(".")[0]
        cgroups = self.options.cgroups and self._cgroups_work()
        _write(where.etc / "munge.key", secrets.token_bytes(128), 0o600)
        _write(where.slurm_conf, config.slurm_conf(self.options, where, host, ports, cgroups))
        _write(where.etc / "gres.conf", config.gres_conf(self.options, where))
        _write(where.etc / "hosts", config.hosts_file(self.options, host))
        if cgroups:
            _write(where.etc / "cgroup.conf", config.cgroup_conf())
        if self.options.accounting:
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
        self._state["notes"].append(
            "cgroup v1 cannot be used here: jobs are tracked without (no OUT_OF_MEMORY state)"
        )
        return False

    def _launch(self, name: str, *, fresh: bool = False) -> None:
        """Start one daemon in its foreground mode and note its process."""
        where = self.where
        environ = {
            "PATH": _path(),
            "HOME": str(Path.home()),
            "LC_ALL": "C.UTF-8",
            "SLURM_CONF": str(where.slurm_conf),
        }
        args = self._command(name, fresh)
        started = process.spawn(args, env=environ, cwd=where.var, log=where.log / f"{name}.out")
        self._state["daemons"][name] = vars(started)

    def _command(self, name: str, fresh: bool) -> list[str]:
        where = self.where
        if name == "munged":
            return [
                _which("munged"), "--foreground", "--force", f"--socket={where.munge_socket}",
                f"--key-file={where.etc / 'munge.key'}", f"--log-file={where.log / 'munged.log'}",
                f"--pid-file={where.var / 'munged.pid'}", f"--seed-file={where.var / 'munged.seed'}",
            ]  # fmt: skip
        if name == "mariadb":
            return self._mariadb_command(fresh)
        if name == "slurmdbd":
            return [_which("slurmdbd"), "-D"]
        if name == "slurmctld":
            return [_which("slurmctld"), "-D", "-f", str(where.slurm_conf), *(["-c"] if fresh else [])]
        node = name.removeprefix("slurmd.")
        return [*self._namespace(node), _which("slurmd"), "-D", "-N", node, "-f", str(where.slurm_conf)]

    def _namespace(self, node: str) -> list[str]:
        """The words before a command that give it the node's own host name and hosts file, where that is allowed."""
        script = f"hostname {node} && mount --bind {shlex.quote(str(self.where.etc / 'hosts'))} /etc/hosts"
        unshare = shutil.which("unshare", path=_path())
        users = [[]] if config.is_root() else [["--user", "--map-current-user", "--keep-caps"]]
        for user in users if unshare else []:
            words = [str(unshare), *user, "--uts", "--mount", "sh", "-c"]
            trial = subprocess.run(
                [*words, script],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env={"PATH": _path()},
                check=False,
            )
            if trial.returncode == 0:
                return [*words, f'{script} && exec "$@"', "sh"]
        note = "no namespaces allowed here: `hostname` is this machine's on every node"
        if note not in self._state["notes"]:
            self._state["notes"].append(note)
        return []

    def _mariadb_command(self, fresh: bool) -> list[str]:
        where = self.where
        data = where.var / "mariadb"
        user = [f"--user={config.getpass.getuser()}"]
        if fresh:
            made = subprocess.run(
                [_which("mariadb-install-db"), "--no-defaults", f"--datadir={data}", *user, "--auth-root-authentication-method=normal",
                 "--skip-test-db", "--skip-name-resolve"],
                capture_output=True, text=True, stdin=subprocess.DEVNULL, env={"PATH": _path()}, check=False,
            )  # fmt: skip
            if made.returncode != 0:
                raise NotFit(f"mariadb-install-db: {slurm.one_line(made.stderr or made.stdout)[-300:]}")
        return [
            _which("mariadbd"), "--no-defaults", f"--datadir={data}", *user, f"--socket={where.mariadb_socket}",
            f"--port={self._state['ports']['mariadb']}", "--bind-address=127.0.0.1", f"--init-file={where.etc / 'init.sql'}",
            f"--pid-file={where.var / 'mariadb.pid'}", "--skip-log-bin", "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900", "--skip-name-resolve",
        ]  # fmt: skip

    # -- waiting -------------------------------------------------------------------------------------------------

    def _await(self, name: str) -> None:
        """Wait until a daemon answers.

        Raises:
            NotFit: it ended, or did not answer in time; with the last words of its log.
        """
        watched = self._process(name)
        ready = False

        def settled() -> bool:
            nonlocal ready
            ready = self._answers(name)
            return ready or not watched.alive

        process.wait_until(settled, START_TIMEOUT, every=0.05)
        if not ready:
            what = "does not answer" if watched.alive else "ended at its start"
            raise NotFit(f"devcluster: {name} {what}: {self._last_words(name)} (logs: {self.where.log})")

    def _answers(self, name: str) -> bool:
        where = self.where
        if name == "munged":
            return where.munge_socket.is_socket()
        if name in ("mariadb", "slurmdbd"):
            return _listening(self._state["ports"][name])
        try:
            if name == "slurmctld":
                return "is UP" in slurm.run(["scontrol", "ping"], env=self.environ(), pauses=())
            state = self.node_states().get(name.removeprefix("slurmd."), "")
            return state.rstrip("*") in ("idle", "mixed", "allocated", "completing") and "*" not in state
        except HpcError:
            return False

    def _last_words(self, name: str) -> str:
        for suffix in (".out", ".log"):
            path = self.where.log / f"{name}{suffix}"
            with contextlib.suppress(OSError):
                lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
                errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
                if errors or lines:
                    return "; ".join((errors or lines)[-2:])
        return "nothing in its log"

    # -- stopping and remembering ----------------------------------------------------------------------------------

    def _process(self, name: str) -> Process:
        try:
            return Process.from_json(self._state["daemons"][name])
        except KeyError:
            known = ", ".join(self._state.get("daemons", {})) or "none: it is not up"
            raise BadInput(f"devcluster: no daemon {name!r} (known: {known})") from None

    def _processes_of(self, node: str | None = None) -> list[Process]:
        namespaces = self._state.get("namespaces", {})
        wanted = {space for name, space in namespaces.items() if node is None or name == f"slurmd.{node}"}
        return process.find(namespaces=wanted, slurm_conf=self.where.slurm_conf, node=node)

    def _clean(self) -> None:
        """Stop all its processes and remove all files but the logs."""
        if self._state:
            daemons = {name: Process.from_json(data) for name, data in self._state["daemons"].items()}
            slurmds = [p for name, p in daemons.items() if name.startswith("slurmd.")]
            process.stop([*slurmds, *(daemons[n] for n in ("slurmctld",) if n in daemons)])
            leftover = self._processes_of()
            process.stop(leftover, patience=0.0)
            process.stop([daemons[n] for n in ("slurmdbd",) if n in daemons])
            process.stop([daemons[n] for n in ("mariadb", "munged") if n in daemons])
            if Path(self._state["short"]) != self.root / "run":
                shutil.rmtree(self._state["short"], ignore_errors=True)
        for name in ("etc", "var", "dev", "run"):
            if self._state:
                shutil.rmtree(self.root / name, ignore_errors=True)
        if self._state:
            self.root.joinpath("state.json").unlink(missing_ok=True)
        self._state = {}

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / "lock").open("w")
        except OSError as error:
            raise BadInput(
                f"{self.root}: {error.strerror}: give a directory you may write by --dir"
            ) from None
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _read(self) -> None:
        try:
            self._state = json.loads((self.root / "state.json").read_text())
        except FileNotFoundError:
            self._state = {}
        except (OSError, ValueError) as error:
            raise BadInput(f"{self.root / 'state.json'}: cannot be read ({error})") from None

    def _save(self) -> None:
        for name, data in self._state["daemons"].items():
            if name.startswith("slurmd.") and (space := process.private_namespace(data["pid"])):
                self._state.setdefault("namespaces", {})[name] = space
        beside = self.root / f"state.json.{os.getpid()}"
        beside.write_text(json.dumps(self._state, indent=1))
        beside.replace(self.root / "state.json")


def _path() -> str:
    """PATH with the places daemons live in, which an ordinary user's often lacks."""
    own = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*filter(None, own), *SBIN]))


def _which(program: str) -> str:
    return shutil.which(program, path=_path()) or program


def _write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
