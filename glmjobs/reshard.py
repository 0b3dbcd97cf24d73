"""Resume on another number of GPUs: a ZeRO checkpoint becomes DeepSpeed's universal checkpoint, beside the
original.

    python -m glmjobs.reshard RUN/checkpoints/checkpoint-N --world-size M
    python -m glmjobs.heal RUN

The checkpoint is checked and taken apart by :mod:`glmjobs.zero.universal_form`; the train stage takes the result up
when its number of ranks is another than the checkpoint's. Where the checkpoint is a run's, the run's shape becomes M
ranks and its gradient accumulation what keeps the rows of a step, so that losses go on as they would have.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from glmjobs.cli import positive, run_command
from glmjobs.zero import committed
from glmjobs.zero.checkpoint import open_checkpoint
from glmjobs.zero.guarded_files import errors_in_one_line, named
from glmjobs.zero.universal_form import reshard
from hpc.core import hints
from hpc.core.errors import BadInput

if TYPE_CHECKING:  # pydantic: only a run needs it
    from glmjobs.run.directory import Run


def accumulation(before: int, old: int, new: int) -> int:
    """Gradient accumulation on ``new`` ranks that keeps the rows of a step (``before`` on ``old`` ranks).

    Raises:
        BadInput: no whole number does.
    """
    if before * old % new:
        raise BadInput(
            f"world size {new}: {old} ranks x accumulation {before} are {before * old} micro-batches a step, which "
            f"{new} ranks cannot share; take a divisor of {before * old}"
        )
    return before * old // new


def check_no_run(checkpoint: Path, world_size: int) -> None:
    """A run's name or directory is told which of its checkpoints would do.

    Raises:
        BadInput: it is one.
    """
    if checkpoint.exists() and not (checkpoint / "run.yaml").is_file():
        return
    from glmjobs.run.locate import locate

    try:
        run = locate(str(checkpoint)).path
    except BadInput:
        return  # neither: whoever opens it says so
    found = committed.newest(run / "checkpoints")
    if found is None:
        raise BadInput(f"{checkpoint}: a run, and without a checkpoint that could be resharded")
    right = hints.command("glmjobs.reshard", found.path, "--world-size", str(world_size))
    raise BadInput(f"{checkpoint}: a run; name one of its checkpoints, the newest by: {right}")


def run_of(checkpoint: Path) -> Run | None:
    """The run whose checkpoint this is; None where it lies elsewhere."""
    path = checkpoint.absolute().parent.parent
    if checkpoint.absolute().parent.name != "checkpoints" or not (path / "run.yaml").is_file():
        return None
    from glmjobs.run.directory import Run

    return Run.open(path)


def check_run(run: Run, world_size: int) -> None:
    """Whether a run can take up its training on so many ranks.

    Raises:
        BadInput: it is running, or done, or the number does not fit its nodes or its batch.
    """
    from glmjobs.run.read_state import read_state
    from glmjobs.run.state import RUNNING

    running = next((s for s in read_state(run).stages if s.state == RUNNING), None)
    if running is not None:
        raise BadInput(
            f"{run.path}: {running.stage} is running (job {running.job}); end it first: "
            + hints.command("glmjobs.cancel", run.path)
        )
    if run.done("train"):
        longer = hints.command("glmjobs.heal", run.path, "--set", "train.max_steps=N")
        raise BadInput(
            f"{run.path}: its training is done, there is nothing to resume; to have it go on, make it "
            f"longer ({longer}), end that ({hints.command('glmjobs.cancel', run.path)}), and reshard then"
        )
    new_shape(run, world_size)
    accumulation(run.recipe.train.gradient_accumulation, run.shape.world_size, world_size)


def check_newest(run: Run, checkpoint: Path, world_size: int) -> None:
    """That training goes on from this checkpoint, and not from a newer one that its new ranks could not load.

    Raises:
        BadInput: there is a newer one.
    """
    found = committed.newest(run.checkpoints)
    if found is not None and found.path.resolve() != checkpoint.resolve():
        right = hints.command("glmjobs.reshard", found.path, "--world-size", str(world_size))
        raise BadInput(f"{checkpoint}: training goes on from a newer one, {found.path.name}; reshard that: {right}")


def new_shape(run: Run, world_size: int) -> tuple[int, int]:
    """(nodes, GPUs a node) of so many ranks: full nodes as before, or one node with fewer GPUs.

    Raises:
        BadInput: it is neither.
    """
    gpus = run.shape.gpus
    if run.shape.nodes == 1 and world_size <= 64:
        return 1, world_size
    if world_size % gpus == 0:
        return world_size // gpus, gpus
    if world_size < gpus:
        return 1, world_size
    raise BadInput(
        f"world size {world_size}: the run has {gpus} GPUs a node; take a multiple of {gpus}, or fewer"
    )


def move_run(run: Run, world_size: int) -> int:
    """Give a run so many ranks, on record and in its ``run.yaml``; its new gradient accumulation."""
    from glmjobs.run.directory import rewrite
    from hpc.chain import ledger

    old, train = run.shape, run.recipe.train
    steps = accumulation(train.gradient_accumulation, old.world_size, world_size)
    nodes, gpus = new_shape(run, world_size)
    if (nodes, gpus) == (old.nodes, old.gpus):
        return steps
    recipe = run.recipe.model_copy(
        update={"train": train.model_copy(update={"gradient_accumulation": steps})}
    )
    ledger.append(
        run.path, "changed", set=[f"--world-size {world_size}"],
        differences={
            "shape.nodes": [old.nodes, nodes], "shape.gpus": [old.gpus, gpus],
            "train.gradient_accumulation": [train.gradient_accumulation, steps],
        },
    )  # fmt: skip
    shape = old.model_copy(update={"nodes": nodes, "gpus": gpus})
    rewrite(run, recipe, run.cluster, shape)
    return steps


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.reshard",
        description="Resume a ZeRO checkpoint on another number of GPUs. Takes 12 bytes of disk a trained parameter "
        "and a copy of the model states beside the checkpoint, which is looked at before anything is written; of "
        "memory, a few dozen megabytes, however large the model.",
    )
    p.add_argument("checkpoint", help="checkpoint-N")
    p.add_argument("--world-size", type=int, required=True, metavar="M", help="ranks to resume on")
    p.add_argument("--workers", type=positive, default=2, metavar="N", help="threads (2)")
    return p


@errors_in_one_line()
def main(argv: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    args = parser().parse_args(argv)
    args.checkpoint = named(args.checkpoint)
    check_no_run(args.checkpoint, args.world_size)
    run = run_of(args.checkpoint)
    old = open_checkpoint(args.checkpoint).world_size
    if run is not None and args.world_size >= 1:
        check_run(run, args.world_size)
        check_newest(run, args.checkpoint, args.world_size)
    target = reshard(args.checkpoint, args.world_size, args.workers)
    print(f"{target}: written by {old} ranks, loads on any number")
    if run is not None:
        steps = move_run(run, args.world_size)
        print(f"{run.path}: {args.world_size} ranks from now on, gradient accumulation {steps}")
        print(f"go on with it: {hints.command('glmjobs.heal', run.path)}")
    else:
        print(
            "no run's checkpoint: keep per-device batch x accumulation x ranks as it was, and give DeepSpeed "
            '"checkpoint": {"load_universal": true}'
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
