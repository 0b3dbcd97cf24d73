"""A shorter model: the first blocks of a model directory, at full width and with its own weights, configuration and
tokenizer, in a directory of its own. Constant memory, no torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from glmjobs.text import SHARD_SIZE, parse_size
from glmjobs.zero.dtypes import TORCH_NAME
from glmjobs.zero.layout import Tensor
from glmjobs.zero.model_files import carry, read_config
from glmjobs.zero.progress_bar import ByteProgress
from glmjobs.zero.publish import publishing
from glmjobs.zero.tied import second_copies
from glmjobs.zero.weights import read_directory
from glmjobs.zero.write import check_space, plan_shards, write_shards
from hpc.core.errors import BadInput

_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")
"""In a weight's name: of which block it is. All families here count their blocks so."""

_COUNTS = ("num_layers", "num_hidden_layers")
"""In config.json: how many blocks there are."""


def write_first_layers(model: Path, out: Path, layers: int) -> None:
    """Write the model of the first ``layers`` blocks of the model directory ``model`` as ``out``, which is absent or
    whole; nothing where it is there.

    Raises:
        BadInput, WorkFailed: as :func:`first_tensors`; or another process is writing ``out``.
        NotFit: too little space is free.
    """
    if out.is_dir():
        return
    kept = first_tensors(model, layers)
    shards = plan_shards(kept, None, parse_size(SHARD_SIZE))
    size = sum(shard.size for shard in shards)
    with publishing(out, fsync=False) as new:
        check_space(new, size, out.parent)
        with ByteProgress(f"the first {layers} layers of {model.name} -> {out}", size) as progress:
            write_shards(shards, new, workers=os.cpu_count() or 1, fsync=False, progress=progress.add)
        widest = max((t for t in kept if t.dtype in TORCH_NAME), key=lambda t: t.numel)
        carry(new, new, [model], widest.dtype)
        path = new / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config.update({key: layers for key in _COUNTS if key in config})
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def first_tensors(model: Path, layers: int) -> list[Tensor]:
    """The tensors of the first ``layers`` blocks of the model directory ``model``, and all that are of none, but no
    second copy of the embedding.

    Raises:
        BadInput: there are no weights, or fewer blocks.
        WorkFailed: a file is damaged.
    """
    tensors = read_directory(model)
    for copy in second_copies(tensors, read_config([model])):
        del tensors[copy]
    blocks = {tensor: _BLOCK.search(tensor) for tensor in tensors}
    there = 1 + max((int(found[1]) for found in blocks.values() if found), default=-1)
    if not 1 <= layers <= there:
        raise BadInput(f"{model}: {layers} layers are asked for, 1 to {there} are there")
    return [tensors[name] for name, found in blocks.items() if found is None or int(found[1]) < layers]
