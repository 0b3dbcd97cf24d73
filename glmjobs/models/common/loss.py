"""Cross-entropy over a large vocabulary without ever holding all its logits.

Full float32 logits of a batch of 16 x 1024 tokens over 130,528 pieces are 8.55 GB, and ordinary autograd
keeps several copies. Here rows are taken in chunks: the forward pass keeps one float per row, the backward
pass computes each chunk's logits again. That costs one more product with the output matrix, about 2 % of a
ChatGLM-6B training step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmjobs.compat import autocast_dtype

IGNORED = -100  # torch's own ignore_index, used by every tool that makes labels
CHUNK_BYTES = 2**28  # float32 logits held at a time


class _SummedCrossEntropy(torch.autograd.Function):
    """sum over rows of -log softmax(hidden @ weight.T)[label], float32; both passes work chunk by chunk.

    Smoothed by s, 1 - s of it and s of the mean over all pieces of the vocabulary.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, rows: int, smoothing: float
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        normalisers = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        for at in range(0, len(labels), rows):
            span = slice(at, at + rows)
            logits = F.linear(hidden[span], weight).float()
            normaliser = torch.logsumexp(logits, dim=-1)
            picked = logits.gather(1, labels[span].clamp(min=0).unsqueeze(1)).squeeze(1)
            if smoothing:
                picked = (1 - smoothing) * picked + smoothing * logits.mean(dim=-1)
            total += torch.where(labels[span] != IGNORED, normaliser - picked, 0.0).sum()
            normalisers[span] = normaliser
        ctx.save_for_backward(hidden, weight, labels, normalisers)
        ctx.rows, ctx.smoothing = rows, smoothing
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        hidden, weight, labels, normalisers = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Chunks add up in float32: 16-bit sums would lose the small ones.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for at in range(0, len(labels), ctx.rows):
            span = slice(at, at + ctx.rows)
            target = labels[span].clamp(min=0).unsqueeze(1)
            slope = (F.linear(hidden[span], weight).float() - normalisers[span].unsqueeze(1)).exp_()
            slope.scatter_add_(1, target, torch.full_like(target, ctx.smoothing - 1.0, dtype=torch.float32))
            if ctx.smoothing:
                slope -= ctx.smoothing / slope.shape[-1]
            slope *= torch.where(labels[span] != IGNORED, grad_outputs[0], 0.0).unsqueeze(1)
            slope = slope.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[span] = slope @ weight
            if grad_weight is not None:
                grad_weight += slope.t() @ hidden[span]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def summed_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk_bytes: int = CHUNK_BYTES, smoothing: float = 0.0
) -> Tensor:
    """Sum of the cross-entropies of all rows whose label is not -100, float32, as a scalar.

    Args:
        hidden: [N, H], any floating type.
        weight: [V, H], the output matrix.
        labels: [N] int64, -100 where a row has no target.
        chunk_bytes: float32 logits held at a time; at least one row is taken.
        smoothing: share of a label that is spread over the whole vocabulary, its own piece included (label smoothing:
            Szegedy et al. 2016, arXiv:1512.00567, section 7; as torch's cross_entropy has it).
    """
    if (dtype := autocast_dtype(hidden.device.type)) is not None:
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    rows = max(1, chunk_bytes // (4 * weight.shape[0]))
    with torch.autocast(hidden.device.type, enabled=False):
        total: Tensor = _SummedCrossEntropy.apply(hidden, weight, labels, rows, smoothing)
    return total


@torch.no_grad()
def count_hits(hidden: Tensor, weight: Tensor, labels: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """How many labels are the likeliest token: int64 scalar; arguments as :func:`summed_cross_entropy`."""
    if (dtype := autocast_dtype(hidden.device.type)) is not None:
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    rows = max(1, chunk_bytes // (4 * weight.shape[0]))
    total = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for at in range(0, len(labels), rows):
        span = slice(at, at + rows)
        total += (F.linear(hidden[span], weight).argmax(dim=-1) == labels[span]).sum()
    return total


class OutputHead(nn.Linear):
    """Hidden states to logits or, given labels, straight to the loss.

    The loss is computed inside this module's ``forward``, and not beside it from its weight: ZeRO-3 gathers a
    partitioned weight only while the module that owns it runs.
    """

    label_smoothing = 0.0
    """In training: see :func:`summed_cross_entropy`."""

    hits: Tensor | None = None
    """Outside training: how many labels of the last loss were the likeliest token, int64 scalar on the device."""

    @classmethod
    def beside(cls, embedding: nn.Embedding, *, tied: bool) -> OutputHead:
        """The output matrix of a model without biases; a tied one is the embedding from the start: under ZeRO-3 one of
        its own would be made, and partitioned, to be thrown away."""
        if not tied:
            return cls(embedding.embedding_dim, embedding.num_embeddings, bias=False)
        head = cls(embedding.embedding_dim, 1, bias=False)
        head.weight, head.out_features = embedding.weight, embedding.num_embeddings
        return head

    def forward(
        self, hidden: Tensor, labels: Tensor | None = None, num_items: Tensor | int | None = None
    ) -> Tensor:
        """Logits [..., V] without ``labels``; else the loss, a float32 scalar.

        Args:
            hidden: [..., H].
            labels: [...] int64, standing where their prediction stands; -100: none.
            num_items: what the sum of cross-entropies is divided by; None: the number of labels that are not
                -100. Token-weighted training passes the number of targets of all micro-batches and ranks
                together.
        """
        if labels is None:
            return F.linear(hidden, self.weight, self.bias)
        labels = labels.reshape(-1)
        hidden = hidden.reshape(-1, hidden.shape[-1])
        smoothing = self.label_smoothing if self.training else 0.0
        total = summed_cross_entropy(hidden, self.weight, labels, smoothing=smoothing)
        self.hits = None if self.training else count_hits(hidden, self.weight, labels)
        if num_items is None:
            return total / (labels != IGNORED).sum().clamp(min=1)
        return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)
