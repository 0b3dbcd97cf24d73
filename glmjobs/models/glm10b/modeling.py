"""GLM-10B and GLM-10B-chinese as an ordinary transformers model, with the original's weight names.

A pre-norm transformer (x + Attention(LN x), then + MLP(LN x)) on the prefix-LM layout of
:mod:`glmjobs.models.common.positions`; both positions are learned tables added to the embedding; the output matrix is
the embedding. The projection holds all queries, then all keys, then all values. Labels are not shifted: the
original's data has each label at the token that predicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from glmjobs.compat import CACHE_NAME, tied_weights
from glmjobs.models.common.attention import Pieces, attend, split_heads
from glmjobs.models.common.causal_lm import GLMGenerationMixin, cache_for, place
from glmjobs.models.common.loss import OutputHead
from glmjobs.models.common.positions import Layout, lay_out
from glmjobs.models.glm10b.configuration import GLMConfig
from hpc.core.errors import BadInput


class GLMAttention(nn.Module):
    """Self-attention; positions are in its input already."""

    def __init__(self, config: GLMConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout_prob
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, visible: Tensor | Pieces, cache: Any) -> Tensor:
        query, key, value = (
            split_heads(part, self.heads) for part in self.query_key_value(hidden).chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        mixed: Tensor = self.dense(attend(query, key, value, visible, cache, self.layer, dropout))
        return mixed


class GLMMLP(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.gelu == "tanh" else "none"
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.dense_4h_to_h = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate=self.approximate))
        return out


class GLMBlock(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: GLMConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.output_dropout_prob
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = GLMAttention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLMMLP(config)

    def forward(self, hidden: Tensor, visible: Tensor | Pieces, cache: Any) -> Tensor:
        mixed = self.attention(self.input_layernorm(hidden), visible, cache)
        hidden = hidden + F.dropout(mixed, self.dropout, self.training)
        out = self.mlp(self.post_attention_layernorm(hidden))
        return hidden + F.dropout(out, self.dropout, self.training)


class GLMStack(nn.Module):
    """Position tables, blocks and final norm: the ``transformer`` of the original's weight names."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.dropout = config.embedding_dropout_prob
        self.position_embeddings = nn.Embedding(config.max_sequence_length + 1, config.hidden_size)
        self.block_position_embeddings = nn.Embedding(config.max_sequence_length + 1, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Any = None  # set by transformers

    def forward(
        self, embedded: Tensor, position_ids: Tensor, visible: Tensor | Pieces, cache: Any
    ) -> tuple[Tensor, ...]:
        """Embedding sum, then each block's output, the last one normalised: layers + 1 tensors [B, L, H]."""
        position, block = position_ids.unbind(dim=1)
        hidden = embedded + self.position_embeddings(position) + self.block_position_embeddings(block)
        hidden = F.dropout(hidden, self.dropout, self.training)
        states = [hidden]
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(layer.__call__, hidden, visible, None)
            else:
                hidden = layer(hidden, visible, cache)
            states.append(hidden)
        states[-1] = self.final_layernorm(hidden)
        return tuple(states)


class GLMPreTrainedModel(PreTrainedModel):
    """What both GLM classes tell transformers about themselves."""

    config_class = GLMConfig
    base_model_prefix = "glm"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012 (transformers' own interface)
    _skip_keys_device_placement = [CACHE_NAME]  # noqa: RUF012
    _supports_sdpa = True
    _supports_cache_class = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class GLMModel(GLMPreTrainedModel):
    """Tokens to hidden states."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = GLMStack(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        """Positions and prefixes of whole rows; ``segment_ids`` may be an attention mask of ones and zeros.

        Raises:
            BadInput: the configuration has no special ids, which positions and masks follow from.
        """
        if self.config.bos_token_id is None or not self.config.mask_token_ids:
            raise BadInput(
                f"config.json: vocabulary {self.config.vocab_size} needs bos_token_id (<|startofpiece|>) and "
                "mask_token_ids; only 50304 and 50048 have known ids"
            )
        return lay_out(
            input_ids, segment_ids, sop_id=self.config.bos_token_id, mask_ids=[self.config.mask_token_ids]
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
        """Hidden states [B, L, H]; for the arguments see :meth:`GLMForCausalLM.forward`."""
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = cache_for(cache, past_key_values, use_cache)
        position_ids, visible = place(
            input_ids, attention_mask, position_ids, segment_ids, cache, self.lay_out, segment_sizes
        )
        states = self.transformer(self.word_embeddings(input_ids), position_ids, visible, cache)
        return BaseModelOutputWithPast(
            last_hidden_state=states[-1],
            hidden_states=states if output_hidden_states else None,
            **{CACHE_NAME: cache},
        )


class GLMForCausalLM(GLMGenerationMixin, GLMPreTrainedModel):
    """GLM-10B with its output: logits, loss, and ``generate``."""

    _tied_weights_keys = tied_weights({"lm_head.weight": "glm.word_embeddings.weight"})
    shifts_labels = False

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.glm = GLMModel(config)
        # The original multiplies by the embedding. A module of its own, tied to it, lets ZeRO-3 gather the
        # weight.
        self.lm_head = OutputHead(config.hidden_size, config.vocab_size, bias=False)
        self._register_load_state_dict_pre_hook(_complete_names)
        self.post_init()
        if config.banned_token_ids:
            self.generation_config.suppress_tokens = list(config.banned_token_ids)

    def get_input_embeddings(self) -> nn.Module:
        return self.glm.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.glm.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        # After resizing the vocabulary it is a plain linear map; ours also computes the loss.
        self.lm_head.weight = new_embeddings.weight
        self.lm_head.out_features = new_embeddings.out_features

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        """See :meth:`GLMModel.lay_out`."""
        return self.glm.lay_out(input_ids, segment_ids)

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
            attention_mask: [B, L], 1 at tokens and 0 at padding (either side); or [B, 1, Q, K], nonzero where
                a row sees a column, taken as it is (the original's polarity).
            position_ids: [B, 2, L] int64; None: computed from the row.
            segment_ids: [B, L] int64, 1..n tells the examples of a packed row apart, 0 is padding. Comes
                before ``attention_mask`` where both are given.
            labels: [B, L] int64, each standing at the token that predicts it (not shifted); -100: none.
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
        outputs = self.glm(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            segment_ids=segment_ids,
            **kwargs,
        )
        return self.finish(
            outputs, labels, num_items_in_batch, return_logits, logits_to_keep, target_positions
        )


def _complete_names(state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let ``load_state_dict`` take the original's files: without the ``glm.`` prefix, without an output
    matrix."""
    for name in [
        n for n in state_dict if n.startswith((f"{prefix}word_embeddings.", f"{prefix}transformer."))
    ]:
        state_dict[f"{prefix}glm.{name.removeprefix(prefix)}"] = state_dict.pop(name)
    embedding = state_dict.get(f"{prefix}glm.word_embeddings.weight")
    if embedding is not None:
        state_dict.setdefault(f"{prefix}lm_head.weight", embedding)


AutoConfig.register("glm10b", GLMConfig)
AutoModelForCausalLM.register(GLMConfig, GLMForCausalLM)
