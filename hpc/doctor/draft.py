"""A cluster profile drafted from what this machine tells: sinfo, the user's account, the modules, the network.

A draft: what could not be found out stands there as a comment, and `python -m hpc.doctor --cluster FILE` checks it.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc.batch.environment import functions
from hpc.core.errors import HpcError
from hpc.core.process import captured
from hpc.doctor.scheduler import partitions
from hpc.slurm import client as slurm

WANTED = ("cuda", "nccl", "cudnn")
"""Modules that a training wants, loaded in this order: NCCL's and cuDNN's often require CUDA's."""

PREFERRED = {"cuda": "11.7"}
"""Taken where it is there: the stack centos7-cu117 is built for it."""


def draft(
    *, partition: str | None = None, account: str | None = None, gpu_memory_gb: int | None = None
) -> str:
    """The profile as YAML. What is given was asked of a person ("": no account); None: what this machine
    tells."""
    lines = [
        "# Drafted by `python -m hpc.doctor --write-profile`; check it: python -m hpc.doctor --cluster FILE"
    ]
    lines += [
        f"name: {cluster_name()}",
        *slurm_lines(partition, account, gpu_memory_gb),
        "environment:",
        *module_lines(),
    ]
    lines.append(
        "  python: null   # the environment that submits; or the prefix of another, seen by all nodes"
    )
    return "\n".join([*lines, *network_lines(), "preflight:", *floor_lines()]) + "\n"


def cluster_name() -> str:
    """Slurm's ClusterName, else this machine's."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", slurm_setting("ClusterName") or os.uname().nodename.split(".")[0])[
        :64
    ]


def slurm_setting(name: str) -> str:
    """A setting of the controller's; "" where it does not tell."""
    try:
        text = slurm.run(["scontrol", "show", "config"], pauses=())
    except HpcError:
        return ""
    found = re.search(rf"^{name}\s*=\s*(\S+)", text, re.M)
    return found[1] if found else ""


def slurm_lines(
    partition: str | None = None, account: str | None = None, gpu_memory_gb: int | None = None
) -> list[str]:
    """Partition, account and GPUs."""
    try:
        known, gres = partitions(), gpus()
    except HpcError as error:
        return [f"# Slurm did not tell: {error}", "partition: null", "account: null", "gpu_type: null"]
    with_gpus = [name for name in known if gres[name]]
    chosen = partition or proposed_partition(known, with_gpus)
    lines = []
    for name, fields in known.items():
        kinds = Counter(f"{kind or 'gpu'}:{count}" for _, kind, count in gres[name])
        said = ", ".join(f"{n} nodes with {kind}" for kind, n in kinds.items()) or "no GPUs"
        lines.append(
            f"# partition {name}: {fields.get('TotalNodes')} nodes, up to {fields.get('MaxTime')}; {said}"
        )
    lines.append(f"partition: {_yaml(chosen)}")
    without = [name for name in known if name not in with_gpus]
    if chosen in with_gpus and without:
        lines.append(f"cpu_partition: {_yaml(without[0])}   # for the jobs that need no GPU")
    elif with_gpus:
        lines.append("# cpu_job_gpus: 1   # where jobs without GPUs are refused")
    if slurm_setting("JobRequeue") == "0":
        lines.append("# requeue: false   # JobRequeue=0 here: where the site refuses --requeue")
    lines.append(f"account: {_yaml(default_account() if account is None else account or None)}")
    kind = usual_kind(gres.get(chosen or "", []))
    lines.append(f"gpu_type: {_yaml(kind)}")
    if not with_gpus:
        lines += [
            f"# gpu_gres: {name}   # if this is the site's name for GPUs" for name in slurm.gres_names()
        ]
        lines.append("# gpu_request: none   # for nodes with GPUs that Slurm does not know of: whole nodes")
    size = gpu_memory_gb or memory_in_name(kind)
    lines.append(
        f"gpu_memory_gb: {size}"
        if size
        else "gpu_memory_gb: 80   # not known from here: nvidia-smi on a node tells"
    )
    return lines


def gpus() -> dict[str, list[tuple[str, str, int]]]:
    """Every partition's GPUs, as :func:`hpc.slurm.client.gres` lists them."""
    return {name: slurm.gres(name) for name in partitions()}


