"""All families through the one interface: load, adapt with LoRA, train a step, merge, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs.data.framing import BEYOND, Frame, Limits
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


def test_the_longest_example_that_is_kept_is_the_longest_that_glm_10b_takes() -> None:
    """Its positions are rows of two tables: one token more of the question, or of the answer, and it has none."""
    family, model = family_for("glm"), small("glm", max_sequence_length=20)
    positions = family.positions(model.config.to_dict())
    assert positions == 21
    frame = Frame(
        before=[300], between=[310, 312, 311], behind=[], labels_between=[], labels_behind=[], opening=3
    )
    limits = Limits(500, 500, "drop", positions, family.positions_apart)
    for source, target in ((18, 1), (1, 19), (18, 19)):
        ids = torch.tensor([frame.apply([7] * source, [8] * target)[0]])
        assert limits.left_out(frame, source, target) is None
        model(input_ids=ids)
    for source, target in ((19, 1), (1, 20)):
        ids = torch.tensor([frame.apply([7] * source, [8] * target)[0]])
        assert limits.left_out(frame, source, target) == BEYOND
        with pytest.raises(IndexError):
            model(input_ids=ids)


def test_rotary_positions_are_one_count_over_question_and_answer() -> None:
    frame = Frame(before=[1], between=[2], behind=[3], labels_between=[], labels_behind=[], opening=1)
    limits = Limits(500, 500, "keep_end", family_for("glm4").positions({"max_position_embeddings": 30}))
    assert limits.left_out(frame, 20, 7) is None and limits.left_out(frame, 20, 8) == BEYOND
    assert Limits(500, 500, "drop", family_for("glm4").positions({})).left_out(frame, 400, 400) is None
