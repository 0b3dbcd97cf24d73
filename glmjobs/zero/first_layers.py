"""A shorter model: the first blocks of a model directory, at full width and with its own weights, configuration and
tokenizer, in a directory of its own. Constant memory, no torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from glmjobs.text import SHARD_SIZE, parse_size
from glmjobs.zero.directories import WEIGHT_FILES
from glmjobs.zero.dtypes import TORCH_NAME
from glmjobs.zero.layout import Tensor
from glmjobs.zero.model_files import carry
from glmjobs.zero.progress_bar import ByteProgress
from glmjobs.zero.publish import publishing
from glmjobs.zero.weights import read_weights
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
    """The tensors of the first ``layers`` blocks of the model directory ``model``, and all that are of none.

    Raises:
        BadInput: there are no weights, or fewer blocks.
        WorkFailed: a file is damaged.
    """
    name = next((name for name in WEIGHT_FILES if (model / name).is_file()), None)
    if name is None:
        raise BadInput(f"{model}: no weights of a whole model: expected one of {', '.join(WEIGHT_FILES)}")
    tensors = read_weights(model, name)
    blocks = {tensor: _BLOCK.search(tensor) for tensor in tensors}
    there = 1 + max((int(found[1]) for found in blocks.values() if found), default=-1)
    if not 1 <= layers <= there:
        raise BadInput(f"{model}: {layers} layers are asked for, 1 to {there} are there")
    return [tensors[name] for name, found in blocks.items() if found is None or int(found[1]) < layers]
