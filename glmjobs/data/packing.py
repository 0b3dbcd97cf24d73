"""Packing: which examples share a row, and in which order rows come. Pure numpy, the same on every machine.

The examples of an epoch are shuffled, then packed window by window, best fit in that random order: each goes into
the fullest row that still holds it. Rows, and the examples in each, are shuffled at the end.

Not best fit *decreasing*, though it fills 0.3 to 0.8 points more: it puts examples of like length together, and where
a step is a few rows, it is then no random sample of the data. Measured (benchmarks/packing_loss.py), that costs more
dev loss than an epoch gains; in random order a packed epoch ends no worse than an unpacked one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpc.core.errors import BadInput

Int64s = npt.NDArray[np.int64]

#: Examples packed together: at 140 tokens and 1024 positions, 1,100 rows, the last of them half empty.
WINDOW = 8192


@dataclass(frozen=True)
class PackingPlan:
    """Rows of examples.

    Attributes:
        pack_length: positions of a row.
        members: int64[m], example indices, row after row.
        offsets: int64[rows + 1]; row i holds ``members[offsets[i]:offsets[i + 1]]``.
        tokens: real tokens in all rows.
        epoch_ends: where several epochs follow each other, the number of rows up to the end of each.
        epochs: how many those are; the last may be a part.
    """

    pack_length: int
    members: Int64s
    offsets: Int64s
    tokens: int
    epoch_ends: tuple[int, ...] = ()
    epochs: float = 1.0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> Int64s:
        """The examples of one row."""
        return self.members[self.offsets[index] : self.offsets[index + 1]]

    @property
    def fill(self) -> float:
        """Real tokens over positions, 0 to 1."""
        return self.tokens / (len(self) * self.pack_length) if len(self) else 0.0

    def epochs_in(self, rows: int) -> float:
        """Epochs in the first ``rows`` rows; a row's share is the same for all rows of its epoch."""
        ends = self.epoch_ends or (len(self),)
        done = bisect_right(ends, rows)
        if done == len(ends):
            return self.epochs
        start = ends[done - 1] if done else 0
        return done + min(1.0, self.epochs - done) * (rows - start) / (ends[done] - start)

    def padded(self, multiple: int) -> PackingPlan:
        """The plan with empty rows at the end, up to a multiple (of the world's rows a step).

        Without them a distributed sampler repeats rows to come out even, and those examples would count
        twice.
        """
        missing = -len(self) % multiple
        offsets = np.concatenate([self.offsets, np.full(missing, self.offsets[-1], np.int64)])
        return PackingPlan(self.pack_length, self.members, offsets, self.tokens)


def permutation(count: int, seed: Sequence[int]) -> Int64s:
    """A random order of ``range(count)``.

    numpy promises the raw stream of a bit generator across its releases (NEP 19), not
    ``Generator.permutation``'s; the order is therefore that of sorted raw numbers.
    """
    raw = np.random.PCG64(np.random.SeedSequence(list(seed))).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64)


