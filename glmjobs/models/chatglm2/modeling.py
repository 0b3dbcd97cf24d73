"""ChatGLM2-6B and ChatGLM3-6B as an ordinary transformers model, with the originals' weight names.

A pre-norm decoder, causal throughout (no prefix sees itself whole, other than in ChatGLM-6B): RMS norms, a gated MLP
(SwiGLU), several heads of queries to one of keys and values, biases on these alone. The first half of each head is
rotated, its components by twos (2i, 2i + 1). Sources: THUDM's releases, and measurements against them on random
weights. The originals scale scores down by the layer's number before the softmax and up again in it, where torch has no
attention of its own: one function with plain attention.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmjobs.models.chatglm2.configuration import ChatGLM2Config
from glmjobs.models.common.attention import Blocks, Pieces, attend, split_heads
from glmjobs.models.common.causal_lm import CausalLM
from glmjobs.models.common.loss import OutputHead
from glmjobs.models.common.positions import Layout, lay_out_causal
from glmjobs.models.common.prefix_lm import PrefixLMModel, PrefixLMPreTrainedModel, run_blocks


def rotary_angles(position_ids: Tensor, config: ChatGLM2Config) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, float32 whatever the parameters' type.

    The angle of pair ``i`` at position ``p`` is p * base^(-2i / (D/2)) for the D/2 rotated components of a head.
    ChatGLM2's code computes them in the weights' type (float16 holds no integer above 2048 exactly), ChatGLM3's, for
    the same architecture, in float32: so does this.

    Args:
        position_ids: [B, L] int64.

    Returns:
        Two tensors [B, 1, L, D/4].
    """
    by_position = (
        config.chatglm_release == "chatglm2"
    )  # ChatGLM2-6B-32k interpolates; its ratio is 1 elsewhere
    base = 10000.0 * (1.0 if by_position else config.rope_ratio)
    rotated = config.kv_channels // 2
    exponents = torch.arange(0, rotated, 2, device=position_ids.device).float() / rotated
    positions = position_ids.float() / (config.rope_ratio if by_position else 1.0)
    angles = positions.unsqueeze(-1) * (1.0 / base**exponents)
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of the first half of every head: states [B, heads, L, D] keep shape and type."""
    turned, still = states.chunk(2, dim=-1)
    x, y = turned.unflatten(-1, (-1, 2)).unbind(dim=-1)
    turned = torch.stack((x * cos - y * sin, y * cos + x * sin), dim=-1).flatten(-2)
    return torch.cat((turned, still), dim=-1)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        exact = hidden.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * exact).to(hidden.dtype)


class SelfAttention(nn.Module):
    """All queries, then the few keys, then the few values, from one projection."""

    def __init__(self, config: ChatGLM2Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.groups = config.num_attention_heads, config.multi_query_group_num
        self.widths = [n * config.kv_channels for n in (self.heads, self.groups, self.groups)]
        self.query_key_value = nn.Linear(config.hidden_size, sum(self.widths), bias=config.add_qkv_bias)
        self.dense = nn.Linear(self.widths[0], config.hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, visible: Tensor | Pieces | Blocks, cos: Tensor, sin: Tensor, cache: Any
    ) -> Tensor:
        parts = self.query_key_value(hidden).split(self.widths, dim=-1)
        counts = (self.heads, self.groups, self.groups)
        query, key, value = (split_heads(part, n) for part, n in zip(parts, counts, strict=True))
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed: Tensor = self.dense(attend(query, key, value, visible, cache, self.layer))
        return mixed


class MLP(nn.Module):
    """SwiGLU: the first half of the inner map gates the second (Shazeer 2020)."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=False)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, inner = self.dense_h_to_4h(hidden).chunk(2, dim=-1)
        out: Tensor = self.dense_4h_to_h(F.silu(gate) * inner)
        return out


class GLMBlock(nn.Module):
    """One layer."""

    def __init__(self, config: ChatGLM2Config, layer: int) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.self_attention = SelfAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self, hidden: Tensor, visible: Tensor | Pieces | Blocks, cos: Tensor, sin: Tensor, cache: Any
    ) -> Tensor:
        attended = self.self_attention(self.input_layernorm(hidden), visible, cos, sin, cache)
        hidden = hidden + F.dropout(attended, self.dropout, self.training)
        added = self.mlp(self.post_attention_layernorm(hidden))
        return hidden + F.dropout(added, self.dropout, self.training)


class ChatGLM2PreTrainedModel(PrefixLMPreTrainedModel):
    """What both classes tell transformers about themselves."""

    config_class = ChatGLM2Config
    base_model_prefix = "transformer"
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012 (transformers' own interface)
    # The original's files hold the frequencies; they follow from the configuration.
    _keys_to_ignore_on_load_unexpected = [r"rotary_pos_emb\.inv_freq"]  # noqa: RUF012


class Embedding(nn.Module):
    """A module of its own for the sake of the weight's name."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)


class Encoder(nn.Module):
    """The blocks and the final norm: a module of its own for the sake of the weights' names."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GLMBlock(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.gradient_checkpointing = False


class ChatGLM2Model(PrefixLMModel, ChatGLM2PreTrainedModel):
    """Tokens to hidden states; and the output matrix, which has its name here in the original's files."""

    position_axes = 1

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__(config)
        self.embedding = Embedding(config)
        self.encoder = Encoder(config)
        self.output_layer = OutputHead(config.hidden_size, config.padded_vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding.word_embeddings = value

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        return lay_out_causal(input_ids, segment_ids)

    def states(
        self, embedded: Tensor, position_ids: Tensor, visible: Tensor | Pieces | Blocks, cache: Any
    ) -> tuple[Tensor, ...]:
        angles = rotary_angles(position_ids[:, 0], self.config)
        cos, sin = (part.to(embedded.dtype) for part in angles)
        return run_blocks(self.encoder, embedded, visible, cos, sin, cache=cache)


class ChatGLM2ForCausalLM(CausalLM, ChatGLM2PreTrainedModel):
    """ChatGLM2-6B or ChatGLM3-6B with its output head: logits, loss, and ``generate``."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__(config)
        self.transformer = ChatGLM2Model(config)
        self.post_init()

    @property
    def lm_head(self) -> OutputHead:  # type: ignore[override]
        """The output matrix."""
        head: OutputHead = self.transformer.output_layer
        return head
