"""What else a site has to have: modules that load, a container that is there, room, and limits high enough."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

from hpc.batch import environment as modules
from hpc.batch.profile import Profile
from hpc.core import room
from hpc.core.process import captured
from hpc.doctor.checklist import Row
from hpc.health.checks import gib

OPEN_FILES = 4096
"""Files a process may open: ranks, data loader workers and NCCL's sockets of 8 GPUs a node go beyond the usual 1024."""


def check(profile: Profile, runs: Path) -> list[Row]:
    """Modules, container, quota and inodes, limits."""
    return [*check_modules(profile), *check_container(profile), *check_disk(runs), *check_limits(profile)]


def check_modules(profile: Profile) -> list[Row]:
    """Load the profile's modules as a job would, here."""
    environment = profile.environment
    if not environment.modules:
        return [Row("Modules", "modules", "ok", "none asked for")]
    names = " ".join(environment.modules)
    script = f'set -euo pipefail\n{modules.prologue(environment)}\necho "$LOADEDMODULES"\n'
    try:
        done = captured(["bash", "-c", script], 120)
    except subprocess.TimeoutExpired:
        return [
            Row(
                "Modules", names, "bad", "no answer within 120 s", "", "the file system of the modules hangs?"
            )
        ]
    if done.returncode == 0:
        return [Row("Modules", names, "ok", f"loaded: {done.stdout.split()[-1].replace(':', ' ')}")]
    said = next(
        (line for line in reversed(done.stderr.splitlines()) if line.startswith("error: ")),
        done.stderr[-300:],
    )
    mend = "correct environment.modules (and module_init); without modules: modules: []"
    return [
        Row("Modules", names, "bad", said.removeprefix("error: "), "they load here as on the nodes", mend)
    ]


def check_container(profile: Profile) -> list[Row]:
    """The runtime and the image."""
    container = profile.environment.container
    if container is None:
        return []
    if container.runtime == "pyxis":
        done = (
            subprocess.run(["srun", "--help"], capture_output=True, encoding="utf-8", errors="replace")
            if shutil.which("srun")
            else None
        )
        has = done is not None and "--container-image" in done.stdout
        rows = [
            Row(
                "Container",
                "pyxis",
                "ok" if has else "bad",
                "srun has it" if has else "srun knows no --container-image",
                "the plugin",
                "ask whoever runs the cluster, or runtime: apptainer",
            )
        ]
    else:
        path = shutil.which(container.runtime)
        rows = [
            Row(
                "Container",
                container.runtime,
                "ok" if path else "warn",
                path or "not on PATH here",
                "on the nodes",
                "its module belongs into environment.modules",
            )
        ]
    if container.image.startswith("/"):
        there = Path(container.image).exists()
        rows.append(
            Row(
                "Container",
                "image",
                "ok" if there else "bad",
                container.image if there else f"no {container.image}",
                "a file all nodes see",
                "build or copy it there",
            )
        )
    for mount in container.mounts:
        source = mount.split(":")[0]
        if not Path(source).exists():
            rows.append(
                Row(
                    "Container", "mount", "bad", f"no {source}", mount, "correct environment.container.mounts"
                )
            )
    return rows


def check_disk(runs: Path) -> list[Row]:
    """Inodes and quota where run directories go; :mod:`hpc.doctor.machine` looks at the room and the speed."""
    place = room.there(runs)
    inodes = os.statvfs(place)
    rows = []
    if inodes.f_files:
        rows.append(
            Row(
                "Disk",
                "free inodes",
                "ok" if inodes.f_favail > 10000 else "bad",
                f"{inodes.f_favail:,}",
                "10,000",
                "many small files fill a file system too: remove some",
            )
        )
    return [*rows, *check_quota(place)]


def check_quota(place: Path) -> list[Row]:
    """Every quota that applies there, and what cannot be asked (:mod:`hpc.core.room`)."""
    asked = room.quotas(place)
    rows = [quota_row(quota) for quota in asked.found]
    if asked.unasked:
        mend = "ask whoever runs the cluster what you may write there: a training that meets an unknown quota ends"
        rows.append(Row("Disk", "quota", "warn", asked.unasked, "a quota that can be asked", mend))
    return rows or [Row("Disk", "quota", "ok", "none that this machine tells of")]


def quota_row(quota: room.Quota) -> Row:
    """Over the soft limit, writing ends after a grace period."""
    over = 0 < quota.soft < quota.used
    grace = f", over the {gib(quota.soft)} that it may exceed for a while" if over else ""
    return Row(
        "Disk",
        f"quota, {quota.what}",
        "bad" if over or quota.left < 1 << 30 else "ok",
        f"{gib(quota.left)} left of {gib(quota.limit)}{grace}",
        "room for a run",
        "remove old checkpoints, or put runs elsewhere",
    )


def check_limits(profile: Profile) -> list[Row]:
    """Limits of this shell: Slurm hands them on to the jobs that are submitted from it (PropagateResourceLimits)."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    enough = files == resource.RLIM_INFINITY or files >= OPEN_FILES
    rows = [
        Row(
            "Limits",
            "open files",
            "ok" if enough else "warn",
            "unlimited" if files < 0 else str(files),
            str(OPEN_FILES),
            f"ulimit -n {OPEN_FILES} before submitting: Slurm hands limits on",
        )
    ]
    nccl = profile.environment.nccl
    if nccl is not None and (nccl.infiniband or nccl.hca):
        locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        fine = locked == resource.RLIM_INFINITY
        rows.append(
            Row(
                "Limits",
                "locked memory",
                "ok" if fine else "warn",
                "unlimited" if fine else gib(locked),
                "unlimited, for InfiniBand",
                "ulimit -l unlimited, or ask whoever runs the cluster",
            )
        )
    return rows
