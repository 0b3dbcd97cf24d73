"""What a person changes where Slurm refuses a job: a field of the cluster profile, or what the job itself asks for."""

from __future__ import annotations

from hpc.batch import refusals
from hpc.batch.jobs import Chain, Job
from hpc.batch.script import gpus_held, partition_of
from hpc.core.errors import HpcError
from hpc.slurm.request_limits import time_limits


def with_mend(said: str, chain: Chain, job: Job) -> str:
    """A refusal with what mends it, where its words tell."""
    of_profile = refusals.hint(said, gpus=gpus_held(job, chain.profile) > 0)
    mends = [of_job(said, chain, job), f"in the cluster profile, {of_profile}" if of_profile else ""]
    known = "; or ".join(filter(None, mends))
    return f"{said} ({known})" if known else said


def of_job(said: str, chain: Chain, job: Job) -> str:
    """What of the job's own demands is too much, by the name of its setting; "" where the words are about another."""
    words = said.lower()
    if not job.settings:
        return ""
    if "time limit" in words:
        return f"{job.settings}.time = {job.time}{_longest(chain, job)}"
    if job.memory is not None and ("memory" in words or "--mem" in words):
        return f"{job.settings}.memory = {job.memory}: `sinfo -o '%P %m'` lists what nodes have, in MB"
    if "cpu count" in words:
        return f"{job.settings}.cpus_per_task = {job.cpus_per_task}: `sinfo -o '%P %c'` lists what nodes have"
    return ""


def stays(chain: Chain) -> str:
    """How a run goes on of which a job was refused."""
    changed = " (--set FIELD=VALUE changes what was refused)" if chain.repair_command else ""
    return f"the run directory stays: {chain.repair_hint()} goes on with it{changed}"


def _longest(chain: Chain, job: Job) -> str:
    try:
        found = time_limits(partition_of(job, chain.profile))
    except HpcError:
        return ""
    return "".join(f"; in partition {name} a job has {most} at most" for name, most in found.items())
