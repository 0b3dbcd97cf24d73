"""How recipe and cluster profile are found, overridden (``--set a.b=c``) and read (:mod:`hpc.core.config_files`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmjobs.recipe.schema import Recipe
from hpc.batch import profile as profiles
from hpc.batch.profile import Profile
from hpc.core import config_files
from hpc.core.errors import BadInput
from hpc.core.resources import resource

DEFAULT_RECIPE = "configs/chatglm6b.yaml"


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``a.b=c`` overrides (values are YAML).

    Raises:
        BadInput: one line naming the file, the field, and the nearest valid field or the value expected.
    """
    return config_files.load(Recipe, Path(path), "recipe", overrides)


def parse(raw: dict[str, Any], source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Validate a mapping as a recipe. ``source`` is only named in errors."""
    return config_files.validate(Recipe, raw, source=source, overrides=overrides)


def load_both(
    recipe: str, cluster: str | None, overrides: list[str], executor: str
) -> tuple[Recipe, Profile]:
    """Recipe and profile, with overrides applied to whichever they name."""
    of_cluster, of_recipe = split_overrides(overrides)
    named, profile = find_config(recipe), profile_file(cluster, executor)
    _refuse_mixed_up(named, "recipe", ("environment", "gpu_type"), "cluster profile", "--cluster")
    _refuse_mixed_up(profile, "cluster profile", ("model", "data"), "recipe", "--recipe")
    return load(named, of_recipe), profiles.load(profile, of_cluster)


def _refuse_mixed_up(path: Path, what: str, others: tuple[str, ...], other: str, option: str) -> None:
    """Raise BadInput where a file that should be ``what`` has sections that only the ``other`` has."""
    if path.is_file() and not set(others).isdisjoint(config_files.read_yaml(path, what)):
        raise BadInput(f"{path}: a {other}, not a {what}: name it with {option}")


def profile_file(cluster: str | None, executor: str) -> Path:
    """The cluster profile that is named, else ``$GLMJOBS_CLUSTER``'s, else the default one."""
    fallback = (
        "configs/clusters/generic.yaml" if executor == "local" else "configs/clusters/centos7-a100.yaml"
    )
    return find_config(cluster or os.environ.get("GLMJOBS_CLUSTER") or fallback)


def override(recipe: Recipe, profile: Profile, overrides: Sequence[str]) -> tuple[Recipe, Profile]:
    """A run's recipe and profile with some fields changed, checked as a whole again."""
    of_cluster, of_recipe = split_overrides(overrides)
    changed = parse(recipe.model_dump(mode="json"), source="the run's recipe", overrides=of_recipe)
    raw = profile.model_dump(mode="json")
    return changed, config_files.validate(
        Profile, raw, source="the run's cluster profile", overrides=of_cluster
    )


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of the cluster profile (``cluster.field=value``, without the first word), and those of the recipe."""
    of_cluster = [item.removeprefix("cluster.") for item in overrides if item.startswith("cluster.")]
    return of_cluster, [item for item in overrides if not item.startswith("cluster.")]


def find_config(text: str) -> Path:
    """A configuration file as given, or the project's own of that name (so that commands work from any directory)."""
    path = Path(text)
    if path.exists() or path.is_absolute():
        return path
    own = resource(text, "glmjobs", "hpc")
    return own if own.exists() else path
