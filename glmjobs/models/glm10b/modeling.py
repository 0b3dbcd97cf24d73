"""GLM-10B and GLM-10B-chinese as an ordinary transformers model, with the original's weight names.

A pre-norm transformer (x + Attention(LN x), then + MLP(LN x)) on the prefix-LM layout of
:mod:`glmjobs.models.common.positions`; both positions are learned tables added to the embedding; the output matrix is
the embedding. The projection holds all queries, then all keys, then all values. Labels are not shifted: the
original's data has each label at the token that predicts it.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from glmjobs.compat import tied_weights
from glmjobs.models.common.attention import Blocks, Pieces, attend, split_heads
from glmjobs.models.common.causal_lm import CausalLM
from glmjobs.models.common.loss import OutputHead
from glmjobs.models.common.positions import Layout, lay_out
from glmjobs.models.common.prefix_lm import PrefixLMModel, PrefixLMPreTrainedModel, run_blocks
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

    def forward(self, hidden: Tensor, visible: Tensor | Pieces | Blocks, cache: Any) -> Tensor:
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

    def forward(self, hidden: Tensor, visible: Tensor | Pieces | Blocks, cache: Any) -> Tensor:
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
        self, embedded: Tensor, position_ids: Tensor, visible: Tensor | Pieces | Blocks, cache: Any
    ) -> tuple[Tensor, ...]:
        """See :func:`glmjobs.models.common.prefix_lm.run_blocks`; what goes in is the sum of embeddings."""
        position, block = position_ids.unbind(dim=1)
        hidden = embedded + self.position_embeddings(position) + self.block_position_embeddings(block)
        hidden = F.dropout(hidden, self.dropout, self.training)
        return run_blocks(self, hidden, visible, cache=cache)


class GLMPreTrainedModel(PrefixLMPreTrainedModel):
    """What both GLM classes tell transformers about themselves."""

    config_class = GLMConfig
    base_model_prefix = "glm"
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012 (transformers' own interface)


class GLMModel(PrefixLMModel, GLMPreTrainedModel):
    """Tokens to hidden states."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = GLMStack(config)
        self.post_init()

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

    def states(
        self, embedded: Tensor, position_ids: Tensor, visible: Tensor | Pieces | Blocks, cache: Any
    ) -> tuple[Tensor, ...]:
        states: tuple[Tensor, ...] = self.transformer(embedded, position_ids, visible, cache)
        return states


class GLMForCausalLM(CausalLM, GLMPreTrainedModel):
    """GLM-10B with its output: logits, loss, and ``generate``."""

    _tied_weights_keys = tied_weights({"lm_head.weight": "glm.word_embeddings.weight"})
    shifts_labels = False

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.glm = GLMModel(config)
        # The original multiplies by the embedding. A module of its own, tied to it, lets ZeRO-3 gather the
        # weight.
        self.lm_head = OutputHead.beside(self.glm.word_embeddings, tied=True)
        self._register_load_state_dict_pre_hook(_complete_names)
        self.post_init()
        if config.banned_token_ids:
            self.generation_config.suppress_tokens = list(config.banned_token_ids)


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
