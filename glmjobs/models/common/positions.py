"""Where everything stands in a row of tokens: prefixes, 2D positions and the prefix-LM mask.

GLM's rows are ``context … <sop> target …``. The context (all tokens before ``<sop>``, the mask token among
them) is visible to its whole example; ``<sop>`` and the target see the context and, causally, each other.
Each token has two positions (GLM, Du et al. 2022, section 2.1): in the context its index and 0; in the target
the index of the mask token that it fills, and 1, 2, 3, … counted from ``<sop>``.

Several examples may share a row (packing). All functions work on whole batches with tensor operations only:
no loop over rows, no value read back to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The layout of a batch of rows.

    Attributes:
        segments: [B, L] int64, which example of its row a token belongs to, from 1; 0 is padding.
        context_end: [B, L] int64, for each token the column of its example's ``<sop>`` (L where it has none:
            such an example is all context).
        position_ids: [B, axes, L] int64: position and, where there are 2D positions, block position; 0 at padding.
    """

    segments: Tensor
    context_end: Tensor
    position_ids: Tensor


def lay_out(
    input_ids: Tensor,
    segment_ids: Tensor | None,
    *,
    sop_id: int,
    mask_ids: Sequence[Sequence[int]],
) -> Layout:
    """Lay out rows of tokens.

    Args:
        input_ids: [B, L] int64.
        segment_ids: [B, L] integer or bool: 0 is padding, 1..n tell the examples of a row apart (each
            example's tokens stand together). An attention mask of ones and zeros is a row with one example.
            None: no padding.
        sop_id: id of ``<sop>``; an example's first one ends its context.
        mask_ids: ids of mask tokens in groups of falling preference: the example's first token of the first
            group that occurs in it gives the target's position. ChatGLM-6B: ``[[gmask], [mask]]``. In an
            example without any it is the token before ``<sop>``, where the format has it.
    """
    length = input_ids.shape[1]
    segments, column, start = _examples(input_ids, segment_ids)

    def first(found: Tensor) -> Tensor:
        """[B, L]: for each token, the first column of its example where ``found`` holds, or L."""
        least = torch.full_like(start, length)
        least = least.scatter_reduce(1, start, torch.where(found, column, length), "amin")
        return least.gather(1, start)

    context_end = first(input_ids == sop_id)
    mask_at = context_end - 1
    for group in reversed(mask_ids):
        found = torch.zeros_like(segments, dtype=torch.bool)
        for token in group:
            found = found | (input_ids == token)
        at = first(found)
        mask_at = torch.where(at < length, at, mask_at)

    in_target = column >= context_end
    position = torch.where(in_target, mask_at, column) - start
    block = torch.where(in_target, column - context_end + 1, 0)
    position_ids = torch.stack((position.clamp(min=0), block), dim=1)
    return Layout(segments, context_end, torch.where(segments.unsqueeze(1) > 0, position_ids, 0))


def lay_out_causal(input_ids: Tensor, segment_ids: Tensor | None) -> Layout:
    """Lay out rows of a model that is causal throughout: no context, and one position, counted in each example.

    Args:
        input_ids, segment_ids: as :func:`lay_out` takes them.
    """
    segments, column, start = _examples(input_ids, segment_ids)
    positions = torch.where(segments > 0, column - start, 0).unsqueeze(1)
    return Layout(segments, torch.zeros_like(segments), positions)


def _examples(input_ids: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Three [B, L] int64: each token's example, its column, and the column where its example starts."""
    column = torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape)
    segments = torch.ones_like(input_ids) if segment_ids is None else segment_ids.to(torch.int64)
    opens = torch.ones_like(segments, dtype=torch.bool)
    opens[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return segments, column, torch.where(opens, column, 0).cummax(dim=1).values


def prefix_lm_mask(layout: Layout, queries: int | None = None) -> Tensor:
    """The attention mask: [B, 1, Q, L] bool, True where row ``i`` sees column ``j``.

    A token sees the tokens of its own example that are in the context or not after it. Padding sees only
    itself (an empty row would make softmax NaN) and is seen by no one else.

    Args:
        layout: of the full rows.
        queries: give only the last so many rows, as decoding with a cache needs; None: all.
    """
    length = layout.segments.shape[1]
    since = 0 if queries is None else length - queries
    column = torch.arange(length, device=layout.segments.device)
    row = column[since:].view(1, -1, 1)
    own = layout.segments[:, since:, None]
    same = (own == layout.segments[:, None, :]) & (own > 0)
    visible = (column < layout.context_end[:, since:, None]) | (column <= row)
    return ((same & visible) | (column == row)).unsqueeze(1)
