"""The consolidate stage: a ZeRO checkpoint becomes a model directory, at disk speed, in constant memory,
without torch.

Runs alone on any machine::

    python -m glmjobs.consolidate RUN             # the stage: newest committed checkpoint -> RUN/model
    python -m glmjobs.consolidate CHECKPOINT OUT [--dtype float16] [--base BASE_MODEL_DIR]
    python -m glmjobs.consolidate --verify DIR    # re-check a model directory against its manifest
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmjobs.cli import run_command
from glmjobs.errors import BadInput, WorkFailed
from glmjobs.sizes import SHARD_SIZE, parse_size
from glmjobs.zero import lora
from glmjobs.zero import manifest as manifests
from glmjobs.zero.checkpoint import Checkpoint, check_committed, open_checkpoint
from glmjobs.zero.crosscheck import cross_check
from glmjobs.zero.dtypes import BY_TORCH_NAME, SIZE
from glmjobs.zero.files import named, one_line
from glmjobs.zero.layout import Tensor
from glmjobs.zero.meter import Meter
from glmjobs.zero.publish import clean, publishing
from glmjobs.zero.sidecar import carry, read_config
from glmjobs.zero.write import check_space, plan_shards, write_shards
from hpc import ledger

if TYPE_CHECKING:  # pydantic and the cluster profile: only the stage needs them
    from glmjobs.run import Run

STAGE = "consolidate"


@dataclass(frozen=True)
class Options:
    """How to write a model.

    Attributes:
        dtype: float16, bfloat16 or float32, for floating tensors.
        shard_size: largest file, such as "2GB"; the files come out about equally large.
        workers: threads; None: the cores this process may use, at most 8.
        allow_overflow: accept values that become infinite in a half type (they are counted either way).
        cross_check: compare with the checkpoint's own half-precision copy.
        fsync: force the files to disk before they count (off only to measure).
        replace: an existing output directory is replaced, if it is empty or has a manifest of this command.
        adapter: of LoRA factors: "merge" them into the base model, or "keep" only them, beside the base.
    """

    dtype: str = "float16"
    shard_size: str = SHARD_SIZE
    workers: int | None = None
    allow_overflow: bool = False
    cross_check: bool = True
    fsync: bool = True
    replace: bool = False
    adapter: str = "merge"


@one_line()
def consolidate(
    source: Path, out: Path, options: Options = Options(), base: Path | None = None
) -> dict[str, Any]:
    """Turn the checkpoint at ``source`` into the model directory ``out``; its manifest.

    Args:
        base: a model directory whose tokenizer, configuration and code are carried over.

    Raises:
        BadInput: no checkpoint there, ``out`` exists (or is not to be replaced), an option is wrong.
        WorkFailed: the checkpoint is damaged or mixed, values overflow, the disk ran full, or another process
            is writing ``out``. ``out`` is then not there, or as it was.
        NotFit: the disk has too little space to begin.
    """
    dtype, limit = _check_options(options)
    if base is not None and not base.is_dir():
        raise BadInput(f"{base}: no such base model directory")
    if options.replace:
        for other in (source, *([base] if base is not None else [])):
            _check_apart(out, other)
    checkpoint = open_checkpoint(source)
    if options.cross_check:
        cross_check(checkpoint)
    with publishing(out, replace=options.replace, fsync=options.fsync) as new:
        kept = False
        if lora.has_adapter(checkpoint):
            kept = options.adapter == "keep"
            scratch = new.parent / "merged"
            scratch.mkdir()
            checkpoint = lora.keep(checkpoint, base, new) if kept else lora.merge(checkpoint, base, scratch)
        tensors, tied = _tensors_to_write(checkpoint, base)
        # PEFT reads one file of this name.
        shards = plan_shards(tensors, dtype, sys.maxsize if kept else limit, lora.STEM if kept else "model")
        check_space(new, sum(shard.size for shard in shards), out.parent)
        reading = sum(extent.count * SIZE[extent.dtype] for t in tensors for extent in t.extents)
        with Meter(f"consolidate {source.resolve().name} -> {out}", reading) as meter:
            written = write_shards(
                shards, new, workers=_workers(options), fsync=options.fsync, progress=meter.add
            )
        _judge_overflow(written.overflow, options)
        sources = [source, *([base] if base is not None else [])]
        names = carry(new, sources, dtype, closed=[source]) + ([lora.CONFIG] if kept else [])
        written.files += [manifests.describe(new, name) for name in names]
        facts = _facts(checkpoint, options, tensors, tied, written.overflow, reading)
        manifests.write_manifest(new, written.files, options.fsync, **facts)
    return {**facts, "files": written.files, "seconds": round(meter.seconds, 3)}


def _facts(
    checkpoint: Checkpoint,
    options: Options,
    tensors: list[Tensor],
    tied: dict[str, str],
    overflow: dict[str, int],
    reading: int,
) -> dict[str, Any]:
    """What the manifest says about the model."""
    return {
        "dtype": options.dtype,
        "step": checkpoint.step,
        "source": {
            "checkpoint": checkpoint.path.resolve().name,
            "kind": checkpoint.kind,
            "zero_stage": checkpoint.zero_stage,
            "world_size": checkpoint.world_size,
            "deepspeed": checkpoint.version,
        },
        "parameters": checkpoint.numel,
        "tensors": len(tensors),
        "tied": tied,
        "overflow": overflow,
        "read_bytes": reading,
    }


def _check_apart(out: Path, source: Path) -> None:
    """What is read is not what is replaced.

    Raises:
        BadInput: one contains the other.
    """
    one, other = out.resolve(), source.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise BadInput(
            f"{out}: cannot be replaced, it shares files with {source}, which is read; name another"
        )


def _check_options(options: Options) -> tuple[str, int]:
    if options.dtype not in BY_TORCH_NAME:
        raise BadInput(f"dtype {options.dtype!r}: one of {', '.join(BY_TORCH_NAME)}")
    if options.workers is not None and not 1 <= options.workers <= 64:
        raise BadInput(f"workers {options.workers}: 1 to 64")
    return BY_TORCH_NAME[options.dtype], parse_size(options.shard_size)


def _workers(options: Options) -> int:
    return options.workers or min(8, len(os.sched_getaffinity(0)))


def _tensors_to_write(checkpoint: Checkpoint, base: Path | None) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors under every name the model needs, and the tied names left out because loading ties them
    again.

    A tied name is left out where the model's configuration says that embeddings are tied, as transformers
    itself does; otherwise its values are written a second time, so that no loader has to know.
    """
    sources = [checkpoint.path, *([base] if base is not None else [])]
    tied = read_config(sources).get("tie_word_embeddings") is True
    tensors = list(checkpoint.tensors.values())
    if tied:
        return tensors, dict(checkpoint.aliases)
    for name, original in checkpoint.aliases.items():
        known = checkpoint.tensors[original]
        tensors.append(Tensor(name, known.shape, known.extents))
    return tensors, {}


