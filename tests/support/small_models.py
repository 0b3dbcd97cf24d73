"""Small ChatGLM model directories for tests, made in about a second."""

from __future__ import annotations

from pathlib import Path

import torch

from glmjobs.data.synthetic import make_problems
from glmjobs.models import ChatGLMConfig, ChatGLMForCausalLM
from glmjobs.models.tiny.tokenizer import make_tokenizer


def small_chatglm(directory: Path, seed: int = 0) -> Path:
    """A model directory with a tokenizer; the same tokenizer and other weights for every seed."""
    rows = make_problems(300, seed=0)
    texts = (f"{row['instruction']}\n{row['output']}" for row in rows)
    made = make_tokenizer(directory, texts, vocab_size=600).config()
    torch.manual_seed(seed)
    config = ChatGLMConfig(
        **made, hidden_size=32, num_layers=1, num_attention_heads=2, max_sequence_length=256, alpha=1.0,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = ChatGLMForCausalLM(config)
    for parameter in model.parameters():  # larger weights than a fresh model has: its greedy tokens vary
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory, safe_serialization=True)
    return directory
