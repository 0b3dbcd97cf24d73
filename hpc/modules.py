"""The environment a job's shell sets up before Python starts, as bash text, and the proof that it worked.

A module that is missing, misspelt or silently not loaded ends the job in its first second, with its name and what is
available. The exit code of ``module load`` is no proof: Tcl Modules 3.2.10 (CentOS 7) returns 0 for a missing module.
``LOADEDMODULES``, which every implementation keeps, is asked instead.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from hpc.cluster import Environment

_LOAD = """\
load_module() {{  # load one environment module and prove it
    set +eu; module load "$1"; set -eu
    case ":${{LOADEDMODULES:-}}:" in *":$1:"*|*":$1/"*) return 0 ;; esac
    echo "error: module $1 did not load on $(hostname); available:" \\
         "$(module -t avail "${{1%%/*}}" 2>&1 | tr '\\n' ' ' | cut -c1-500)" >&2
    exit 3
}}
if ! type module >/dev/null 2>&1; then
    init={init}
    if [ ! -r "$init" ]; then echo "error: $init: no environment modules on $(hostname)" >&2; exit 3; fi
    set +eu; source "$init"; set -eu
fi
set +eu; module purge >/dev/null 2>&1; set -eu
"""


def prologue(environment: Environment) -> str:
    """Bash lines that load the modules, export the variables and put the environment's Python first on PATH.

    Every value reaches the shell quoted. The lines work under ``set -euo pipefail``.
    """
    lines: list[str] = []
    if environment.modules:
        lines += _LOAD.format(init=shlex.quote(environment.module_init or "/dev/null")).splitlines()
        lines += [f"load_module {shlex.quote(name)}" for name in environment.modules]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.variables.items()]
    python = python_prefix(environment)
    lines.append(f"export PATH={shlex.quote(str(python / 'bin'))}:\"$PATH\"")
    return "\n".join(lines)


def python_prefix(environment: Environment) -> Path:
    """The prefix whose ``bin/python`` runs the stages: the profile's, or that of the Python that submits."""
    return Path(environment.python) if environment.python else Path(sys.prefix)
