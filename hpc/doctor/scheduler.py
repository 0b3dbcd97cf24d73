"""Slurm, asked what it would say to this profile's jobs."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import tempfile
from pathlib import Path

from hpc.batch import refusals
from hpc.batch.jobs import Job
from hpc.batch.profile import Profile
from hpc.batch.script import directives
from hpc.core.errors import HpcError
from hpc.doctor.checklist import Row, State
from hpc.slurm import client as slurm
from hpc.slurm.job_limits import job_limits
from hpc.slurm.records import parse_show

SECTION = "Slurm"
NAMES = re.compile(r"(\w+)\s*=\s*(.*)")


def check(profile: Profile) -> list[Row]:
    """Controller, partition, GPUs, limits, and a job that is asked about and not submitted."""
    try:
        version = slurm.run(["sinfo", "--version"], pauses=(), timeout=20).strip()
        settings = dict(NAMES.findall(slurm.run(["scontrol", "show", "config"], pauses=(), timeout=30)))
    except HpcError as error:
        return [
            Row(
                SECTION,
                "controller",
                "bad",
                str(error).rsplit("; ", 1)[-1],
                "an answer",
                "ask whoever runs the cluster, or try again later",
            )
        ]
    rows = [Row(SECTION, "controller", "ok", f"{settings.get('ClusterName', '?').strip()}, {version}")]
    for look in (check_partitions, check_gres, check_request, check_limits, check_job_limits):
        try:
            rows += look(profile)
        except HpcError as error:
            rows.append(Row(SECTION, look.__name__.removeprefix("check_"), "bad", str(error)))
    return rows + check_settings(settings, profile)


def partitions() -> dict[str, dict[str, str]]:
    """Every partition as ``scontrol show partition`` tells it."""
    found = {}
    for line in slurm.run(["scontrol", "show", "partition", "-o"]).splitlines():
        fields = parse_show(line)
        if "PartitionName" in fields:
            found[fields["PartitionName"]] = fields
    return found


def check_partitions(profile: Profile) -> list[Row]:
    """The profile's partitions exist and are up."""
    known, rows = partitions(), []
    default = next((name for name, fields in known.items() if fields.get("Default") == "YES"), None)
    for title, wanted in (("partition", profile.partition), ("cpu_partition", profile.cpu_partition)):
        if wanted is None:
            if title == "partition":
                state: State = "ok" if default else "bad"
                rows.append(
                    Row(
                        SECTION,
                        title,
                        state,
                        f"{default or 'none'} (the default)",
                        "a default partition",
                        f"name one: partition: {next(iter(known), '…')}",
                    )
                )
                wanted = default
            if wanted is None:
                continue
        elif any(name not in known for name in wanted.split(",")):
            rows.append(
                Row(SECTION, title, "bad", wanted, " or ".join(known), f"{title}: {next(iter(known), '…')}")
            )
            continue
        for name in wanted.split(","):
            fields = known[name]
            up = fields.get("State") == "UP"
            found = f"{name}: {fields.get('State')}, {fields.get('TotalNodes')} nodes, up to {fields.get('MaxTime')}"
            rows.append(
                Row(
                    SECTION,
                    f"{title} {name}",
                    "ok" if up else "bad",
                    found,
                    "UP",
                    "another partition, or later",
                )
            )
            if "CANCEL" in fields.get("PreemptMode", ""):
                rows.append(
                    Row(
                        SECTION,
                        f"{title} {name}",
                        "warn",
                        "PreemptMode=CANCEL",
                        "REQUEUE",
                        "a preempted job queues itself again while it is being ended; heal, where it could not",
                    )
                )
    return rows


def check_gres(profile: Profile) -> list[Row]:
    """GPU types as configured against the profile's."""
    found = slurm.gres(profile.partition, name=profile.gpu_gres)
    if profile.gpu_request == "none":
        seen = ", ".join(sorted({kind or "(no type)" for _, kind, _ in found}))
        mend = "gpu_request: gres, so that jobs take what they need and no whole nodes"
        return [
            Row(SECTION, "GPUs (GRES)", "warn" if found else "ok", seen or "none", "none (whole nodes)", mend)
        ]
    kinds: dict[str, int] = {}
    for _, kind, count in found:
        kinds[f"{kind or '(no type)'} x {count}"] = kinds.get(f"{kind or '(no type)'} x {count}", 0) + 1
    said = ", ".join(f"{nodes} nodes with {kind}" for kind, nodes in kinds.items()) or "none"
    wanted = profile.gpu_type
    others = (
        [] if found else [name for name in slurm.gres_names(profile.partition) if name != profile.gpu_gres]
    )
    names = sorted({kind for _, kind, _ in found if kind})
    ok = bool(found) and (wanted is None or wanted in names)
    mend = (
        f"gpu_type: {names[0]}"
        if names
        else (
            "gpu_type: null"
            if found
            else f"gpu_gres: {others[0]}, if that is the site's name for GPUs (its GRES: {', '.join(others)})"
            if others
            else "another partition, or gpu_request: none if nodes have GPUs all the same"
        )
    )
    needed = f"{profile.gpu_gres}:{wanted}" if wanted else "any GPU"
    return [Row(SECTION, "GPUs (GRES)", "ok" if ok else ("bad" if wanted else "warn"), said, needed, mend)]


