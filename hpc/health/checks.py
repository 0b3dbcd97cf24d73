"""Is this node fit? Measured in seconds, before the model loads, on every node of the allocation.

:func:`check_node` looks at what this node has and compares it with what the job needs and the cluster profile demands.
Every finding says what was found, what is needed and how to mend it, and whom it blames where it is amiss: this node
(another one would do), the configuration (every node would say the same) or the cluster (it is about all nodes
together).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import psutil

from hpc.batch.profile import Floor
from hpc.core import timestamps
from hpc.core.files import Json
from hpc.core.process import memory_limit
from hpc.core.room import free_bytes, quotas
from hpc.health import gpus as devices
from hpc.health import libraries
from hpc.health.gpus import query_gpus, visible_gpus
from hpc.health.writing import FIRST_BYTES, write_speed

__all__ = ["Finding", "Need", "NodeReport", "check_node", "gib", "node_name", "query_gpus"]

IDLE_GPU_BYTES = 1 << 30
"""More than this in use on a GPU before the job starts is somebody's; the driver itself holds some hundred MiB."""

Blame = Literal["node", "configuration", "cluster"]


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a node must have for the job. Sizes in bytes."""

    gpus: int = 0
    gpu_memory: int = 0
    host_memory: int = 0
    disk: int = 0
    writers: int = 1
    """Processes of the node that write into the run directory at once."""
    write_most: int = FIRST_BYTES
    """So much may be written there to see how fast that goes, see :func:`hpc.health.writing.write_speed`."""
    gpu_type: str | None = None
    libraries: bool = True
    """Ask CUDA, NCCL and cuDNN for their versions (with GPUs only)."""
    floor: Floor = field(default_factory=Floor)
    remedies: Mapping[str, str] = field(default_factory=dict)
    """What is checked → how it is mended, in the words of whoever asks; else the general ones."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: what was found, what is needed; ``remedy`` says how to mend it where ``ok`` is False."""

    what: str
    ok: bool
    found: str
    needed: str = ""
    remedy: str = ""
    blame: Blame = "node"


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """Everything about one node."""

    node: str
    time: str
    findings: list[Finding]
    gpus: list[dict[str, str]] = field(default_factory=list)
    tag: str = ""
    """Which start of which job this is of."""
    write_rate: float = 0.0
    """Bytes a second that it writes into the run directory, while the others do; 0: it cannot."""

    @property
    def fit(self) -> bool:
        """True when nothing is amiss."""
        return all(f.ok for f in self.findings)

    def to_json(self) -> Json:
        """As stored in the run directory."""
        return {**asdict(self), "fit": self.fit}

    @classmethod
    def from_json(cls, data: Json) -> NodeReport:
        """The inverse of :meth:`to_json`."""
        findings = [Finding(**f) for f in data["findings"]]
        return cls(
            node=data["node"], time=data["time"], findings=findings, gpus=data["gpus"], tag=data["tag"],
            write_rate=data["write_rate"],
        )  # fmt: skip


def check_node(run: Path, need: Need, *, tag: str = "") -> NodeReport:
    """Check this node for a run."""
    all_gpus = query_gpus() if need.gpus else []
    gpus = visible_gpus(all_gpus)
    findings = [*check_gpus(gpus, need)]
    if need.gpus:
        findings += [*check_errors(gpus), check_leftovers(gpus)]
        if need.libraries:
            findings += check_libraries(libraries.loaded(), need.floor, gpus)
    in_run, rate = check_run_directory(run, need)
    findings += [check_memory(need), *in_run]
    if need.floor.scratch:
        findings.append(check_scratch(Path(need.floor.scratch), need.floor))
    findings = [replace(f, remedy=need.remedies.get(f.what, f.remedy)) for f in findings]
    return NodeReport(
        node=node_name(), time=timestamps.now(), findings=findings, gpus=gpus, tag=tag, write_rate=rate
    )


