"""Batches for the model: torch datasets over packed rows or single examples, and the collators that pad them.

A batch is a dict of int64 tensors [B, L]: ``input_ids``; ``segment_ids``, 0 for padding and 1, 2, … for the
examples of a row; ``labels``, -100 where there is no loss. The number of targets is
``target_tokens(batch)``. Also, found here because a GPU would have to be waited for:
``target_positions`` int64 [n], where in the flattened [B * L] the labels are; and in a packed batch
``segment_sizes``, a list of int that stays on the host, with which attention is computed example by example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from glmjobs.data.framing import NO_LABEL
from glmjobs.data.packing import PackingPlan
from glmjobs.data.tokenised import Tokenised
from hpc.core.errors import BadInput

Item = dict[str, npt.NDArray[np.int32]]
Batch = dict[str, Any]


class PackedDataset(Dataset[Item]):
    """The rows of a packing plan; item i is row i without padding: three int32 arrays [n <= pack_length]."""

    def __init__(self, tokenised: Tokenised, plan: PackingPlan) -> None:
        """``plan`` must have been made from ``tokenised.lengths``."""
        if len(plan.members) and int(plan.members.max()) >= len(tokenised):
            raise BadInput(f"the packing plan names example {int(plan.members.max())} of {len(tokenised)}")
        self.tokenised, self.plan = tokenised, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Item:
        parts = [self.tokenised.example(int(example)) for example in self.plan.row(index)]
        if not parts:  # a row that only fills up the last step
            return {name: np.empty(0, np.int32) for name in ("input_ids", "segment_ids", "labels")}
        sizes = [len(ids) for ids, _ in parts]
        return {
            "input_ids": np.concatenate([ids for ids, _ in parts]),
            "segment_ids": np.repeat(np.arange(1, len(parts) + 1, dtype=np.int32), sizes),
            "labels": np.concatenate([labels for _, labels in parts]),
        }


class ExampleDataset(Dataset[Item]):
    """Single examples, in the source's order or in ``order`` (int[n])."""

    def __init__(
        self, tokenised: Tokenised, order: Sequence[int] | npt.NDArray[np.int64] | None = None
    ) -> None:
        self.tokenised, self.order = tokenised, order

    def __len__(self) -> int:
        return len(self.tokenised) if self.order is None else len(self.order)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):  # also what ends a plain for loop over a dataset
            raise IndexError(index)
        input_ids, labels = self.tokenised.example(int(index if self.order is None else self.order[index]))
        return {
            "input_ids": np.asarray(input_ids),
            "segment_ids": np.ones(len(input_ids), np.int32),
            "labels": np.asarray(labels),
        }


@dataclass(frozen=True)
class PackedCollator:
    """Pads every row on the right to ``pack_length`` positions: all batches have one shape."""

    pack_length: int
    pad_id: int

    def __call__(self, items: Sequence[Item]) -> Batch:
        """A batch [B, pack_length]."""
        batch = _padded(items, self.pack_length, self.pad_id)
        batch["segment_sizes"] = segment_sizes(batch["segment_ids"].numpy())
        return batch


@dataclass(frozen=True)
class PaddedCollator:
    """Pads on the right to the batch's longest row, up to a ``multiple``; or to a fixed ``length``."""

    pad_id: int
    length: int | None = None
    multiple: int = 1

    def __call__(self, items: Sequence[Item]) -> Batch:
        """A batch [B, L]."""
        longest = max(len(item["input_ids"]) for item in items)
        return _padded(items, self.length or -(-longest // self.multiple) * self.multiple, self.pad_id)


def target_tokens(batch: Batch) -> torch.Tensor:
    """Number of positions with a label, as a tensor [] on the labels' device (no host sync)."""
    count: torch.Tensor = (batch["labels"] != NO_LABEL).sum()
    return count


def segment_sizes(segment_ids: npt.NDArray[np.int64]) -> list[int]:
    """Positions of each example and run of padding (negative), row after row; [B, L], adding up to B * L."""
    ids = segment_ids.reshape(-1)
    opens = np.ones(segment_ids.shape, bool)
    opens[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    starts = np.flatnonzero(opens)
    sizes = np.diff(starts, append=len(ids))
    return [int(size) for size in np.where(ids[starts] > 0, sizes, -sizes)]


def _padded(items: Sequence[Item], length: int, pad_id: int) -> Batch:
    batch: Batch = {}
    for name, padding in (("input_ids", pad_id), ("segment_ids", 0), ("labels", NO_LABEL)):
        values = np.full((len(items), length), padding, np.int64)
        for row, item in zip(values, items, strict=True):
            row[: len(item[name])] = item[name]  # a row that is too long fails here: shapes don't fit
        batch[name] = torch.from_numpy(values)
    batch["target_positions"] = (batch["labels"].reshape(-1) != NO_LABEL).nonzero().squeeze(1)
    return batch