def proposed_partition(known: Mapping[str, Mapping[str, str]], with_gpus: Sequence[str]) -> str | None:
    """The default partition where it has GPUs, or none has; else the first that has."""
    default = next((name for name, fields in known.items() if fields.get("Default") == "YES"), None)
    return default if default in with_gpus or not with_gpus else with_gpus[0]


def usual_kind(found: Sequence[tuple[str, str, int]]) -> str | None:
    """The type that most nodes' GPUs are of."""
    kinds = Counter(kind for _, kind, _ in found if kind)
    return kinds.most_common(1)[0][0] if kinds else None


def memory_in_name(kind: str | None) -> int | None:
    """GB of a GPU, where its type's name says it: ``a100_80gb``."""
    size = re.search(r"(\d+)\s*g", kind or "", re.I)
    return int(size[1]) if size else None


def default_account() -> str | None:
    """This user's default account; None where there is no accounting."""
    if shutil.which("sacctmgr") is None:
        return None
    words = ["sacctmgr", "-nP", "show", "user", getpass.getuser(), "format=defaultaccount"]
    try:
        return slurm.run(words, pauses=(), timeout=20).strip().splitlines()[0] or None
    except (HpcError, IndexError):
        return None


def module_lines() -> list[str]:
    """CUDA, NCCL and cuDNN among the modules there are."""
    found = available_modules()
    if found is None:
        return ["  modules: []   # no environment modules here"]
    chosen, lines = [], []
    for want in WANTED:
        names = [n for n in found if re.fullmatch(rf"(?i)(.*/)?{want}/[^/]+", n)]
        if names:
            chosen.append(choose(names, PREFERRED.get(want, "")))
            lines.append(f"  # {want}: {' '.join(names[:8])}")
        else:
            lines.append(f"  # {want}: no module of that name")
    return [*lines, f"  modules: [{', '.join(chosen)}]"]


def choose(names: list[str], preferred: str) -> str:
    """The preferred version where it is there, else the newest."""

    def key(name: str) -> tuple[bool, list[int]]:
        version = name.rsplit("/", 1)[-1]
        exact = bool(preferred) and (version == preferred or version.startswith(f"{preferred}."))
        return exact, [int(part) for part in re.findall(r"\d+", version)]

    return max(names, key=key)


def available_modules() -> list[str] | None:
    """Every module there is; None without a module system."""
    script = "\n".join([*functions().values(), 'find_modules ""', "module -t avail 2>&1"])
    try:
        done = captured(["bash", "-c", script], 60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    lines = (re.sub(r"\s*(<.*>|\(default\))\s*$", "", line).strip() for line in done.stdout.splitlines())
    return sorted({line for line in lines if line and not line.endswith((":", "/"))}) or None


def network_lines() -> list[str]:
    """InfiniBand's interface and adapters, where this machine has some; the nodes usually have the same."""
    interfaces = (
        sorted(p.name for p in Path("/sys/class/net").glob("ib*")) if Path("/sys/class/net").is_dir() else []
    )
    adapters = (
        sorted(p.name for p in Path("/sys/class/infiniband").glob("*"))
        if Path("/sys/class/infiniband").is_dir()
        else []
    )
    if not interfaces and not adapters:
        return ['  # nccl: {interface: ib0, hca: "mlx5_0"}   # no InfiniBand seen on this machine']
    words = [f"interface: {interfaces[0]}"] if interfaces else []
    words += [f"hca: {json.dumps(','.join(adapters))}"] if adapters else []
    return [f"  nccl: {{{', '.join(words)}}}"]


def floor_lines() -> list[str]:
    """What preflight demands: nothing yet."""
    return [
        "  driver: null           # oldest driver: what nvidia-smi says on a good node",
        "  scratch: null          # the nodes' own disk, such as /tmp or /scratch",
        "  allreduce_gb_s: null   # measured at each start; put 0.8 of a good day's figure here",
    ]


def _yaml(value: str | None) -> str:
    return (
        "null"
        if value is None
        else (value if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", value) else json.dumps(value))
    )
