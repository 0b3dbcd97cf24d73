"""A batch script's text from what a job asks for. Pure: the same request gives the same text.

The directives come first, then the environment (:mod:`hpc.batch.environment`), then one ``exec`` of
:mod:`hpc.runtime.attempt`, so that Slurm's signals reach the process that knows what to do with them, and the exit
code is the work's own.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from hpc.batch import environment as modules
from hpc.batch.profile import ClusterProfile
from hpc.core.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage's command within a job, and how many tasks of it start on each node (0: no launcher, one process)."""

    stage: str
    command: tuple[str, ...]
    tasks_per_node: int = 0


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What one job of the chain asks for."""

    stage: str
    name: str
    steps: tuple[Step, ...]
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    time: str = "01:00:00"
    memory: str | None = None
    array: int | None = field(default=None, metadata={"doc": "number of array tasks, counted from 0"})
    signal_seconds: int | None = None
    after: tuple[str, ...] = ()
    attempt_limit: int = 3


def directives(request: JobRequest, profile: ClusterProfile, log: Path) -> list[str]:
    """The ``#SBATCH`` options of a job, one a line, without the ``#SBATCH``. ``log``: directory of its output."""
    gpu = request.gpus_per_node > 0
    partition = profile.partition if gpu else (profile.cpu_partition or profile.partition)
    number = "%A_%a" if request.array is not None else "%j"
    options: dict[str, str | None] = {
        "job-name": request.name,
        "nodes": str(request.nodes),
        "ntasks-per-node": str(request.tasks_per_node),
        "cpus-per-task": str(request.cpus_per_task),
        **gpu_option(request.gpus_per_node, profile),
        "mem": request.memory,
        "time": request.time,
        "array": f"0-{request.array - 1}" if request.array is not None else None,
        "partition": partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint if gpu else None,
        "reservation": profile.reservation,
        "exclude": profile.exclude,
        "signal": f"B:USR1@{request.signal_seconds}" if request.signal_seconds else None,
        "open-mode": "append",
        "output": _path_option(log, f"{number}.out"),
    }
    return [f"--{name}={value}" for name, value in options.items() if value is not None] + ["--requeue"]


def gpu_option(gpus: int, profile: ClusterProfile) -> dict[str, str]:
    """GPUs of one node, as this cluster wants them asked for."""
    if gpus == 0:
        return {}
    kind = f"{profile.gpu_type}:" if profile.gpu_type else ""
    if profile.gpu_request == "gres":
        return {"gres": f"gpu:{kind}{gpus}"}
    return {"gpus-per-node": f"{kind}{gpus}"}


def _path_option(folder: Path, name: str) -> str:
    """A path for a directive: Slurm's own ``%`` patterns in the folder are doubled, quotes protect blanks."""
    text = str(folder)
    if re.search(r"[\n\r\"\\]", text):
        raise BadInput(
            f"{text!r}: Slurm cannot take a log path with line breaks, double quotes or backslashes"
        )
    text = text.replace("%", "%%") + "/" + name
    return f'"{text}"' if re.search(r"[^A-Za-z0-9_./%+:@,=-]", text) else text


def render(
    request: JobRequest, profile: ClusterProfile, run: Path, project: Path | None, *, local: bool = False
) -> str:
    """The whole script, exactly as it goes to sbatch; with ``local``, the same for bash on this machine.

    ``project``: the checkout whose code the job runs; None: the code is installed in the environment.
    """
    log = run / "jobs" / request.stage
    head = "" if local else "\n" + "\n".join(f"#SBATCH {o}" for o in directives(request, profile, log))
    return f"""#!/bin/bash
# {request.name}: the {request.stage} job of a run, made by glmjobs.submit.{head}

set -euo pipefail
RUN={shlex.quote(str(run))}
LOGS={shlex.quote(str(run / "jobs").replace("%", "%%"))}
cd {shlex.quote(str(project)) if project else '"$RUN"'}

{environment(request, profile, project)}

{body(request, profile, run, project, local=local)}
"""


def environment(request: JobRequest, profile: ClusterProfile, project: Path | None) -> str:
    """Modules, variables and paths, as bash."""
    path = f"PYTHONPATH={shlex.quote(str(project))}${{PYTHONPATH:+:$PYTHONPATH}} " if project else ""
    return "\n".join(
        [
            modules.prologue(profile.environment),
            f"export {path}PYTHONUNBUFFERED=1",
            "export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false",
            f"export HPC_JOB_GPUS={request.nodes * request.gpus_per_node} SRUN_CPUS_PER_TASK={request.cpus_per_task}",
        ]
    )


def body(
    request: JobRequest, profile: ClusterProfile, run: Path, project: Path | None, *, local: bool = False
) -> str:
    """The one command a script ends in."""
    lines = [f'exec python -m hpc.runtime.attempt "$RUN" --limit {request.attempt_limit}']
    container = profile.environment.container
    for step in request.steps:
        words = ['"$RUN"' if word == "$RUN" else shlex.quote(word) for word in step.command]
        start = launcher(step, request, local=local)
        if container is None:
            command = start + " ".join(words)
        else:
            gpus, binds = request.gpus_per_node > 0, (project, run) if project else (run,)
            command = modules.contained(container, words, srun=start, gpus=gpus, binds=binds, local=local)
        lines.append(f"    --stage {step.stage} {command}")
    return " \\\n".join(lines)


def launcher(step: Step, request: JobRequest, *, local: bool) -> str:
    """What starts a step's tasks: ``srun``, one task a rank; on this machine alone, the local launch."""
    if step.tasks_per_node == 0:
        return ""
    if local:
        return f'python -m hpc.runtime.local_launch --nproc {step.tasks_per_node} --log "$RUN/jobs/{step.stage}" -- '
    # Preflight's node 0 says which node is bad: it must outlive those that cannot even start.
    kill = 0 if step.stage == "preflight" else 1
    return (
        f"srun --ntasks={request.nodes * step.tasks_per_node} --ntasks-per-node={step.tasks_per_node} "
        f'--kill-on-bad-exit={kill} --open-mode=append --output="$LOGS/{step.stage}/rank-%t.log" '
    )
