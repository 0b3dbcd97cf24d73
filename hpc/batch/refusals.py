"""What to change in a cluster profile where Slurm refuses a job, from its own words or the site's."""

from __future__ import annotations

SIGNS = (
    ("requeue", "requeue: false (jobs then ask for --no-requeue)"),
    ("partition", "partition: `sinfo` lists them"),
    ("account", "account: `sacctmgr show assoc user=$USER format=account,partition,qos` lists yours"),
    ("qos", "qos: `sacctmgr show assoc user=$USER format=qos` lists yours"),
    ("reservation", "reservation: `scontrol show reservation` lists them"),
    ("feature", "constraint: `sinfo -o %f` lists what there is"),
    ("generic resource", "gpu_type: `sinfo -o %G` lists the names"),
    ("memory", "memory_request: mem-per-cpu, mem-per-gpu or none"),
    ("--mem", "memory_request: mem-per-cpu, mem-per-gpu or none"),
    ("--gres", "gpu_request: gpus-per-node or gpus"),
    ("--gpus", "gpu_request: gres, gpus-per-node or gpus"),
    ("exclusive", "gpu_request: none, or sbatch: {exclusive: true}"),
    ("option", "sbatch: only options that this Slurm knows (`sbatch --help`)"),
)
"""A sign in the refusal, in lower case, and the field that mends it; the first that is found counts."""

SIGNS_OF_NO_GPU = ("gpu", "gres", "accounting/qos policy", "partition")
WITHOUT_GPUS = (
    "cpu_partition: where jobs without GPUs go (`sinfo` lists them), or cpu_job_gpus: 1, to ask for one"
)


def no_room(said: str) -> bool:
    """Whether it was refused for the number of jobs alone: the user's, the account's, the QOS's or the cluster's own
    limit (AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit …; MaxJobCount)."""
    words = said.lower()
    return "submitjob" in words or "resource temporarily unavailable" in words


def hint(said: str, *, gpus: bool = True) -> str:
    """The field of the profile to change, and how; "" where the words tell none.

    Args:
        said: the refusal.
        gpus: the refused job asks for GPUs.
    """
    words = said.lower()
    if not gpus and "requeue" not in words and any(sign in words for sign in SIGNS_OF_NO_GPU):
        return WITHOUT_GPUS
    return next((text for sign, text in SIGNS if sign in words), "")
