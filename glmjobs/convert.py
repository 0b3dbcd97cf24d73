"""THUDM/GLM's model-parallel checkpoints into a model directory, and back, bit for bit::

    python -m glmjobs.convert merge CHECKPOINT OUT [--heads N]     # mp_rank_00…07_model_states.pt ->
    safetensors python -m glmjobs.convert split MODEL_DIR OUT --parts 8        # and back, in any number of
    parts

CHECKPOINT is the directory with the files, or one above it with a ``latest`` file. Merging needs no torch and
constant memory; splitting holds one part in memory. Neither runs anything that the files say.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from glmjobs.cli import run_command
from glmjobs.models.family import family_for, read_config
from glmjobs.models.glm10b.family import FAMILY
from glmjobs.models.glm10b.tensor_parallel import config_of, merged, part_of
from glmjobs.text import SHARD_SIZE, parse_size
from glmjobs.zero.dtypes import FLOATING, SIZE, TORCH_NAME
from glmjobs.zero.file_hashes import XXH128, describe
from glmjobs.zero.guarded_files import errors_in_one_line
from glmjobs.zero.layout import Tensor
from glmjobs.zero.manifest import write_manifest
from glmjobs.zero.publish import publishing
from glmjobs.zero.safetensors_file import read_tensors
from glmjobs.zero.torch_file import TensorRef, TorchFile
from glmjobs.zero.weights import extent_of
from glmjobs.zero.write import check_space, plan_shards, write_shards
from hpc.core.errors import BadInput, WorkFailed

_PART = re.compile(r"mp_rank_(\d+)_model_states\.pt")


def merge(
    checkpoint: Path, out: Path, heads: int | None = None, shard_size: str = SHARD_SIZE
) -> dict[str, Any]:
    """Merge a model-parallel checkpoint into the model directory ``out``; its config.json's content.

    Args:
        checkpoint: directory of ``mp_rank_NN_model_states.pt``, or one with a ``latest`` file that names it.
        heads: attention heads of the model; None: its width over 64.
        shard_size: largest weight file.

    Raises:
        BadInput: no such files, one missing, parts that don't fit together, or ``out`` exists.
        WorkFailed: a file is damaged, or asks for more than data. ``out`` is then not there.
        NotFit: too little disk space.
    """
    files = part_files(checkpoint)
    parts = [read_part(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if odd := sorted(part.keys() ^ parts[0].keys()):
            raise BadInput(f"{file}: its tensors are not those of rank 0, the first that differs: {odd[0]}")
    tensors = [merged(f"glm.{name}", [part[name] for part in parts]) for name in parts[0]]
    kinds = sorted({tensor.dtype for tensor in tensors})
    if len(kinds) != 1 or kinds[0] not in FLOATING:
        raise BadInput(
            f"{checkpoint}: tensors of types {', '.join(kinds)}; a GLM checkpoint has one floating type"
        )
    config = config_of({tensor.name: tensor.shape for tensor in tensors}, checkpoint, heads)
    shards = plan_shards(tensors, kinds[0], parse_size(shard_size))
    out.parent.mkdir(parents=True, exist_ok=True)
    check_space(out.parent, sum(shard.size for shard in shards))
    with publishing(out) as directory:
        written = write_shards(shards, directory, workers=min(8, os.cpu_count() or 1))
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_manifest(
            directory, [*written.files, describe(directory, "config.json", XXH128)], source=str(checkpoint)
        )
    return config


def part_files(checkpoint: Path) -> list[Path]:
    """The checkpoint's files in order of rank, checked to be all of 0…N-1."""
    latest = checkpoint / "latest"
    if latest.is_file():
        name = latest.read_text(encoding="utf-8", errors="replace").strip()
        if Path(name).name != name:
            raise BadInput(f"{latest}: names a directory outside its own: {name}")
        if (checkpoint / name).is_dir():
            checkpoint = checkpoint / name
    found = {int(match[1]): path for path in checkpoint.glob("*") if (match := _PART.fullmatch(path.name))}
    if not found:
        raise BadInput(
            f"{checkpoint}: no mp_rank_NN_model_states.pt here, and no latest file that leads to any"
        )
    for rank in range(max(found)):
        if rank not in found:
            raise BadInput(f"{checkpoint}: mp_rank_{rank:02d}_model_states.pt is missing")
    return [found[rank] for rank in sorted(found)]


