"""The consolidate stage: a ZeRO checkpoint becomes a model directory, at disk speed, in constant memory,
without torch.

Runs alone on any machine::

    python -m glmjobs.consolidate RUN             # the stage: newest (or best) committed checkpoint -> RUN/model
    python -m glmjobs.consolidate CHECKPOINT OUT [--dtype float16] [--base BASE_MODEL_DIR]
    python -m glmjobs.consolidate --verify DIR    # re-check a model directory against its manifest
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmjobs.cli import positive, run_command
from glmjobs.text import SHARD_SIZE, parse_size
from glmjobs.zero import manifest as manifests
from glmjobs.zero.consolidate import Options, consolidate, finished
from glmjobs.zero.dtypes import BY_TORCH_NAME
from glmjobs.zero.file_hashes import HASHES, XXH128
from glmjobs.zero.guarded_files import errors_in_one_line, named
from glmjobs.zero.publish import clean
from hpc.core import hints, timestamps
from hpc.core.errors import BadInput, WorkFailed

if TYPE_CHECKING:  # pydantic and the cluster profile: only the stage needs them
    from glmjobs.run.directory import Run

STAGE = "consolidate"


# --- the stage ----------------------------------------------------------------------------------------------


def run_stage(run: Run, workers: int | None = None) -> dict[str, Any]:
    """Consolidate a run's newest or best committed checkpoint into RUN/model and leave the stage's marker; the
    manifest.

    A whole RUN/model of the same step and settings is left as it is.
    """
    from glmjobs.run.reached import behind, reached

    started, at = timestamps.now(), reached(run.path)  # before the checkpoint is chosen: training may run
    settings = run.recipe.consolidate
    checkpoint, why = choose(run)
    base = run.base_model if run.base_model.is_dir() else None
    options = Options(
        dtype=settings.dtype,
        shard_size=settings.shard_size,
        allow_overflow=settings.allow_overflow,
        workers=workers,
        replace=True,
        adapter=settings.adapter,
    )
    manifest = finished(run.model, checkpoint, options)
    if manifest is None:
        manifest = consolidate(checkpoint, run.model, options, base)
    elif run.done(STAGE) and not behind(run.path):
        return manifest
    figures = {
        key: manifest.get(key)
        for key in ("step", "dtype", "parameters", "tensors", "overflow", "not_finite", "read_bytes", "seconds")
    }
    figures |= {"chosen": why, "trained": max(at.step if at else 0, manifest.get("step") or 0) or None}
    figures["written_bytes"] = sum(int(entry["bytes"]) for entry in manifest["files"])
    run.mark(STAGE, started=started, outputs=[run.model / manifests.MANIFEST], figures=figures)
    return manifest


def choose(run: Run) -> tuple[Path, str]:
    """The checkpoint that becomes a run's model, and why that one; said where the recipe does not want the last."""
    from glmjobs.run import evaluations

    path, why = evaluations.choose(run.checkpoints, run.recipe.train)
    if run.recipe.train.keep != "last":
        print(f"{path.name}: {why}", file=sys.stderr)
    return path, why


# --- the command --------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parse = argparse.ArgumentParser(
        prog="python -m glmjobs.consolidate", description=(__doc__ or "").splitlines()[0]
    )
    parse.add_argument(
        "source", nargs="?", help="a run (path or name), a checkpoint directory, or a plain model directory"
    )
    parse.add_argument("out", nargs="?", help="the model directory to write (for a run: RUN/model)")
    parse.add_argument("--dtype", choices=tuple(BY_TORCH_NAME), help="default: float16, or the run's recipe")
    parse.add_argument("--shard-size", metavar="SIZE", help="largest file; default 2GB, or the run's recipe")
    parse.add_argument("--workers", type=positive, metavar="N", help="threads; default: the cores, at most 8")
    parse.add_argument(
        "--base", metavar="DIR", help="model directory to carry tokenizer and configuration from"
    )
    parse.add_argument(
        "--allow-overflow", action="store_true", help="accept values that become infinite (they are counted)"
    )
    parse.add_argument(
        "--no-cross-check",
        action="store_true",
        help="don't compare with the checkpoint's half-precision copy",
    )
    parse.add_argument("--no-fsync", action="store_true", help="don't wait for the disk (for measurements)")
    parse.add_argument(
        "--adapter", choices=("merge", "keep"), help="LoRA factors: into the base (default), or kept alone"
    )
    parse.add_argument(
        "--hash", choices=tuple(HASHES),
        help="what the manifest knows the files by: xxh128 (default, quick) or sha256 (a hub's)",
    )  # fmt: skip
    parse.add_argument("--replace", action="store_true", help="replace an existing model directory")
    parse.add_argument(
        "--verify", metavar="DIR", help="check a model directory against its manifest, and end"
    )
    parse.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout and nothing else there"
    )
    return parse


