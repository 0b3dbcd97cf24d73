"""The jobs of a run: four of them, from a recipe and a shape.

preflight runs inside the train job, on the very nodes that train: a separate job could get other nodes.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

from glmjobs.recipe.schema import Limits, Recipe
from glmjobs.run.directory import Run, Shape
from glmjobs.run.kept_code import directory, kept
from glmjobs.run.state import STAGES
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.core.errors import BadInput
from hpc.core.resources import checkout
from hpc.health.gpus import query_gpus

CHAIN = ("train", "consolidate", "score", "report")
"""The jobs, in order; each waits for the one before."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Exported to every job: compute nodes have no network, and ranks fork no threads for tokenisers."""


def make_chain(
    run: Path, key: str, recipe: Recipe, profile: Profile, shape: Shape, stages: tuple[str, ...] = CHAIN,
    *, local: bool = False, code: Path | None = None,
) -> Chain:  # fmt: skip
    """The chain of a run. Touches nothing. ``code``: where its jobs find their code; None: in the checkout, if any."""
    gpus = len(query_gpus()) if local else 0
    return Chain(
        run=run, key=key, jobs=tuple(requests(recipe, shape, stages, local=local, local_gpus=gpus)),
        profile=profile, project=code or checkout(), variables=OFFLINE, local=local, name="glmjobs",
        made_by="glmjobs.submit", repair_command="python -m glmjobs.heal",
    )  # fmt: skip


def chain_of(run: Run, stages: tuple[str, ...] = CHAIN, *, local: bool = False) -> Chain:
    """The chain of a run that is there."""
    copy = kept(run.path)
    chain = make_chain(
        run.path, run.file.key, run.recipe, run.cluster, run.shape, stages, local=local, code=directory(copy)
    )
    return replace(chain, code=copy.name) if copy else chain


def requests(
    recipe: Recipe, shape: Shape, stages: tuple[str, ...] = CHAIN, *, local: bool = False, local_gpus: int = 0
) -> list[Job]:
    """What each job asks for.

    Args:
        stages: which jobs, a subset of :data:`CHAIN`.
        local: on this machine, where scoring is spread by the local launch instead of a Slurm array.
        local_gpus: GPUs of this machine: what is held is counted, not what is asked for.
    """
    gpus = min(local_gpus, shape.gpus) if local else shape.gpus
    made = {
        "train": lambda: _train(recipe, shape, gpus, local=local),
        "consolidate": lambda: _single(recipe, "consolidate", recipe.jobs.consolidate),
        "score": lambda: _score(recipe, shape, local=local),
        "report": lambda: _single(recipe, "report", recipe.jobs.report),
    }
    return [made[stage]() for stage in CHAIN if stage in stages]


def _train(recipe: Recipe, shape: Shape, gpus: int, *, local: bool) -> Job:
    return Job(
        stage="train",
        name=f"{recipe.name}-train",
        lane=recipe.jobs.lane,
        settings="jobs.train",
        nodes=shape.nodes,
        tasks_per_node=shape.gpus,
        gpus_per_node=gpus,
        cpus_per_task=recipe.jobs.train.cpus_per_task,
        time=recipe.jobs.train.time,
        memory=recipe.jobs.train.memory,
        signal_seconds=recipe.jobs.signal_seconds,
        attempts=1 if local else recipe.jobs.train.attempts,
        attempt_limit=recipe.jobs.max_attempts_without_progress,
        advice="give the job more time (jobs.train.time), or save more often (train.save_steps)",
        own_markers=True,
        steps=(
            Step(
                stage="preflight",
                command=("python", "-m", "glmjobs.preflight", "$RUN"),
                tasks_per_node=1,
                kill_on_bad_exit=False,
            ),  # node 0 says which node is bad: it outlives those that cannot even start
            Step(stage="train", command=("python", "-m", "glmjobs.train", "$RUN"), tasks_per_node=shape.gpus),
        ),
    )


def _score(recipe: Recipe, shape: Shape, *, local: bool) -> Job:
    shards = shape.world_size if recipe.score.shards == "auto" else recipe.score.shards
    return Job(
        stage="score",
        name=f"{recipe.name}-score",
        settings="jobs.score",
        gpus_per_node=0 if local else 1,
        cpus_per_task=recipe.jobs.score.cpus_per_task,
        time=recipe.jobs.score.time,
        memory=recipe.jobs.score.memory,
        array=None if local else shards,
        signal_seconds=min(60, recipe.jobs.signal_seconds),
        attempt_limit=recipe.jobs.max_attempts_without_progress,
        own_markers=True,
        after=("consolidate",),
        steps=(
            Step(
                stage="score",
                command=("python", "-m", "glmjobs.score", "$RUN"),
                tasks_per_node=shards if local else 0,
            ),
        ),
    )


def _single(recipe: Recipe, stage: str, limits: Limits) -> Job:
    return Job(
        stage=stage,
        name=f"{recipe.name}-{stage}",
        settings=f"jobs.{stage}",
        cpus_per_task=limits.cpus_per_task,
        time=limits.time,
        memory=limits.memory,
        attempt_limit=recipe.jobs.max_attempts_without_progress,
        own_markers=True,
        after=(CHAIN[CHAIN.index(stage) - 1],),
        steps=(Step(stage=stage, command=("python", "-m", f"glmjobs.{stage}", "$RUN")),),
    )


def parse_stages(text: str | None) -> tuple[str, ...]:
    """``--stages a,b`` as jobs of the chain.

    Raises:
        BadInput: an unknown stage.
    """
    if text is None:
        return CHAIN
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in STAGES:
            raise BadInput(f"--stages {text}: {word!r} is not a stage; stages: {', '.join(STAGES)}")
    chosen = {"train" if word == "preflight" else word for word in wanted}
    if not chosen:
        raise BadInput(f"--stages {text!r}: name at least one of {', '.join(STAGES)}")
    return tuple(stage for stage in CHAIN if stage in chosen)


def make_shape(nodes: int, gpus: int, executor: str) -> Shape:
    """The shape, checked."""
    if nodes < 1 or nodes > 4096:
        raise BadInput(f"--nodes {nodes}: between 1 and 4096")
    if gpus < 1 or gpus > 64:
        raise BadInput(f"--gpus {gpus}: GPUs per node, between 1 and 64")
    if executor == "local" and nodes != 1:
        raise BadInput(f"--nodes {nodes}: the local executor has one node; use --executor slurm on a cluster")
    return Shape(nodes=nodes, gpus=gpus)


def check_name(name: str) -> str:
    """A run's name: one path component without surprises.

    Raises:
        BadInput: another.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise BadInput(
            f"--name {name!r}: letters, digits, '.', '_' and '-', beginning with a letter or digit, 100 at most"
        )
    return name


def asked(args: argparse.Namespace, executor: str) -> tuple[Shape, tuple[str, ...]]:
    """The shape and the stages that submit's words ask for; what is wrong with the words alone is said.

    Raises:
        BadInput: it is.
    """
    shape, stages = make_shape(args.nodes, args.gpus, executor), parse_stages(args.stages)
    if args.rehearse and stages != CHAIN:
        raise BadInput(f"--stages {args.stages}: a rehearsal goes through all of them")
    if args.layers is not None and not args.rehearse:
        raise BadInput("--layers: of a rehearsal; a training takes the whole model (--rehearse)")
    if "train" not in stages:
        raise BadInput(
            f"--stages {args.stages}: a new run has nothing for it to start from; begin with train"
        )
    if args.name is not None:
        check_name(args.name)
    return shape, stages
