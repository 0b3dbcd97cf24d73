"""A ZeRO checkpoint, or an adapter and its base, as a model directory: constant memory, no torch, nothing unpickled."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmjobs.text import SHARD_SIZE, parse_size
from glmjobs.zero import manifest as manifests
from glmjobs.zero import merge_lora
from glmjobs.zero.checkpoint import Checkpoint, open_checkpoint
from glmjobs.zero.cross_check import cross_check
from glmjobs.zero.directories import CONFIG, with_bases
from glmjobs.zero.dtypes import BY_TORCH_NAME, SIZE, TORCH_NAME
from glmjobs.zero.file_hashes import HASHES, XXH128, describe
from glmjobs.zero.guarded_files import errors_in_one_line
from glmjobs.zero.layout import Tensor
from glmjobs.zero.model_files import carry, in_order, of_use, read_config
from glmjobs.zero.pipeline import Written
from glmjobs.zero.progress_bar import ByteProgress
from glmjobs.zero.publish import publishing
from glmjobs.zero.tied import second_copies, ties
from glmjobs.zero.write import check_space, plan_shards, write_shards
from hpc.core.errors import BadInput, WorkFailed


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
        hash_kind: by which the manifest knows the files again (:mod:`glmjobs.zero.file_hashes`).
    """

    dtype: str = "float16"
    shard_size: str = SHARD_SIZE
    workers: int | None = None
    allow_overflow: bool = False
    cross_check: bool = True
    fsync: bool = True
    replace: bool = False
    adapter: str = "merge"
    hash_kind: str = XXH128


@errors_in_one_line()
def consolidate(
    source: Path, out: Path, options: Options = Options(), base: Path | None = None
) -> dict[str, Any]:
    """Turn the checkpoint at ``source`` into the model directory ``out``; its manifest.

    Args:
        base: a model directory whose tokenizer, configuration and code are carried over; None: of an adapter's
            directory (:mod:`glmjobs.zero.directories`) the base that it names.

    Raises:
        BadInput: no checkpoint there, ``out`` exists (or is not to be replaced), an option is wrong.
        WorkFailed: the checkpoint is damaged or mixed, values overflow, the disk ran full, or another process
            is writing ``out``. ``out`` is then not there, or as it was.
        NotFit: the disk has too little space to begin.
    """
    dtype, limit = _check_options(options)
    if base is not None and not base.is_dir():
        raise BadInput(f"{base}: no such base model directory")
    bases = with_bases(base) if base is not None else _own_bases(source)
    if base is not None and not any(map(of_use, bases)):
        raise BadInput(f"{base}: no model directory, it has neither config.json nor tokenizer nor weights")
    base = next(iter(bases), None)
    if options.replace:
        for other in (source, *bases):
            _check_apart(out, other)
    checkpoint = open_checkpoint(source)
    if options.cross_check:
        cross_check(checkpoint)
    with publishing(out, replace=options.replace, fsync=options.fsync) as new:
        kept = False
        if merge_lora.has_adapter(checkpoint):
            kept = options.adapter == "keep"
            scratch = new.parent / "merged"
            scratch.mkdir()
            checkpoint = (
                merge_lora.keep(checkpoint, base, new)
                if kept
                else merge_lora.merge(checkpoint, base, scratch)
            )
        tensors, tied = _tensors_to_write(checkpoint, bases)
        # PEFT reads one file of this name.
        shards = plan_shards(
            tensors, dtype, sys.maxsize if kept else limit, merge_lora.STEM if kept else "model"
        )
        check_space(new, sum(shard.size for shard in shards), out.parent)
        reading = sum(extent.count * SIZE[extent.dtype] for t in tensors for extent in t.extents)
        with ByteProgress(f"consolidate {source.resolve().name} -> {out}", reading) as progress:
            written = write_shards(
                shards,
                new,
                workers=_workers(options),
                fsync=options.fsync,
                hash_kind=options.hash_kind,
                progress=progress.add,
            )
        _judge_overflow(written.overflow, options)
        if written.not_finite:
            bad = written.not_finite
            _warn(
                f"{source}: {sum(bad.values())} values of {len(bad)} tensors are NaN or infinite: {_worst(bad)}"
            )
        names = carry(new, source, bases, dtype, adapter=kept) + ([CONFIG] if kept else [])
        written.files += [describe(new, name, options.hash_kind) for name in names]
        facts = _facts(checkpoint, options, tensors, tied, written, reading)
        manifests.write_manifest(new, written.files, options.fsync, **facts)
    return {**facts, "files": written.files, "seconds": round(progress.seconds, 3)}


def weights_type(model: Path) -> str:
    """The floating type that most of a model's numbers have, as :class:`Options` names it.

    Raises:
        BadInput: there is no model.
        WorkFailed: its files are damaged.
    """
    counts: Counter[str] = Counter()
    for tensor in open_checkpoint(model).tensors.values():
        for extent in tensor.extents:
            counts[extent.dtype] += extent.count
    return next((TORCH_NAME[short] for short, _ in counts.most_common() if short in TORCH_NAME), "float32")


def finished(model: Path, checkpoint: Path, options: Options) -> dict[str, Any] | None:
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


def _own_bases(source: Path) -> list[Path]:
    """The base that an adapter names, and what that stands on."""
    try:
        return with_bases(source)[1:]
    except BadInput as error:
        raise BadInput(f"{error}; or name it: --base DIR") from None


def _facts(
    checkpoint: Checkpoint,
    options: Options,
    tensors: list[Tensor],
    tied: dict[str, str],
    written: Written,
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
        "overflow": written.overflow,
        "not_finite": written.not_finite,
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
    if options.hash_kind not in HASHES:
        raise BadInput(f"hash {options.hash_kind!r}: one of {', '.join(HASHES)}")
    return BY_TORCH_NAME[options.dtype], parse_size(options.shard_size)


def _workers(options: Options) -> int:
    return options.workers or min(8, len(os.sched_getaffinity(0)))


def _tensors_to_write(checkpoint: Checkpoint, bases: Sequence[Path]) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors under every name the model needs, and the tied names left out because loading ties them
    again.

    A tied name is left out where the model's configuration ties (:func:`glmjobs.zero.tied.ties`). Otherwise its values
    are written a second time, so that no loader has to know.
    """
    config = read_config(in_order(checkpoint.path, bases))
    if ties(config):
        tied = {**checkpoint.aliases, **second_copies(checkpoint.tensors, config)}
        return [tensor for name, tensor in checkpoint.tensors.items() if name not in tied], tied
    tensors = list(checkpoint.tensors.values())
    for name, original in checkpoint.aliases.items():
        known = checkpoint.tensors[original]
        tensors.append(Tensor(name, known.shape, known.extents))
    return tensors, {}


def _judge_overflow(overflow: dict[str, int], options: Options) -> None:
    if not overflow:
        return
    text = f"{sum(overflow.values())} values overflow {options.dtype} and become infinite: {_worst(overflow)}"
    if not options.allow_overflow:
        wider = "" if options.dtype == "float32" else "take bfloat16 or float32, or "
        raise WorkFailed(f"{text}; {wider}allow it (consolidate.allow_overflow, --allow-overflow)")
    _warn(text)


def _worst(counts: dict[str, int]) -> str:
    """The tensors with the highest counts."""
    worst = sorted(counts.items(), key=lambda item: -item[1])
    more = f" and {len(worst) - 5} more tensors" if len(worst) > 5 else ""
    return ", ".join(f"{name} ({count})" for name, count in worst[:5]) + more


def _warn(text: str) -> None:
    """On stderr: stdout may be one JSON document's."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
