"""What a dev cluster is (its options), and the configuration files that say so to the daemons."""

from __future__ import annotations

import getpass
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpc.core.errors import BadInput

# Slurm gives every user-visible name to a shell sooner or later.
MAX_NODES = 64
MAX_GPUS = 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the pretended cluster looks. Everything is pretended generously: the machine below stays as it
    is."""

    nodes: int = 2
    gpus: int = 8
    """GPUs a node, as GRES ``<gpu_gres>:<gpu_type>``."""
    gpu_type: str = "a100"
    gpu_gres: str = "gpu"
    """Under another name they are no GPUs to Slurm: jobs get so many, but no CUDA_VISIBLE_DEVICES."""
    accounting: bool = False
    """slurmdbd with a private MariaDB: sacct and accounts work. Without it they do not, as on many real
    clusters."""
    partitions: dict[str, str] = field(default_factory=lambda: {"gpu": "MaxTime=7-00:00:00"})
    """Name → further words of its slurm.conf line. The first one is the default partition."""
    preemption: bool = False
    """Adds a partition ``high`` whose jobs preempt all others' by requeueing them."""
    grace_time: int = 0
    """Seconds between SIGTERM and the end when preempted."""
    cpus: int = 64
    memory: int = 512_000
    """MiB a node."""
    min_job_age: int = 300
    """Seconds slurmctld remembers a finished job (Slurm's default)."""
    slurmd_timeout: int = 30
    """Seconds without an answer until a node counts as down."""
    enforce_part_limits: str = "ALL"
    """Slurm's own default NO lets over-sized jobs pend for ever."""
    cgroups: bool = False
    """Track jobs by cgroup v1 (gives OUT_OF_MEMORY). Where the machine forbids it: processes are tracked
    without."""
    node_prefix: str = "node"
    name: str = "dev"
    """Slurm's name for the cluster."""
    beside: str = ""
    """Directory of another cluster, up with accounting, whose munge and slurmdbd this one shares: `-M` works
    between the two."""
    extra: tuple[str, ...] = ()
    """Further lines for slurm.conf."""
    job_submit: str = ""
    """A site's job_submit.lua: what it refuses or changes of every job. (Debian's Slurm has the plugin.)"""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--nodes", self.nodes, 1, MAX_NODES),
            ("--gpus", self.gpus, 0, MAX_GPUS),
            ("cpus", self.cpus, 1, 4096),
            ("memory", self.memory, 1, 1 << 30),
        ):
            if not low <= value <= high:
                raise BadInput(f"devcluster: {name} is {value}: give a number from {low} to {high}")
        if not self.partitions:
            raise BadInput("devcluster: no partition given: give at least one")

    @property
    def node_names(self) -> list[str]:
        """node1 … nodeN."""
        return [f"{self.node_prefix}{i}" for i in range(1, self.nodes + 1)]

    def to_json(self) -> dict[str, Any]:
        """A plain dict that :meth:`from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Options:
        """The inverse of :meth:`to_json`."""
        return cls(**{**data, "extra": tuple(data["extra"])})


@dataclass(frozen=True)
class Layout:
    """Where a cluster's files lie."""

    root: Path
    short: Path
    """What ends in a Unix socket, whose paths are limited to 107 bytes."""
    fast: Path
    """The databases, which wait for the disk at every step: in memory where possible, as they die with
    `down`."""

    munge: Path | None = None
    """The socket of another cluster's munged, where that is shared."""

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def var(self) -> Path:
        return self.root / "var"

    @property
    def devices(self) -> Path:
        return self.root / "dev"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.munge or self.short / "munge"

    @property
    def mariadb_socket(self) -> Path:
        return self.short / "mariadb"

    @property
    def saved(self) -> Path:
        """slurmctld's saved state."""
        return self.fast / "slurmctld"

    @property
    def database(self) -> Path:
        """MariaDB's data directory."""
        return self.fast / "mariadb"

    def hosts(self, node: str) -> Path:
        """What the node sees as /etc/hosts. One file each: it also tells whose processes are whose."""
        return self.etc / f"hosts.{node}"

    def spool(self, node: str) -> Path:
        """slurmd's directory; its steps open sockets named ``<node>_<job>.<step>`` there."""
        return self.short / "spool" / node


