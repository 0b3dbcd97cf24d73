"""The daemons: which programs they are, where those come from, and the command line of each."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess

from hpc.core.errors import NotFit
from hpc.devcluster.config import Layout, is_root
from hpc.slurm.client import joined_lines

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "scontrol": "slurm-client",
    "sinfo": "slurm-client",
}
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}


def search_path() -> str:
    """PATH with the places daemons live in, which an ordinary user's often lacks."""
    own = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*filter(None, own), *SBIN]))


def require_programs(accounting: bool) -> None:
    """Check that every program is there.

    Raises:
        NotFit: some are missing; the line names them and the packages to install.
    """
    needed = PACKAGES | (ACCOUNTING_PACKAGES if accounting else {})
    missing = [program for program in needed if shutil.which(program, path=search_path()) is None]
    if missing:
        packages = " ".join(dict.fromkeys(["slurmctld", "slurmd", "slurm-client", "munge", *needed.values()]))
        raise NotFit(
            f"devcluster: {', '.join(missing)} not found: apt-get install --no-install-recommends {packages}"
        )


def slurm_version() -> tuple[int, int]:
    """Major and minor version of the slurmctld found; (0, 0) if it does not say."""
    said = subprocess.run(
        [_which("slurmctld"), "-V"], capture_output=True, encoding="utf-8", errors="replace", check=False
    ).stdout
    match = re.search(r"(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def munged(where: Layout) -> list[str]:
    """munged; ``--force`` because the directories above its socket may be closed to others."""
    return [
        _which("munged"), "--foreground", "--force", f"--socket={where.munge_socket}",
        f"--key-file={where.etc / 'munge.key'}", f"--log-file={where.log / 'munged.log'}",
        f"--pid-file={where.var / 'munged.pid'}", f"--seed-file={where.var / 'munged.seed'}",
    ]  # fmt: skip


def slurmctld(where: Layout, *, fresh: bool) -> list[str]:
    """slurmctld; ``fresh`` forgets whatever state it had saved."""
    return [_which("slurmctld"), "-D", "-f", str(where.slurm_conf), *(["-c"] if fresh else [])]


def slurmdbd() -> list[str]:
    """slurmdbd, which finds slurmdbd.conf beside $SLURM_CONF."""
    return [_which("slurmdbd"), "-D"]


def slurmd(where: Layout, node: str, namespace: list[str]) -> list[str]:
    """One node's slurmd, inside the namespaces that ``namespace`` (see :func:`namespace`) makes."""
    return [*namespace, _which("slurmd"), "-D", "-N", node, "-f", str(where.slurm_conf)]


def namespace(where: Layout, node: str) -> list[str] | None:
    """Words that, before a command, give it the node's own host name and hosts file.

    An ordinary user gets them through a user namespace in which nobody changes identity. None where the
    machine allows neither.
    """
    unshare = shutil.which("unshare", path=search_path())
    if unshare is None:
        return None
    script = f"hostname {node} && mount --bind {shlex.quote(str(where.hosts(node)))} /etc/hosts"
    user = [] if is_root() else ["--user", "--map-current-user", "--keep-caps"]
    words = [unshare, *user, "--uts", "--mount", "sh", "-c"]
    trial = subprocess.run(
        [*words, script],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": search_path()},
        check=False,
    )
    return [*words, f'{script} && exec "$@"', "sh"] if trial.returncode == 0 else None


def mariadbd(where: Layout, port: int) -> list[str]:
    """MariaDB, on the loopback address only; durable enough for a database that dies with the cluster."""
    return [
        _which("mariadbd"), "--no-defaults", f"--datadir={where.database}", f"--user={getpass.getuser()}",
        f"--socket={where.mariadb_socket}", f"--port={port}", "--bind-address=127.0.0.1",
        f"--init-file={where.etc / 'init.sql'}", f"--pid-file={where.var / 'mariadb.pid'}", "--skip-log-bin",
        "--skip-name-resolve", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=32M",
        "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900", "--performance-schema=OFF",
    ]  # fmt: skip


def install_database(where: Layout) -> None:
    """Make MariaDB's system tables.

    Raises:
        NotFit: mariadb-install-db failed; with its last words.
    """
    args = [
        _which("mariadb-install-db"), "--no-defaults", f"--datadir={where.database}",
        f"--user={getpass.getuser()}",
        "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
        "--innodb-log-file-size=32M",
    ]  # fmt: skip
    made = subprocess.run(
        args,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        env={"PATH": search_path()},
        check=False,
    )
    if made.returncode != 0:
        raise NotFit(f"mariadb-install-db: {joined_lines(made.stderr or made.stdout)[-300:]}")


def _which(program: str) -> str:
    return shutil.which(program, path=search_path()) or program
