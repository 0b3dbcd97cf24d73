"""The output head of every model here: logits, loss, and for the GLM architectures ``generate``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from glmjobs.compat import CACHE_NAME
from glmjobs.models.common.loss import OutputHead
from glmjobs.models.common.positions import Layout, prefix_lm_mask


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


def output_of(
    model: Any,
    outputs: Any,
    labels: Tensor | None,
    *,
    shifted: bool,
    num_items_in_batch: Tensor | int | None,
    return_logits: bool | None,
    target_positions: Tensor | None,
    logits_to_keep: int = 0,
) -> CausalLMOutputWithPast:
    """Logits and loss from the hidden states of the base model; see :meth:`CausalLM.forward`.

    Args:
        model: has its :class:`OutputHead` as ``lm_head``.
        outputs: of its base model.
        shifted: see :func:`predictions`.
    """
    hidden = outputs.last_hidden_state
    loss = None
    if labels is not None:
        predicting, wanted = predictions(hidden, labels, shifted, target_positions)
        loss = model.lm_head(predicting, wanted, num_items_in_batch)
    if return_logits is None:
        return_logits = labels is None or not model.training
    return CausalLMOutputWithPast(
        loss=loss,
        logits=model.lm_head(hidden[:, -logits_to_keep:]) if return_logits else None,
        hidden_states=outputs.hidden_states,
        **{CACHE_NAME: outputs.get(CACHE_NAME)},
    )


class CausalLM(GenerationMixin):
    """A GLM with its output head. The class beside it has the head as ``lm_head`` and below it, under transformers'
    ``base_model``, a :class:`glmjobs.models.common.prefix_lm.PrefixLMModel`."""

    #: labels are equal to input_ids at targets and compared one token later; else they stand at their
    #: prediction.
    shifts_labels = True
    accepts_loss_kwargs = True  # transformers' Trainer then passes num_items_in_batch

    base_model: Any
    lm_head: OutputHead

    @classmethod
    def can_generate(cls) -> bool:
        """True; transformers would look for its own mixin's name among a class's bases."""
        return True

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.base_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        # After resizing the vocabulary it is a plain linear map; ours also computes the loss.
        self.lm_head.weight = new_embeddings.weight
        self.lm_head.out_features = new_embeddings.out_features

    def tie_weights(self, *given: Any, missing_keys: set[str] | None = None, **options: Any) -> None:
        """As transformers does it, but a tied weight that the files hold as well is not read for a comparison
        (transformers 5 makes one where ``missing_keys`` is given, in loading): :mod:`glmjobs.models.loading` has
        compared a sample."""
        if missing_keys is not None:
            known: dict[str, str] = getattr(self, "all_tied_weights_keys", {})
            missing_keys |= {name for name, source in known.items() if source not in missing_keys}
            options["missing_keys"] = missing_keys
        super().tie_weights(*given, **options)  # type: ignore[misc]

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
                a row sees a column, taken as it is.
            position_ids: [B, axes, L] int64; None: computed from the row.
            segment_ids: [B, L] int64, 1..n tells the examples of a packed row apart, 0 is padding. Comes
                before ``attention_mask`` where both are given.
            labels: [B, L] int64, -100 elsewhere than at targets. Where the class shifts labels, equal to input_ids
                at targets and shifted in here: an example's first label is -100, so that no example predicts
                into the next. Else each stands at the token that predicts it.
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
        outputs = self.base_model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            segment_ids=segment_ids,
            **kwargs,
        )
        return output_of(
            self, outputs, labels, shifted=self.shifts_labels, num_items_in_batch=num_items_in_batch,
            return_logits=return_logits, target_positions=target_positions, logits_to_keep=logits_to_keep,
        )  # fmt: skip

    def lay_out(self, input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
        """See :meth:`glmjobs.models.common.prefix_lm.PrefixLMModel.lay_out`."""
        return self.base_model.lay_out(input_ids, segment_ids)  # type: ignore[no-any-return]

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
        layout = self.lay_out(input_ids, attention_mask)
        return {
            "input_ids": input_ids[:, past:].contiguous(),
            "position_ids": layout.position_ids[:, :, past:],
            "attention_mask": prefix_lm_mask(layout, queries=input_ids.shape[1] - past),
            CACHE_NAME: cache,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep or 1,
        }
