"""Resume on another number of GPUs: a ZeRO checkpoint becomes DeepSpeed's universal checkpoint, beside the
original.

    python -m glmjobs.reshard RUN/checkpoints/checkpoint-N --world-size M
    python -m glmjobs.heal RUN

The checkpoint is checked as consolidation checks it, then DeepSpeed's ds_to_universal takes it apart by
parameter. That needs torch and DeepSpeed, and unpickles the files: it is given those that were checked and no
others, and only where their pickles, as torch finds them, are the ones that were checked and call nothing but
what rebuilds tensors, plain objects and enumerations. The result,
``global_stepN_universal`` and ``latest_universal``, lies beside ``global_stepN``; the train stage takes it up
when its number of ranks is another than the checkpoint's. Where the checkpoint is a run's, the run's shape becomes M
ranks and its gradient accumulation what keeps the rows of a step, so that losses go on as they would have.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import hashlib
import importlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from glmjobs.cli import run_command
from glmjobs.zero.checkpoint import COMMITTED, check_committed, open_checkpoint, zero_folder
from glmjobs.zero.cross_check import cross_check
from glmjobs.zero.guarded_files import errors_in_one_line, named, open_regular
from glmjobs.zero.publish import publishing
from glmjobs.zero.torch_file import INERT_PACKAGES, TorchFile
from glmjobs.zero.write import check_space
from hpc.core.errors import BadInput, NotFit, WorkFailed
from hpc.core.process import die_with_parent

if TYPE_CHECKING:  # pydantic: only a run needs it
    from glmjobs.run.directory import Run

# float32 weight and Adam's two moments of every element, and once more for the fragments before they are
# merged.
BYTES_PER_ELEMENT = 2 * 12
MOST_RANKS = 1 << 16


@errors_in_one_line()
def reshard(path: Path, world_size: int, workers: int = 2) -> Path:
    """Write the universal form of the checkpoint at ``path``; its folder. Done already: returned at once.

    Raises:
        BadInput: no ZeRO checkpoint there, or ``world_size`` or ``workers`` is no sensible number.
        NotFit: torch or DeepSpeed is missing, or disk space is.
        WorkFailed: the checkpoint is damaged, mixed or not only data, DeepSpeed's converter stopped, or there is
            a universal form that is not whole.
    """
    if not 1 <= world_size <= MOST_RANKS:
        raise BadInput(f"world size {world_size}: a number of ranks, 1 to {MOST_RANKS}")
    if not 1 <= workers <= 64:
        raise BadInput(f"workers {workers}: 1 to 64")
    checkpoint = open_checkpoint(path)
    if checkpoint.kind != "zero":
        raise BadInput(
            f"{path}: no sharded training state here, only weights; nothing can be resumed from it"
        )
    cross_check(checkpoint)
    _check_parameter_names([*checkpoint.tensors, *checkpoint.aliases], path)
    folder = zero_folder(path)
    assert folder is not None  # a checkpoint of kind zero has one
    target = folder.with_name(f"{folder.name}_universal")
    pointer = target.with_name("latest_universal")
    if pointer.is_dir():
        raise WorkFailed(f"{pointer}: a directory, where a file should name the universal form; remove it")
    if os.path.lexists(target):
        _check_whole(target)
    else:
        with publishing(target) as new:
            check_space(new, checkpoint.numel * BYTES_PER_ELEMENT, target.parent)
            given = new.parent / folder.name
            given.mkdir()
            for file in checkpoint.files:
                (given / file.name).symlink_to(file.resolve())
            _convert(folder, given, new, workers)
            _commit(new)
    aside = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    aside.write_text(target.name)
    aside.replace(pointer)
    return target


def _check_parameter_names(names: Iterable[str], where: Path) -> None:
    """That no parameter's name leads out of the universal form: DeepSpeed makes a folder of each."""
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise WorkFailed(f"{where}: a parameter named {name[:80]!r}, which is no folder's name")


def _commit(folder: Path) -> None:
    """List the files of a universal form with their sizes, as a checkpoint's are, and force them to disk."""
    entries = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        entries.append({"path": str(file.relative_to(folder)), "bytes": file.stat().st_size})
        with open_regular(file) as opened:
            os.fsync(opened.fileno())
    (folder / COMMITTED).write_text(json.dumps({"files": entries}, indent=1) + "\n", encoding="utf-8")


