"""Model directories and checkpoints of any size that take no disk: the files' holes read as zeros."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from glmjobs.zero.safetensors_file import make_header


def chatglm_shapes(layers: int, hidden: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ChatGLM-6B's weights, with the output matrix that the original's files hold too."""
    shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (vocab, hidden)}
    for layer in range(layers):
        at = f"transformer.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{at}{name}.weight": (hidden,), f"{at}{name}.bias": (hidden,)}
        for name, out, into in (
            ("attention.query_key_value", 3, 1), ("attention.dense", 1, 1),
            ("mlp.dense_h_to_4h", 4, 1), ("mlp.dense_4h_to_h", 1, 4),
        ):  # fmt: skip
            shapes |= {
                f"{at}{name}.weight": (out * hidden, into * hidden),
                f"{at}{name}.bias": (out * hidden,),
            }
    shapes |= {f"transformer.final_layernorm.{part}": (hidden,) for part in ("weight", "bias")}
    return {**shapes, "lm_head.weight": (vocab, hidden)}


def glm_shapes(layers: int, hidden: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of GLM-10B's weights: ChatGLM-6B's layers, two tables of positions, no output matrix."""
    shapes: dict[str, tuple[int, ...]] = {"glm.word_embeddings.weight": (vocab, hidden)}
    for name in ("position_embeddings", "block_position_embeddings"):
        shapes[f"glm.transformer.{name}.weight"] = (1025, hidden)
    rest = [item for item in chatglm_shapes(layers, hidden, vocab).items() if item[1][0] != vocab]
    return shapes | {f"glm.{name}": shape for name, shape in rest}


def sparse_glm(directory: Path, *, layers: int = 48, hidden: int = 4096, vocab: int = 50_304) -> int:
    """:func:`sparse_chatglm` of GLM-10B."""
    config = {
        "model_type": "glm", "vocab_size": vocab, "hidden_size": hidden, "num_layers": layers,
        "num_attention_heads": hidden // 64, "max_sequence_length": 1024, "block_position_encoding": True,
        "torch_dtype": "float16",
    }  # fmt: skip
    return _write(directory, config, glm_shapes(layers, hidden, vocab))


def sparse_chatglm(directory: Path, *, layers: int = 28, hidden: int = 4096, vocab: int = 130_528) -> int:
    """A ChatGLM-6B of float16 zeros (its own sizes by default) in one safetensors file; bytes of the file."""
    ids = {"bos_token_id": 4, "eos_token_id": 5, "mask_token_id": 6, "gmask_token_id": 7, "pad_token_id": 3}
    config = {
        "model_type": "chatglm", "vocab_size": vocab, "hidden_size": hidden, "num_layers": layers,
        "num_attention_heads": hidden // 128, "inner_hidden_size": 4 * hidden, "max_sequence_length": 2048,
        "torch_dtype": "float16", **ids,
    }  # fmt: skip
    return _write(directory, config, chatglm_shapes(layers, hidden, vocab))


def _write(directory: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> int:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    header, starts = make_header((name, "F16", shape) for name, shape in shapes.items())
    with (directory / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(starts[-1])
    return starts[-1]


class _Holes(io.RawIOBase):
    """A file that is written with holes where there are zeros."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= 1 << 16 and not np.frombuffer(view, np.uint8).any():
            self.file.seek(len(view), os.SEEK_CUR)
        else:
            self.file.write(view)
        return len(view)

    def close(self) -> None:
        if not self.file.closed:
            self.file.truncate(self.file.tell())
            self.file.close()
        super().close()


def sparse_checkpoint(
    folder: Path, shapes: dict[str, tuple[int, ...]], ranks: int, moments: bool = False
) -> int:
    """A ZeRO-2 checkpoint of zeros as DeepSpeed 0.19 lays it out, with Adam's ``moments`` or without; its parameters.

    The output matrix is tied to the embedding, where there is one. Needs torch, and no memory to speak of.
    """
    import torch

    shapes = {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}
    embedding = next((name for name in shapes if name.endswith("word_embeddings.weight")), None)
    step = folder / "global_step10"
    step.mkdir(parents=True)
    total = sum(math.prod(shape) for shape in shapes.values())
    length = math.ceil(total / (2 * ranks)) * 2
    for rank in range(ranks):
        count = length if rank < ranks - 1 else total - length * (ranks - 1)
        flat, *others = (torch.from_numpy(np.zeros(count, np.float32)) for _ in range(3))  # pages nobody has touched
        state = {"step": torch.tensor(10.0)}
        if moments:
            state |= zip(("exp_avg", "exp_avg_sq"), others, strict=True)
        optimizer = {
            "zero_stage": 2, "partition_count": [ranks], "ds_version": "0.19.8", "loss_scaler": None,
            "overflow": False, "single_partition_of_fp32_groups": [flat], "group_paddings": [0],
            "base_optimizer_state": {"state": {0: state}, "param_groups": [{"params": [0]}]},
            "param_alignment_paddings": [[0] * len(shapes)],
        }  # fmt: skip
        saved = {"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.19.8"}
        with _Holes(step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt") as file:
            torch.save(saved, file)
    common: dict[str, Any] = {
        "buffer_names": [], "param_shapes": [{name: torch.Size(shape) for name, shape in shapes.items()}],
        "frozen_param_shapes": None, "frozen_param_fragments": None, "global_steps": 10, "ds_version": "0.19.8",
        "shared_params": {"lm_head.weight": embedding} if embedding else {}, "ds_config": {}, "module": {},
    }  # fmt: skip
    torch.save(common, step / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("global_step10")
    return total