def plan_epoch(
    lengths: npt.ArrayLike, pack_length: int, *, seed: int = 0, epoch: int = 0, window: int = WINDOW
) -> PackingPlan:
    """Pack every example once.

    Args:
        lengths: tokens of each example, int[n].
        pack_length: positions of a row.
        seed: decides the order, together with ``epoch``: the same pair gives the same plan.
        epoch: counted from 0.
        window: examples packed together.

    Raises:
        BadInput: an example is longer than a row.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    _check(sizes, pack_length)
    order = permutation(len(sizes), [seed, epoch, 0])
    rows: list[list[int]] = []
    for start in range(0, len(order), window):
        rows += _best_fit(order[start : start + window], sizes, pack_length)
    rank = permutation(len(rows), [seed, epoch, 1])
    return _plan(rows, rank, permutation(len(sizes), [seed, epoch, 2]), pack_length, int(sizes.sum()))


def plan_epochs(
    lengths: npt.ArrayLike,
    pack_length: int,
    *,
    epochs: float,
    seed: int = 0,
    window: int = WINDOW,
    multiple: int = 1,
    packed: bool = True,
) -> PackingPlan:
    """The rows of a whole training, epoch after epoch, each padded to ``multiple`` rows.

    With ``packed`` False, a row holds one example, in random order.

    Read in order, it needs no sampler: where training stands is the number of rows read. The last epoch may
    be a part (``epochs=1.5``).
    """
    if epochs <= 0:
        raise BadInput(f"epochs = {epochs}: more than 0")
    plans = []
    for epoch in range(int(np.ceil(epochs))):
        if packed:
            plan = plan_epoch(lengths, pack_length, seed=seed, epoch=epoch, window=window)
        else:
            plan = plan_single(lengths, pack_length, seed=seed, epoch=epoch)
        share = min(1.0, epochs - epoch)
        if share < 1:
            rows = max(1, round(share * len(plan) / multiple)) * multiple  # whole steps: more can follow them
            plan = _first_rows(plan, min(rows, len(plan)), np.asarray(lengths, dtype=np.int64))
        plans.append(plan.padded(multiple))
    members = np.concatenate([plan.members for plan in plans])
    counts = np.concatenate([np.diff(plan.offsets) for plan in plans])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ends = tuple(np.cumsum([len(plan) for plan in plans]).tolist())
    return PackingPlan(pack_length, members, offsets, sum(plan.tokens for plan in plans), ends, epochs)


def plan_single(lengths: npt.ArrayLike, pack_length: int, *, seed: int = 0, epoch: int = 0) -> PackingPlan:
    """One example a row, in random order: training without packing."""
    sizes = np.asarray(lengths, dtype=np.int64)
    _check(sizes, pack_length)
    order = permutation(len(sizes), [seed, epoch, 0])
    return PackingPlan(pack_length, order, np.arange(len(order) + 1, dtype=np.int64), int(sizes.sum()))


def _check(sizes: Int64s, pack_length: int) -> None:
    if len(sizes) and int(sizes.max()) > pack_length:
        raise BadInput(
            f"train.pack_length = {pack_length}: less than the longest example's {int(sizes.max())} tokens; "
            "raise it, or lower data.max_source_length and data.max_target_length to at most that in sum"
        )


def _best_fit(examples: Int64s, sizes: Int64s, pack_length: int) -> list[list[int]]:
    """Best fit for one window, in the order given.

    ``open_rows[r]`` are the rows with r positions left, and bit r of ``free`` says that there are any: the
    fullest row that holds a length is the lowest set bit from there on, found in one step.
    """
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(pack_length + 1)]
    free = 0
    for example, size in zip(examples.tolist(), sizes[examples].tolist(), strict=True):
        fitting = free >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[left].pop()
            if not open_rows[left]:
                free ^= 1 << left
            rows[row].append(example)
        else:
            left, row = pack_length, len(rows)
            rows.append([example])
        open_rows[left - size].append(row)
        if left > size:
            free |= 1 << (left - size)
    return rows


def _plan(rows: list[list[int]], rank: Int64s, key: Int64s, pack_length: int, tokens: int) -> PackingPlan:
    """Rows in the order of ``rank`` (int64[rows]), the examples of each in that of ``key`` (int64[examples])."""
    counts = np.array([len(row) for row in rows], np.int64)
    members = np.fromiter((example for row in rows for example in row), np.int64, int(counts.sum()))
    members = members[np.lexsort((key[members], np.repeat(rank, counts)))]
    sizes = np.empty_like(counts)
    sizes[rank] = counts
    return PackingPlan(pack_length, members, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), tokens)


def _first_rows(plan: PackingPlan, count: int, sizes: Int64s) -> PackingPlan:
    offsets = plan.offsets[: count + 1]
    members = plan.members[: offsets[-1]]
    return PackingPlan(plan.pack_length, members, offsets, int(sizes[members].sum()))