def read_part(path: Path) -> dict[str, Tensor]:
    """The model's tensors in one rank's file, by their names in the model (without wrappers' ``module.``)."""
    file = TorchFile(path)
    module = file.value.get("module") if isinstance(file.value, dict) else None
    if not isinstance(module, dict):
        raise BadInput(f"{path}: no 'module' with the model's weights in it: not a THUDM/GLM checkpoint")
    tensors = {}
    for name, ref in module.items():
        if not isinstance(ref, TensorRef):
            continue
        plain = str(name)
        while plain.startswith("module."):
            plain = plain.removeprefix("module.")
        extent = extent_of(file, ref, str(name))
        plain = plain.removeprefix("glm.")
        tensors[plain] = Tensor(plain, ref.shape, (extent,))
    return tensors


def split(model: Path, out: Path, parts: int) -> None:
    """Split a GLM model directory into ``parts`` files of model-parallel weights in the directory ``out``.

    Raises:
        BadInput: not a GLM-10B, weights that can't be cut into so many parts, or ``out`` exists.
        WorkFailed: a weight file is damaged, or the disk ran full. ``out`` is then not there.
        NotFit: the disk has too little space to begin.
    """
    config = read_config(model)
    if family_for(model) is not FAMILY:
        raise BadInput(f"{model}: only GLM-10B's weights are split; this is another family")
    heads = config.get("num_attention_heads", 64)
    if parts < 1 or heads % parts:
        raise BadInput(f"--parts {parts}: the model's {heads} attention heads must be divisible by it")
    files = sorted(model.glob("model*.safetensors"))
    if not files:
        raise BadInput(
            f"{model}: no model*.safetensors here (load and save an original .bin directory first)"
        )
    whole = [tensor for file in files for tensor in read_tensors(file).values()]
    cut = [[part_of(tensor, rank, parts) for tensor in whole] for rank in range(parts)]
    for part in cut[0]:
        if part.dtype not in TORCH_NAME:
            raise BadInput(
                f"{part.extents[0].file}: {part.name} has type {part.dtype}; only floating weights are split"
            )
    with publishing(out) as directory:
        check_space(
            directory, sum(part.numel * SIZE[part.dtype] for rank in cut for part in rank), out.parent
        )
        for rank, tensors in enumerate(cut):
            name = f"mp_rank_{rank:02d}_model_states.pt"
            document = {"module": read_tensors_of(tensors), "mp_world_size": parts}
            save(document, directory / name, out / name)


def save(document: dict[str, Any], path: Path, shown: Path) -> None:
    """torch.save, whose own errors are many lines.

    Raises:
        WorkFailed: the disk does not take it; ``shown`` is named.
    """
    import torch

    try:
        torch.save(document, path)
    except (OSError, RuntimeError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        )
        raise WorkFailed(f"{shown}: cannot be written; is the disk full? {reason}") from None


def read_tensors_of(tensors: list[Tensor]) -> dict[str, Any]:
    """One rank's tensors, as torch's, by the names of THUDM/GLM."""
    import torch

    module = {}
    for part in tensors:
        flat = torch.empty(part.numel, dtype=getattr(torch, TORCH_NAME[part.dtype]))
        view = flat.view(torch.uint8).numpy().data
        with part.extents[0].file.open("rb") as file:
            at = 0
            for extent in part.extents:
                size = extent.count * flat.element_size()
                file.seek(extent.offset)
                if file.readinto(view[at : at + size]) != size:
                    raise WorkFailed(f"{extent.file}: truncated in {part.name}")
                at += size
        module[part.name.removeprefix("glm.")] = flat.view(part.shape)
    return module


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.convert", description=(__doc__ or "").split("::")[0])
    commands = p.add_subparsers(dest="command", required=True)
    merging = commands.add_parser("merge", help="a model-parallel checkpoint into a model directory")
    merging.add_argument("checkpoint", type=Path)
    merging.add_argument("out", type=Path)
    merging.add_argument("--heads", type=int, help="attention heads (default: the width over 64)")
    merging.add_argument(
        "--shard-size", default=SHARD_SIZE, help="largest weight file (default: %(default)s)"
    )
    splitting = commands.add_parser("split", help="a model directory into model-parallel parts")
    splitting.add_argument("model", type=Path)
    splitting.add_argument("out", type=Path)
    splitting.add_argument("--parts", type=int, default=8, help="model-parallel ranks (default: %(default)s)")
    return p


@errors_in_one_line()
def main(argv: list[str] | None = None) -> int:
    """The command."""
    given = parser().parse_args(argv)
    if given.command == "merge":
        config = merge(given.checkpoint, given.out, given.heads, given.shard_size)
        sizes = f"{config['num_layers']} layers, width {config['hidden_size']}, {config['vocab_size']} pieces"
        print(f"{given.out}: a GLM of {sizes}; add the tokenizer's files to use it")
    else:
        split(given.model, given.out, given.parts)
        print(f"{given.out}: {given.parts} parts")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
