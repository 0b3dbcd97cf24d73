"""transformers' own decoders, with packed rows and the chunked loss that the families here have.

transformers tells the examples of a row apart by position ids that restart, but only without an attention mask and
without a cache, and not in every release; otherwise one example reads the one before it, silently. Here the mask says
it outright: it is made from ``segment_ids`` and holds whatever the cache does.

Attention is computed in one of the ways of :mod:`glmjobs.models.common.attention`. What a way needs travels as an
attribute of the mask: that reaches every layer in every release, through recomputation too, and where it gets lost the
mask is still the whole truth.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from glmjobs import compat
from glmjobs.models.common.attention import Blocks, Pieces, attend_blocks, block_diagonal, in_form, in_pieces
from glmjobs.models.common.causal_lm import output_of
from glmjobs.models.common.loss import OutputHead


def packed_inputs(
    segment_ids: Tensor, dtype: torch.dtype, sizes: Sequence[int] | None = None, way: str | None = None
) -> tuple[Tensor, Tensor]:
    """Positions and the block-diagonal causal mask of packed rows.

    Args:
        segment_ids: [B, L] int64, 1..n tells the examples of a row apart, 0 is padding.
        dtype: of the mask, the model's.
        sizes, way: as :func:`glmjobs.models.common.attention.in_form` takes them.

    Returns:
        position_ids [B, L] int64, restarting at 0 with each example; mask [B, 1, L, L], 0 where a row sees a column
        and the type's least value elsewhere, with the way's form of it as ``packed_form``. Padding sees only padding,
        itself included, so that no row is empty.
    """
    batch, length = segment_ids.shape
    column = torch.arange(length, device=segment_ids.device).expand(batch, length)
    opens = torch.ones_like(segment_ids, dtype=torch.bool)
    opens[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    positions = column - torch.where(opens, column, 0).cummax(dim=1).values
    visible = block_diagonal(segment_ids)
    mask = torch.zeros(visible.shape, dtype=dtype, device=segment_ids.device)
    mask.masked_fill_(~visible, torch.finfo(dtype).min)
    mask.packed_form = in_form(visible, way, sizes)  # type: ignore[attr-defined]
    return positions, mask


def attend_packed(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: the model's own, but packed rows in the form that hangs on their mask.

    Args:
        query: [B, heads, L, D].
        key, value: [B, key heads, K, D].
        attention_mask: [B, 1, L, K], as :func:`packed_inputs` makes it or any other; or None.

    Returns:
        [B, L, heads, D]; of the probabilities what the model's own attention gives, of packed rows none.
    """
    form = getattr(attention_mask, "packed_form", None)
    if isinstance(form, Pieces):
        return _attend_causal_pieces(module, query, key, value, form.sizes, options), None
    if isinstance(form, Blocks):
        return attend_blocks(query, key, value, form, options.get("scaling")).transpose(1, 2), None
    own: Any = (
        sdpa_attention_forward
        if compat.SCALED_ATTENTION
        else sys.modules[type(module).__module__].eager_attention_forward
    )
    out: tuple[Tensor, Tensor | None] = own(module, query, key, value, attention_mask, **options)
    return out


def _attend_causal_pieces(
    module: Any, query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], options: dict[str, Any]
) -> Tensor:
    """[B, L, heads, D]. A causal piece needs no mask, and so takes torch's fastest kernel."""
    batch, heads, length, width = query.shape
    parts = [in_pieces(t, sizes) for t in (query, key, value)]
    attend = sdpa_attention_forward if compat.SCALED_ATTENTION else _causal_attention
    mixed = [
        # Padding is read by nobody: anything finite will do.
        torch.zeros_like(q).transpose(1, 2) if size < 0 else attend(module, q, k, v, None, **options)[0]
        for size, q, k, v in zip(sizes, *parts, strict=True)
    ]
    return torch.cat(mixed, dim=1).view(batch, length, heads, width)


def _causal_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: None, **options: Any
) -> tuple[Tensor, None]:
    """:func:`attend_packed` of one piece, where torch's attention takes no scale: the queries do."""
    width, shared = query.shape[-1], query.shape[1] // key.shape[1]
    scale = options.get("scaling") or width**-0.5
    key, value = (t.repeat_interleave(shared, dim=1) for t in (key, value))
    out = F.scaled_dot_product_attention(
        query * (scale * width**0.5), key, value, dropout_p=options.get("dropout", 0.0), is_causal=True
    )
    return out.transpose(1, 2), None


PACKED = "glmjobs_packed"
ALL_ATTENTION_FUNCTIONS[PACKED] = attend_packed


@cache
def packed(kind: Any) -> Any:
    """A subclass of one of transformers' causal language models, for training on packed rows.

    It has the same name, so that saved directories name transformers' class.

    Args:
        kind: has its decoder as ``model`` and its output matrix as ``lm_head``, as LlamaForCausalLM and its like do.
    """
    # transformers looks into the module of a class for what its attention can do: that is still kind's.
    return type(kind.__name__, (_PackedRows, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


class _PackedRows:
    """``forward`` as the other families have it, over transformers'."""

    accepts_loss_kwargs = True  # transformers' Trainer then passes num_items_in_batch
    config: Any
    model: Any
    lm_head: Any
    dtype: Any
    training: bool
    packed_attention: str | None = None  # see glmjobs.models.common.attention_ways

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.lm_head.__class__ = (
            OutputHead  # a Linear that also computes the loss: the same weight, another forward
        )
        if self.config._attn_implementation == ("sdpa" if compat.SCALED_ATTENTION else "eager"):
            # The layers' attention alone: the model makes its masks, and names itself, as before.
            own = copy.copy(self.config)
            own._attn_implementation = PACKED
            for layer in self.model.layers:
                layer.self_attn.config = own

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        target_positions: Tensor | None = None,
        segment_sizes: Sequence[int] | None = None,
        return_logits: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """transformers' forward pass; with ``segment_ids`` or ``labels`` as the other families'.

        Args:
            segment_ids: [B, L] int64, 1..n tells the examples of a packed row apart, 0 is padding. Comes before
                ``attention_mask`` and ``position_ids``.
            labels: [B, L] int64, -100: none; shifted in here.
            num_items_in_batch: what the sum of token losses is divided by; None: the number of targets.
            target_positions: [n] int64, where in the flattened [B * L] the labels are.
            segment_sizes: list of int on the host, see :class:`glmjobs.models.common.attention.Pieces`: with it
                attention may be computed example by example.
            return_logits: None: with labels, only outside training.
            **kwargs: transformers' own.
        """
        if segment_ids is not None:
            position_ids, attention_mask = packed_inputs(
                segment_ids, self.dtype, segment_sizes, self.packed_attention
            )
            kwargs["use_cache"] = False
        given = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        if labels is None:
            out: CausalLMOutputWithPast = super().forward(input_ids, **given)  # type: ignore[misc]
            return out
        outputs = self.model(input_ids, **given)
        return output_of(
            self, outputs, labels, shifted=True, num_items_in_batch=num_items_in_batch,
            return_logits=return_logits, target_positions=target_positions,
        )  # fmt: skip
