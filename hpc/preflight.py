"""Is this node fit? Measured in seconds, before the model loads, on every node of the allocation.

:func:`check_node` looks at what this node has (GPUs through nvidia-smi, host memory, the run directory's file system)
and compares it with what the job needs. Every finding says what was found, what is needed and how to mend it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from hpc import ledger

WRITE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a node must have for the job. Sizes in bytes."""

    gpus: int = 0
    gpu_memory: int = 0
    host_memory: int = 0
    disk: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: what was found, what is needed; ``remedy`` says how to mend it where ``ok`` is False."""

    what: str
    ok: bool
    found: str
    needed: str = ""
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """Everything about one node."""

    node: str
    time: str
    findings: list[Finding]
    gpus: list[dict[str, str]] = field(default_factory=list)

    @property
    def fit(self) -> bool:
        """True when nothing is amiss."""
        return all(f.ok for f in self.findings)

    def to_json(self) -> ledger.Json:
        """As stored in the run directory."""
        return {**asdict(self), "fit": self.fit}


def check_node(run: Path, need: Need) -> NodeReport:
    """Check this node for a run."""
    gpus = query_gpus()
    findings = [
        *check_gpus(gpus, need),
        check_memory(need),
        *check_run_directory(run, need),
    ]
    return NodeReport(node=node_name(), time=ledger.now(), findings=findings, gpus=gpus)


def node_name() -> str:
    """This node's name as Slurm calls it, else as it calls itself."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def query_gpus() -> list[dict[str, str]]:
    """The GPUs of this node as nvidia-smi lists them; empty where it is absent or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    fields = (
        "index",
        "name",
        "memory.total",
        "driver_version",
        "uuid",
        "ecc.errors.uncorrected.volatile.total",
    )
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.split(",") for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, (value.strip() for value in line), strict=False)) for line in lines]


def check_gpus(gpus: list[dict[str, str]], need: Need) -> list[Finding]:
    """Number, memory and uncorrected ECC errors of the GPUs."""
    if need.gpus == 0:
        return [Finding(what="GPUs", ok=True, found=str(len(gpus)), needed="none (CPU)")]
    findings = [
        Finding(
            what="GPUs", ok=len(gpus) >= need.gpus, found=str(len(gpus)), needed=str(need.gpus),
            remedy="ask for a node that has them (gpu_type, partition), or leave this one out: cluster.exclude",
        )
    ]  # fmt: skip
    for gpu in gpus:
        memory = int(gpu.get("memory.total") or 0) << 20
        name = f"GPU {gpu.get('index')} ({gpu.get('name')})"
        if memory < need.gpu_memory * 0.95:  # the driver keeps some: a "80 GB" A100 reports 79.15 GiB
            findings.append(
                Finding(
                    what=f"{name} memory", ok=False, found=gib(memory), needed=gib(need.gpu_memory),
                    remedy="a larger GPU, or ZeRO-3 (--set train.zero_stage=3)",
                )
            )  # fmt: skip
        errors = gpu.get("ecc.errors.uncorrected.volatile.total", "0")
        if errors.isdigit() and int(errors) > 0:
            findings.append(
                Finding(what=f"{name} uncorrected ECC errors", ok=False, found=errors, needed="0",
                        remedy="report the node; it needs a GPU reset")
            )  # fmt: skip
    return findings


def check_memory(need: Need) -> Finding:
    """Host memory available now, within the job's own limit."""
    free = int(psutil.virtual_memory().available)
    return Finding(
        what="host memory", ok=free >= need.host_memory, found=gib(free), needed=gib(need.host_memory),
        remedy="ask for more (--set jobs.train.memory=…), or find what else runs on this node",
    )  # fmt: skip


def check_run_directory(run: Path, need: Need) -> list[Finding]:
    """The run directory can be written to from here, at what speed, and has room."""
    probe = run / f".probe-{node_name()}-{os.getpid()}"
    try:
        started = time.monotonic()
        with probe.open("wb") as file:
            file.write(os.urandom(WRITE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        rate = WRITE_BYTES / max(1e-9, time.monotonic() - started)
    except OSError as error:
        return [
            Finding(what="run directory", ok=False, found=f"cannot write: {error.strerror}", needed="writable",
                    remedy=f"{run} must be on a file system that every node mounts, with room left")
        ]  # fmt: skip
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    free = shutil.disk_usage(run).free
    return [
        Finding(what="run directory", ok=True, found=f"writable, {rate / 1e6:,.0f} MB/s with fsync"),
        Finding(what="free disk", ok=free >= need.disk, found=gib(free), needed=gib(need.disk),
                remedy="make room, or put runs elsewhere (GLMJOBS_RUNS)"),
    ]  # fmt: skip


def gib(size: int) -> str:
    """Bytes as GiB for people."""
    return f"{size / (1 << 30):,.1f} GiB"
