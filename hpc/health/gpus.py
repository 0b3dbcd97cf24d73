"""What this node's GPUs say about themselves: nvidia-smi's listings, and the driver's errors in the kernel log."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FIELDS = (
    "index", "name", "memory.total", "driver_version", "uuid", "ecc.errors.uncorrected.volatile.total", "memory.used",
)  # fmt: skip
FATAL_XIDS = frozenset({48, 56, 57, 58, *range(62, 66), 68, 69, 73, 74, *range(79, 82), 92, 119, 120})
"""XIDs after which a GPU is not to be used: memory, NVLink, bus and firmware errors (NVIDIA, "XID Errors"; the list is
that of Azure's node health checks). Others, such as 13 and 31, are a program's own fault."""

XID_SECONDS = 24 * 3600.0
"""Older ones say nothing about today: the node was mended or reset since, or it would not be in service."""


@dataclass(frozen=True)
class Process:
    """A process that holds memory of a GPU. ``memory`` in bytes."""

    pid: int
    name: str
    memory: int
    gpu: str


@dataclass(frozen=True)
class Xid:
    """One error of the driver's; ``age`` in seconds."""

    number: int
    device: str
    age: float


def query(listing: str, fields: tuple[str, ...]) -> list[dict[str, str]] | None:
    """One of nvidia-smi's CSV listings; None where it is absent, fails or does not know a field."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-{listing}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [line.split(",") for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, (value.strip() for value in line), strict=False)) for line in lines]


def device_of(local_rank: int, local_size: int, visible: int) -> int | None:
    """Which of the GPUs that this process sees is its own; None where there is not one for each rank of the node.

    A node's tasks see all of its GPUs, or each its own alone, as device 0 (--gpus-per-task, --gpu-bind, cgroups).

    >>> device_of(3, 8, 8), device_of(3, 8, 1), device_of(0, 8, 4), device_of(0, 1, 0)
    (3, 0, None, None)
    """
    if visible >= local_size:
        return local_rank
    return 0 if visible == 1 else None


def query_gpus() -> list[dict[str, str]]:
    """The GPUs of this node as nvidia-smi lists them; empty where it is absent or fails."""
    return query("gpu", FIELDS) or []


def visible_gpus(gpus: list[dict[str, str]]) -> list[dict[str, str]]:
    """Those of ``gpus`` that this task may use: where the device files are not closed, nvidia-smi shows all."""
    visible = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    chosen = [g for g in gpus if g.get("index") in visible or g.get("uuid") in visible]
    return chosen if visible and len(chosen) == len(visible) else gpus


def leftovers(gpus: list[dict[str, str]]) -> list[Process]:
    """Processes on ``gpus``. Before a job's own work starts there should be none."""
    rows = query("compute-apps", ("pid", "process_name", "used_memory", "gpu_uuid")) or []
    uuids = {g["uuid"]: g["index"] for g in gpus if "uuid" in g and "index" in g}
    return [
        Process(int(r["pid"]), r["process_name"], number(r.get("used_memory")) << 20, uuids[r["gpu_uuid"]])
        for r in rows
        if r.get("gpu_uuid") in uuids and r.get("pid", "").isdigit() and int(r["pid"]) != os.getpid()
    ]


def pending_remaps(gpus: list[dict[str, str]]) -> list[str]:
    """UUIDs of GPUs that wait for a reset to put bad memory rows out of use, or have no spare rows left."""
    fields = ("gpu_uuid", "remapped_rows.pending", "remapped_rows.failure")
    uuids = {g.get("uuid") for g in gpus}
    return [
        r["gpu_uuid"]
        for r in query("remapped-rows", fields) or []
        if r.get("gpu_uuid") in uuids and any(r.get(f, "").lower() in ("1", "yes") for f in fields[1:])
    ]


def fatal_xids() -> list[Xid] | None:
    """Fatal errors of the last day in the kernel log; None where the log may not be read."""
    try:
        environ = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(
            ["dmesg"], capture_output=True, encoding="utf-8", errors="replace", timeout=20, env=environ
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_xids(done.stdout, uptime()) if done.returncode == 0 else None


def parse_xids(log: str, up: float) -> list[Xid]:
    """The fatal XIDs of a kernel log. ``up``: seconds since boot, as the log's stamps count.

    >>> parse_xids("[ 100.5] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.", 160.5)
    [Xid(number=79, device='0000:3b:00', age=60.0)]
    """
    found = re.findall(r"^\[\s*([\d.]+)\].*NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (\d+)", log, re.M)
    errors = [Xid(int(number), device, up - float(at)) for at, device, number in found]
    return [e for e in errors if e.number in FATAL_XIDS and e.age <= XID_SECONDS]


def uptime() -> float:
    """Seconds since boot."""
    try:
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 0.0


def number(text: str | None) -> int:
    """A figure of nvidia-smi's; 0 for ``[N/A]`` and the like."""
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else 0
