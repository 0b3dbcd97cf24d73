"""Model directories of any size that take no disk: the files' holes read as zeros."""

from __future__ import annotations

import json
from pathlib import Path

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


def sparse_chatglm(directory: Path, *, layers: int = 28, hidden: int = 4096, vocab: int = 130_528) -> int:
    """A ChatGLM-6B of float16 zeros (its own sizes by default) in one safetensors file; bytes of the file."""
    directory.mkdir(parents=True)
    ids = {"bos_token_id": 4, "eos_token_id": 5, "mask_token_id": 6, "gmask_token_id": 7, "pad_token_id": 3}
    config = {
        "model_type": "chatglm", "vocab_size": vocab, "hidden_size": hidden, "num_layers": layers,
        "num_attention_heads": hidden // 128, "inner_hidden_size": 4 * hidden, "max_sequence_length": 2048,
        "torch_dtype": "float16", **ids,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    shapes = chatglm_shapes(layers, hidden, vocab)
    header, starts = make_header((name, "F16", shape) for name, shape in shapes.items())
    with (directory / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(starts[-1])
    return starts[-1]
