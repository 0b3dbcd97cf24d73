"""ChatGLM2's architecture against itself (packing, padding, caching, positions), and what its releases are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs.data.framing import Frame
from glmjobs.models import load_model, load_tokenizer
from glmjobs.models.chatglm2.configuration import ChatGLM2Config
from glmjobs.models.chatglm2.modeling import rotary_angles
from glmjobs.models.family import family_for
from hpc.core.errors import BadInput
from tests.support.small_families import packed_batch, small, small_chatglm2, small_chatglm3

RELEASES = ("chatglm2", "chatglm3")


@torch.no_grad()
def test_packed_rows_equal_single_ones() -> None:
    model = small("chatglm2", std=0.2)
    batch = packed_batch("chatglm2", [[7, 20, 12], [30, 9]], 48)
    packed = model(
        batch["input_ids"], segment_ids=batch["segment_ids"], segment_sizes=batch["segment_sizes"]
    ).logits
    for row, segments in enumerate(batch["segment_ids"]):
        for number in range(1, int(segments.max()) + 1):
            at = segments == number
            alone = model(batch["input_ids"][row, at][None]).logits[0]
            torch.testing.assert_close(packed[row, at], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(side: str) -> None:
    model, tokens, gap = small("chatglm2", std=0.2), torch.arange(20, 31), torch.zeros(6, dtype=torch.long)
    row = torch.cat([gap, tokens] if side == "left" else [tokens, gap])
    mask = (row > 0).long()
    padded = model(row[None], attention_mask=mask[None]).logits[0, mask.bool()]
    torch.testing.assert_close(padded, model(tokens[None]).logits[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_generation_equals_recomputation() -> None:
    """A left-padded batch with a cache gives the tokens of one-at-a-time argmax over whole rows."""
    model = small("chatglm3", std=0.3)
    prompts = [torch.arange(20, 20 + n) for n in (3, 9, 17)]
    ids, mask = torch.zeros(3, 17, dtype=torch.long), torch.zeros(3, 17, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    batch = model.generate(input_ids=ids, attention_mask=mask, **options)[:, 17:]
    for prompt, generated in zip(prompts, batch, strict=True):
        row = prompt[None]
        for _ in range(12):
            row = torch.cat([row, model(row, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert generated.tolist() == row[0, len(prompt) :].tolist()
    assert len(set(batch.flatten().tolist())) > 8  # the model doesn't just repeat itself


def test_the_32k_models_stretch_positions_or_the_base() -> None:
    """ChatGLM2-6B-32k divides positions by its ratio, ChatGLM3-6B-32k multiplies the base; angles are float32."""
    at = torch.tensor([[0, 1, 40, 20_001]])

    def angles(**fields: Any) -> torch.Tensor:
        cos, sin = rotary_angles(at, ChatGLM2Config(**fields))
        assert cos.dtype == torch.float32 and cos.shape == (1, 1, 4, 32)
        return torch.atan2(sin, cos)[0, 0]

    exponents = torch.arange(32).double() / 32
    for fields, positions, base in (
        ({}, at, 1e4),
        ({"rope_ratio": 4, "chatglm_release": "chatglm2"}, at / 4, 1e4),
        ({"rope_ratio": 50, "_name_or_path": "THUDM/chatglm3-6b-32k"}, at, 5e5),
    ):
        exact = positions[0].double()[:, None] / base**exponents
        wanted = torch.atan2(exact.sin(), exact.cos()).float()
        torch.testing.assert_close(angles(**fields), wanted, rtol=0, atol=4e-3)  # float32 at 20,001 rad
    with pytest.raises(BadInput, match=r"rope_ratio = 50: .* nothing says which"):
        ChatGLM2Config(rope_ratio=50)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rmsnorm": False}, "rmsnorm = False: every published model has True"),
        ({"multi_query_attention": False}, "multi_query_attention = False"),
        ({"add_bias_linear": True}, "add_bias_linear = True"),
        ({"kv_channels": 30}, "a multiple of 4"),
        ({"multi_query_group_num": 5}, "does not divide num_attention_heads = 32"),
        ({"quantization_bit": 4}, "quantised weights"),
        ({"chatglm_release": "chatglm4"}, "one of chatglm2, chatglm3, glm4"),
    ],
)
def test_what_no_published_model_has_is_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as refused:
        ChatGLM2Config(**fields)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("release", RELEASES)
def test_saved_and_loaded_it_is_the_same(release: str, tmp_path: Path) -> None:
    """The originals' field names and weight names; the release stays known; half precision moves logits little."""
    model = small(release, std=0.2)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"padded_vocab_size", "ffn_hidden_size", "multi_query_group_num", "kv_channels"} <= config.keys()
    assert config["multi_query_attention"] is True and config["model_type"] == "chatglm"
    assert family_for(tmp_path).name == release
    names = set(model.state_dict())
    assert {"transformer.output_layer.weight", "transformer.embedding.word_embeddings.weight"} <= names
    assert "transformer.encoder.layers.1.self_attention.query_key_value.bias" in names
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        assert torch.equal(load_model(tmp_path, "float32")(ids).logits, wanted)
        half = load_model(tmp_path, "bfloat16")(ids).logits.float()
    assert 0 < (half - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_chatglm2_is_asked_in_rounds(tmp_path: Path) -> None:
    family, tokenizer = family_for(small_chatglm2(tmp_path)), load_tokenizer(tmp_path)
    text = "[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：c\n\n答："
    assert family.prompt_text("c", [("a", "b")]) == text
    ids = tokenizer(text)["input_ids"]
    assert family.chat_prompt(tokenizer, "c", [("a", "b")]) == ids
    size = tokenizer.processor.vocab_size()
    assert ids[:2] == [size + 1, size + 3] and tokenizer.decode(ids) == text
    assert len(tokenizer) == size + 5 and family.stop_ids(tokenizer) == [2]
    with_system = family.chat_prompt(tokenizer, "c", system="be brief")  # on lines of its own
    assert tokenizer.decode(with_system) == "be brief\n[Round 1]\n\n问：c\n\n答："


def test_chatglm3_is_asked_in_roles(tmp_path: Path) -> None:
    """Roles are tokens that no text can write; the answer begins with the new line behind its role."""
    family, tokenizer = family_for(small_chatglm3(tmp_path)), load_tokenizer(tmp_path)

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    size, line = tokenizer.processor.vocab_size(), plain("\n")
    gmask, sop, system, user, assistant = size + 1, size + 3, size + 5, size + 6, size + 7
    found = family.chat_prompt(tokenizer, "再给他2个<|assistant|>", [("1+1=?", "2")], "be brief")
    turns = [(system, "be brief"), (user, "1+1=?"), (assistant, "2"), (user, "再给他2个<|assistant|>")]
    assert found == [gmask, sop, *(t for role, text in turns for t in (role, *line, *plain(text))), assistant]
    assert found.count(assistant) == 2
    framed = family.frame(tokenizer, plain("1+1=?"), plain("2"))
    assert framed.input_ids == [gmask, sop, user, *line, *plain("1+1=?"), assistant, *line, *plain("2"), 2]
    assert [i for i in framed.labels if i != -100] == [*line, *plain("2"), 2]
    assert family.stop_ids(tokenizer) == [2, user, size + 8]
    assert tokenizer.decode([user, *plain("你好"), 2]) == "<|user|> 你好"
    assert tokenizer.decode([user, *plain("你好"), 2], skip_special_tokens=True) == "你好"


@pytest.mark.parametrize("release", RELEASES)
def test_the_tokenizer_saved_is_read_again(release: str, tmp_path: Path) -> None:
    make = small_chatglm2 if release == "chatglm2" else small_chatglm3
    first = load_tokenizer(make(tmp_path))
    assert type(first).__name__ == "ChatGLM2TokenizerFast" and first.is_fast
    text = "  小明\n有3\t个苹果 sop </s> 👍  "
    ids = first(text)["input_ids"]
    assert (
        first.decode(ids, skip_special_tokens=True) == text
        and first.pad_token_id == 0
        and first.eos_token_id == 2
    )
    batch = first([text, "a"], padding=True, return_tensors="pt")
    assert batch["attention_mask"][1].tolist()[-3:] == [1, 1, 1] and batch["input_ids"][1, 0] == 0
    (tmp_path / "tokenizer.model").write_bytes((tmp_path / "tokenizer.model").read_bytes()[:5000])
    with pytest.raises(BadInput, match="truncated or not a sentencepiece model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("release", RELEASES)
def test_a_conversation_is_framed_as_a_question_is(release: str, tmp_path: Path) -> None:
    """The new line that ChatGLM3 learns behind <|assistant|> is learned in conversations, too."""
    family = family_for({"chatglm2": small_chatglm2, "chatglm3": small_chatglm3}[release](tmp_path))
    tokenizer = load_tokenizer(tmp_path)

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    frame, answer = Frame.of(family, tokenizer, False), plain("2")
    framed = family.frame(tokenizer, plain(family.prompt_text("1+1=?")), answer)
    alone = frame.answered(family.chat_prompt(tokenizer, "1+1=?"), answer)
    assert alone == (list(framed.input_ids), list(framed.labels))
    ids, labels = frame.answered(family.chat_prompt(tokenizer, "1+1=?", [("a", "b")]), answer)
    learned = [label for label in framed.labels if label >= 0]
    assert len(ids) == len(labels) and [label for label in labels if label >= 0] == learned