def slurm_conf(
    options: Options, where: Layout, host: str, ports: dict[str, int], cgroups: bool, version: tuple[int, int]
) -> str:
    """slurm.conf. The scheduler settings are those that make tests quick: no batching, no back-off."""
    user = getpass.getuser()
    lines = [
        f"ClusterName={options.name}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports['slurmctld']}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        # A requeued job waits for its old credential to expire, 120 s by default.
        f"AuthInfo=socket={where.munge_socket},cred_expire=5",
        f"StateSaveLocation={where.saved}",
        f"SlurmdSpoolDir={where.short / 'spool' / '%n'}",
        f"SlurmctldPidFile={where.var / 'slurmctld.pid'}",
        f"SlurmdPidFile={where.var / 'slurmd.%n.pid'}",
        f"SlurmctldLogFile={where.log / 'slurmctld.log'}",
        f"SlurmdLogFile={where.log / 'slurmd.%n.log'}",
        "SlurmctldDebug=info",
        "SlurmdDebug=info",
        "SlurmdParameters=config_overrides",
        f"SlurmdTimeout={options.slurmd_timeout}",
        "SlurmctldTimeout=10",
        "MessageTimeout=10",
        "ReturnToService=2",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        f"GresTypes={options.gpu_gres}",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
        # Without a default a job takes all of a node's memory, and two jobs never share a node.
        f"DefMemPerCPU={options.memory // options.cpus}",
        f"MinJobAge={options.min_job_age}",
        f"EnforcePartLimits={options.enforce_part_limits}",
        "KillWait=2",
        "CompleteWait=0",
        "InactiveLimit=0",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=1",
        "DebugFlags=NO_CONF_HASH",
    ]
    lines += (
        ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup"]
        if cgroups
        else ["ProctrackType=proctrack/linuxproc"]
    )
    if options.accounting or options.beside:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={ports['slurmdbd']}",
            f"AccountingStoragePass={where.munge_socket}",
            f"AccountingStorageTRES=gres/{options.gpu_gres}",
            "AccountingStoreFlags=job_comment",
        ]
    else:
        lines += ["AccountingStorageType=accounting_storage/none"]
    if options.preemption:
        lines += ["PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"]
        # A job's --signal reaches it at preemption only with this word, which later moved.
        lines += ["SlurmctldParameters=preempt_send_user_signal"]
        lines += ["PreemptParameters=send_user_signal"] if version >= (24, 5) else []
    lines += ["JobSubmitPlugins=lua"] if options.job_submit else []
    lines += options.extra
    sockets = 2 if options.cpus % 2 == 0 else 1
    gres = f" Gres={options.gpu_gres}:{options.gpu_type}:{options.gpus}" if options.gpus else ""
    lines += [
        f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[f'slurmd.{node}']}"
        f" Sockets={sockets} CoresPerSocket={options.cpus // sockets} ThreadsPerCore=1"
        f" RealMemory={options.memory}{gres} State=UNKNOWN"
        for node in options.node_names
    ]
    lines += partition_lines(options)
    return "\n".join(lines) + "\n"


def partition_lines(options: Options) -> list[str]:
    """The PartitionName lines; with preemption the given partitions yield to an added ``high``."""
    grace = f" PriorityTier=1 GraceTime={options.grace_time}" if options.preemption else ""
    lines = []
    for i, (name, words) in enumerate(options.partitions.items()):
        default = " Default=YES" if i == 0 else ""
        lines.append(f"PartitionName={name} Nodes=ALL State=UP{default}{grace} {words}".rstrip())
    if options.preemption and "high" not in options.partitions:
        lines.append(
            "PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF MaxTime=7-00:00:00"
        )
    return lines


def gres_conf(options: Options, where: Layout) -> str:
    """gres.conf: each GPU is a character device, else CUDA_VISIBLE_DEVICES stays empty."""
    if not options.gpus:
        return "AutoDetect=off\n"
    files = where.devices / f"nvidia[0-{options.gpus - 1}]"
    nodes = ",".join(options.node_names)
    what = f"Name={options.gpu_gres} Type={options.gpu_type} File={files}"
    return f"AutoDetect=off\nNodeName={nodes} {what}\n"


def cgroup_conf() -> str:
    """cgroup.conf: only memory is constrained; the pretended cores do not exist, so they cannot be bound."""
    words = ("ConstrainRAMSpace=yes", "ConstrainSwapSpace=yes", "AllowedSwapSpace=0", "ConstrainCores=no")
    return "\n".join(words) + "\nConstrainDevices=no\n"


def slurmdbd_conf(where: Layout, host: str, ports: dict[str, int], password: str) -> str:
    """slurmdbd.conf; holds the database's password, so its mode must be 600 (slurmdbd insists)."""
    return "\n".join([
        f"DbdHost={host}",
        "DbdAddr=127.0.0.1",
        f"DbdPort={ports['slurmdbd']}",
        f"SlurmUser={getpass.getuser()}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={where.munge_socket}",
        f"LogFile={where.log / 'slurmdbd.log'}",
        f"PidFile={where.var / 'slurmdbd.pid'}",
        "DebugLevel=info",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={ports['mariadb']}",
        "StorageUser=slurm",
        f"StoragePass={password}",
        "StorageLoc=slurm_acct_db",
    ]) + "\n"  # fmt: skip


def mariadb_init(password: str) -> str:
    """SQL that mariadbd runs at its start: the database, and the one user who may use it."""
    return (
        "CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
        f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';\n"
    )


def hosts_file(options: Options, host: str) -> str:
    """/etc/hosts as the pretended nodes see it: this machine's, with every node's name on the loopback
    address."""
    try:
        own = Path("/etc/hosts").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        own = "127.0.0.1 localhost"
    return "\n".join([own, f"127.0.0.1 {host}", *(f"127.0.0.1 {node}" for node in options.node_names), ""])


def is_root() -> bool:
    """Whether daemons can be given namespaces without more ado."""
    return os.geteuid() == 0
