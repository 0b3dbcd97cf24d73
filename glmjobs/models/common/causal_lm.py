"""What both GLM architectures share around their blocks: inputs, loss, and ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from glmjobs.compat import CACHE_NAME
from glmjobs.models.common.attention import Pieces
from glmjobs.models.common.positions import Layout, prefix_lm_mask


def place(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    segment_ids: Tensor | None,
    cache: Any,
    lay_out_rows: Any,
    segment_sizes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | Pieces]:
    """Positions [B, 2, L] and the mask [B, 1, Q, K] (bool, True visible) of a forward pass: as given, or from
    the rows. With ``segment_sizes`` (see :class:`Pieces`) the mask comes cut into the examples.

    Raises:
        ValueError: tokens are cached, and positions or mask are not given: they follow from the whole row.
    """
    full = attention_mask if attention_mask is not None and attention_mask.dim() == 4 else None
    if full is not None and position_ids is not None:
        return position_ids, full.bool()
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError(
            "with cached tokens, give position_ids [B, 2, L] and attention_mask [B, 1, L, cached + L] "
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
    return position_ids, Pieces.of(visible, segment_sizes)


def cache_for(cache: Any, past_key_values: Any, use_cache: bool) -> Any:
    """The cache under either of its names, a new one where wanted, or None."""
    cache = past_key_values if cache is None else cache
    return DynamicCache() if cache is None and use_cache else cache


def predictions(
    hidden: Tensor, labels: Tensor, shifted: bool, target_positions: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Hidden states and the labels that they predict, side by side.

    Args:
        hidden: [B, L, H].
        labels: [B, L] int64, -100 where there is none.
        shifted: a label is predicted one position before its own.
        target_positions: [n] int64, where in the flattened [B * L] there are labels: only those are taken, so the
            vocabulary is not computed for questions and padding. None: all positions.

    Returns:
        [..., H] and [...] int64.
    """
    if target_positions is None:
        return (hidden[:, :-1], labels[:, 1:]) if shifted else (hidden, labels)
    flat = hidden.reshape(-1, hidden.shape[-1])
    # No example's first label is a target, so the position before one is its own example's.
    chosen = flat.index_select(0, target_positions - 1 if shifted else target_positions)
    return chosen, labels.reshape(-1).index_select(0, target_positions)


class GLMGenerationMixin(GenerationMixin):
    """``forward`` and ``generate`` of a GLM with a head: the class has ``config``, ``lm_head`` and
    ``shifts_labels``."""

    #: labels are equal to input_ids at targets and compared one token later; else they stand at their
    #: prediction.
    shifts_labels = True
    accepts_loss_kwargs = True  # transformers' Trainer then passes num_items_in_batch

    def finish(
        self,
        outputs: Any,
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None,
        return_logits: bool | None,
        logits_to_keep: int,
        target_positions: Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits and loss from the hidden states of the base model."""
        head: Any = self.lm_head  # type: ignore[attr-defined]
        hidden = outputs.last_hidden_state
        loss = None
        if labels is not None:
            predicting, wanted = predictions(hidden, labels, self.shifts_labels, target_positions)
            loss = head(predicting, wanted, num_items_in_batch)
        if return_logits is None:
            return_logits = labels is None or not self.training  # type: ignore[attr-defined]
        logits = head(hidden[:, -logits_to_keep:]) if return_logits else None
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = True,
        logits_to_keep: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of the next step: positions and mask follow from the whole rows, the tokens are the uncached
        ones."""
        cache = past_key_values if cache is None else cache
        past = cache.get_seq_length() if cache is not None else 0
        layout = self.lay_out(input_ids, attention_mask)  # type: ignore[attr-defined]
        return {
            "input_ids": input_ids[:, past:].contiguous(),
            "position_ids": layout.position_ids[:, :, past:],
            "attention_mask": prefix_lm_mask(layout, queries=input_ids.shape[1] - past),
            CACHE_NAME: cache,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep or 1,
        }
