"""`python -m hpc.doctor`: is this machine, this cluster, this stack fit, and if not, how is it mended?

Asked on a login node, before anything is queued; :mod:`hpc.health.checks` asks the compute nodes. Nothing heavy is
imported: an environment is judged by its packages' metadata.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hpc.batch.profile import Profile
from hpc.doctor import machine, scheduler, site, stack
from hpc.doctor.checklist import Row


def examine(
    profile: Profile,
    *,
    runs: Path,
    pins: Path | None = None,
    wheels: Path | None = None,
    remote_code: bool = False,
    remedies: Mapping[str, str] | None = None,
) -> list[Row]:
    """All checks.

    Args:
        runs: where run directories go.
        pins: a file of configs/stacks; None: the one for the environment's Python.
        wheels: a folder of wheels to be installed.
        remote_code: a model's own modeling code is to be run (``trust_remote_code``).
        remedies: first words of a check → how it is mended, in the words of whoever asks; else the general ones.
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
    here = [*site.check(profile, runs), *machine.check(profile, runs)]
    return rows + [reworded(row, remedies or {}) for row in here]


def reworded(row: Row, remedies: Mapping[str, str]) -> Row:
    """The row with the remedy that goes with the first words of its name."""
    own = next((mend for what, mend in remedies.items() if f"{row.what} ".startswith(f"{what} ")), row.mend)
    return replace(row, mend=own) if row.mend else row