def _judge_overflow(overflow: dict[str, int], options: Options) -> None:
    if not overflow:
        return
    worst = sorted(overflow.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} ({count})" for name, count in worst[:5])
    more = f" and {len(worst) - 5} more tensors" if len(worst) > 5 else ""
    text = f"{sum(overflow.values())} values overflow {options.dtype} and become infinite: {named}{more}"
    if not options.allow_overflow:
        wider = "" if options.dtype == "float32" else "take bfloat16 or float32, or "
        raise WorkFailed(f"{text}; {wider}allow it (consolidate.allow_overflow, --allow-overflow)")
    print(f"warning: {text}", flush=True)


# --- the stage ----------------------------------------------------------------------------------------------


def run_stage(run: Run, workers: int | None = None) -> dict[str, Any]:
    """Consolidate a run's newest committed checkpoint into RUN/model and leave the stage's marker; the
    manifest.

    A whole RUN/model of the same step and settings is left as it is.
    """
    started = ledger.now()
    settings = run.recipe.consolidate
    checkpoint = newest_committed(run.checkpoints)
    base = run.base_model if run.base_model.is_dir() else None
    options = Options(
        dtype=settings.dtype,
        shard_size=settings.shard_size,
        allow_overflow=settings.allow_overflow,
        workers=workers,
        replace=True,
        adapter=settings.adapter,
    )
    manifest = _finished(run.model, checkpoint, options)
    if manifest is None:
        manifest = consolidate(checkpoint, run.model, options, base)
    elif run.done(STAGE):
        return manifest
    figures = {
        key: manifest.get(key)
        for key in ("step", "dtype", "parameters", "tensors", "overflow", "read_bytes", "seconds")
    }
    figures["written_bytes"] = sum(int(entry["bytes"]) for entry in manifest["files"])
    run.mark(STAGE, started=started, outputs=[run.model / manifests.MANIFEST], figures=figures)
    return manifest


