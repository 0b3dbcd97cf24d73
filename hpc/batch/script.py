"""A batch script's text from what a job asks for. Pure: the same job of the same chain gives the same text.

The directives come first, then the environment (:mod:`hpc.batch.environment`), then one ``exec`` of
:mod:`hpc.runtime.attempt`, so that Slurm's signals reach the process that knows what to do with them, and the exit
code is the work's own.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from hpc.batch import environment as modules
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.core.errors import BadInput
from hpc.core.last_words import IMAGE


def directives(job: Job, profile: Profile, log: Path, *, last: bool = False) -> list[str]:
    """The ``#SBATCH`` options of a job, one a line, without the ``#SBATCH``.

    Args:
        log: directory of its output.
        last: nothing of its chain comes after it.
    """
    gpus = gpus_held(job, profile)
    gpu = gpus > 0
    options: dict[str, str | None] = {
        "job-name": job.lane or job.name or job.stage,
        "nodes": str(job.nodes),
        "ntasks-per-node": str(job.tasks_per_node),
        "cpus-per-task": str(job.cpus_per_task),
        **gpu_option(gpus, profile, nodes=job.nodes),
        **memory_option(job, profile),
        "time": job.time,
        "array": array(job),
        "partition": partition_of(job, profile),
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint if gpu else None,
        "reservation": profile.reservation,
        "exclude": profile.exclude,
        "signal": f"B:USR1@{job.signal_seconds}" if job.signal_seconds else None,
        "open-mode": "append",
        "output": _path_option(log, log_name(job)),
        "mail-user": profile.mail,
        "mail-type": None if profile.mail is None else "END,FAIL" if last else "FAIL",
        **profile.options_of(job.stage),
        "requeue" if profile.requeue else "no-requeue": "",
    }
    given = {name: value for name, value in options.items() if value is not None}
    return [f"--{name}={value}" if value else f"--{name}" for name, value in given.items()]


def partition_of(job: Job, profile: Profile) -> str | None:
    """The partition that a job asks for; None: the cluster's default."""
    return profile.partition if gpus_held(job, profile) else (profile.cpu_partition or profile.partition)


def gpus_held(job: Job, profile: Profile) -> int:
    """GPUs of a node that a job asks for: what it needs, or what the site wants asked for all the same."""
    return job.gpus_per_node or (0 if profile.cpu_partition else profile.cpu_job_gpus)


def array(job: Job) -> str | None:
    """A job's elements: pieces of its work side by side, or its attempts one after the other; None where it is one."""
    if job.attempts > 1:
        return f"0-{job.attempts - 1}%1"
    return f"0-{job.array - 1}" if job.array is not None else None


def log_name(job: Job) -> str:
    """The file that a job's output goes to, in Slurm's patterns."""
    return "%A_%a.out" if array(job) else "%j.out"


def output(chain: Chain, job: Job) -> str:
    """Where a job's output goes, as Slurm shows it: a proof of whose job it is."""
    return f"{chain.run / 'jobs' / job.stage}/{log_name(job)}"


def asks(job: Job, chain: Chain) -> dict[str, str]:
    """What a job asks for, as plain words: what Slurm is to give it, its environment and its commands.

    Not in it is how the same things are spelled: paths of the run directory, of the checkout, of Python. Two jobs that
    ask for the same need not be submitted anew for one another.
    """
    found: dict[str, str] = {"attempt_limit": str(job.attempt_limit)}
    if chain.code:
        found["code"] = chain.code
    for option in directives(job, chain.profile, Path("/"), last=job == chain.jobs[-1]):
        name, _, value = option.removeprefix("--").partition("=")
        found[name] = value
    del found["output"]
    for name, value in chain.profile.environment.model_dump(mode="json").items():
        if value:
            found[f"environment.{name}"] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    found |= {f"variable {name}": value for name, value in chain.variables.items()}
    for step in job.steps:
        program, *words = step.command
        program = Path(program).name
        if program.startswith("python"):
            program = " ".join(["python", *(Path(word).name for word in words[:1])])
            words = words[1:]
        found[f"command of {step.stage}"] = " ".join([f"{step.tasks_per_node} x", program, *words])
    return found


def asked(script: str) -> dict[str, str]:
    """What an older script's directives ask for, as far as :func:`asks` tells it."""
    pairs = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.M)
    return {name: value for name, value in pairs if name != "output"}


def gpu_option(gpus: int, profile: Profile, *, nodes: int = 1) -> dict[str, str]:
    """So many GPUs of each node, as this cluster wants them asked for."""
    if gpus == 0:
        return {}
    if profile.gpu_request == "none":
        return {"exclusive": ""}
    kind = f"{profile.gpu_type}:" if profile.gpu_type else ""
    if profile.gpu_request == "gres":
        return {"gres": f"{profile.gpu_gres}:{kind}{gpus}"}
    if profile.gpu_request == "gpus":
        return {"gpus": f"{kind}{gpus * nodes}"}
    return {"gpus-per-node": f"{kind}{gpus}"}


