"""Configuration of ChatGLM-6B (first generation), in the words of the original's config.json."""

from __future__ import annotations

import math
from typing import Any, Literal

from transformers import PretrainedConfig

from glmjobs.models.family import refuse_unusual
from hpc.core.errors import BadInput

#: Special ids of the two published vocabularies. The original class defaults still carry the ids of the older
#: one, whose config.json has no mask and pad ids at all (they stood in the code); so ids are never guessed
#: from defaults. 150528 is the vocabulary before April 2023: 20,000 image tokens, then the text pieces,
#: shifted by as many.
REVISION_IDS: dict[int, dict[str, int]] = {
    130528: {
        "bos_token_id": 130004,
        "eos_token_id": 130005,
        "mask_token_id": 130000,
        "gmask_token_id": 130001,
        "pad_token_id": 3,
    },
    150528: {
        "bos_token_id": 150004,
        "eos_token_id": 150005,
        "mask_token_id": 150000,
        "gmask_token_id": 150001,
        "pad_token_id": 20003,
    },
}

#: sqrt(2 * 28): the original divides by its 28 layers whatever depth a model has.
ORIGINAL_ALPHA = math.sqrt(56.0)


class ChatGLMConfig(PretrainedConfig):
    """Architecture and special ids of a ChatGLM-6B.

    Accepts the original's config.json, and serves its fields under transformers' usual names too
    (``num_hidden_layers``, ``intermediate_size``, ``max_position_embeddings``, ``layer_norm_eps``).

    Args:
        vocab_size: rows of the embedding.
        hidden_size: width of the model; ``num_attention_heads`` heads share it evenly.
        num_layers: blocks.
        num_attention_heads: heads; hidden_size / num_attention_heads is a multiple of 4 (two axes of rotated
            pairs).
        inner_hidden_size: width inside the MLP; None: four times hidden_size.
        max_sequence_length: positions the model was made for.
        layernorm_epsilon: of every layer norm.
        bos_token_id, eos_token_id, mask_token_id, gmask_token_id, pad_token_id: ids of ``<sop>``, ``<eop>``,
            ``[MASK]``, ``[gMASK]`` and ``<pad>``. May be left out for the published vocabularies (130528,
            150528).
        alpha: factor of the residual, x * alpha + f(x). sqrt(56), as in the original at every depth.
        rotary_frequencies: "float16" rounds the rotary frequencies to half precision, as the released model
            does (in training and inference); "float32" keeps them exact. Angles are float32 in both. Rounding
            turns the largest angles by up to 0.04, 0.08, 0.16, 0.32 rad at positions below 256, 512, 1024,
            2048.
        tie_word_embeddings: the output matrix is the embedding, as transformers has always loaded the
            original.

    Raises:
        BadInput: for a sibling architecture under the same model_type, quantised weights, a P-tuning prefix,
            a special id outside the vocabulary, or an unknown vocabulary without ids.
    """

    model_type = "chatglm"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012 (transformers' own interface)
    attribute_map = {  # noqa: RUF012
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "layer_norm_eps": "layernorm_epsilon",
    }

    def __init__(
        self,
        vocab_size: int = 130528,
        hidden_size: int = 4096,
        num_layers: int = 28,
        num_attention_heads: int = 32,
        inner_hidden_size: int | None = None,
        max_sequence_length: int = 2048,
        layernorm_epsilon: float = 1e-5,
        use_cache: bool = True,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        mask_token_id: int | None = None,
        gmask_token_id: int | None = None,
        pad_token_id: int | None = None,
        position_encoding_2d: bool = True,
        alpha: float = ORIGINAL_ALPHA,
        rotary_frequencies: Literal["float16", "float32"] = "float16",
        initializer_range: float = 0.02,
        tie_word_embeddings: bool = True,
        quantization_bit: int = 0,
        pre_seq_len: int | None = None,
        prefix_projection: bool = False,
        **kwargs: Any,
    ) -> None:
        # Aliases arrive as extra fields and would be set over these only after the checks below.
        num_layers = kwargs.pop("num_hidden_layers", num_layers)
        inner_hidden_size = kwargs.pop("intermediate_size", inner_hidden_size)
        max_sequence_length = kwargs.pop("max_position_embeddings", max_sequence_length)
        layernorm_epsilon = kwargs.pop("layer_norm_eps", layernorm_epsilon)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.inner_hidden_size = 4 * hidden_size if inner_hidden_size is None else inner_hidden_size
        self.max_sequence_length = max_sequence_length
        self.layernorm_epsilon = layernorm_epsilon
        self.use_cache = use_cache
        self.position_encoding_2d = position_encoding_2d
        self.alpha = alpha
        self.rotary_frequencies = rotary_frequencies
        self.initializer_range = initializer_range
        self.quantization_bit = quantization_bit
        self.pre_seq_len = pre_seq_len
        self.prefix_projection = prefix_projection
        ids = special_ids(
            vocab_size,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            mask_token_id=mask_token_id,
            gmask_token_id=gmask_token_id,
            pad_token_id=pad_token_id,
        )
        self.mask_token_id = ids.pop("mask_token_id")
        self.gmask_token_id = ids.pop("gmask_token_id")
        self._refuse_what_is_not_ours(kwargs)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **ids, **kwargs)

    def _refuse_what_is_not_ours(self, rest: dict[str, Any]) -> None:
        """Say in one line what a config.json asks for that this architecture doesn't have."""
        siblings = {"multi_query_attention", "padded_vocab_size", "kv_channels", "rmsnorm"} & rest.keys()
        if siblings:
            raise BadInput(
                f"{sorted(siblings)[0]} is of ChatGLM2, ChatGLM3 or GLM-4 with remote code, not of "
                "ChatGLM-6B, the first generation (GLM-4: use a directory in transformers' own format, -hf)"
            )
        refuse_unusual({"quantization_bit": self.quantization_bit, "pre_seq_len": self.pre_seq_len})
        if not self.position_encoding_2d:
            raise BadInput(
                "position_encoding_2d = false: no published ChatGLM-6B has it; only true is supported"
            )
        if self.rotary_frequencies not in ("float16", "float32"):
            raise BadInput(
                f'rotary_frequencies = {self.rotary_frequencies!r}: "float16" (as released) or "float32"'
            )
        if self.hidden_size % (4 * self.num_attention_heads):
            raise BadInput(
                f"hidden_size = {self.hidden_size} with num_attention_heads = {self.num_attention_heads}: "
                "a head's width must be a multiple of 4"
            )


def special_ids(vocab_size: int, **given: int | None) -> dict[str, int]:
    """All special ids: the given ones, completed from the published vocabulary of that size.

    Raises:
        BadInput: an id is missing and the vocabulary is not a published one, or an id is outside the
            vocabulary.
    """
    known = REVISION_IDS.get(vocab_size, {})
    ids = {name: known.get(name) if value is None else value for name, value in given.items()}
    complete: dict[str, int] = {}
    for name, value in ids.items():
        if value is None:
            sizes = " and ".join(str(size) for size in REVISION_IDS)
            raise BadInput(
                f"{name} is missing: only the published vocabularies ({sizes}) have known ids, "
                f"one of {vocab_size} has not"
            )
        if not 0 <= value < vocab_size:
            raise BadInput(f"{name} = {value} is outside the vocabulary of {vocab_size}")
        complete[name] = value
    return complete
