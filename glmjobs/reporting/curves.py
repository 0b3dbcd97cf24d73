"""Series for the charts: training curves that know of resumed attempts, GPU samples folded over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from glmjobs.reporting.load import GpuSample
from glmjobs.text import number

#: Points a chart keeps: more than its pixels, few enough for a page of some hundred KB.
POINTS = 400

Point = tuple[float, float]


def training_rows(
    log: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The log's rows in two lists: those that count, and those that a resumed attempt did again.

    A row is superseded when a later row has the same or a smaller step: training went on from an older
    checkpoint.
    """
    kept: list[Mapping[str, Any]] = []
    replaced: list[Mapping[str, Any]] = []
    floor = float("inf")
    for row in reversed(log):
        step = number(row.get("step"))
        if step is None:
            continue
        (kept if step < floor else replaced).append(row)
        floor = min(floor, step)
    return kept[::-1], replaced[::-1]


def curve(rows: Iterable[Mapping[str, Any]], key: str) -> list[Point]:
    """``(step, value)`` of the rows that have this value."""
    found = []
    for row in rows:
        step, value = number(row.get("step")), number(row.get(key))
        if step is not None and value is not None:
            found.append((step, value))
    return found


def thin(points: Sequence[Point], limit: int = POINTS) -> list[Point]:
    """About ``limit`` points: of each stretch the first, lowest and highest, so that no spike is lost."""
    if len(points) <= limit:
        return list(points)
    width = -(-len(points) * 3 // limit)
    kept: list[Point] = []
    for start in range(0, len(points), width):
        stretch = range(start, min(start + width, len(points)))
        low = min(stretch, key=lambda i: points[i][1])
        high = max(stretch, key=lambda i: points[i][1])
        kept += [points[i] for i in sorted({start, low, high})]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def gpu_curve(
    samples: Iterable[GpuSample], read: Callable[[GpuSample], float | None], start: float, bins: int = 240
) -> list[tuple[float, float, float, float]]:
    """``(seconds since start, mean, lowest, highest)`` over all GPUs, in equal stretches of time.

    ``lowest`` and ``highest`` are of the single readings within the stretch; stretches without samples are
    absent.
    """
    read_at = [(s.time, value) for s in samples if (value := read(s)) is not None]
    if not read_at:
        return []
    first, last = min(t for t, _ in read_at), max(t for t, _ in read_at)
    width = max((last - first) / bins, 1.0)
    folded: dict[int, list[float]] = {}
    for time, value in read_at:
        cell = folded.setdefault(int((time - first) / width), [0.0, 0.0, value, value])
        cell[0] += 1
        cell[1] += value
        cell[2] = min(cell[2], value)
        cell[3] = max(cell[3], value)
    return [
        (first - start + (index + 0.5) * width, total / count, low, high)
        for index, (count, total, low, high) in sorted(folded.items())
    ]
