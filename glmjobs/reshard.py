"""Resume on another number of GPUs: a ZeRO checkpoint becomes DeepSpeed's universal checkpoint, beside the
original.

    python -m glmjobs.reshard RUN/checkpoints/checkpoint-N --world-size M
    python -m glmjobs.heal RUN

The checkpoint is checked as consolidation checks it, then DeepSpeed's ds_to_universal takes it apart by
parameter (it needs torch and DeepSpeed, and unpickles the files: use it on your own checkpoints). The result,
``global_stepN_universal`` and ``latest_universal``, lies beside ``global_stepN``; the train stage takes it up
when its number of ranks is another than the checkpoint's. Where the checkpoint is a run's, the run's shape becomes M
ranks and its gradient accumulation what keeps the rows of a step, so that losses go on as they would have.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from glmjobs.cli import run_command
from glmjobs.errors import BadInput, NotFit, WorkFailed
from glmjobs.zero.checkpoint import open_checkpoint, zero_folder
from glmjobs.zero.crosscheck import cross_check
from glmjobs.zero.publish import publishing
from glmjobs.zero.write import check_space

if TYPE_CHECKING:  # pydantic: only a run needs it
    from glmjobs.run import Run

# float32 weight and Adam's two moments of every element, and once more for the fragments before they are
# merged.
BYTES_PER_ELEMENT = 2 * 12


def reshard(path: Path, world_size: int, workers: int = 2) -> Path:
    """Write the universal form of the checkpoint at ``path``; its folder. Done already: returned at once.

    Raises:
        BadInput: no ZeRO checkpoint there, or ``world_size`` is not a number of ranks.
        NotFit: torch or DeepSpeed is missing, or disk space is.
        WorkFailed: the checkpoint is damaged or mixed, or DeepSpeed's converter stopped.
    """
    if world_size < 1:
        raise BadInput(f"world size {world_size}: a number of ranks, 1 or more")
    checkpoint = open_checkpoint(path)
    if checkpoint.kind != "zero":
        raise BadInput(
            f"{path}: no sharded training state here, only weights; nothing can be resumed from it"
        )
    cross_check(checkpoint)
    folder = zero_folder(path)
    assert folder is not None  # a checkpoint of kind zero has one
    target = folder.with_name(f"{folder.name}_universal")
    if not target.is_dir():
        with publishing(target) as new:
            check_space(new, checkpoint.numel * BYTES_PER_ELEMENT)
            _convert(folder, new, workers)
    (target.parent / "latest_universal").write_text(target.name)
    return target


def _convert(folder: Path, into: Path, workers: int) -> None:
    """DeepSpeed's converter, its prints kept for the error."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing here needs a GPU
    try:
        from deepspeed.checkpoint import ds_to_universal
    except ImportError as error:
        raise NotFit(f"resharding needs torch and DeepSpeed here: {error}") from None
    options = argparse.Namespace(
        input_folder=str(folder), output_folder=str(into), num_extract_workers=workers,
        num_merge_workers=workers, keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            ds_to_universal.main(options)
    except Exception as error:  # the converter raises whatever it meets; one line for the person
        raise WorkFailed(
            f"{folder}: DeepSpeed's converter stopped: {type(error).__name__}: {error}"
        ) from None
    shutil.rmtree(into / "tmp", ignore_errors=True)
    # The converter leaves its own pointer beside its output; the published one is written last.
    (into.parent / "latest_universal").unlink(missing_ok=True)


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


def run_of(checkpoint: Path) -> Run | None:
    """The run whose checkpoint this is; None where it lies elsewhere."""
    path = checkpoint.absolute().parent.parent
    if checkpoint.absolute().parent.name != "checkpoints" or not (path / "run.yaml").is_file():
        return None
    from glmjobs.run import Run

    return Run.open(path)


def check_run(run: Run, world_size: int) -> None:
    """Whether a run can take up its training on so many ranks.

    Raises:
        BadInput: it is running, or done, or the number does not fit its nodes or its batch.
    """
    from glmjobs import state as states

    running = next((s for s in states.read(run).stages if s.state == states.RUNNING), None)
    if running is not None:
        raise BadInput(
            f"{run.path}: {running.stage} is running (job {running.job}); end it first: python -m glmjobs.cancel "
            f"{run.path}"
        )
    if run.done("train"):
        raise BadInput(f"{run.path}: its training is done, there is nothing to resume")
    new_shape(run, world_size)
    accumulation(run.recipe.train.gradient_accumulation, run.shape.world_size, world_size)


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
    from glmjobs.run import rewrite
    from hpc import ledger

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


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    parse = argparse.ArgumentParser(
        prog="python -m glmjobs.reshard", description="Resume a ZeRO checkpoint on another number of GPUs."
    )
    parse.add_argument("checkpoint", type=Path, help="checkpoint-N")
    parse.add_argument("--world-size", type=int, required=True, metavar="M", help="ranks to resume on")
    parse.add_argument("--workers", type=int, default=2, metavar="N", help="processes of the converter")
    args = parse.parse_args(argv)
    run = run_of(args.checkpoint)
    old = open_checkpoint(args.checkpoint).world_size
    if run is not None and args.world_size >= 1:
        check_run(run, args.world_size)
    target = reshard(args.checkpoint, args.world_size, args.workers)
    print(f"{target}: written by {old} ranks, loads on any number")
    if run is not None:
        steps = move_run(run, args.world_size)
        print(f"{run.path}: {args.world_size} ranks from now on, gradient accumulation {steps}")
        print(f"go on with it: python -m glmjobs.heal {run.path}")
    else:
        print(
            "no run's checkpoint: keep per-device batch x accumulation x ranks as it was, and give DeepSpeed "
            '"checkpoint": {"load_universal": true}'
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
