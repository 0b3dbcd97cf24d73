"""GLM-10B: against the original's outputs, and against itself; its frame and its traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmjobs.models import GLMConfig, GLMForCausalLM, load_model
from glmjobs.models.common.positions import prefix_lm_mask
from hpc.core.errors import BadInput
from tests.support.small_families import small

MASK, EOS, SOP, EOP = 310, 262, 311, 312
IDS = {"bos_token_id": SOP, "eos_token_id": EOP, "pad_token_id": EOS, "mask_token_ids": [MASK]}


def tiny(**changes: Any) -> GLMForCausalLM:
    options = {"num_layers": 3, "max_sequence_length": 128, "initializer_range": 0.3, "pad_token_id": EOS}
    return small("glm", **{**options, **changes})


def example(context: int, target: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 240, (context + target,), generator=random)
    return torch.cat([ids[:context], torch.tensor([MASK, EOS, SOP]), ids[context:]])


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "golden" / "tiny_glm_golden.pt", weights_only=True)


@torch.no_grad()
def test_golden(golden: dict[str, Any]) -> None:
    """With the original's positions and mask, and with our own: logits and loss to 1e-4, the layout
    exactly."""
    model = GLMForCausalLM(GLMConfig(**{**golden["config"], **IDS})).eval()
    model.load_state_dict(golden["state_dict"])
    given = {"position_ids": golden["pos"], "attention_mask": golden["mask"]}
    for layout in (given, {}):
        out = model(golden["ids"], labels=golden["labels"], **layout)
        torch.testing.assert_close(out.logits, golden["logits"], rtol=0, atol=1e-4)
        torch.testing.assert_close(out.loss, golden["loss"], rtol=0, atol=1e-4)
    rows = model.lay_out(golden["ids"], None)
    assert torch.equal(rows.position_ids, golden["pos"])
    assert torch.equal(prefix_lm_mask(rows), golden["mask"].bool())


@torch.no_grad()
def test_both_name_prefixes_load(golden: dict[str, Any], tmp_path: Path) -> None:
    """With ``glm.`` as published, without it as the converter dumps it; from a .bin file and by
    load_state_dict."""
    bare = {name.removeprefix("glm."): tensor for name, tensor in golden["state_dict"].items()}
    config = GLMConfig(**{**golden["config"], **IDS})
    for index, state in enumerate((golden["state_dict"], bare)):
        by_hand = GLMForCausalLM(config).eval()
        by_hand.load_state_dict(dict(state))
        directory = tmp_path / str(index)
        config.save_pretrained(directory)
        torch.save(state, directory / "pytorch_model.bin")
        loaded = load_model(directory)
        assert loaded.lm_head.weight is loaded.glm.word_embeddings.weight
        for model in (by_hand, loaded):
            torch.testing.assert_close(model(golden["ids"]).logits, golden["logits"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_packed_rows_equal_single_ones() -> None:
    model = tiny()
    examples = [example(5, 6, 1), example(12, 3, 2), example(7, 9, 3)]
    row = torch.cat([*examples, torch.full((5,), EOS)])
    segments = torch.cat(
        [*(torch.full_like(e, i + 1) for i, e in enumerate(examples)), torch.zeros(5).long()]
    )
    packed = model(row[None], segment_ids=segments[None]).logits[0]
    for single, part in zip(examples, packed.split([*map(len, examples), 5]), strict=False):
        torch.testing.assert_close(model(single[None]).logits[0], part, rtol=0, atol=1e-5)


@torch.no_grad()
def test_left_padded_generation_equals_recomputation() -> None:
    model = tiny()
    prompts = [example(n, 0, seed=n) for n in (4, 11, 23)]
    longest = max(map(len, prompts))
    ids, mask = torch.full((3, longest), EOS), torch.zeros(3, longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    batch = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    for prompt, generated in zip(prompts, batch[:, longest:], strict=True):
        row = prompt[None]
        for _ in range(12):
            row = torch.cat([row, model(row, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert generated.tolist() == row[0, len(prompt) :].tolist()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_is_not_shifted(checkpointing: bool) -> None:
    """Value and gradients of plain cross-entropy on unshifted labels, the tied embedding's included."""
    model = tiny().train()  # without dropout
    ids = example(9, 8, 1)[None]
    labels = torch.full_like(ids, -100)
    labels[:, -9:-1], labels[:, -1] = ids[:, -8:], EOP
    wanted = F.cross_entropy(model(ids).logits[0], labels[0])
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    out = model(ids, labels=labels)
    out.loss.backward()
    torch.testing.assert_close(out.loss, wanted)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def test_gmask_is_never_generated_by_the_chinese_model() -> None:
    """Row 50009 is a copy of 50007 (<|endofpiece|>), and the output is tied: without the ban they would
    tie."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "max_sequence_length": 64}
    model = GLMForCausalLM(GLMConfig(vocab_size=50048, **sizes)).eval()
    weight = model.glm.word_embeddings.weight.data
    weight *= 0.01
    weight[50007] = weight[50009] = 10 * torch.randn(16)
    weight[50009] *= 1.0001  # a hair ahead of the end, as rounding may put it
    model.glm.transformer.final_layernorm.bias.data = weight[50007] / 10
    prompt = torch.tensor([[50002, 7, 8, 50008, 50000, 50006]])
    assert int(model(prompt).logits[0, -1].argmax()) == 50009
    assert model.generate(prompt, max_new_tokens=3, do_sample=False)[0, -1] == 50007


def test_parameter_counts_are_the_published_ones() -> None:
    """9,880,682,496 (glm-10b) and 9,879,633,920 (chinese), facts; nothing is allocated."""
    for vocabulary, count in ((50304, 9_880_682_496), (50048, 9_879_633_920)):
        with torch.device("meta"):
            assert GLMForCausalLM(GLMConfig(vocab_size=vocabulary)).num_parameters() == count


def test_unknown_vocabulary_needs_ids() -> None:
    model = GLMForCausalLM(GLMConfig(vocab_size=320, hidden_size=16, num_layers=1, num_attention_heads=2))
    with pytest.raises(BadInput, match="vocabulary 320 needs bos_token_id"):
        model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"relative_encoding": True}, "relative_encoding"),
        ({"gelu": "quick"}, "as trained"),
        ({"hidden_size": 100}, "multiple of"),
        ({"bos_token_id": 60000}, "outside the vocabulary of 50304"),
    ],
)
def test_configurations_that_are_not_ours(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        GLMConfig(**options)
    assert "\n" not in str(caught.value)
