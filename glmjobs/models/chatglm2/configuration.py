"""Configuration of ChatGLM2-6B and ChatGLM3-6B, in the words of the originals' config.json."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from glmjobs.models.chatglm2.release import FIELD, RELEASES, release_of
from glmjobs.models.family import refuse_unusual
from hpc.core.errors import BadInput

#: The values of switches that every published model has; the code for others is not here.
FIXED = {
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "multi_query_attention": True,
    "post_layer_norm": True,
    "rmsnorm": True,
}


class ChatGLM2Config(PretrainedConfig):
    """Architecture and special ids of a ChatGLM2-6B or ChatGLM3-6B.

    Accepts the original's config.json, and serves its fields under transformers' usual names too
    (``num_hidden_layers``, ``intermediate_size``, ``vocab_size``, …).

    Args:
        padded_vocab_size: rows of the embedding.
        hidden_size: width of the model.
        num_layers: blocks.
        num_attention_heads: heads of queries, each ``kv_channels`` wide.
        multi_query_group_num: heads of keys and of values.
        kv_channels: width of a head, a multiple of 4; the first half of it is rotated.
        ffn_hidden_size: width inside the gated MLP.
        seq_length: positions the model was made for.
        layernorm_epsilon: of every RMS norm.
        add_qkv_bias: queries, keys and values have biases.
        rope_ratio: of the 32k models: ChatGLM2-6B-32k divides positions by it, all others multiply the rotary base.
        chatglm_release: "chatglm2", "chatglm3" or "glm4"; None: as
            :func:`glmjobs.models.chatglm2.release.release_of` finds.
        hidden_dropout: 0 in all that is published.

    Raises:
        BadInput: a switch stands as in no published model, heads do not divide, quantised weights, or a P-tuning
            prefix; or with a ``rope_ratio`` nothing says which release it is.
    """

    model_type = "chatglm"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012 (transformers' own interface)
    attribute_map = {  # noqa: RUF012
        "vocab_size": "padded_vocab_size",
        "num_hidden_layers": "num_layers",
        "intermediate_size": "ffn_hidden_size",
        "max_position_embeddings": "seq_length",
        "rms_norm_eps": "layernorm_epsilon",
        "num_key_value_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
    }

    def __init__(
        self,
        padded_vocab_size: int = 65024,
        hidden_size: int = 4096,
        num_layers: int = 28,
        num_attention_heads: int = 32,
        multi_query_group_num: int = 2,
        kv_channels: int = 128,
        ffn_hidden_size: int = 13696,
        seq_length: int = 32768,
        layernorm_epsilon: float = 1e-5,
        add_qkv_bias: bool = True,
        rope_ratio: float = 1,
        use_cache: bool = True,
        eos_token_id: int | list[int] | None = 2,
        pad_token_id: int | None = 0,
        hidden_dropout: float = 0.0,
        initializer_range: float = 0.02,
        tie_word_embeddings: bool = False,
        quantization_bit: int = 0,
        pre_seq_len: int | None = None,
        **kwargs: Any,
    ) -> None:
        for alias in self.attribute_map:  # would be set over these only after the checks below
            kwargs.pop(alias, None)
        self.padded_vocab_size = padded_vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.multi_query_group_num = multi_query_group_num
        self.kv_channels = kv_channels
        self.ffn_hidden_size = ffn_hidden_size
        self.seq_length = seq_length
        self.layernorm_epsilon = layernorm_epsilon
        self.add_qkv_bias = add_qkv_bias
        self.rope_ratio = rope_ratio
        self.use_cache = use_cache
        self.hidden_dropout = hidden_dropout
        self.initializer_range = initializer_range
        self.quantization_bit = quantization_bit
        self.pre_seq_len = pre_seq_len
        self._refuse_what_is_not_ours(kwargs)
        for name, value in FIXED.items():  # the original's own defaults are others
            setattr(self, name, value)
            kwargs.pop(name, None)
        ids = {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        described = {"model_type": "chatglm", **FIXED, **ids, **kwargs}
        self.chatglm_release = release_of(described)
        kwargs.pop(FIELD, None)
        self._check_release()
        super().__init__(tie_word_embeddings=tie_word_embeddings, **ids, **kwargs)

    def _check_release(self) -> None:
        if self.chatglm_release is None and self.rope_ratio != 1:
            raise BadInput(
                f"rope_ratio = {self.rope_ratio}: ChatGLM2-6B-32k and ChatGLM3-6B-32k take it in different ways, and "
                f'nothing says which this is; add "{FIELD}": "chatglm2" or "chatglm3"'
            )
        if self.chatglm_release not in (None, *RELEASES):
            raise BadInput(f"{FIELD} = {self.chatglm_release!r}: one of {', '.join(RELEASES)}")

    def _refuse_what_is_not_ours(self, rest: dict[str, Any]) -> None:
        """Say in one line what a config.json asks for that no published model has."""
        for name, value in FIXED.items():
            if rest.get(name, value) != value:
                raise BadInput(
                    f"{name} = {rest[name]}: every published model has {value}; only that is supported"
                )
        refuse_unusual({"quantization_bit": self.quantization_bit, "pre_seq_len": self.pre_seq_len})
        if self.kv_channels % 4:
            raise BadInput(f"kv_channels = {self.kv_channels}: a head's width must be a multiple of 4")
        if self.num_attention_heads % self.multi_query_group_num:
            raise BadInput(
                f"multi_query_group_num = {self.multi_query_group_num} does not divide num_attention_heads = "
                f"{self.num_attention_heads}"
            )
