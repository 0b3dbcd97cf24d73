"""Resume on another number of GPUs: a ZeRO checkpoint becomes DeepSpeed's universal checkpoint, beside the
original.

    python -m glmjobs.reshard CHECKPOINT --world-size M

The checkpoint is checked as consolidation checks it, then DeepSpeed's ds_to_universal takes it apart by
parameter (it needs torch and DeepSpeed, and unpickles the files: use it on your own checkpoints). The result,
    ``global_stepN_universal`` and
``latest_universal``, lies beside ``global_stepN``; DeepSpeed loads it where its configuration says
``{"checkpoint": {"load_universal": true}}``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import shutil
from pathlib import Path

from glmjobs.cli import run_command
from glmjobs.errors import BadInput, NotFit, WorkFailed
from glmjobs.zero.checkpoint import open_checkpoint, zero_folder
from glmjobs.zero.crosscheck import cross_check
from glmjobs.zero.publish import publishing
from glmjobs.zero.write import check_space

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


def batch_advice(world_size: int, old: int | None) -> str:
    """How to keep the global batch, and with it the losses, on the new number of ranks."""
    if not old or old == world_size:
        return "the same number of ranks: nothing else changes"
    factor = old / world_size
    whole = math.isclose(factor, round(factor)) and factor >= 1
    return (
        f"multiply gradient accumulation by {round(factor)} to keep the global batch"
        if whole
        else f"keep per-device batch x accumulation x ranks as it was ({old} ranks before)"
    )


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    parse = argparse.ArgumentParser(
        prog="python -m glmjobs.reshard", description=(__doc__ or "").splitlines()[0]
    )
    parse.add_argument("checkpoint", type=Path, help="checkpoint-N")
    parse.add_argument("--world-size", type=int, required=True, metavar="M", help="ranks to resume on")
    parse.add_argument("--workers", type=int, default=2, metavar="N", help="processes of the converter")
    args = parse.parse_args(argv)
    old = open_checkpoint(args.checkpoint).world_size
    target = reshard(args.checkpoint, args.world_size, args.workers)
    print(f"{target}: written by {old} ranks, loads on any number")
    print(
        f"for {args.world_size}: {batch_advice(args.world_size, old)}; DeepSpeed's configuration needs "
        '"checkpoint": {"load_universal": true}'
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
