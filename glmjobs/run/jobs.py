"""The jobs of a run: four of them, from a recipe and a shape.

preflight runs inside the train job, on the very nodes that train: a separate job could get other nodes.
"""

from __future__ import annotations

from glmjobs.recipe.schema import Limits, Recipe
from glmjobs.run.directory import STAGES, Shape
from hpc.batch.script import JobRequest, Step
from hpc.core.errors import BadInput

CHAIN = ("train", "consolidate", "score", "report")
"""The jobs, in order; each waits for the one before."""


def requests(
    recipe: Recipe, shape: Shape, stages: tuple[str, ...] = CHAIN, *, local: bool = False, local_gpus: int = 0
) -> list[JobRequest]:
    """What each job asks for.

    Args:
        stages: which jobs, a subset of :data:`CHAIN`.
        local: on this machine, where scoring is spread by the local launch instead of a Slurm array.
        local_gpus: GPUs of this machine: what is held is counted, not what is asked for.
    """
    gpus = min(local_gpus, shape.gpus) if local else shape.gpus
    made = {
        "train": lambda: _train(recipe, shape, gpus),
        "consolidate": lambda: _single(recipe, "consolidate", recipe.jobs.consolidate),
        "score": lambda: _score(recipe, shape, local=local),
        "report": lambda: _single(recipe, "report", recipe.jobs.report),
    }
    return [made[stage]() for stage in CHAIN if stage in stages]


def _train(recipe: Recipe, shape: Shape, gpus: int) -> JobRequest:
    return JobRequest(
        stage="train",
        name=f"{recipe.name}-train",
        nodes=shape.nodes,
        tasks_per_node=shape.gpus,
        gpus_per_node=gpus,
        cpus_per_task=recipe.jobs.train.cpus_per_task,
        time=recipe.jobs.train.time,
        memory=recipe.jobs.train.memory,
        signal_seconds=recipe.jobs.signal_seconds,
        attempt_limit=recipe.jobs.max_attempts_without_progress,
        steps=(
            Step(stage="preflight", command=("python", "-m", "glmjobs.preflight", "$RUN"), tasks_per_node=1),
            Step(stage="train", command=("python", "-m", "glmjobs.train", "$RUN"), tasks_per_node=shape.gpus),
        ),
    )


def _score(recipe: Recipe, shape: Shape, *, local: bool) -> JobRequest:
    shards = shape.world_size if recipe.score.shards == "auto" else recipe.score.shards
    return JobRequest(
        stage="score",
        name=f"{recipe.name}-score",
        gpus_per_node=0 if local else 1,
        cpus_per_task=recipe.jobs.score.cpus_per_task,
        time=recipe.jobs.score.time,
        memory=recipe.jobs.score.memory,
        array=None if local else shards,
        signal_seconds=min(60, recipe.jobs.signal_seconds),
        attempt_limit=recipe.jobs.max_attempts_without_progress,
        after=("consolidate",),
        steps=(
            Step(
                stage="score",
                command=("python", "-m", "glmjobs.score", "$RUN"),
                tasks_per_node=shards if local else 0,
            ),
        ),
    )


def _single(recipe: Recipe, stage: str, limits: Limits) -> JobRequest:
    return JobRequest(
        stage=stage,
        name=f"{recipe.name}-{stage}",
        cpus_per_task=limits.cpus_per_task,
        time=limits.time,
        memory=limits.memory,
        attempt_limit=recipe.jobs.max_attempts_without_progress,
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