def newest_committed(checkpoints: Path) -> Path:
    """The newest checkpoint-N with a committed.json; newer ones without are named and skipped.

    Raises:
        WorkFailed: there is none, or the newest does not hold what it committed.
    """
    found = []
    for path in checkpoints.glob("checkpoint-*") if checkpoints.is_dir() else ():
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    for _, path in sorted(found, reverse=True):
        if (path / "committed.json").is_file():
            check_committed(path)
            return path
        print(f"{path.name}: skipped, it was never committed (its save did not finish)", flush=True)
    raise WorkFailed(
        f"{checkpoints}: no committed checkpoint here (checkpoint-N with committed.json); train first"
    )


def _finished(model: Path, checkpoint: Path, options: Options) -> dict[str, Any] | None:
    """The manifest of a model directory that is already what would be made; sizes are checked, hashes not."""
    try:
        manifest = manifests.verify(model, hashes=False)
    except (BadInput, WorkFailed):
        return None
    source = manifest.get("source")
    if not isinstance(source, dict):
        return None
    same = (
        source.get("checkpoint") == checkpoint.resolve().name
        and manifest.get("dtype") == options.dtype
        and source.get("kind") != {"merge": "adapter", "keep": "merged"}[options.adapter]
    )
    return manifest if same and (options.allow_overflow or not manifest.get("overflow")) else None


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
    parse.add_argument("--workers", type=int, metavar="N", help="threads; default: the cores, at most 8")
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
    parse.add_argument("--replace", action="store_true", help="replace an existing model directory")
    parse.add_argument(
        "--verify", metavar="DIR", help="check a model directory against its manifest, and end"
    )
    parse.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout and nothing else there"
    )
    return parse


@one_line()
def main(argv: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    args = parser().parse_args(argv)
    for word in ("out", "base", "verify"):
        if getattr(args, word) is not None:
            setattr(args, word, named(getattr(args, word)))
    if args.verify is not None:
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
            "name a run or a checkpoint, for example: python -m glmjobs.consolidate runs/chatglm6b-1"
        )
    source = named(args.source)
    if source.is_dir() and not (source / "run.yaml").is_file():
        return _one(source, args)
    from glmjobs.run import Run

    run = Run.open(args.source)
    if args.out is None:
        given = (args.dtype, args.shard_size, args.base, args.adapter)
        if args.allow_overflow or any(value is not None for value in given):
            raise BadInput(
                "a run's dtype, shard size, adapter and base are its recipe's; "
                "name an output directory for others"
            )
        manifest = run_stage(run, args.workers)
        return _report(_summary(run.model, manifest), manifest, args.json)
    args.base = args.base or (run.base_model if run.base_model.is_dir() else None)
    return _one(newest_committed(run.checkpoints), args)


def _one(source: Path, args: argparse.Namespace) -> int:
    if args.out is None:
        raise BadInput(
            f"{source}: name the model directory to write, for example: {source} {source.resolve().name}-model"
        )
    clean(args.out)
    options = Options(
        dtype=args.dtype or "float16",
        shard_size=SHARD_SIZE if args.shard_size is None else args.shard_size,
        workers=args.workers,
        allow_overflow=args.allow_overflow,
        cross_check=not args.no_cross_check,
        fsync=not args.no_fsync,
        replace=args.replace,
        adapter=args.adapter or "merge",
    )
    manifest = consolidate(source, args.out, options, args.base)
    return _report(_summary(args.out, manifest), manifest, args.json)


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    size = sum(int(entry["bytes"]) for entry in manifest["files"])
    seconds = manifest.get("seconds")
    speed = f", {manifest['read_bytes'] / 1e9 / seconds:.2f} GB/s" if seconds else ""
    return (
        f"{out}: {manifest['parameters']:,} parameters, {manifest['tensors']} tensors, {manifest['dtype']}, "
        f"{size / 1e9:.2f} GB{speed}"
    )


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
