"""All three families through the one interface: load, adapt with LoRA, train a step, merge, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs.models import load_model
from glmjobs.models.family import family_for
from tests.support.small_families import PROMPTS, small


@pytest.mark.parametrize("name", PROMPTS)
def test_one_interface(name: str, tmp_path: Path) -> None:
    """LoRA on the family's targets: only adapters train, and merged equals unmerged to 1e-4."""
    peft = pytest.importorskip("peft")
    small(name).save_pretrained(tmp_path)
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
