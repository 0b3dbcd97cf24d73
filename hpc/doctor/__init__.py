"""`python -m hpc.doctor`: is this machine, this cluster, this stack fit, and if not, how is it mended?

Asked on a login node, before anything is queued; :mod:`hpc.health.checks` asks the compute nodes. Nothing heavy is
imported: an environment is judged by its packages' metadata.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hpc.batch.profile import ClusterProfile
from hpc.doctor import machine, scheduler, site, stack
from hpc.doctor.checklist import Row


def examine(
    profile: ClusterProfile,
    *,
    runs: Path,
    pins: Path | None = None,
    wheels: Path | None = None,
    remote_code: bool = False,
) -> list[Row]:
    """All checks.

    Args:
        runs: where run directories go.
        pins: a file of configs/stacks; None: the one for the environment's Python.
        wheels: a folder of wheels to be installed.
        remote_code: THUDM's own modeling code is to be run (``trust_remote_code``).
    """
    environment = stack.look(profile.environment)
    rows = stack.check(environment, profile, pins=pins, remote_code=remote_code)
    if wheels is not None:
        rows += stack.check_wheels(wheels, environment, profile)
    if shutil.which("sbatch"):
        rows += scheduler.check(profile)
    else:
        rows.append(
            Row(
                "Slurm",
                "sbatch",
                "warn",
                "not on PATH",
                "Slurm's commands",
                "a login node has them; here runs go --executor local",
            )
        )
    return rows + site.check(profile, runs) + machine.check(profile, runs)
