"""A run: one directory under ``runs/``, made by submit, filled by the stages, readable by people.

``run.yaml`` holds the resolved recipe, cluster profile and shape (nodes, GPUs a node); every stage reads it and
nothing else. See DESIGN for the directory's layout; the paths are properties here so that no stage spells one twice.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from glmjobs.recipe.schema import Recipe, Section
from glmjobs.run import sharing
from glmjobs.run.locate import locate
from glmjobs.text import visible
from glmjobs.zero.directories import is_adapter
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import config_files, hints, timestamps
from hpc.core.errors import BadInput
from hpc.core.files import write_atomic
from hpc.runtime.failures import record_failure
from hpc.runtime.stop import StopRequested


class Shape(Section):
    """How much of the cluster: nodes, and GPUs (ranks) on each."""

    nodes: int = Field(default=1, ge=1, le=4096)
    gpus: int = Field(default=8, ge=1, le=64, description="per node")

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.gpus


class RunFile(Section):
    """What ``run.yaml`` holds."""

    name: str
    key: str = Field(description="unique; travels in every job's comment, so that a job can be found again")
    created: str
    recipe: Recipe
    cluster: Profile
    shape: Shape


@dataclass(frozen=True)
class Run:
    """A run directory and what its ``run.yaml`` says."""

    path: Path
    file: RunFile

    @classmethod
    def create(cls, path: Path, recipe: Recipe, cluster: Profile, shape: Shape) -> Run:
        """Make the directory (mode 0700, or as ``jobs.share`` says) and its ``run.yaml``.

        The directory itself is the lock: of two who create the same name at once, one fails.

        Raises:
            BadInput: the directory exists already, or cannot be made.
        """
        path = path.absolute()
        if any("\ud800" <= c <= "\udfff" for c in str(path)):
            raise BadInput(
                f"{visible(str(path))}: this path is no UTF-8 text, which jobs could not be told; take another"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        except FileExistsError:
            raise name_taken(path) from None
        except OSError as error:
            raise BadInput(f"{path}: cannot make the run directory: {error.strerror}") from None
        file = RunFile(
            name=path.name,
            key=uuid.uuid4().hex[:16],
            created=timestamps.now(),
            recipe=recipe,
            cluster=cluster,
            shape=shape,
        )
        run = cls(path, file)
        try:
            sharing.write_for(recipe.jobs.share)
            sharing.apply(path, recipe.jobs.share)
            write_atomic(path / "run.yaml", run_yaml(file))
        except (OSError, BadInput):  # a full disk: no run that is none, in the way of its own name
            shutil.rmtree(path, ignore_errors=True)
            raise
        return run

    @classmethod
    def open(cls, where: str | Path) -> Run:
        """A run by path, or by its name under ``runs/`` of the current directory.

        Raises:
            BadInput: no such run, or its run.yaml is not one.
        """
        path = locate(str(where)).path
        file = config_files.load(RunFile, path / "run.yaml", "run")
        sharing.write_for(file.recipe.jobs.share)
        return cls(path, file)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def recipe(self) -> Recipe:
        """What to train and how."""
        return self.file.recipe

    @property
    def cluster(self) -> Profile:
        """Where."""
        return self.file.cluster

    @property
    def shape(self) -> Shape:
        """Nodes and GPUs a node."""
        return self.file.shape

    @property
    def base_model(self) -> Path:
        """The base model's directory: the recipe's; or ``base/`` of the run, where it makes a small one or names an
        adapter, which is merged into its own base there."""
        given, own = self.recipe.model.path, self.path / "base"
        return own if given is None or own.is_dir() or is_adapter(Path(given)) else Path(given)

    @property
    def data(self) -> Path:
        """Prepared and tokenised data."""
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        """The trainer's output: ``checkpoint-N`` directories, logs, results."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The consolidated model directory."""
        return self.path / "model"

    @property
    def scores(self) -> Path:
        """``base/`` and ``finetuned/`` predictions and summaries."""
        return self.path / "scores"

    @property
    def report(self) -> Path:
        """report.html, report.md, report.json."""
        return self.path / "report"

    @property
    def save_request(self) -> Path:
        """A file by which a person asks the training that runs for a checkpoint."""
        return self.path / "save"

    def jobs(self, stage: str) -> Path:
        """Where a stage's script and logs are."""
        return self.path / "jobs" / stage

    @contextlib.contextmanager
    def recording(self, stage: str, rank: int = 0) -> Iterator[None]:
        """What fails within is on record as the stage's failure on this rank: status then says it."""
        try:
            yield
        except StopRequested:
            raise
        except BaseException as error:
            record_failure(self.jobs(stage), rank, error)
            raise

    def done(self, stage: str) -> bool:
        """True once the stage's marker says so."""
        return ledger.is_done(self.path, stage)

    def mark(
        self,
        stage: str,
        *,
        started: str,
        outputs: Iterable[Path] = (),
        figures: dict[str, Any] | None = None,
        outcome: str = "done",
    ) -> None:
        """Write the stage's marker; the last thing a stage does.

        ``started`` comes from :func:`hpc.core.timestamps.now`.
        """
        if self.recipe.jobs.share != sharing.PRIVATE:
            sharing.apply(self.path, self.recipe.jobs.share)
        ledger.write_marker(
            self.path, stage, outcome=outcome, started=started, outputs=outputs, figures=figures
        )


def rewrite(run: Run, recipe: Recipe, cluster: Profile, shape: Shape | None = None) -> Run:
    """The run with another recipe, profile and (where given) shape, its ``run.yaml`` replaced atomically."""
    file = run.file.model_copy(update={"recipe": recipe, "cluster": cluster, "shape": shape or run.shape})
    sharing.write_for(recipe.jobs.share)
    write_atomic(run.path / "run.yaml", run_yaml(file))
    if recipe.jobs.share != run.recipe.jobs.share:
        sharing.apply(run.path, recipe.jobs.share)
    return Run(run.path, file)


def run_yaml(file: RunFile) -> str:
    """The text of a ``run.yaml``."""
    raw = file.model_dump(mode="json")
    dumper = getattr(
        yaml, "CSafeDumper", yaml.SafeDumper
    )  # libyaml's, where PyYAML was built with it: ten times faster
    return str(yaml.dump(raw, Dumper=dumper, allow_unicode=True, sort_keys=False, width=110))


def name_taken(path: Path) -> BadInput:
    """What is said of a run directory that is there already."""
    return BadInput(
        f"{path}: there is a run of this name already; take another --name, or go on with it: "
        + hints.command("glmjobs.heal", path)
    )


def free_name(stem: str, parent: Path) -> str:
    """A run name not yet taken under ``parent``: ``stem-1``, ``stem-2`` and so on."""
    taken = [
        int(m.group(1))
        for p in parent.glob(f"{stem}-*")
        if (m := re.fullmatch(re.escape(stem) + r"-(\d+)", p.name))
    ]
    return f"{stem}-{max(taken, default=0) + 1}"
