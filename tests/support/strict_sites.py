"""Sites that don't let everything happen: how their Slurm is set up, and the cluster profile that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NO_REQUEUE = "cluster.requeue=false"
ALLOWED_BY_STRICT = (NO_REQUEUE, "cluster.cpu_job_gpus=1", "cluster.memory_request=none")
"""What a profile says where :data:`STRICT` decides."""

STRICT = """
function slurm_job_submit(job, partitions, uid)
  if job.requeue == 1 then
    slurm.log_user("requeue is not allowed on this cluster")
    return slurm.ERROR
  end
  if job.tres_per_node == nil and job.tres_per_job == nil then
    slurm.log_user("this partition is for jobs with GPUs")
    return slurm.ERROR
  end
  if job.pn_min_memory ~= slurm.NO_VAL64 then
    slurm.log_user("memory is given by the GPU, do not ask for it")
    return slurm.ERROR
  end
  job.comment = "billing=physics"
  return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, uid)
  return slurm.SUCCESS
end
return slurm.SUCCESS
"""
"""A job_submit.lua."""

BY_REQUEUE = ("drain a node", "read-only run directory")
"""Faults of which an administrator's requeue is part: Slurm refuses that of a job that may not be queued again."""


@dataclass(frozen=True)
class Site:
    """``settings``: what the profile says of it. ``cluster``: options of the rehearsal cluster that is it.
    ``without``: faults that cannot strike there."""

    settings: tuple[str, ...]
    cluster: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


NO_REQUEUES = ("JobRequeue=0",)
SITES = {
    "no-requeue": Site((NO_REQUEUE,), {"extra": NO_REQUEUES}, BY_REQUEUE),
    "attempts": Site((NO_REQUEUE, "jobs.train.attempts=4"), {"extra": NO_REQUEUES}, BY_REQUEUE),
    "exclusive": Site(
        ("cluster.gpu_request=none",),
        {"gpus": 0, "partitions": {"gpu": "MaxTime=7-00:00:00 OverSubscribe=EXCLUSIVE"}},
    ),
    "gpus": Site(("cluster.gpu_request=gpus", "cluster.memory_request=none", "cluster.cpu_job_gpus=1")),
    "lua-site": Site(
        (*ALLOWED_BY_STRICT, "jobs.train.attempts=4"),
        {"extra": NO_REQUEUES, "job_submit": STRICT},
        BY_REQUEUE,
    ),
}