def node_name() -> str:
    """This node's name as Slurm calls it, else as it calls itself."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def check_gpus(gpus: list[dict[str, str]], need: Need) -> list[Finding]:
    """Number, model, memory and driver of the GPUs."""
    if need.gpus == 0:
        return [Finding(what="GPUs", ok=True, found="not looked at", needed="none (CPU)")]
    models = sorted({gpu.get("name", "?") for gpu in gpus})
    findings = [
        Finding(
            what="GPUs", ok=len(gpus) >= need.gpus, found=f"{len(gpus)} {', '.join(models)}".strip(),
            needed=str(need.gpus),
            remedy="ask for a node that has them (gpu_type, partition), or leave this one out (exclude)",
        )
    ]  # fmt: skip
    if need.gpu_type and gpus:
        # A site names its GPU types as it likes: ampere, a100l, hgx. Another spelling is no fault of the node's.
        wanted = re.sub(r"[^a-z0-9]", "", need.gpu_type.lower())
        same = all(wanted in re.sub(r"[^a-z0-9]", "", name.lower()) for name in models)
        note = "" if same else f" (Slurm calls them {need.gpu_type})"
        findings.append(
            Finding(what="GPU model", ok=True, found=", ".join(models) + note, needed=need.gpu_type)
        )
    small = [g for g in gpus if devices.number(g.get("memory.total")) << 20 < need.gpu_memory * 0.95]
    if gpus and need.gpu_memory:  # the driver keeps some: a "80 GB" A100 reports 79.15 GiB
        least = min(devices.number(g.get("memory.total")) for g in gpus) << 20
        which = f" (GPU {', '.join(g.get('index', '?') for g in small)})" if small else ""
        findings.append(
            Finding(what="GPU memory", ok=not small, found=gib(least) + which, needed=gib(need.gpu_memory),
                    remedy="a larger GPU, or less on each: shard over more of them", blame="configuration")
        )  # fmt: skip
    drivers = sorted({g.get("driver_version", "") for g in gpus} - {""})
    if drivers:
        wanted = need.floor.driver or ""
        ok = not wanted or libraries.numbers(drivers[0]) >= libraries.numbers(wanted)
        findings.append(
            Finding(what="driver", ok=ok, found=", ".join(drivers), needed=f"{wanted} or newer" if wanted else "",
                    remedy="this node's driver was not updated with the others'; report it", blame="node")
        )  # fmt: skip
    return findings


def check_errors(gpus: list[dict[str, str]]) -> list[Finding]:
    """Uncorrected ECC errors, rows waiting to be remapped, and fatal XIDs of the last day."""
    bad = [g for g in gpus if devices.number(g.get("ecc.errors.uncorrected.volatile.total")) > 0]
    said = [f"GPU {g.get('index')}: {g['ecc.errors.uncorrected.volatile.total']}" for g in bad]
    index = {g.get("uuid"): g.get("index") for g in gpus}
    said += [f"GPU {index[uuid]}: row remapping pending" for uuid in devices.pending_remaps(gpus)]
    findings = [
        Finding(what="uncorrected ECC errors", ok=not said, found="; ".join(said) or "0", needed="0",
                remedy="report the node; its GPU needs a reset")
    ]  # fmt: skip
    xids = devices.fatal_xids()
    if xids is None:
        return [
            *findings,
            Finding(what="XID errors", ok=True, found="not known: the kernel log is closed to users"),
        ]
    words = "; ".join(f"XID {x.number} on {x.device} {x.age / 3600:.1f} h ago" for x in xids[-3:])
    return [
        *findings,
        Finding(what="XID errors", ok=not xids, found=words or "0", needed="none fatal within a day",
                remedy="report the node; it needs a reset or repair"),
    ]  # fmt: skip


def check_leftovers(gpus: list[dict[str, str]]) -> Finding:
    """Processes, or memory in use, on GPUs that are to be this job's alone."""
    found = devices.leftovers(gpus)
    said = [f"GPU {p.gpu}: process {p.pid} ({p.name}), {gib(p.memory)}" for p in found]
    known = {p.gpu for p in found}
    for gpu in gpus:
        used = devices.number(gpu.get("memory.used")) << 20
        if used > IDLE_GPU_BYTES and gpu.get("index") not in known:
            said.append(f"GPU {gpu.get('index')}: {gib(used)} in use by nobody visible")
    return Finding(
        what="leftover processes", ok=not said, found="; ".join(said[:4]) or "none", needed="none",
        remedy="an earlier job's process holds the GPU; report the node (its epilog should end such processes)",
    )  # fmt: skip


