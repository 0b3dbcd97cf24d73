"""Small ChatGLM model directories for tests, made in about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glmjobs.data.problems import make_problems
from glmjobs.models.make_model import make_model
from glmjobs.models.make_tokenizer import make_tokenizer


def small_chatglm(directory: Path, seed: int = 0) -> Path:
    """A model directory with a tokenizer; the same tokenizer and other weights for every seed."""
    rows = make_problems(300, seed=0)
    texts = (f"{row['instruction']}\n{row['output']}" for row in rows)
    made = make_tokenizer(directory, texts, vocab_size=600).config()
    size = made.pop("vocab_size")
    model: Any = make_model(
        directory, hidden_size=32, layers=1, heads=2, vocab_size=size, max_positions=256, seed=seed, ids=made
    )
    torch.manual_seed(seed)
    for parameter in model.parameters():  # larger weights than a fresh model has: its greedy tokens vary
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory, safe_serialization=True)
    return directory
