"""ChatGLM-6B: against THUDM's outputs, and against itself (packing, padding, caching, checkpointing,
saving)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmjobs.models import ChatGLMConfig, ChatGLMForCausalLM
from glmjobs.models.chatglm.modeling import rotary_angles
from glmjobs.models.common.loss import summed_cross_entropy
from glmjobs.models.common.positions import prefix_lm_mask
from hpc.core.errors import BadInput
from tests.support.small_families import small

SOP, EOP, MASK, GMASK, PAD = 250, 251, 252, 253, 3


def tiny(**changes: Any) -> ChatGLMForCausalLM:
    """A model whose outputs vary: larger weights than a fresh model has, so that greedy tokens differ."""
    options = {"num_layers": 3, "initializer_range": 0.3, "tie_word_embeddings": False}
    return small("chatglm", **{**options, **changes})


def example(context: int, target: int, seed: int = 0) -> torch.Tensor:
    """[context + gMASK, sop + target + eop] token ids."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 240, (context + target,), generator=random)
    return torch.cat([ids[:context], torch.tensor([GMASK, SOP]), ids[context:], torch.tensor([EOP])])


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "golden" / "tiny_chatglm_golden.pt", weights_only=True)


@pytest.fixture(scope="module")
def golden_model(golden: dict[str, Any]) -> ChatGLMForCausalLM:
    config = ChatGLMConfig(**{**golden["config"], "tie_word_embeddings": False})  # it was made untied
    model = ChatGLMForCausalLM(config).eval()
    model.load_state_dict(golden["state_dict"])
    return model


