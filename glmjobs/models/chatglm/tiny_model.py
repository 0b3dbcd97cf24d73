"""Small seeded models of the families' architectures, for demos and tests. Never for results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from glmjobs.models.chatglm.configuration import ORIGINAL_ALPHA, ChatGLMConfig
from glmjobs.models.chatglm.modeling import ChatGLMForCausalLM


def make_model(
    directory: str | Path,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    vocab_size: int,
    max_positions: int,
    seed: int,
    ids: Mapping[str, Any],
    inner_size: int | None = None,
    alpha: float = ORIGINAL_ALPHA,
    dtype: str = "float32",
) -> ChatGLMForCausalLM:
    """Write a randomly initialised ChatGLM-6B-architecture model directory (without a tokenizer) and return
    the model.

    The same arguments give the same weights, bit for bit, whatever was drawn before.

    Args:
        directory: made if absent; config.json, generation_config.json and model.safetensors are written into
            it.
        hidden_size, layers, heads, vocab_size, max_positions: as in :class:`ChatGLMConfig`.
        seed: of the weights.
        ids: bos_token_id, eos_token_id, mask_token_id, gmask_token_id, pad_token_id; see
            :meth:`glmjobs.models.chatglm.tiny_tokenizer.MadeTokenizer.config`.
        inner_size: width of the MLP; None: four times hidden_size.
        alpha: factor of the residual.
        dtype: of the weights on disk, "float32", "float16" or "bfloat16".
    """
    config = ChatGLMConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=layers,
        num_attention_heads=heads,
        inner_hidden_size=inner_size,
        max_sequence_length=max_positions,
        alpha=alpha,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ChatGLMForCausalLM(config)
    model.to(getattr(torch, dtype)).eval()
    model.save_pretrained(directory, safe_serialization=True)
    return model
