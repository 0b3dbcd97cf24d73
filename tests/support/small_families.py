"""Small models of every family: weights alone, or a directory with a tokenizer as the originals' files would be."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from glmjobs.compat import TRANSFORMERS
from glmjobs.data.collate import segment_sizes
from glmjobs.data.synthetic import make_problems
from glmjobs.models import ChatGLMConfig, ChatGLMForCausalLM, GLMConfig, GLMForCausalLM
from glmjobs.models.family import families

VOCABULARY, HIDDEN, LAYERS, HEADS, POSITIONS = 320, 64, 2, 4, 256
STD = 0.08

PROMPTS = {
    "chatglm": [5, 6, 253, 250], "glm": [5, 6, 310, 7, 311], "glm4": [5, 6, 7, 8], "chatglm2": [311, 313, 5, 6],
    "chatglm3": [311, 316, 5, 317], "glm4_remote": [311, 316, 5, 317],
}  # fmt: skip
"""Two words and what stands before an answer, in the ids of :func:`small`."""


def small(family: str, *, seed: int = 0, std: float | None = None, **changes: Any) -> Any:
    """A model of a family, without dropout, in float32, evaluating; the same weights for a seed.

    Args:
        std: of the weights, see :func:`vary`; None leaves them as a fresh model has them.
        changes: fields of the family's own configuration.
    """
    torch.manual_seed(seed)
    model = _MAKERS[family](changes).eval()
    return model if std is None else vary(model, std, seed)


def small_trained(family: str, **changes: Any) -> Any:
    """:func:`small` as it is trained: GLM-4 in our class, where ``small`` has transformers' own."""
    model = small(family, **changes)
    if not family.startswith("glm4"):
        return model.train()
    ours = families()[family].model_class()(model.config)
    ours.load_state_dict(model.state_dict())
    return ours.train()


def packed_batch(family: str, sizes: Sequence[Sequence[int]], length: int) -> dict[str, Any]:
    """Rows of ``length`` packed with examples of these sizes, which begin as the family's prompts do, then padding."""
    shape, prompt = (len(sizes), length), torch.tensor(PROMPTS[family])
    ids, segments = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    generator = torch.Generator().manual_seed(1)
    for row, of_row in enumerate(sizes):
        at = 0
        for number, size in enumerate(of_row, start=1):
            tokens = torch.cat([prompt, torch.randint(20, 200, (size - len(prompt),), generator=generator)])
            ids[row, at : at + size], segments[row, at : at + size] = tokens, number
            labels[row, at + len(prompt) : at + size] = tokens[len(prompt) :]
            at += size
    return {
        "input_ids": ids, "segment_ids": segments, "labels": labels,
        "segment_sizes": segment_sizes(segments.numpy()),
    }  # fmt: skip


def vary(model: Any, std: float = STD, seed: int = 0) -> Any:
    """Larger weights than a fresh model has, so that its greedy tokens vary."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(std=std, generator=generator)
    return model


def _chatglm(changes: dict[str, Any]) -> Any:
    ids = {
        "bos_token_id": 250,
        "eos_token_id": 251,
        "mask_token_id": 252,
        "gmask_token_id": 253,
        "pad_token_id": 3,
    }
    sizes = {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_attention_heads": HEADS}
    positions = {"max_sequence_length": POSITIONS}
    return ChatGLMForCausalLM(
        ChatGLMConfig(**{"vocab_size": VOCABULARY, **sizes, **positions, **ids, **changes})
    )


def _glm(changes: dict[str, Any]) -> Any:
    ids = {"bos_token_id": 311, "eos_token_id": 312, "pad_token_id": 0, "mask_token_ids": [310]}
    sizes = {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_attention_heads": HEADS}
    positions = {"max_sequence_length": POSITIONS}
    still = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}
    return GLMForCausalLM(
        GLMConfig(**{"vocab_size": VOCABULARY, **sizes, **positions, **still, **ids, **changes})
    )


_GLM4 = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": HIDDEN // HEADS,
    "max_position_embeddings": POSITIONS, "pad_token_id": 0, "eos_token_id": [1],
}  # fmt: skip


def _glm4(changes: dict[str, Any]) -> Any:
    from transformers import GlmConfig, GlmForCausalLM

    return GlmForCausalLM(GlmConfig(**{**_GLM4, **changes}))


def _glm4_0414(changes: dict[str, Any]) -> Any:
    from transformers import Glm4Config, Glm4ForCausalLM

    return Glm4ForCausalLM(Glm4Config(**{**_GLM4, **changes}))


def _second(release: str, family: str = "") -> Callable[[dict[str, Any]], Any]:
    """ChatGLM2's architecture, of one of its releases."""

    def make(changes: dict[str, Any]) -> Any:
        kind = families()[family or release].model_class()
        sizes = {
            "hidden_size": HIDDEN,
            "num_layers": LAYERS,
            "num_attention_heads": HEADS,
            "ffn_hidden_size": 96,
        }
        heads = {"multi_query_group_num": 2, "kv_channels": HIDDEN // HEADS, "seq_length": POSITIONS}
        given = {"padded_vocab_size": VOCABULARY, "chatglm_release": release, **sizes, **heads, **changes}
        return kind(kind.config_class(**given))

    return make


_MAKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "chatglm": _chatglm, "glm": _glm, "glm4": _glm4, "chatglm2": _second("chatglm2"), "chatglm3": _second("chatglm3"),
    "glm4_0414": _glm4_0414, "glm4_remote": _second("glm4", "glm4_remote"),
}  # fmt: skip


