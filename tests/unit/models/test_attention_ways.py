"""The ways of computing the attention of packed rows are one function; which is used can be measured and set."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from glmjobs.models.common.attention import WAYS, Blocks, Pieces, attend, block_diagonal, in_form
from glmjobs.models.common.attention_ways import fastest, measure, possible_ways, set_way
from tests.support.small_families import LAYERS, PROMPTS, packed_batch, small, small_trained

SIZES = [[17, 9, 30], [41, 11]]
LENGTH = 60
FAMILIES = ("chatglm", "glm", "glm4", "chatglm2")


def batch_of(family: str) -> dict[str, Any]:
    return packed_batch(family, SIZES, LENGTH)


def step(model: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "recomputed", [None, False, True], ids=["kept", "recomputed", "recomputed-reentrant"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_equal_in_every_way(family: str, recomputed: bool | None) -> None:
    model, batch = small_trained(family, std=0.08), batch_of(family)
    set_way(model, "whole")
    loss, gradients = step(model, batch)
    if recomputed is not None:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": recomputed})
    for way in possible_ways(torch.device("cpu")):
        set_way(model, way)
        again, others = step(model, batch)
        assert again == pytest.approx(loss, abs=1e-5), way
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-5, msg=f"{way}: {name}")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_way_reads_another_example(family: str) -> None:
    """An example's hidden states don't change when another one of its row does."""
    model, batch = small_trained(family, std=0.08).eval(), batch_of(family)
    other = batch["input_ids"].clone()
    first = SIZES[0][0]
    other[0, len(PROMPTS[family]) : first] = 7
    for way in WAYS:
        if way == "flex" and not has_flex():
            continue
        set_way(model, way)
        with torch.no_grad():
            a = model(**{**batch, "labels": None}).logits
            b = model(**{**batch, "labels": None, "input_ids": other}).logits
        assert torch.equal(a[0, first : sum(SIZES[0])], b[0, first : sum(SIZES[0])]), way
        assert not torch.allclose(a[0, :first], b[0, :first]), way


def has_flex() -> bool:
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)


@pytest.mark.skipif(not has_flex(), reason="FlexAttention came with torch 2.5")
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_gives_the_same_logits(family: str) -> None:
    """On a CPU torch has its forward pass only."""
    model, batch = small_trained(family, std=0.08).eval(), batch_of(family)
    logits = {}
    for way in ("whole", "flex"):
        set_way(model, way)
        with torch.no_grad():
            logits[way] = model(**{**batch, "labels": None}).logits
    real = batch["segment_ids"] > 0
    torch.testing.assert_close(logits["flex"][real], logits["whole"][real], rtol=0, atol=1e-5)


def test_pieces_reach_every_layer_of_a_transformers_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every release that is served: through the decoder's own forward pass, and recomputation."""
    import glmjobs.models.common.packed as packed

    calls: list[int] = []
    attend_pieces = packed._attend_causal_pieces

    def counted(*args: Any) -> Any:
        calls.append(len(args[4]))
        return attend_pieces(*args)

    monkeypatch.setattr(packed, "_attend_causal_pieces", counted)
    model, batch = small_trained("glm4", std=0.08), batch_of("glm4")
    step(model, batch)
    assert calls == [len(batch["segment_sizes"])] * LAYERS
    model.gradient_checkpointing_enable({"use_reentrant": False})
    step(model, batch)
    assert len(calls) == 3 * LAYERS


def test_a_causal_piece_has_its_scale_and_shared_keys() -> None:
    """What the pieces of a transformers decoder take where torch's attention takes no scale."""
    from glmjobs.models.common.packed import _causal_attention

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 16, generator=generator) for heads in (6, 2, 2))
    out, _ = _causal_attention(None, query, key, value, None, scaling=0.4, dropout=0.0)
    key, value = (t.repeat_interleave(3, dim=1) for t in (key, value))
    scores = 0.4 * query @ key.transpose(-1, -2)
    scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    torch.testing.assert_close(out.transpose(1, 2), scores.softmax(-1) @ value, rtol=0, atol=1e-5)


def test_generation_and_plain_rows_are_transformers_own() -> None:
    plain, ours = small("glm4", std=0.08), small_trained("glm4", std=0.08).eval()
    ids = torch.tensor([[0, 0, *PROMPTS["glm4"]], [9, 8, *PROMPTS["glm4"]]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 6}
    assert torch.equal(plain.generate(ids, **options), ours.generate(ids, **options))
    # what a saved directory and others see
    assert ours.config._attn_implementation == plain.config._attn_implementation


def test_forms_of_a_mask() -> None:
    segments = batch_of("glm4")["segment_ids"]
    visible, sizes = block_diagonal(segments), batch_of("glm4")["segment_sizes"]
    assert visible[0, 0, 16].sum() == 17 and visible[0, 0, 17].sum() == 1
    assert isinstance(in_form(visible, None, sizes), Pieces)  # a CPU's own way
    assert in_form(visible, "whole", sizes) is visible
    assert in_form(visible, "pieces", None) is visible  # nothing says where the pieces are
    if has_flex():
        states = torch.randn(3, 2, 4, LENGTH, 16, generator=torch.Generator().manual_seed(0))
        blocks = in_form(visible, "flex", sizes)
        assert isinstance(blocks, Blocks)
        flex, whole = (attend(*states, form, cache=None, layer=0) for form in (blocks, visible))
        torch.testing.assert_close(flex, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_ways_are_measured_on_a_layer_like_the_models(family: str) -> None:
    """FlexAttention has no backward pass on a CPU: a way that fails is none, and the others remain."""
    model, batch = small_trained(family, std=0.08), batch_of(family)
    batch["target_positions"] = (batch["labels"].reshape(-1) != -100).nonzero().squeeze(1)
    wanted, state = step(model, batch), torch.get_rng_state()
    ways = WAYS if has_flex() else WAYS[:2]
    seconds = measure(model, batch, ways)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(seconds) == list(ways) and all(seconds[way] > 0 for way in WAYS[:2])
    assert not has_flex() or math.isnan(seconds["flex"])
    again = step(model, batch)
    assert again[0] == wanted[0] and all(torch.equal(again[1][n], g) for n, g in wanted[1].items())


def test_dropout_of_attention_leaves_flex_out() -> None:
    gpu = torch.device("cuda")
    assert ("flex" in possible_ways(gpu)) == has_flex()
    assert "flex" not in possible_ways(gpu, small("glm", attention_dropout_prob=0.1).config)
    assert "flex" not in possible_ways(gpu, small("glm4", attention_dropout=0.1).config)
    assert possible_ways(gpu, small("chatglm").config) == possible_ways(gpu)


def test_the_simplest_of_the_fast_ways_is_taken() -> None:
    assert fastest({"pieces": 1.0, "whole": 1.04, "flex": 1.2}) == "whole"
    assert fastest({"pieces": 1.0, "whole": 2.0, "flex": math.nan}) == "pieces"
    assert fastest({"pieces": 5.0, "whole": 2.0, "flex": 1.0}) == "flex"
    with pytest.raises(ValueError, match="attention 'fast': one of pieces, whole, flex"):
        set_way(small_trained("chatglm"), "fast")
