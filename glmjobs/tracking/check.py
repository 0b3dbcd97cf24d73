"""Can the jobs send to the trackers that the recipe names? Asked before anything is queued, without importing one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from glmjobs.recipe.schema import Recipe
from glmjobs.tracking.targets import PACKAGES, lacking, target
from hpc.batch.environment import python_prefix
from hpc.batch.profile import Profile
from hpc.core.errors import BadInput
from hpc.doctor.stack import look


def check(recipe: Recipe, profile: Profile, environ: Mapping[str, str]) -> None:
    """Each tracker's package is where the jobs run, and its key is known here.

    A container is not looked into: there, sending fails while it trains, which status says.

    Raises:
        BadInput: one of them is not.
    """
    if not recipe.track:
        return
    installed = None if profile.environment.container else look(profile.environment).versions
    for tracker in recipe.track:
        if installed is not None and not any(name in installed for name in PACKAGES[tracker]):
            prefix = python_prefix(profile.environment)
            raise BadInput(
                f"track: {tracker} is not installed in {prefix}, where the jobs run: "
                f"{prefix / Path('bin/python')} -m pip install {PACKAGES[tracker][0]}"
            )
        where = target(tracker, {**environ, **profile.environment.variables})
        if where.missing:
            raise BadInput(f"track: {where.missing}")
        if installed is not None and where.needs and where.needs not in installed:
            raise BadInput(f"track: {lacking(where, python_prefix(profile.environment) / 'bin/python')}")