@errors_in_one_line()
def main(argv: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    args = parser().parse_args(argv)
    for word in ("out", "base", "verify"):
        if getattr(args, word) is not None:
            setattr(args, word, named(getattr(args, word)))
    if args.verify is not None:
        check_verify(args)
        start = time.perf_counter()
        manifest = manifests.verify(args.verify, workers=args.workers or len(os.sched_getaffinity(0)))
        return _report(
            f"{args.verify}: {len(manifest['files'])} files, all as the manifest says "
            f"({time.perf_counter() - start:.1f} s)",
            manifest,
            args.json,
        )
    if args.source is None:
        raise BadInput(
            "name a run or a checkpoint, for example: "
            + hints.command("glmjobs.consolidate", "runs/chatglm6b-1")
        )
    source = named(args.source)
    if source.is_dir() and not (source / "run.yaml").is_file():
        return _one(source, args)
    from glmjobs.run.directory import Run

    run = Run.open(args.source)
    if args.out is None:
        given = (args.dtype, args.shard_size, args.base, args.adapter, args.hash)
        if args.allow_overflow or any(value is not None for value in given):
            raise BadInput(
                "a run's dtype, shard size, adapter and base are its recipe's, and its hash is xxh128; "
                "name an output directory for others"
            )
        with run.recording(STAGE):
            manifest = run_stage(run, args.workers)
        return _report(_summary(run.model, manifest) + _unfinished(run, manifest, args.json), manifest, args.json)
    args.base = args.base or (run.base_model if run.base_model.is_dir() else None)
    wanted = run.recipe.consolidate
    args.dtype, args.adapter = args.dtype or wanted.dtype, args.adapter or wanted.adapter
    args.allow_overflow = args.allow_overflow or wanted.allow_overflow
    args.shard_size = wanted.shard_size if args.shard_size is None else args.shard_size
    return _one(choose(run)[0], args, run)


def check_verify(args: argparse.Namespace) -> None:
    """--verify has a model directory, and stands alone.

    Raises:
        BadInput: else.
    """
    if args.source is not None:
        raise BadInput(f"{args.source}: --verify {args.verify} takes one model directory and no more")
    if args.verify.is_dir() and (args.verify / manifests.MANIFEST).exists():
        return
    from glmjobs.run.locate import locate

    run = None
    with contextlib.suppress(BadInput):
        run = locate(str(args.verify)).path
    if run is not None:
        right = hints.command("glmjobs.consolidate", "--verify", run / "model")
        raise BadInput(f"--verify {args.verify}: a run, whose model is verified by: {right}")
    if not args.verify.is_dir():
        what = "not a directory" if args.verify.exists() else "no such directory"
        raise BadInput(f"--verify {args.verify}: {what}; a model directory has a {manifests.MANIFEST}")


def _one(source: Path, args: argparse.Namespace, run: Run | None = None) -> int:
    if args.out is None:
        raise BadInput(
            f"{source}: name the model directory to write, for example: {source} {source.resolve().name}-model"
        )
    clean(args.out)
    if os.path.lexists(args.out) and not args.replace:
        replaced = (args.out / manifests.MANIFEST).exists()
        raise BadInput(
            f"{args.out}: exists already; name another" + (", or replace it: --replace" if replaced else "")
        )
    if args.shard_size is not None:
        try:
            parse_size(args.shard_size)
        except BadInput as error:
            raise BadInput(f"--shard-size {error}") from None
    options = Options(
        dtype=args.dtype or "float16",
        shard_size=SHARD_SIZE if args.shard_size is None else args.shard_size,
        workers=args.workers,
        allow_overflow=args.allow_overflow,
        cross_check=not args.no_cross_check,
        fsync=not args.no_fsync,
        replace=args.replace,
        adapter=args.adapter or "merge",
        hash_kind=args.hash or XXH128,
    )
    manifest = consolidate(source, args.out, options, args.base)
    return _report(_summary(args.out, manifest) + _unfinished(run, manifest, args.json), manifest, args.json)


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    size = sum(int(entry["bytes"]) for entry in manifest["files"])
    seconds = manifest.get("seconds")
    speed = f", {manifest['read_bytes'] / 1e9 / seconds:.2f} GB/s" if seconds else ""
    return (
        f"{out}: {manifest['parameters']:,} parameters, {manifest['tensors']} tensors, {manifest['dtype']}, "
        f"{size / 1e9:.2f} GB{speed}"
    )


def _unfinished(run: Run | None, manifest: dict[str, Any], as_json: bool) -> str:
    """The end of the line where a run's model is not of its training's end; beside JSON a line of its own."""
    if run is None:
        return ""
    from glmjobs.run.reached import short_of_the_end

    said = short_of_the_end(run.path, manifest.get("step"), best=run.recipe.train.keep == "best")
    if said and as_json:
        print(f"note: the model is {said}", file=sys.stderr)
    return f"; {said}" if said else ""


def _report(text: str, document: dict[str, Any], as_json: bool) -> int:
    try:
        print(json.dumps(document, ensure_ascii=False) if as_json else text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again at its end
        raise WorkFailed(f"standard output: cannot be written: {error.strerror}") from None
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
