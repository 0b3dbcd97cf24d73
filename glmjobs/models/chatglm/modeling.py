"""ChatGLM-6B (first generation) as an ordinary transformers model, with the original's weight names.

What sets it apart from the usual decoder (sources: THUDM's release, and measurements against it on random
weights):

- a prefix-LM with 2D positions, see :mod:`glmjobs.models.common.positions`;
- the residual takes the *normalised* input: a = LN(x); h = alpha * a + Attention(a), and so for the MLP;
- two rotary halves: the first half of each head turns with the position, the second with the block position;
- per head, the projection holds query, key and value side by side;
- the original divides scores by (layer + 1) before the mask and multiplies after it, for half precision's
sake. The two
  cancel: scaled_dot_product_attention with 1/sqrt(D) is the same function.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from glmjobs.compat import tied_weights
from glmjobs.models.chatglm.configuration import ChatGLMConfig
from glmjobs.models.common.attention import Blocks, Pieces, attend, split_heads
from glmjobs.models.common.causal_lm import CausalLM
from glmjobs.models.common.loss import OutputHead
from glmjobs.models.common.positions import Layout, lay_out
from glmjobs.models.common.prefix_lm import PrefixLMModel, PrefixLMPreTrainedModel, run_blocks


def rotary_angles(
    position_ids: Tensor, head_size: int, frequencies: str = "float16"
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, float32 whatever the parameters' type.

    The angle of pair ``i`` at position ``p`` is p * 10000^(-i / (D/4)) (Su et al. 2021, with D/2 dimensions
    an axis).
    They are made from the positions at every call, in float32: bfloat16 holds no integer above 256 exactly,
        and a
    buffer would be cast with the model.

    Args:
        position_ids: [B, 2, L] int64, position and block position.
        head_size: D, a multiple of 4.
        frequencies: "float16" rounds them to half precision as the release does, "float32" does not.

    Returns:
        Two tensors [B, 1, L, 2, D/4]: batch, head, token, axis, pair.
    """
    axis = head_size // 2
    exponents = torch.arange(0, axis, 2, device=position_ids.device).float() / axis
    inverse = 1.0 / (10000.0**exponents)
    if frequencies == "float16":
        inverse = inverse.half().float()
    angles = position_ids.transpose(1, 2).float().unsqueeze(-1) * inverse
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each axis' half of every head by its angles: states [B, heads, L, D] keep shape and type."""
    pairs = states.unflatten(-1, (2, 2, -1))  # axis, component, pair
    x, y = pairs.unbind(dim=-2)
    turned = torch.stack((x * cos - y * sin, y * cos + x * sin), dim=-2)
    return turned.flatten(-3)


class ChatGLMAttention(nn.Module):
    """Self-attention with 2D rotary positions."""

    def __init__(self, config: ChatGLMConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(
            f"{prefix}rotary_emb.inv_freq", None
        )  # in the original's files; follows from the configuration
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self, hidden: Tensor, visible: Tensor | Pieces | Blocks, cos: Tensor, sin: Tensor, cache: Any
    ) -> Tensor:
        projected = split_heads(self.query_key_value(hidden), self.heads)
        query, key, value = projected.chunk(3, dim=-1)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed: Tensor = self.dense(attend(query, key, value, visible, cache, self.layer))
        return mixed


class ChatGLMMLP(nn.Module):
    """Two linear maps with a tanh-form GELU between them."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate="tanh"))
        return out


class ChatGLMBlock(nn.Module):
    """One layer. The residual is the normalised input times alpha."""

    def __init__(self, config: ChatGLMConfig, layer: int) -> None:
        super().__init__()
        self.alpha = config.alpha
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = ChatGLMAttention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = ChatGLMMLP(config)

    def forward(
        self, hidden: Tensor, visible: Tensor | Pieces | Blocks, cos: Tensor, sin: Tensor, cache: Any
    ) -> Tensor:
        normed = self.input_layernorm(hidden)
        hidden = normed * self.alpha + self.attention(normed, visible, cos, sin, cache)
        normed = self.post_attention_layernorm(hidden)
        out: Tensor = normed * self.alpha + self.mlp(normed)
        return out


class ChatGLMPreTrainedModel(PrefixLMPreTrainedModel):
    """What both ChatGLM classes tell transformers about themselves."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["ChatGLMBlock"]  # noqa: RUF012 (transformers' own interface)
    # The original's files hold each layer's frequencies; they follow from the configuration.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012


class ChatGLMModel(PrefixLMModel, ChatGLMPreTrainedModel):
    """Embedding, blocks and final norm: tokens to hidden states."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ChatGLMBlock(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        return lay_out(
            input_ids,
            segment_ids,
            sop_id=self.config.bos_token_id,
            mask_ids=[[self.config.gmask_token_id], [self.config.mask_token_id]],
        )

    def states(
        self, embedded: Tensor, position_ids: Tensor, visible: Tensor | Pieces | Blocks, cache: Any
    ) -> tuple[Tensor, ...]:
        config = self.config
        width = config.hidden_size // config.num_attention_heads
        angles = rotary_angles(position_ids, width, config.rotary_frequencies)
        cos, sin = (part.to(embedded.dtype) for part in angles)
        return run_blocks(self, embedded, visible, cos, sin, cache=cache)


class ChatGLMForCausalLM(CausalLM, ChatGLMPreTrainedModel):
    """ChatGLM-6B with its output head: logits, loss, and ``generate``."""

    _tied_weights_keys = tied_weights({"lm_head.weight": "transformer.word_embeddings.weight"})

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = OutputHead.beside(self.transformer.word_embeddings, tied=config.tie_word_embeddings)
        self.post_init()


AutoConfig.register("chatglm", ChatGLMConfig)
AutoModelForCausalLM.register(ChatGLMConfig, ChatGLMForCausalLM)