def _check_whole(target: Path) -> None:
    """That the universal form which is there already was finished by this command, and nothing is gone since."""
    again = "remove it and run this again"
    if target.is_symlink() or not (target / COMMITTED).is_file():
        raise WorkFailed(f"{target}: not a whole universal form of this command (no {COMMITTED}); {again}")
    try:
        check_committed(target)
    except WorkFailed as error:
        raise WorkFailed(f"{error}; {target.name} is not whole: {again}") from None


def _convert(source: Path, folder: Path, into: Path, workers: int) -> None:
    """DeepSpeed's converter on a folder of links to the files of ``source``, its prints kept for the error."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing here needs a GPU
    try:
        from deepspeed.checkpoint import ds_to_universal
    except ImportError as error:
        raise NotFit(f"resharding needs torch and DeepSpeed here: {error}") from None
    for file in sorted(folder.iterdir()):
        _check_unpickling(TorchFile(file.resolve()))
    options = argparse.Namespace(
        input_folder=str(folder), output_folder=str(into), num_extract_workers=workers,
        num_merge_workers=workers, keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), children_end_with_this():
            ds_to_universal.main(options)
    except Exception as error:  # the converter raises whatever it meets; one line for the person
        raise WorkFailed(
            f"{source}: DeepSpeed's converter stopped: {type(error).__name__}: {error}"
        ) from None
    shutil.rmtree(into / "tmp", ignore_errors=True)


def _check_unpickling(file: TorchFile) -> None:
    """That torch's own unpickling of a checked file runs nothing that the check did not see.

    Raises:
        WorkFailed: torch finds another pickle in it, or the pickle calls something of a package it names.
    """
    import torch

    try:
        program = bytes(torch._C.PyTorchFileReader(str(file.path)).get_record("data.pkl"))
    except RuntimeError as error:
        raise WorkFailed(f"{file.path}: torch cannot read it: {str(error).splitlines()[0]}") from None
    if hashlib.sha256(program).digest() != file.pickle_sha256:
        raise WorkFailed(f"{file.path}: two contents in one file; refused")
    state = file.value.get("optimizer_state_dict")
    for group in (state.get("param_slice_mappings") or []) if isinstance(state, dict) else []:
        _check_parameter_names(map(str, group), file.path)
    for name, called in file.names.items():
        if not name.startswith(INERT_PACKAGES):
            continue
        module, _, attribute = name.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever the package's module raises
            raise WorkFailed(f"{file.path}: its pickle names {name}, which is not here: {error}") from None
        plain = isinstance(kind, type) and kind.__module__.startswith(INERT_PACKAGES)
        if not plain or (called and not issubclass(kind, enum.Enum)):
            raise WorkFailed(f"{file.path}: refused, its pickle calls {name}, which is no data")


class _Children:
    """Whether processes forked from here are killed when this one is, and who forks at the moment."""

    bound = False
    watched = False
    parent = 0

    @classmethod
    def before(cls) -> None:
        cls.parent = os.getpid()

    @classmethod
    def after(cls) -> None:
        if cls.bound:
            die_with_parent()
            if os.getppid() != cls.parent:  # killed in between
                os._exit(1)


@contextlib.contextmanager
def children_end_with_this() -> Iterator[None]:
    """Processes forked meanwhile are killed when this one is: else they wait forever, and keep its locks."""
    if not _Children.watched:
        os.register_at_fork(before=_Children.before, after_in_child=_Children.after)
    _Children.watched = _Children.bound = True
    try:
        yield
    finally:
        _Children.bound = False


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
        prog="python -m glmjobs.reshard", description="Resume a ZeRO checkpoint on another number of GPUs."
    )
    p.add_argument("checkpoint", help="checkpoint-N")
    p.add_argument("--world-size", type=int, required=True, metavar="M", help="ranks to resume on")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="processes of the converter")
    return p


@errors_in_one_line()
def main(argv: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    args = parser().parse_args(argv)
    args.checkpoint = named(args.checkpoint)
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
