"""The environment a job's shell sets up before Python starts, as bash text, and the proof that it worked.

A module that is missing, misspelt or silently not loaded ends the job in its first second, with its name and what is
available. The shell function is in ``modules.sh``, which the scripts in ``sbatch/`` source and generated ones contain.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from hpc.cluster import Environment

FUNCTIONS = Path(__file__).with_name("modules.sh")


def prologue(environment: Environment) -> str:
    """Bash lines that load the modules, export the variables and put the environment's Python first on PATH.

    Every value reaches the shell quoted. The lines work under ``set -euo pipefail``.
    """
    lines: list[str] = []
    if environment.modules:
        text = FUNCTIONS.read_text(encoding="utf-8").splitlines()
        lines += [line for line in text if not line.startswith("#")]
        words = [environment.module_init or "/dev/null", *environment.modules]
        lines.append("load_modules " + " ".join(shlex.quote(word) for word in words))
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.variables.items()]
    lines.append(f'export PATH={shlex.quote(str(python_prefix(environment) / "bin"))}:"$PATH"')
    return "\n".join(lines)


def python_prefix(environment: Environment) -> Path:
    """The prefix whose ``bin/python`` runs the stages: the profile's, or that of the Python that submits."""
    return Path(environment.python) if environment.python else Path(sys.prefix)