def texts() -> list[str]:
    """What the small tokenizers are trained on."""
    return [f"{row['instruction']}\n{row['output']}" for row in make_problems(300, seed=0)]


def small_chatglm(directory: Path, *, seed: int = 0, std: float = STD, **changes: Any) -> Path:
    """ChatGLM-6B's architecture, ``ice_text.model``; the same tokenizer for every seed."""
    from glmjobs.models.chatglm.tiny_tokenizer import make_tokenizer

    made = make_tokenizer(directory, texts(), vocab_size=600).config()
    small("chatglm", seed=seed, std=std, **made, **changes).save_pretrained(directory)
    return directory


def chinese_pieces(lines: list[str]) -> bytes:
    """A file of the kind of cog-pretrain.model: BPE without byte fallback, nmt_nfkc, <n> as a piece."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=700, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", user_defined_symbols=["<n>"], pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def small_glm(directory: Path) -> Path:
    """GLM-10B-chinese's architecture, ``cog-pretrain.model``."""
    from glmjobs.models.glm10b.tokenization import CHINESE_FILE, load_glm_tokenizer

    directory.mkdir(parents=True, exist_ok=True)
    (directory / CHINESE_FILE).write_bytes(chinese_pieces(texts()))
    tokenizer = load_glm_tokenizer(directory)
    ids = {
        "bos_token_id": tokenizer.sop_token_id, "eos_token_id": tokenizer.eop_token_id,
        "pad_token_id": tokenizer.pad_token_id, "mask_token_ids": [tokenizer.smask_token_id],
        "banned_token_ids": [tokenizer.gmask_token_id],
    }  # fmt: skip
    small("glm", std=STD, vocab_size=len(tokenizer), **ids).save_pretrained(directory)
    return directory


def byte_level_tokenizer(special: list[str], template: str, end: str) -> Any:
    """A byte-level BPE with a chat template, of the kind that tokenizer.json holds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, pad_token=special[0], padding_side="left"
    )
    fast.chat_template = template
    return fast


def small_glm4(directory: Path, family: str = "glm4") -> Path:
    """GLM-4's architecture and chat template, a byte-level tokenizer in tokenizer.json."""
    fast = byte_level_tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>",
    )
    fast.save_pretrained(directory)
    ids = {"pad_token_id": fast.pad_token_id, "eos_token_id": [fast.eos_token_id]}
    small(family, std=STD, vocab_size=len(fast), **ids).save_pretrained(directory)
    return directory


def second_pieces(lines: list[str]) -> bytes:
    """A file of the kind of ChatGLM2's tokenizer.model: BPE with byte fallback, texts taken as they are."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=700, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=True, split_digits=True,
        character_coverage=0.99, pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def small_chatglm2(directory: Path, *, release: str = "chatglm2", **changes: Any) -> Path:
    """ChatGLM2's architecture, ``tokenizer.model``; named as THUDM's directories are."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(second_pieces(texts()))
    model = small(release, std=STD, padded_vocab_size=768, **changes)
    model.save_pretrained(directory)
    families()[release].load_tokenizer(directory).save_pretrained(directory)
    return directory


def small_chatglm3(directory: Path, **changes: Any) -> Path:
    """ChatGLM3's: the same with roles."""
    return small_chatglm2(directory, release="chatglm3", **changes)


def ranked_pieces() -> bytes:
    """A file of the kind of GLM-4's first tokenizer.model: tokens in base64 and their ranks."""
    from glmjobs.models.glm4_remote.tokenization import _letters

    fast = byte_level_tokenizer(["<|endoftext|>"], "", "<|endoftext|>").backend_tokenizer
    merges = json.loads(fast.to_str())["model"]["merges"]
    table = {letter: bytes([byte]) for byte, letter in enumerate(_letters())}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    tokens = [*(bytes([i]) for i in range(256)), *(b"".join(table[c] for c in a + b) for a, b in pairs)]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(dict.fromkeys(tokens))]
    return "\n".join(lines).encode() + b"\n"


def small_glm4_remote(directory: Path, **changes: Any) -> Path:
    """GLM-4's first form."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(ranked_pieces())
    tokenizer = families()["glm4_remote"].load_tokenizer(directory)
    tokenizer.save_pretrained(directory)
    ids = {
        "eos_token_id": [tokenizer.eos_token_id],
        "pad_token_id": tokenizer.pad_token_id,
        "rope_ratio": 500,
    }
    small("glm4_remote", std=STD, padded_vocab_size=768, **{**ids, **changes}).save_pretrained(directory)
    return directory


SMALL: dict[str, Callable[..., Path]] = {
    "chatglm": small_chatglm, "glm": small_glm, "glm4": small_glm4, "chatglm2": small_chatglm2,
    "chatglm3": small_chatglm3, "glm4_remote": small_glm4_remote,
}  # fmt: skip

if TRANSFORMERS >= (4, 52):
    PROMPTS["glm4_0414"] = PROMPTS["glm4"]
    SMALL["glm4_0414"] = partial(small_glm4, family="glm4_0414")
