"""The environment a job's shell sets up before Python starts, as bash text, and the proof that it worked.

Modules, a conda environment, a plain prefix, or a container around each task (:func:`contained`).

A module that is missing, misspelt or silently not loaded ends the job in its first second, with its name and what is
available. The shell function is in ``modules.sh``, which the scripts in ``sbatch/`` source and generated ones contain.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hpc.batch.profile import Container, Environment
from hpc.core.errors import BadInput

FUNCTIONS = Path(__file__).with_name("modules.sh")


def prologue(environment: Environment) -> str:
    """Bash lines that load the modules, export the variables and put the environment's Python first on PATH.

    Every value reaches the shell quoted. The lines work under ``set -euo pipefail``.
    """
    defined = functions()
    if environment.modules:
        lines = list(defined.values())
        words = [environment.module_init or "", *environment.modules]
        lines.append("load_modules " + " ".join(shlex.quote(word) for word in words))
    else:
        lines = [defined["use_prefix"], defined["module_error"]]
    variables = {**(environment.nccl.variables() if environment.nccl else {}), **environment.variables}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines.append(f"use_prefix {shlex.quote(str(python_prefix(environment)))}")
    return "\n".join(lines)


def functions() -> dict[str, str]:
    """The shell functions of ``modules.sh`` by name, in its order."""
    found: dict[str, str] = {}
    name = ""
    for line in FUNCTIONS.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z_]+)\(\) \{", line):
            name = match[1]
            found[name] = line
        elif name:
            found[name] += "\n" + line
        if name and (line == "}" or (found[name].count("\n") == 0 and line.endswith("}"))):
            name = ""
    return found


def python_prefix(environment: Environment) -> Path:
    """The prefix whose ``bin/python`` runs the stages: the profile's, or that of the Python that submits."""
    return Path(environment.python) if environment.python else Path(sys.prefix)


def contained(
    container: Container, command: list[str], *, srun: str, gpus: bool, binds: Sequence[Path], local: bool
) -> str:
    """A task's command inside the image, as bash words.

    Args:
        command: already quoted words; a leading ``python`` becomes the image's.
        srun: what launches the tasks ("" for one process; ends in a blank otherwise).
        gpus: the job holds GPUs: Apptainer needs --nv for the driver's libraries, Pyxis's hook does it by itself.
        binds: paths that are to be the same inside and outside.

    Raises:
        BadInput: Pyxis without Slurm.
    """
    inner = [shlex.quote(container.python) if command[0] == "python" else command[0], *command[1:]]
    mounts = [*(f"{path}:{path}" for path in binds), *container.mounts]
    options = [shlex.quote(word) for word in container.options]
    if container.runtime == "pyxis":
        if local:
            raise BadInput(
                "environment.container.runtime: pyxis is part of srun; use apptainer with --executor local"
            )
        mounts = [mount if ":" in mount else f"{mount}:{mount}" for mount in mounts]
        words = [f"--container-image={shlex.quote(container.image)}"]
        words += [
            f"--container-mounts={shlex.quote(','.join(mounts))}",
            f"--container-workdir={shlex.quote(str(binds[0]))}",
        ]
        return " ".join([(srun or "srun --ntasks=1 ").rstrip(), *words, *options, *inner])
    words = [container.runtime, "exec", *(["--nv"] if gpus else [])]
    words += [word for mount in mounts for word in ("--bind", shlex.quote(mount))]
    words += ["--pwd", shlex.quote(str(binds[0])), *options, shlex.quote(container.image)]
    return srun + " ".join([*words, *inner])