def check_libraries(found: dict[str, str], floor: Floor, gpus: list[dict[str, str]]) -> list[Finding]:
    """CUDA, NCCL and cuDNN as loaded: against the driver and against the profile."""
    findings = []
    build = found.get("torch_cuda")
    findings.append(
        Finding(what="torch", ok=build is not None, found=f"{found.get('torch', 'none')}, CUDA {build or 'none'}",
                needed="a CUDA build", remedy="this environment has no PyTorch for GPUs: make one from configs/stacks",
                blame="configuration")
    )  # fmt: skip
    runtime = found.get("cuda") or build
    if runtime:
        driver = next((g["driver_version"] for g in gpus if g.get("driver_version")), "")
        findings.append(check_driver(runtime, found.get("driver_cuda", ""), driver))
    for name, title in (("cuda", "CUDA as loaded"), ("nccl", "NCCL as loaded"), ("cudnn", "cuDNN as loaded")):
        version, wanted = found.get(name), getattr(floor, name)
        ok = wanted is None or (version is not None and libraries.is_version(version, wanted))
        findings.append(
            Finding(what=title, ok=ok, found=_version(version, found.get(f"{name}_file")), needed=wanted or "",
                    blame="configuration",
                    remedy="the environment brings another one than the profile says (preflight.*): mend either")
        )  # fmt: skip
    return findings


def check_driver(runtime: str, driver_cuda: str, driver: str) -> Finding:
    """Whether a CUDA runtime works with this driver, by what CUDA itself promises."""
    major = libraries.numbers(runtime)[0]
    oldest = libraries.OLDEST_DRIVER.get(major)
    if driver_cuda and libraries.numbers(driver_cuda) >= libraries.numbers(runtime)[:2]:
        ok = True
    else:  # a newer minor version of the same major works from a certain driver on
        ok = oldest is None or not driver or libraries.numbers(driver) >= libraries.numbers(oldest)
    able = f"driver {driver or '?'}" + (f" (CUDA {driver_cuda})" if driver_cuda else "")
    return Finding(
        what="CUDA with this driver", ok=ok, found=f"CUDA {runtime} on {able}",
        needed=f"driver {oldest} or newer" if oldest else "", blame="configuration",
        remedy="an environment built for an older CUDA (configs/stacks/centos7-cu117.txt), or a newer driver",
    )  # fmt: skip


def _version(version: str | None, path: str | None) -> str:
    """A library's version, and its file by its last directories, to tell a wheel's from a module's."""
    where = f" ({'/'.join(Path(path).parts[-4:])})" if path else ""
    return f"{version or 'no such library'}{where}"


def check_memory(need: Need) -> Finding:
    """Host memory available now, within the job's own limit."""
    free = int(psutil.virtual_memory().available)
    limit = memory_limit()
    room = free if limit is None else min(free, limit)
    return Finding(
        what="host memory", ok=room >= need.host_memory, needed=gib(need.host_memory),
        found=gib(room) + (" (the job's limit)" if limit is not None and limit < free else ""),
        remedy="ask for more memory, or find what else runs on this node",
    )  # fmt: skip


def check_run_directory(run: Path, need: Need) -> tuple[list[Finding], float]:
    """The run directory can be written to from here, has room, and how fast it is written to, in bytes a second."""
    remedy = f"{run} must be on a file system that every node mounts, with room left"
    try:
        rate = write_speed(run, need.writers, need.write_most)
    except OSError as error:
        return [
            Finding(what="run directory", ok=False, found=f"cannot write: {error.strerror}", needed="writable",
                    remedy=remedy)
        ], 0.0  # fmt: skip
    asked = quotas(run)
    free = free_bytes(run, asked)
    wanted = need.floor.write_mb_s
    return [
        Finding(what="run directory", ok=rate >= wanted * 1e6, found=f"writable, {rate / 1e6:,.0f} MB/s with fsync",
                needed=f"{wanted:,.0f} MB/s" if wanted else "",
                remedy="the file system is slow from this node; report it"),
        Finding(what="free disk", ok=free >= need.disk, needed=gib(need.disk),
                found=gib(free) + (f" ({asked.unasked})" if asked.unasked else ""),
                remedy="make room, or put runs elsewhere", blame="configuration"),
    ], rate  # fmt: skip


def check_scratch(path: Path, floor: Floor) -> Finding:
    """The node's own scratch directory: there, writable, with room."""
    need = int(floor.scratch_gb * 1e9)
    try:
        rate = write_speed(path)
        free = shutil.disk_usage(path).free
        ok, found = free >= need, f"{gib(free)} free, {rate / 1e6:,.0f} MB/s with fsync"
    except OSError as error:
        ok, found = False, f"cannot write: {error.strerror}"
    return Finding(
        what=f"scratch {path}", ok=ok, found=found, needed=f"{gib(need)} free",
        remedy="an earlier job left its files there, or the disk is gone; report the node",
    )  # fmt: skip


def gib(size: int) -> str:
    """Bytes as GiB for people."""
    return f"{size / (1 << 30):,.1f} GiB"
