"""All three families through the one interface: load, adapt with LoRA, train a step, merge, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs.models import GLMConfig, GLMForCausalLM, load_model
from glmjobs.models.family import family_for
from glmjobs.models.tiny.model import make_model


def write_glm(directory: Path) -> None:
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2}
    still = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}
    ids = {"bos_token_id": 311, "eos_token_id": 312, "pad_token_id": 0, "mask_token_ids": [310]}
    GLMForCausalLM(GLMConfig(**sizes, **ids, **still, max_sequence_length=64)).save_pretrained(directory)


def write_chatglm(directory: Path) -> None:
    ids = {
        "bos_token_id": 250,
        "eos_token_id": 251,
        "mask_token_id": 252,
        "gmask_token_id": 253,
        "pad_token_id": 3,
    }
    make_model(
        directory, hidden_size=32, layers=2, heads=2, vocab_size=320, max_positions=64, seed=0, ids=ids
    )


def write_glm4(directory: Path) -> None:
    from transformers import GlmConfig, GlmForCausalLM

    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    ids = {"pad_token_id": 0, "eos_token_id": [1]}
    GlmForCausalLM(GlmConfig(**sizes, **heads, **ids)).save_pretrained(directory)


WRITERS = {"chatglm": write_chatglm, "glm": write_glm, "glm4": write_glm4}
PROMPTS = {"chatglm": [5, 6, 253, 250], "glm": [5, 6, 310, 7, 311], "glm4": [5, 6, 7, 8]}


@pytest.mark.parametrize("name", WRITERS)
def test_one_interface(name: str, tmp_path: Path) -> None:
    """LoRA on the family's targets: only adapters train, and merged equals unmerged to 1e-4."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    WRITERS[name](tmp_path)
    family, base = family_for(tmp_path), load_model(tmp_path, "float32")
    assert family.name == name
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=list(family.lora_targets)))
    maps = {key.split(".")[-4] for key, p in adapted.named_parameters() if p.requires_grad}
    assert maps == set(family.lora_targets)
    ids = torch.tensor([[*PROMPTS[name], 9, 10, 11, 12]])
    labels = ids.clone()
    labels[:, : len(PROMPTS[name])] = -100
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(8):
        loss = adapted.train()(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.eval()
    with torch.no_grad():
        before = adapted(input_ids=ids, use_cache=False).logits
        merged: Any = adapted.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids, use_cache=False).logits, before, rtol=0, atol=1e-4)
    prompt = torch.tensor([PROMPTS[name]])
    out = merged.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False
    )
    assert out.shape[1] > prompt.shape[1]
