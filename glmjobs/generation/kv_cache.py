"""A key-value cache with slots: rows come and go, columns grow without copying, unused columns are let go.

transformers' DynamicCache concatenates, copying everything it holds at every token. This one writes into
buffers that grow geometrically, and hands the model views of the columns in use. It keeps to the interface
that the models of both stacks call (``update``, ``get_seq_length``, ``get_mask_sizes``).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

GROWTH = 1.5
FIRST_COLUMNS = 32


class SlotCache(DynamicCache):
    """Keys and values of ``[slots, heads, columns, head size]`` per layer.

    All slots write to the same next column; which columns belong to a slot is the attention mask's affair.
    Columns left of :attr:`start` are not shown to the model any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.ends: list[int] = []
        self.start = 0

    # What models call.

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns ``[slots, heads, new, head size]`` to a layer; returns views of all its columns in
        use."""
        if layer_idx == len(self.keys):
            room = key_states.shape[-2] + FIRST_COLUMNS
            self.keys.append(_zeros(key_states, room))
            self.values.append(_zeros(value_states, room))
            self.ends.append(0)
        begin = self.ends[layer_idx]
        end = begin + key_states.shape[-2]
        if end > self.keys[layer_idx].shape[-2]:
            room = int(GROWTH * (end - self.start)) + FIRST_COLUMNS + self.start
            self.keys[layer_idx] = _grown(self.keys[layer_idx], begin, room)
            self.values[layer_idx] = _grown(self.values[layer_idx], begin, room)
        self.keys[layer_idx][:, :, begin:end] = key_states
        self.values[layer_idx][:, :, begin:end] = value_states
        self.ends[layer_idx] = end
        return self.keys[layer_idx][:, :, self.start : end], self.values[layer_idx][:, :, self.start : end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that the model sees as its past."""
        return self.ends[layer_idx] - self.start if layer_idx < len(self.ends) else 0

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the mask's key side, for transformers' mask builder (newer: int, older:
        positions)."""
        queries = query_length if isinstance(query_length, int) else len(query_length)
        return self.get_seq_length(layer_idx) + queries, 0

    # What the decoder calls. The buffers are inference tensors, made inside the model's forward.

    @property
    def bytes_per_position(self) -> int:
        """Bytes one column of one slot takes, over all layers."""
        return sum(t.shape[1] * t.shape[3] * t.element_size() for t in (*self.keys, *self.values))

    @torch.inference_mode()
    def place(self, slots: torch.Tensor, other: SlotCache, rows: torch.Tensor) -> None:
        """Copy ``rows`` of another cache into ``slots``, right-aligned at this cache's next column.

        Raises:
            ValueError: the other cache has more columns than this one has filled.
        """
        width = other.get_seq_length()
        for layer, end in enumerate(self.ends):
            if width > end:
                raise ValueError(f"{width} columns do not fit into the {end} filled ones")
            source = slice(other.start, other.ends[layer])
            self.keys[layer][slots, :, end - width : end] = other.keys[layer][rows, :, source]
            self.values[layer][slots, :, end - width : end] = other.values[layer][rows, :, source]

    @torch.inference_mode()
    def widen(self, slots: int) -> None:
        """Append empty slots up to so many."""
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                more = tensor.new_zeros((slots - tensor.shape[0], *tensor.shape[1:]))
                tensors[layer] = torch.cat([tensor, more])

    @torch.inference_mode()
    def select(self, slots: torch.Tensor) -> None:
        """Keep these slots only, in this order, and drop the columns that are not shown any more."""
        for layer, end in enumerate(self.ends):
            for tensors in (self.keys, self.values):
                tensors[layer] = tensors[layer][slots, :, self.start : end]
            self.ends[layer] = end - self.start
        self.start = 0

    @torch.inference_mode()
    def drop_hidden(self) -> None:
        """Give the memory of the columns left of :attr:`start` back."""
        for layer, end in enumerate(self.ends):
            for tensors in (self.keys, self.values):
                tensors[layer] = tensors[layer][:, :, self.start :].clone()
            self.ends[layer] = end - self.start
        self.start = 0


def _zeros(like: torch.Tensor, columns: int) -> torch.Tensor:
    # Zeros, not uninitialised memory: a masked column still multiplies its value by 0, and 0 * NaN is NaN.
    return like.new_zeros((*like.shape[:2], columns, like.shape[-1]))


def _grown(tensor: torch.Tensor, filled: int, columns: int) -> torch.Tensor:
    grown = _zeros(tensor, columns)
    grown[:, :, :filled] = tensor[:, :, :filled]
    return grown