def memory_option(job: Job, profile: Profile) -> dict[str, str]:
    """A node's memory, as this cluster wants it asked for.

    Raises:
        BadInput: a size that cannot be divided.
    """
    if job.memory is None or profile.memory_request == "none":
        return {}
    shares = {"mem-per-cpu": job.tasks_per_node * job.cpus_per_task, "mem-per-gpu": gpus_held(job, profile)}
    parts = shares.get(profile.memory_request, 0)
    if not parts or job.memory == "0":
        return {"mem": job.memory}
    size = re.fullmatch(r"(\d+)([KMGT]?)B?", job.memory.upper())
    if not size:
        raise BadInput(f"memory = {job.memory!r}: a whole number with K, M, G or T, to be divided by {parts}")
    megabytes = int(size[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1 << 20}[size[2]]
    return {profile.memory_request: f"{max(1, int(megabytes / parts))}M"}


def _path_option(folder: Path, name: str) -> str:
    """A path for a directive: Slurm's own ``%`` patterns in the folder are doubled, quotes protect blanks."""
    text = str(folder)
    if re.search(r"[\n\r\"\\]", text):
        raise BadInput(
            f"{text!r}: Slurm cannot take a log path with line breaks, double quotes or backslashes"
        )
    text = text.replace("%", "%%") + "/" + name
    return f'"{text}"' if re.search(r"[^A-Za-z0-9_./%+:@,=-]", text) else text


def render(job: Job, chain: Chain) -> str:
    """The whole script, exactly as it goes to sbatch; of a local chain, the same for bash on this machine."""
    log = chain.run / "jobs" / job.stage
    options = [] if chain.local else directives(job, chain.profile, log, last=job == chain.jobs[-1])
    lines = [f"#SBATCH {option}" for option in options]
    head = "".join(f"\n{line}" for line in lines)
    return f"""#!/bin/bash
# {job.name or job.stage}: the {job.stage} job of a run, made by {chain.made_by or chain.name}.{head}

set -euo pipefail
trap '' USR1  # the warning before the end: the job is not to die of it before there is something that listens
{places(chain)}
cd {shlex.quote(str(chain.project)) if chain.project else '"$RUN"'}

{environment(job, chain)}

{body(job, chain)}
"""


def command(job: Job, chain: Chain) -> str:
    """What a job runs, as bash, for a script that has set up its environment by itself."""
    return f"{places(chain)}\n{body(job, chain)}"


def places(chain: Chain) -> str:
    """The run directory, and where steps' logs go as a pattern of Slurm's, as bash."""
    logs = str(chain.run / "jobs").replace("%", "%%")
    return f"RUN={shlex.quote(str(chain.run))}\nLOGS={shlex.quote(logs)}"


def environment(job: Job, chain: Chain) -> str:
    """Modules, variables and paths, as bash."""
    path = (
        f"PYTHONPATH={shlex.quote(str(chain.project))}${{PYTHONPATH:+:$PYTHONPATH}} " if chain.project else ""
    )
    gpus = job.gpus_per_node if chain.local else gpus_held(job, chain.profile)
    lines = [
        modules.prologue(chain.profile.environment),
        f"export {path}PYTHONUNBUFFERED=1 PYTHONUTF8=1",
        f"export HPC_JOB_GPUS={job.nodes * gpus} SRUN_CPUS_PER_TASK={job.cpus_per_task}",
    ]
    if (container := chain.profile.environment.container) is not None:
        lines.append(f"export {IMAGE}={shlex.quote(container.image)}")
    if chain.variables:
        lines.insert(2, f"export {' '.join(f'{n}={shlex.quote(v)}' for n, v in chain.variables.items())}")
    return "\n".join(lines)


def body(job: Job, chain: Chain) -> str:
    """The one command a script ends in."""
    advice = f" --advice {shlex.quote(job.advice)}" if job.advice else ""
    mark = "" if job.own_markers else " --mark"
    mark += " --queued" if job.attempts > 1 else ""
    lines = [f'exec python -m hpc.runtime.attempt "$RUN" --limit {job.attempt_limit}{mark}{advice}']
    container = chain.profile.environment.container
    for step in job.steps:
        words = ['"$RUN"' if word == "$RUN" else shlex.quote(word) for word in step.command]
        start = launcher(step, job, local=chain.local)
        if container is None:
            command = start + " ".join(words)
        else:
            gpus, binds = job.gpus_per_node > 0, [p for p in (chain.project, chain.run) if p]
            command = modules.contained(
                container, words, srun=start, gpus=gpus, binds=binds, local=chain.local
            )
        lines.append(f"    --stage {step.stage} {command}")
    return " \\\n".join(lines)


def launcher(step: Step, job: Job, *, local: bool) -> str:
    """What starts a step's tasks: ``srun``, one task a rank; on this machine alone, the local launch."""
    if step.tasks_per_node == 0:
        return ""
    if local:
        return f'python -m hpc.runtime.local_launch --nproc {step.tasks_per_node} --log "$RUN/jobs/{step.stage}" -- '
    return (
        f"srun --ntasks={job.nodes * step.tasks_per_node} --ntasks-per-node={step.tasks_per_node} "
        f'--kill-on-bad-exit={int(step.kill_on_bad_exit)} --open-mode=append --output="$LOGS/{step.stage}/rank-%t.log" '
    )
