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

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from glmjobs.compat import CACHE_NAME, tied_weights
from glmjobs.models.chatglm.configuration import ChatGLMConfig
from glmjobs.models.common.attention import Pieces, attend, split_heads
from glmjobs.models.common.causal_lm import GLMGenerationMixin, cache_for, place
from glmjobs.models.common.loss import OutputHead
from glmjobs.models.common.positions import Layout, lay_out


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
        self, hidden: Tensor, visible: Tensor | Pieces, cos: Tensor, sin: Tensor, cache: Any
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
        self, hidden: Tensor, visible: Tensor | Pieces, cos: Tensor, sin: Tensor, cache: Any
    ) -> Tensor:
        normed = self.input_layernorm(hidden)
        hidden = normed * self.alpha + self.attention(normed, visible, cos, sin, cache)
        normed = self.post_attention_layernorm(hidden)
        out: Tensor = normed * self.alpha + self.mlp(normed)
        return out


class ChatGLMPreTrainedModel(PreTrainedModel):
    """What both ChatGLM classes tell transformers about themselves."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ChatGLMBlock"]  # noqa: RUF012 (transformers' own interface)
    _skip_keys_device_placement = [CACHE_NAME]  # noqa: RUF012
    _supports_sdpa = True
    _supports_cache_class = True
    # The original's files hold each layer's frequencies; they follow from the configuration.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class ChatGLMModel(ChatGLMPreTrainedModel):
    """Embedding, blocks and final norm: tokens to hidden states."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ChatGLMBlock(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        """Positions and prefixes of whole rows; ``segment_ids`` may be an attention mask of ones and
        zeros."""
        return lay_out(
            input_ids,
            segment_ids,
            sop_id=self.config.bos_token_id,
            mask_ids=[[self.config.gmask_token_id], [self.config.mask_token_id]],
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        segment_sizes: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, L, H]; for the arguments see :meth:`ChatGLMForCausalLM.forward`."""
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = cache_for(cache, past_key_values, use_cache)
        position_ids, visible = place(
            input_ids, attention_mask, position_ids, segment_ids, cache, self.lay_out, segment_sizes
        )
        hidden = self.word_embeddings(input_ids)
        cos, sin = rotary_angles(
            position_ids,
            self.config.hidden_size // self.config.num_attention_heads,
            self.config.rotary_frequencies,
        )
        cos, sin = cos.to(hidden.dtype), sin.to(hidden.dtype)
        states = [hidden]
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(layer.__call__, hidden, visible, cos, sin, None)
            else:
                hidden = layer(hidden, visible, cos, sin, cache)
            states.append(hidden)
        hidden = self.final_layernorm(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=(*states[:-1], hidden) if output_hidden_states else None,
            **{CACHE_NAME: cache},
        )


class ChatGLMForCausalLM(GLMGenerationMixin, ChatGLMPreTrainedModel):
    """ChatGLM-6B with its output head: logits, loss, and ``generate``."""

    _tied_weights_keys = tied_weights({"lm_head.weight": "transformer.word_embeddings.weight"})

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = OutputHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.transformer.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        # After resizing the vocabulary it is a plain linear map; ours also computes the loss.
        self.lm_head.weight = new_embeddings.weight
        self.lm_head.out_features = new_embeddings.out_features

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_logits: bool | None = None,
        logits_to_keep: int = 0,
        target_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits and, given labels, the loss.

        Args:
            input_ids: [B, L] int64.
            attention_mask: [B, L], 1 at tokens and 0 at padding (either side); or [B, 1, Q, K] bool, True
                where a row sees a column, taken as it is.
            position_ids: [B, 2, L] int64; None: computed from the row.
            segment_ids: [B, L] int64, 1..n tells the examples of a packed row apart, 0 is padding. Comes
                before ``attention_mask`` where both are given.
            labels: [B, L] int64, equal to input_ids at targets and -100 elsewhere; shifted in here. An
                example's first label is -100, so that no example predicts into the next.
            num_items_in_batch: what the sum of token losses is divided by; None: the number of targets.
            return_logits: None: with labels, only outside training (they are never materialised for the
                loss).
            logits_to_keep: logits of only the last so many tokens; 0: all.
            target_positions: [n] int64, where in the flattened [B * L] the labels are; None: found by -100.
            **kwargs: ``past_key_values`` or ``cache``, ``use_cache``, ``output_hidden_states``, ``segment_sizes``
                (list of int on the host, see :class:`glmjobs.models.common.attention.Pieces`: attention is computed
                example by example).

        Returns:
            loss (float32 scalar) and logits [B, L, V], each None where not asked for; the cache.
        """
        outputs = self.transformer(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            segment_ids=segment_ids,
            **kwargs,
        )
        return self.finish(
            outputs, labels, num_items_in_batch, return_logits, logits_to_keep, target_positions
        )

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        """See :meth:`ChatGLMModel.lay_out`."""
        return self.transformer.lay_out(input_ids, segment_ids)


AutoConfig.register("chatglm", ChatGLMConfig)
AutoModelForCausalLM.register(ChatGLMConfig, ChatGLMForCausalLM)
