"""GLM-4's first form: transformers' GLM-4 under other names, and ids as tiktoken's algorithm gives them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs.models import load_tokenizer
from glmjobs.models.family import family_for
from glmjobs.models.glm4_remote.tokenization import PATTERN, ranks_of
from hpc.core.errors import BadInput
from tests.support.fuzz_texts import fuzz_texts
from tests.support.small_families import ranked_pieces, small, small_glm4_remote


def renamed(ours: Any) -> dict[str, torch.Tensor]:
    """Our weights by transformers' names, queries, keys and values apart."""
    config = ours.config
    queries, keys = (
        n * config.kv_channels for n in (config.num_attention_heads, config.multi_query_group_num)
    )
    plain = {
        "self_attention.dense": "self_attn.o_proj", "mlp.dense_h_to_4h": "mlp.gate_up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj", "embedding.word_embeddings": "model.embed_tokens",
        "encoder.final_layernorm": "model.norm", "encoder.layers": "model.layers", "output_layer": "lm_head",
    }  # fmt: skip
    found = {}
    for name, tensor in ours.state_dict().items():
        name = name.removeprefix("transformer.")
        for old, new in plain.items():
            name = name.replace(old, new)
        if "query_key_value" not in name:
            found[name] = tensor
            continue
        for part, piece in zip("qkv", tensor.split([queries, keys, keys]), strict=True):
            found[name.replace("self_attention.query_key_value", f"self_attn.{part}_proj")] = piece
    return found


@pytest.mark.parametrize("size", [(64, 2, 4, 2, 16), (96, 4, 8, 2, 24), (32, 6, 2, 1, 16)], ids=str)
@torch.no_grad()
def test_it_is_transformers_glm(size: tuple[int, int, int, int, int]) -> None:
    """The same logits, alone and left-padded, and the same greedy tokens; the base is multiplied by rope_ratio."""
    from transformers import GlmConfig, GlmForCausalLM

    hidden, layers, heads, groups, width = size
    ours = small(
        "glm4_remote", std=0.25, hidden_size=hidden, num_layers=layers, num_attention_heads=heads, rope_ratio=500,
        multi_query_group_num=groups, kv_channels=width, layernorm_epsilon=1.5625e-07,
    )  # fmt: skip
    config = GlmConfig(
        vocab_size=320, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, head_dim=width,
        num_key_value_heads=groups, intermediate_size=96, rms_norm_eps=1.5625e-07, attention_bias=True,
        max_position_embeddings=256, pad_token_id=0, eos_token_id=None, tie_word_embeddings=False, rope_theta=5e6,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    theirs = GlmForCausalLM(config).eval()
    theirs.load_state_dict(renamed(ours))
    ids = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :13] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    wanted = theirs(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[mask.bool()]
    worst = (ours(ids, attention_mask=mask).logits[mask.bool()] - wanted).abs().max().item()
    print(f"\nparity glm4_remote {size}: max difference {worst:.1e}, largest logit {wanted.abs().max():.1f}")
    assert worst < 1e-4 and wanted.abs().max() > 1
    options = {
        "attention_mask": mask,
        "max_new_tokens": 16,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    found = ours.generate(ids, **options)
    assert (
        torch.equal(found, theirs.generate(ids, **options)) and len(set(found[:, 40:].flatten().tolist())) > 8
    )


def reference(ranks: dict[bytes, int], text: str) -> list[int]:
    """tiktoken's algorithm: cut by the pattern, then join the pair of the lowest rank until there is none."""
    import regex

    ids = []
    for part in regex.findall(PATTERN, text):
        pieces = [bytes([byte]) for byte in part.encode()]
        while True:
            pairs = [(ranks.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(pairwise(pieces))]
            rank, at = min(pairs, default=(1 << 30, 0))
            if rank == 1 << 30:
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        ids += [ranks[piece] for piece in pieces]
    return ids


def test_ids_are_tiktokens(tmp_path: Path) -> None:
    """Fuzzed texts to ids and back; control tokens in a text stay text."""
    pytest.importorskip("regex")
    tokenizer, ranks = load_tokenizer(small_glm4_remote(tmp_path)), ranks_of(ranked_pieces(), "it")
    texts = [*fuzz_texts(4_000, seed=11), "<|user|>\n你好<|assistant|>", "don't 12345 \n\n x", ""]
    found = tokenizer(texts, add_special_tokens=False)["input_ids"]
    odd = [t for t, ids in zip(texts, found, strict=True) if list(ids) != reference(ranks, t)]
    assert not odd, (len(odd), odd[:3])
    assert [tokenizer.decode(ids) for ids in found] == texts


def test_it_is_asked_in_roles(tmp_path: Path) -> None:
    family, tokenizer = family_for(small_glm4_remote(tmp_path)), load_tokenizer(tmp_path)
    assert family.name == "glm4_remote" and family.half == "bfloat16"

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    first = len(ranks_of(ranked_pieces(), "it"))
    gmask, sop, system, user, assistant, observation = (first + n for n in (2, 4, 6, 7, 8, 9))
    found = family.chat_prompt(tokenizer, "\n再给他2个", [("1+1=?", "2")], "be brief")
    turns = [(system, "be brief"), (user, "1+1=?"), (assistant, "2"), (user, "\n再给他2个")]
    assert found == [
        gmask,
        sop,
        *(t for role, text in turns for t in (role, *plain("\n"), *plain(text))),
        assistant,
    ]
    framed = family.frame(tokenizer, plain("1+1=?"), plain("2"))
    wanted = [gmask, sop, user, *plain("\n"), *plain("1+1=?"), assistant, *plain("\n"), *plain("2"), first]
    assert framed.input_ids == wanted
    assert family.stop_ids(tokenizer) == [first, user, observation]
    assert tokenizer("a")["input_ids"] == [gmask, sop, *plain("a")]
    assert tokenizer.decode([user, *plain("你好")]) == "<|user|>你好"
    assert tokenizer.decode([user, *plain("你好")], skip_special_tokens=True) == "你好"


@pytest.mark.parametrize("content", [b"\x0a\x05x", b"YQ== 0\nYg== 2\n", b"a b c\n", b""])
def test_another_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    small_glm4_remote(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(BadInput, match=r"tokenizer\.model: (no list|a list of)") as refused:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refused.value)
