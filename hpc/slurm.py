"""Slurm's commands. The only file that runs them.

Every function takes ``env`` (default: this process's environment), so that a caller can talk to another Slurm by
its ``SLURM_CONF``. Calls are bounded in time; those that only read are tried again where the controller does not
answer. What goes wrong is an error of :mod:`hpc.errors` carrying Slurm's own message in one line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence

from hpc.errors import BadInput, NotFit

# Seconds one call may take. Slurm's own MessageTimeout (10 s by default) ends most of them long before.
TIMEOUT = 60.0
# Pauses before trying again where the controller does not answer: a restarting slurmctld is back within seconds.
PAUSES = (1.0, 2.0, 4.0)

_UNREACHABLE = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connect failure",
    "communication connection failure",
    "zero bytes were transmitted",
    "unexpected message received",
    "slurm_persist_conn",
)
# Variables that change what the commands print or whom they ask; our parsers need the plain form.
_FORMATTING = (
    "SQUEUE_",
    "SACCT_",
    "SINFO_",
    "SCANCEL_",
    "SCONTROL_",
    "SLURM_TIME_FORMAT",
    "SLURM_BITSTR_LEN",
)
# The only SLURM_ variables that say which cluster is meant rather than which job this process belongs to.
_WHICH_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS")


class SlurmRefused(BadInput):
    """Slurm answered, and said no: unknown partition, invalid job id, bad dependency … (exit 2)."""


class SlurmUnreachable(NotFit):
    """Slurm did not answer: commands absent, no configuration, controller down (exit 3)."""


class SubmitUncertain(SlurmUnreachable):
    """``sbatch`` ended without an answer: the job may have been accepted. Look it up before trying again."""


def clean_env(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without the variables of a surrounding job (SLURM_*, SBATCH_*, SRUN_*).

    A job submitted from inside a job inherits them: SLURM_MEM_PER_NODE was seen to reach the child, and SBATCH_*
    overrides the script's own directives. Which cluster is meant (SLURM_CONF, SLURM_CLUSTERS) stays.
    """
    ours = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_")
    return {k: v for k, v in environ.items() if k in _WHICH_CLUSTER or not k.startswith(ours)}


def run(
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """Run one Slurm command and return its stdout.

    A call that finds no controller is repeated after each of ``pauses`` (seconds); pass ``()`` for a command that
    must not run twice.

    Raises:
        SlurmRefused: Slurm answered with an error.
        SlurmUnreachable: the command is absent, or the controller did not answer in time.
    """
    environ = dict(os.environ if env is None else env)
    program = shutil.which(args[0], path=environ.get("PATH"))
    if program is None:
        raise SlurmUnreachable(f"{args[0]}: not found on PATH: this machine has no Slurm client commands")
    environ = {k: v for k, v in environ.items() if not k.startswith(_FORMATTING)} | {"LC_ALL": "C.UTF-8"}
    for pause in (*pauses, None):
        try:
            done = subprocess.run(
                [program, *args[1:]], env=environ, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=timeout,
            )  # fmt: skip
            if done.returncode == 0:
                return done.stdout
            said = one_line(done.stderr or done.stdout) or f"exit code {done.returncode}"
            unreachable = any(sign in said.lower() for sign in _UNREACHABLE)
        except subprocess.TimeoutExpired:
            said, unreachable = f"{args[0]}: no answer within {timeout:g} s", True
        if not unreachable:
            raise SlurmRefused(said if said.startswith(args[0]) else f"{args[0]}: {said}")
        if pause is None:
            break
        time.sleep(pause)
    raise SlurmUnreachable(f"{said} (is slurmctld running? `scontrol ping` tells)")


def one_line(text: str) -> str:
    """The lines of ``text`` joined by "; ", without Slurm's ``error:`` prefixes and without repetitions."""
    lines = [line.strip().replace("error: ", "") for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))
