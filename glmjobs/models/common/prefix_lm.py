"""The GLM architectures below the output head: tokens to hidden states, on the prefix-LM layout of
:mod:`glmjobs.models.common.positions`. A family adds its block, and how its positions enter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from glmjobs.compat import CACHE_NAME
from glmjobs.models.common.attention import Blocks, Pieces, in_form
from glmjobs.models.common.positions import Layout, prefix_lm_mask


def place(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    segment_ids: Tensor | None,
    cache: Any,
    lay_out_rows: Any,
    segment_sizes: Sequence[int] | None = None,
    way: str | None = None,
) -> tuple[Tensor, Tensor | Pieces | Blocks]:
    """Positions [B, axes, L] and the mask [B, 1, Q, K] (bool, True visible) of a forward pass: as given, or from
    the rows. With ``segment_sizes`` (see :class:`Pieces`) the mask comes in the form of ``way``.

    Raises:
        ValueError: tokens are cached, and positions or mask are not given: they follow from the whole row.
    """
    full = attention_mask if attention_mask is not None and attention_mask.dim() == 4 else None
    if full is not None and position_ids is not None:
        return position_ids, full.bool()
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError(
            "with cached tokens, give position_ids [B, axes, L] and attention_mask [B, 1, L, cached + L] "
            "as prepare_inputs_for_generation makes them: they follow from the whole row"
        )
    layout: Layout = lay_out_rows(
        input_ids, attention_mask if segment_ids is None and full is None else segment_ids
    )
    position_ids = layout.position_ids if position_ids is None else position_ids
    if full is not None:
        return position_ids, full.bool()
    visible = prefix_lm_mask(layout)
    if segment_sizes is None or cache is not None:
        return position_ids, visible
    return position_ids, in_form(visible, way, segment_sizes)


def run_blocks(stack: Any, hidden: Tensor, *inputs: Any, cache: Any) -> tuple[Tensor, ...]:
    """What goes in, then each block's output, the last one normalised: layers + 1 tensors [B, L, H].

    Args:
        stack: the module with ``layers``, ``final_layernorm`` and transformers' switch ``gradient_checkpointing``.
        inputs: what each block takes between the hidden states and the cache.
    """
    states = [hidden]
    for layer in stack.layers:
        if stack.gradient_checkpointing and stack.training:
            hidden = stack._gradient_checkpointing_func(layer.__call__, hidden, *inputs, None)
        else:
            hidden = layer(hidden, *inputs, cache)
        states.append(hidden)
    states[-1] = stack.final_layernorm(hidden)
    return tuple(states)


class PrefixLMPreTrainedModel(PreTrainedModel):
    """What all of these classes tell transformers about themselves."""

    supports_gradient_checkpointing = True
    _skip_keys_device_placement = [CACHE_NAME]  # noqa: RUF012 (transformers' own interface)
    _supports_sdpa = True
    _supports_cache_class = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class PrefixLMModel(PrefixLMPreTrainedModel):
    """Tokens to hidden states. A family's class has ``word_embeddings``, :meth:`lay_out` and :meth:`states`."""

    word_embeddings: nn.Embedding
    position_axes = 2  # positions of a token: two, or one where it has no block position
    packed_attention: str | None = None  # see glmjobs.models.common.attention_ways

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        """Positions and prefixes of whole rows; ``segment_ids`` may be an attention mask of ones and zeros."""
        raise NotImplementedError

    def states(
        self, embedded: Tensor, position_ids: Tensor, visible: Tensor | Pieces | Blocks, cache: Any
    ) -> tuple[Tensor, ...]:
        """See :func:`run_blocks`."""
        raise NotImplementedError

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
        """Hidden states [B, L, H]; the arguments are those of :meth:`glmjobs.models.common.causal_lm.CausalLM.forward`.

        The cache goes by either of its names; a new one is made where one is wanted and none given.
        """
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = past_key_values if cache is None else cache
        if cache is None and use_cache:
            cache = DynamicCache()
        position_ids, visible = place(
            input_ids,
            attention_mask,
            position_ids,
            segment_ids,
            cache,
            self.lay_out,
            segment_sizes,
            self.packed_attention,
        )
        states = self.states(self.get_input_embeddings()(input_ids), position_ids, visible, cache)
        return BaseModelOutputWithPast(
            last_hidden_state=states[-1],
            hidden_states=states if output_hidden_states else None,
            **{CACHE_NAME: cache},
        )
