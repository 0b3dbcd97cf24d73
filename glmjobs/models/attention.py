"""Attention shared by the GLM architectures: one call, masked by position or not at all."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """[B, L, heads * D] to [B, heads, L, D]."""
    batch, length, width = projected.shape
    return projected.view(batch, length, heads, width // heads).transpose(1, 2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, cache: Any, layer: int, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the visible columns, with the cache's keys and values before these.

    Args:
        query, key, value: [B, heads, Q, D] of the new tokens.
        visible: [B, 1, Q, K] bool, True where a row sees a column; K counts the cached tokens too.
        cache: transformers' cache, extended in place, or None.
        layer: the block's index, from 0.
        dropout: of the attention probabilities.

    Returns:
        [B, Q, heads * D].
    """
    if cache is not None:
        key, value = cache.update(key, value, layer)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
    batch, _, length, _ = mixed.shape
    return mixed.transpose(1, 2).reshape(batch, length, -1)