def check_request(profile: Profile) -> list[Row]:
    """Jobs like this profile's, with GPUs and without: ``sbatch --test-only`` says whether they could ever run."""
    found = slurm.gres(profile.partition, name=profile.gpu_gres)
    gpus = max((count for _, kind, count in found if profile.gpu_type in (None, kind)), default=0)
    asked = {"a job of this profile": gpus, "a job without GPUs": 0}
    return [_could_run(profile, title, count) for title, count in asked.items()]


def _could_run(profile: Profile, title: str, gpus: int) -> Row:
    job = Job(stage="train" if gpus else "report", steps=(), gpus_per_node=gpus, time="00:10:00")
    options = [
        o for o in directives(job, profile, Path("/tmp")) if not o.startswith(("--output", "--open-mode"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "asked.sh"
        script.write_text("#!/bin/bash\nexit 0\n", encoding="utf-8")
        try:
            slurm.test_only(script, extra=options)
        except slurm.SlurmRefused as error:
            mend = refusals.hint(str(error), gpus=gpus > 0) or "sbatch's own words say what is wrong"
            return Row(SECTION, title, "bad", str(error), " ".join(options), mend)
    return Row(SECTION, title, "ok", "could run", " ".join(options))


def check_limits(profile: Profile) -> list[Row]:
    """This user's associations, where there is accounting."""
    if shutil.which("sacctmgr") is None:
        return [
            Row(SECTION, "account limits", "warn", "no sacctmgr here", "", "limits cannot be seen from here")
        ]
    fields = ("account", "partition", "maxjobs", "maxsubmit", "grptres", "maxtres", "maxwall", "qos")
    user = getpass.getuser()
    words = ["sacctmgr", "-nP", "show", "assoc", f"user={user}", f"format={','.join(fields)}"]
    try:
        lines = slurm.run(words, pauses=(), timeout=20).splitlines()
    except HpcError as error:
        return [
            Row(
                SECTION,
                "account limits",
                "warn",
                f"no accounting ({str(error)[:80]})",
                "",
                "none are enforced by it",
            )
        ]
    mine = [dict(zip(fields, line.split("|"), strict=False)) for line in lines if line.strip()]
    if not mine:
        return [
            Row(
                SECTION,
                "account limits",
                "warn",
                f"{user} has no association",
                "",
                "none needed, or ask for an account",
            )
        ]
    accounts = sorted({m["account"] for m in mine})
    rows = []
    if profile.account:
        state: State = "ok" if profile.account in accounts else "bad"
        rows.append(
            Row(SECTION, "account", state, ", ".join(accounts), profile.account, f"account: {accounts[0]}")
        )
    said = []
    for m in mine[:4]:
        limits = ", ".join(f"{n} {m[n]}" for n in fields[2:7] if m.get(n))
        said.append(f"{m['account']}: {limits or 'no limits'}")
    return [*rows, Row(SECTION, "account limits", "ok", "; ".join(said))]


WHOLE_CHAIN = 4
"""The fewest jobs that a chain of train, consolidate, score and report is."""


def check_job_limits(profile: Profile) -> list[Row]:
    """How many jobs may be in the queue."""
    limits = job_limits(profile.account, profile.qos)
    needed = "3 jobs, one for each of score.shards, and all of jobs.train.attempts"
    mend = "what finds no room is submitted by heal when there is; fewer score.shards, or another qos"
    said = "; ".join(map(str, limits))
    state: State = "warn" if any(limit.room < WHOLE_CHAIN for limit in limits) else "ok"
    return [Row(SECTION, "jobs in the queue", state, said, needed, mend)] if limits else []


def check_settings(settings: dict[str, str], profile: Profile) -> list[Row]:
    """Settings of the controller's that change what a chain does."""
    rows = []
    if settings.get("JobRequeue", "").strip() == "0" and profile.requeue:
        said = "jobs ask for --requeue themselves; where that is not wanted here: requeue: false"
        rows.append(Row(SECTION, "JobRequeue", "warn", "0", "1", said))
    if not profile.requeue:
        said = "a job that its time limit ends waits for a repair, or for the next of its queued attempts"
        rows.append(Row(SECTION, "requeue", "warn", "false (this profile)", "true", said))
    size = settings.get("MaxArraySize", "").strip()
    if size.isdigit():
        rows.append(
            Row(
                SECTION,
                "MaxArraySize",
                "ok" if int(size) > 8 else "bad",
                size,
                "more than score.shards",
                "fewer score.shards",
            )
        )
    wait = settings.get("KillWait", "").split()[:1]
    if wait and wait[0].isdigit() and int(wait[0]) < 10:
        rows.append(
            Row(
                SECTION,
                "KillWait",
                "warn",
                f"{wait[0]} s",
                "30 s is usual",
                "a checkpoint at preemption must be quick",
            )
        )
    if settings.get("EnforcePartLimits", "").strip() == "NO":
        rows.append(
            Row(
                SECTION,
                "EnforcePartLimits",
                "warn",
                "NO",
                "ALL",
                "jobs over a partition's limits wait for ever instead of being refused: keep an eye on status",
            )
        )
    if os.environ.get("SLURM_JOB_ID"):
        rows.append(
            Row(
                SECTION,
                "this shell",
                "warn",
                f"inside job {os.environ['SLURM_JOB_ID']}",
                "a login shell",
                "submitted jobs get a clean environment all the same",
            )
        )
    return rows
