"""Small model directories of every family, tokenizer included, as the originals' files would be; seconds to make."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glmjobs.data.synthetic import make_problems
from glmjobs.models import ChatGLMConfig, ChatGLMForCausalLM, GLMConfig, GLMForCausalLM

HIDDEN, LAYERS, HEADS, POSITIONS = 64, 2, 4, 256


def texts() -> list[str]:
    """What the small tokenizers are trained on."""
    return [f"{row['instruction']}\n{row['output']}" for row in make_problems(300, seed=0)]


def save(model: Any, directory: Path) -> Path:
    """Write the model; larger weights than a fresh one has, so that its greedy tokens vary."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.08, generator=generator)
    model.save_pretrained(directory, safe_serialization=True)
    return directory


def small_chatglm(directory: Path) -> Path:
    """ChatGLM-6B's architecture, ``ice_text.model``."""
    from glmjobs.models.tiny.tokenizer import make_tokenizer

    made = make_tokenizer(directory, texts(), vocab_size=600).config()
    config = ChatGLMConfig(
        **made,
        hidden_size=HIDDEN,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        max_sequence_length=POSITIONS,
    )
    return save(ChatGLMForCausalLM(config), directory)


def small_glm(directory: Path) -> Path:
    """GLM-10B-chinese's architecture, ``cog-pretrain.model``."""
    import sentencepiece

    from glmjobs.models.glm10b.tokenization import CHINESE_FILE, load_glm_tokenizer

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts()), model_writer=model, model_type="bpe", vocab_size=700, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", user_defined_symbols=["<n>"], pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CHINESE_FILE).write_bytes(model.getvalue())
    tokenizer = load_glm_tokenizer(directory)
    still = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}
    config = GLMConfig(
        len(tokenizer), HIDDEN, LAYERS, HEADS, POSITIONS, **still,
        bos_token_id=tokenizer.sop_token_id, eos_token_id=tokenizer.eop_token_id, pad_token_id=tokenizer.pad_token_id,
        mask_token_ids=[tokenizer.smask_token_id], banned_token_ids=[tokenizer.gmask_token_id],
    )  # fmt: skip
    return save(GLMForCausalLM(config), directory)


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


def small_glm4(directory: Path) -> Path:
    """GLM-4's architecture and chat template, a byte-level tokenizer in tokenizer.json."""
    from transformers import GlmConfig, GlmForCausalLM

    fast = byte_level_tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>",
    )
    fast.save_pretrained(directory)
    config = GlmConfig(
        vocab_size=len(fast), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=2, head_dim=HIDDEN // HEADS, max_position_embeddings=POSITIONS,
        pad_token_id=fast.pad_token_id, eos_token_id=[fast.eos_token_id],
    )  # fmt: skip
    return save(GlmForCausalLM(config), directory)


SMALL: dict[str, Callable[[Path], Path]] = {"chatglm": small_chatglm, "glm": small_glm, "glm4": small_glm4}
