"""Which rows are for training and which for scoring.

Rows count from 1, as lines of the file. ``dev`` and ``train`` are written as ranges: ``"1-10000"``,
``"100001-"`` (to the end), ``"7"``, several with commas, or ``"rest"`` for train: every row that is not in
dev.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

from hpc.core.errors import BadInput

Part = Literal["train", "dev"]
_END = 1 << 62
_RANGE = re.compile(r"\s*(\d+)\s*(?:(-)\s*(\d+)?)?\s*")


@dataclass(frozen=True)
class RowRanges:
    """Sorted, disjoint, inclusive ranges of row numbers; the last may be open."""

    text: str
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str, field: str = "rows") -> RowRanges:
        """Read ``"1-10000"``, ``"100001-"``, ``"5,8-9"``.

        Raises:
            BadInput: not in this form, backwards, from 0, or with overlapping parts. ``field`` is named in
            it.
        """
        ranges = []
        for part in text.split(","):
            match = _RANGE.fullmatch(part)
            if not match:
                raise BadInput(
                    f'{field} = {text!r}: write row ranges such as "1-10000", "100001-" or "1-50,201-250"'
                )
            first = int(match[1])
            last = int(match[3]) if match[3] else (_END if match[2] else first)
            if first < 1 or last < first:
                raise BadInput(f"{field} = {text!r}: rows count from 1, and a range goes upwards")
            ranges.append((first, last))
        ranges.sort()
        for (_, last), (first, _) in itertools.pairwise(ranges):
            if first <= last:
                raise BadInput(f"{field} = {text!r}: its ranges overlap at row {first}")
        return cls(text, tuple(ranges))

    def __contains__(self, row: int) -> bool:
        at = bisect_right(self.ranges, (row, _END)) - 1
        return at >= 0 and row <= self.ranges[at][1]

    def count(self, rows: int) -> int:
        """So many of the first ``rows`` rows are in them."""
        return sum(max(0, min(last, rows) - first + 1) for first, last in self.ranges)

    @property
    def highest(self) -> int:
        """The highest row that must exist: the end of the last range, or its start where it is open; 0 of no ranges."""
        if not self.ranges:
            return 0
        first, last = self.ranges[-1]
        return first if last == _END else last

    def overlap(self, other: RowRanges) -> int | None:
        """The first row in both, or None."""
        shared = [max(a, c) for a, b in self.ranges for c, d in other.ranges if max(a, c) <= min(b, d)]
        return min(shared, default=None)


@dataclass(frozen=True)
class Split:
    """Assigns every row number to "dev", "train" or neither."""

    dev: RowRanges
    train: RowRanges | None  # None: the rest

    @classmethod
    def parse(cls, dev_rows: str | None, train_rows: str = "rest") -> Split:
        """Read both settings and refuse a row in both. ``dev_rows`` None: no row is scored.

        Raises:
            BadInput: a range is malformed, or dev and train overlap.
        """
        dev = RowRanges.parse(dev_rows, "data.dev_rows") if dev_rows is not None else RowRanges("", ())
        if train_rows.strip() == "rest":
            return cls(dev, None)
        train = RowRanges.parse(train_rows, 'data.train_rows (or "rest")')
        both = dev.overlap(train)
        if both is not None:
            raise BadInput(
                f"data.train_rows = {train_rows!r} and data.dev_rows = {dev_rows!r} both hold row {both}: "
                'no row may be trained on and scored; train_rows: "rest" takes all others'
            )
        return cls(dev, train)

    @property
    def highest(self) -> int:
        """The highest row that must exist."""
        return max(self.dev.highest, self.train.highest if self.train else 0)

    def part(self, row: int) -> Part | None:
        """ "dev", "train" or None (the row is in neither)."""
        if row in self.dev:
            return "dev"
        return "train" if self.train is None or row in self.train else None

    def train_rows(self, rows: int) -> int:
        """So many of the first ``rows`` rows are for training."""
        return rows - self.dev.count(rows) if self.train is None else self.train.count(rows)

    def check(self, rows: int, source: str) -> None:
        """Raise BadInput where a range asks for rows beyond the last one."""
        for field, ranges in (("data.dev_rows", self.dev), ("data.train_rows", self.train)):
            if ranges is not None and ranges.highest > rows:
                fitting = (
                    f'for example "1-{max(1, rows // 10)}"' if field.endswith("dev_rows") else 'or "rest"'
                )
                raise BadInput(
                    f"{field} = {ranges.text!r} reaches row {ranges.highest}, but {source} has {rows} rows: "
                    f"choose rows up to {rows}, {fitting}"
                )
