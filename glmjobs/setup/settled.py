"""What is settled so far, as the other commands take it: recipe, cluster profile, shape, and fields that differ."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from glmjobs.recipe import loading
from glmjobs.recipe.schema import Recipe
from glmjobs.run.directory import Shape
from glmjobs.run.jobs import make_shape
from glmjobs.setup.asking import Answers
from hpc.batch import profile as profiles
from hpc.batch.profile import Profile
from hpc.core import config_files

PROFILE = "cluster.yaml"


@dataclass
class Settled:
    """The answers so far, read together.

    Attributes:
        dry: nothing is written.
        draft: the profile's text where it is only drafted (``dry``).
        paths: fields of the recipe for a model and data that lie elsewhere than it says.
        proposal: fields of the recipe as plan proposes them.
    """

    answers: Answers
    dry: bool = False
    draft: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    proposal: tuple[str, ...] = ()

    @property
    def recipe_name(self) -> str:
        """As ``--recipe`` takes it."""
        return str(self.answers.known("recipe"))

    @cached_property
    def profile_path(self) -> Path:
        """The cluster profile, which need not be there yet."""
        named = self.answers.known("cluster") or os.environ.get("GLMJOBS_CLUSTER")
        return loading.find_config(named or PROFILE)

    @property
    def given(self) -> list[str]:
        """A person's ``--set``."""
        return list(self.answers.known("overrides") or [])

    @property
    def overrides(self) -> list[str]:
        """As ``--set`` takes them: a person's, then what was found or proposed."""
        return [*self.given, *(f"{name}={path}" for name, path in self.paths.items()), *self.proposal]

    def recipe(self, *, as_given: bool = False) -> Recipe:
        """The recipe with everything that is settled; ``as_given``: with a person's own settings alone."""
        _, of_recipe = loading.split_overrides(self.given if as_given else self.overrides)
        return loading.load(loading.find_config(self.recipe_name), of_recipe)

    def profile(self) -> Profile:
        """The cluster profile, the shell's SBATCH_* variables included, as submit would take it."""
        of_cluster, _ = loading.split_overrides(self.overrides)
        if self.draft:
            raw = config_files.construct(self.draft, Profile)
            return config_files.validate(Profile, raw, source=str(self.profile_path), overrides=of_cluster)
        found = profiles.load(self.profile_path, of_cluster)
        return profiles.from_shell(found, os.environ)[0]

    def shape(self) -> Shape:
        """Nodes and GPUs on each."""
        return make_shape(int(self.answers.known("nodes")), int(self.answers.known("gpus")), "slurm")

    def words(self, *more: str) -> list[str]:
        """What plan takes, and submit and rehearse."""
        shape = self.shape()
        words = ["--recipe", self.recipe_name, "--cluster", str(self.profile_path)]
        words += ["--nodes", str(shape.nodes), "--gpus", str(shape.gpus)]
        return [*words, *(word for item in self.overrides for word in ("--set", item)), *more]
