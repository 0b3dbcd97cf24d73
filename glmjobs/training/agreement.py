"""What all ranks have to know alike: whether to stop, whether a save failed, whether the loss is still a number.

Over a gloo group of its own, between CPUs: no GPU is waited for, and a rank that has failed to write its part of a
checkpoint can say so without meeting the others in a collective of DeepSpeed's.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=2)
"""A rank may write for long while the others wait here; hangs are the heartbeat's to find."""


@dataclass(frozen=True)
class Problem:
    """What went wrong on one rank."""

    rank: int
    host: str
    text: str

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.text}"


class Agreement:
    """Every method but :meth:`open` has to be called by all ranks, in the same order."""

    def __init__(self) -> None:
        self.group: Any = None
        self.rank, self.ranks = 0, 1

    def open(self) -> Agreement:
        """Make the group, once the processes have met; with one process there is nothing to agree on."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
            self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        return self

    def all_reduce_max(self, value: int) -> int:
        """The largest value of any rank."""
        return self._all_reduce(value, dist.ReduceOp.MAX)

    def all_reduce_min(self, value: int) -> int:
        """The smallest value of any rank."""
        return self._all_reduce(value, dist.ReduceOp.MIN)

    def _all_reduce(self, value: int, operation: Any) -> int:
        if self.group is None:
            return value
        tensor = torch.tensor(value, dtype=torch.int64)
        dist.all_reduce(tensor, op=operation, group=self.group)
        return int(tensor)

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' tensors, on the CPU."""
        values = values.cpu()
        if self.group is not None:
            dist.all_reduce(values, group=self.group)
        return values

    def first_problem(self, text: str | None) -> Problem | None:
        """The problem of the lowest rank that has one; None where no rank has."""
        mine = Problem(self.rank, socket.gethostname(), text) if text is not None else None
        if self.group is None or not self.all_reduce_max(int(mine is not None)):
            return mine
        problems: list[Problem | None] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(problems, mine, group=self.group)
        return next(p for p in problems if p is not None)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]