@pytest.mark.parametrize("case", ["case_20_8", "case_600_30"])
@torch.no_grad()
def test_golden(golden: dict[str, Any], golden_model: ChatGLMForCausalLM, case: str) -> None:
    """Logits and loss to 1e-4, mask and positions exactly, as THUDM's code gives them."""
    given = golden[case]
    out = golden_model(given["ids"], labels=given["labels"])
    torch.testing.assert_close(out.logits, given["logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(out.loss, given["loss"], rtol=0, atol=1e-4)
    layout = golden_model.lay_out(given["ids"], None)
    assert torch.equal(layout.position_ids, given["position_ids"])
    assert torch.equal(prefix_lm_mask(layout), ~given["mask"])  # THUDM's True is masked


@torch.no_grad()
def test_golden_tells_the_traps(golden: dict[str, Any], golden_model: ChatGLMForCausalLM) -> None:
    """An alpha taken from the depth would be seen. Positions would not: in weights this small attention
    hardly counts, so these are compared with THUDM's code at larger weights, in test_thudm.py."""
    given = golden["case_600_30"]
    config = ChatGLMConfig(**{**golden["config"], "tie_word_embeddings": False, "alpha": (2 * 3) ** 0.5})
    other = ChatGLMForCausalLM(config).eval()
    other.load_state_dict(golden["state_dict"])
    assert (other(given["ids"]).logits - given["logits"]).abs().max() > 1e-3
    ours, exact = tiny(), tiny(rotary_frequencies="float32")
    ids = example(200, 10)[None]
    assert (ours(ids).logits - exact(ids).logits).abs().max() > 1e-3


def packed_batch() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Examples, and two rows that hold them, one of them with padding."""
    examples = [example(5, 6, 1), example(12, 3, 2), example(7, 9, 3), example(20, 13, 4)]
    ids, segments = torch.full((2, 56), PAD), torch.zeros(2, 56, dtype=torch.long)
    for row, indices in enumerate(([0, 1, 2], [3])):
        at = 0
        for number, index in enumerate(indices, start=1):
            length = len(examples[index])
            ids[row, at : at + length] = examples[index]
            segments[row, at : at + length] = number
            at += length
    return examples, ids, segments


@torch.no_grad()
def test_packed_rows_equal_single_ones() -> None:
    model = tiny()
    examples, ids, segments = packed_batch()
    packed = model(ids, segment_ids=segments).logits
    assert torch.isfinite(packed).all()
    parts = [*packed[0].split([len(e) for e in examples[:3]] + [56 - sum(map(len, examples[:3]))])[:3]]
    parts.append(packed[1, : len(examples[3])])
    for single, part in zip(examples, parts, strict=True):
        torch.testing.assert_close(model(single[None]).logits[0], part, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(side: str) -> None:
    model = tiny()
    single = example(9, 5)
    padding = torch.full((7,), PAD)
    row = torch.cat([padding, single] if side == "left" else [single, padding])
    mask = torch.cat([torch.zeros(7), torch.ones(len(single))]).long()
    mask = mask if side == "left" else mask.flip(0)
    logits = model(row[None], attention_mask=mask[None]).logits[0, mask.bool()]
    torch.testing.assert_close(logits, model(single[None]).logits[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_generation_equals_recomputation() -> None:
    """A left-padded batch with a cache gives the tokens of one-at-a-time argmax over whole rows."""
    model = tiny()
    prompts = [example(n, 0, seed=n)[:-1] for n in (4, 11, 23)]
    longest = max(map(len, prompts))
    ids, mask = torch.full((3, longest), PAD), torch.zeros(3, longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None}
    batch = model.generate(input_ids=ids, attention_mask=mask, **options)[:, longest:]
    for prompt, generated in zip(prompts, batch, strict=True):
        row = prompt[None]
        for _ in range(16):
            row = torch.cat([row, model(row, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert generated.tolist() == row[0, len(prompt) :].tolist()
    assert len(set(batch.flatten().tolist())) > 8  # the model doesn't just repeat itself


@torch.no_grad()
def test_beam_search_keeps_the_cache_in_order() -> None:
    model = tiny()
    prompt = example(6, 0)[:-1][None]
    options = {"max_new_tokens": 10, "num_beams": 3, "do_sample": False}
    with_cache, without = (model.generate(prompt, use_cache=use, **options) for use in (True, False))
    assert torch.equal(with_cache, without)


def loss_and_gradients(model: Any, ids: Any, segments: Any, labels: Any, items: Any) -> tuple[Any, Any]:
    model.zero_grad()
    out = model(ids, segment_ids=segments, labels=labels, num_items_in_batch=items)
    out.loss.backward()
    return out, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_loss_and_gradients(checkpointing: bool) -> None:
    """The chunked loss has torch's value and gradients, with and without activation checkpointing, no logits
    kept."""
    model = tiny(tie_word_embeddings=True).train()
    _, ids, segments = packed_batch()
    labels = torch.where((segments > 0) & (torch.rand(ids.shape) < 0.5), ids, -100)
    labels[:, 0] = -100
    items = int((labels != -100).sum())
    logits = model(ids, segment_ids=segments).logits
    wanted = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / items
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for given in (None, items, torch.tensor(items)):
        out, ours = loss_and_gradients(model, ids, segments, labels, given)
        assert out.logits is None and out.loss.dtype == torch.float32
        torch.testing.assert_close(out.loss, wanted)
        for name, gradient in gradients.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_chunked_cross_entropy(rows: int, smoothing: float) -> None:
    """As torch's at every chunk size, labels smoothed or not; ignored rows count nothing; no targets give 0."""
    torch.manual_seed(1)
    hidden, weight = torch.randn(23, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    labels = torch.randint(0, 11, (23,))
    labels[::3] = -100
    wanted = F.cross_entropy(hidden @ weight.t(), labels, reduction="sum", label_smoothing=smoothing)
    ours = summed_cross_entropy(hidden, weight, labels, chunk_bytes=4 * 11 * rows, smoothing=smoothing)
    torch.testing.assert_close(ours, wanted)
    for a, b in zip(
        torch.autograd.grad(3 * ours, (hidden, weight)),
        torch.autograd.grad(3 * wanted, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert summed_cross_entropy(hidden, weight, torch.full((23,), -100)) == 0


def test_packed_and_padded_training_give_the_same_gradients() -> None:
    model = tiny().train()
    examples, ids, segments = packed_batch()
    labels = torch.where(segments > 0, ids, -100)
    for row in range(2):
        for segment in range(1, 4):
            columns = (segments[row] == segment).nonzero().flatten()
            if len(columns):
                sop = columns[(ids[row, columns] == SOP).nonzero()[0, 0]]
                labels[row, columns[0] : sop + 1] = -100
    items = int((labels != -100).sum())
    _, packed = loss_and_gradients(model, ids, segments, labels, items)
    model.zero_grad()
    for single in examples:
        single_labels = single.clone()
        single_labels[: int((single == SOP).nonzero()[0, 0]) + 1] = -100
        model(single[None], labels=single_labels[None], num_items_in_batch=items).loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(packed[name], p.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_rotary_angles_are_exact_in_any_type() -> None:
    """All 2,048 positions stay distinct, and the angles are p * 10000^(-i/32) in float32 (facts: bf16 loses
    them)."""
    positions = torch.arange(2048).expand(1, 2, 2048)
    cos, sin = rotary_angles(positions, 128, "float32")
    assert cos.shape == (1, 1, 2048, 2, 32) and cos.dtype == torch.float32
    exact = torch.arange(2048).double()[:, None] * 10000.0 ** (-torch.arange(32).double() / 32)
    for axis in (0, 1):
        torch.testing.assert_close(cos[0, 0, :, axis].double(), exact.cos(), rtol=0, atol=2e-4)
        torch.testing.assert_close(sin[0, 0, :, axis].double(), exact.sin(), rtol=0, atol=2e-4)
    rounded = exact - torch.arange(2048).double()[:, None] * (
        (1 / 10000 ** (torch.arange(0, 64, 2).float() / 64)).half().double()
    )
    for until, error in ((256, 0.04), (512, 0.08), (1024, 0.16), (2048, 0.32)):
        assert error / 2 < rounded[:until].abs().max() < error * 1.05
    model = tiny().bfloat16()
    seen: list[torch.dtype] = []
    model.transformer.layers[0].register_forward_hook(lambda _m, given, _out: seen.append(given[2].dtype))
    model(example(4, 4)[None])
    assert seen == [torch.bfloat16]  # only the finished cosines are rounded


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = tiny(tie_word_embeddings=True).train()
    ids = example(5, 5)[None]
    model(ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.save_pretrained(tmp_path)
    again = ChatGLMForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.transformer.word_embeddings.weight
    assert torch.equal(again.lm_head.weight, model.transformer.word_embeddings.weight)
    untied = tiny()
    untied.save_pretrained(tmp_path)
    again = ChatGLMForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, untied.lm_head.weight)
    assert not torch.equal(again.lm_head.weight, again.transformer.word_embeddings.weight)


def test_auto_classes(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ChatGLMConfig)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), ChatGLMForCausalLM)


def test_parameter_count_is_the_published_one() -> None:
    """6,173,286,400 tied parameters (facts); on the meta device, nothing is allocated."""
    with torch.device("meta"):
        model = ChatGLMForCausalLM(ChatGLMConfig())
    assert model.num_parameters() == 6_173_286_400


def test_configuration_of_both_revisions(shared: Path) -> None:
    new = ChatGLMConfig.from_pretrained(shared / "chatglm-6b")
    assert (new.num_hidden_layers, new.max_position_embeddings, new.intermediate_size) == (28, 2048, 16384)
    assert (new.bos_token_id, new.eos_token_id, new.gmask_token_id, new.pad_token_id) == (
        130004,
        130005,
        130001,
        3,
    )
    assert new.alpha == pytest.approx(56**0.5)
    old = ChatGLMConfig(vocab_size=150528, bos_token_id=150004, eos_token_id=150005)  # all that its file says
    assert (old.mask_token_id, old.gmask_token_id, old.pad_token_id) == (150000, 150001, 20003)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocab_size": 1000}, "bos_token_id is missing"),
        ({"bos_token_id": 150004}, "outside the vocabulary of 130528"),
        ({"quantization_bit": 4}, "quantised"),
        ({"pre_seq_len": 128}, "P-tuning"),
        ({"position_encoding_2d": False}, "position_encoding_2d"),
        ({"multi_query_attention": True}, "ChatGLM2"),
        ({"hidden_size": 100}, "multiple of 4"),
        ({"rotary_frequencies": "bfloat16"}, "rotary_frequencies"),
    ],
)
def test_configurations_that_are_not_ours(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        ChatGLMConfig(**options)
    assert "\n" not in str(caught.value)
