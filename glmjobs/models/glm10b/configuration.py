"""Configuration of GLM-10B and GLM-10B-chinese, in the words of the originals' config.json."""

from __future__ import annotations

from typing import Any, Literal

from transformers import PretrainedConfig

from hpc.core.errors import BadInput

#: Special ids of the two published vocabularies; the originals keep them in their tokenizers, not in
#: config.json. bos is <|startofpiece|>, eos (the end of an answer) <|endofpiece|>, pad <|endoftext|>.
VOCABULARY_IDS: dict[int, dict[str, Any]] = {
    50304: {
        "bos_token_id": 50257,
        "eos_token_id": 50258,
        "pad_token_id": 50256,
        "mask_token_ids": [50260, 50263, 50264],
        "banned_token_ids": [],
    },
    # The original numbering gives [gMASK] the id of <|endofpiece|>; the converter for transformers copied row
    # 50007 to 50009. The output matrix is the embedding, so the two start with equal logits: 50009 is never
    # to be generated.
    50048: {
        "bos_token_id": 50006,
        "eos_token_id": 50007,
        "pad_token_id": 50000,
        "mask_token_ids": [50003, 50009, 50008],
        "banned_token_ids": [50009],
    },
}


class GLMConfig(PretrainedConfig):
    """Architecture and special ids of a GLM-10B.

    Accepts the original's config.json. The model_type written is "glm10b": transformers gives "glm" to GLM-4.

    Args:
        vocab_size: rows of the embedding; 50304 (glm-10b) and 50048 (glm-10b-chinese) have known special ids.
        hidden_size, num_layers, num_attention_heads: the blocks; the MLP is four times as wide.
        max_sequence_length: both position tables have one row more.
        embedding_dropout_prob, attention_dropout_prob, output_dropout_prob: in training.
        gelu: "erf" as the release for transformers computes it, "tanh" as THUDM/GLM trained it. Their logits
            differ by about 5e-4.
        bos_token_id, eos_token_id, pad_token_id: ids of ``<|startofpiece|>``, ``<|endofpiece|>``,
            ``<|endoftext|>``.
        mask_token_ids: ids of ``[MASK]``, ``[gMASK]``, ``[sMASK]``; a target's position is that of the first.
        banned_token_ids: never generated.
        output_predict: kept for the original's code, which gives no logits without it.

    Raises:
        BadInput: for relative positions, one-dimensional positions or another attention scale, which no
            published GLM-10B has; heads that don't divide the width; an id outside the vocabulary.
    """

    model_type = "glm10b"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012 (transformers' own interface)
    attribute_map = {  # noqa: RUF012
        "num_hidden_layers": "num_layers",
        "max_position_embeddings": "max_sequence_length",
    }

    def __init__(
        self,
        vocab_size: int = 50304,
        hidden_size: int = 4096,
        num_layers: int = 48,
        num_attention_heads: int = 64,
        max_sequence_length: int = 1024,
        embedding_dropout_prob: float = 0.1,
        attention_dropout_prob: float = 0.1,
        output_dropout_prob: float = 0.1,
        layernorm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        gelu: Literal["erf", "tanh"] = "erf",
        use_cache: bool = True,
        block_position_encoding: bool = True,
        relative_encoding: bool = False,
        attention_scale: float = 1.0,
        output_predict: bool = True,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        mask_token_ids: list[int] | None = None,
        banned_token_ids: list[int] | None = None,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        num_layers = kwargs.pop("num_hidden_layers", num_layers)
        max_sequence_length = kwargs.pop("max_position_embeddings", max_sequence_length)
        kwargs.pop("model_type", None)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.max_sequence_length = max_sequence_length
        self.embedding_dropout_prob = embedding_dropout_prob
        self.attention_dropout_prob = attention_dropout_prob
        self.output_dropout_prob = output_dropout_prob
        self.layernorm_epsilon = layernorm_epsilon
        self.initializer_range = initializer_range
        self.gelu = gelu
        self.use_cache = use_cache
        self.block_position_encoding = block_position_encoding
        self.relative_encoding = relative_encoding
        self.attention_scale = attention_scale
        self.output_predict = output_predict
        known = VOCABULARY_IDS.get(vocab_size, {})
        self.mask_token_ids = known.get("mask_token_ids", []) if mask_token_ids is None else mask_token_ids
        self.banned_token_ids = (
            known.get("banned_token_ids", []) if banned_token_ids is None else banned_token_ids
        )
        ids = {
            "bos_token_id": known.get("bos_token_id") if bos_token_id is None else bos_token_id,
            "eos_token_id": known.get("eos_token_id") if eos_token_id is None else eos_token_id,
            "pad_token_id": known.get("pad_token_id") if pad_token_id is None else pad_token_id,
        }
        self._refuse_what_is_not_ours(ids, tie_word_embeddings)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **ids, **kwargs)

    def _refuse_what_is_not_ours(self, ids: dict[str, int | None], tied: bool) -> None:
        """Say in one line what a config.json asks for that this architecture doesn't have."""
        if (
            self.relative_encoding
            or not self.block_position_encoding
            or self.attention_scale != 1.0
            or not tied
        ):
            raise BadInput(
                "GLM here has block_position_encoding = true, relative_encoding = false, attention_scale = "
                "1.0 and tied embeddings, as every published GLM-10B; this config.json says otherwise"
            )
        if self.gelu not in ("erf", "tanh"):
            raise BadInput(f'gelu = {self.gelu!r}: "erf" (as released) or "tanh" (as trained)')
        if self.hidden_size % self.num_attention_heads:
            raise BadInput(
                f"hidden_size = {self.hidden_size} is not a multiple of "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        outside = [
            i for i in [*ids.values(), *self.mask_token_ids] if i is not None and not 0 <= i < self.vocab_size
        ]
        if outside:
            raise BadInput(f"special id {outside[0]} is outside the vocabulary of {self.vocab_size}")
