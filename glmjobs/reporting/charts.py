"""Charts as self-contained SVG: lines, and bars with intervals. Colours come from the page's style sheet.

Sizes are in SVG units that are about CSS pixels on a phone: a chart is drawn narrow (:data:`WIDTH`) and
several stand side by side on a wide page, so that its text keeps one size everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from glmjobs.reporting.markup import Markup, tag
from glmjobs.text import percent

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 28


@dataclass(frozen=True)
class Line:
    """One line: ``points`` are ``(x, y)``, ``band`` behind it ``(x, low, high)``; ``kind`` is a CSS class.

    A step in x of more than ``gap`` breaks the line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = "main"
    band: Sequence[tuple[float, float, float]] = ()
    gap: float = math.inf


@dataclass(frozen=True)
class Bar:
    """One bar: a share of 1 with its interval, and how many rows it stands on; ``beside`` is a published share
    to hold it against, drawn as a dashed line across the bar."""

    name: str
    value: float
    kind: str
    interval: tuple[float, float] | None = None
    rows: int | None = None
    beside: float | None = None


@dataclass(frozen=True)
class Group:
    """Bars that belong together, under one label."""

    label: str
    bars: Sequence[Bar] = field(default_factory=list)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` numbers within ``[low, high]``, 1, 2 or 5 times a power of ten apart; three at least."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    found: list[float] = []
    for step in (m * power for m in (10, 5, 2, 1)):
        if step < raw * 0.999 and len(found) > 2:
            break
        found = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return found


def time_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Like :func:`ticks`, for seconds: steps that clocks have."""
    steps = [
        1,
        2,
        5,
        10,
        15,
        30,
        60,
        120,
        300,
        600,
        900,
        1800,
        3600,
        7200,
        10800,
        21600,
        43200,
        86400,
        172800,
        604800,
    ]
    step = next((s for s in steps if (high - low) / s <= count + 1), steps[-1])
    return [float(i * step) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def elapsed(seconds: float) -> str:
    """A tick of a time axis: ``45s``, ``12m``, ``3h``, ``3h30``, ``2d``."""
    whole = round(seconds)
    if whole == 0:
        return "0"
    if abs(whole) < 60 or whole % 60:
        minutes, rest = divmod(whole, 60)
        return f"{rest}s" if not minutes else f"{minutes}m{rest:02d}"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole % 86400 == 0:
        return f"{whole // 86400}d"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}" if whole % 3600 else f"{whole // 3600}h"


def short(value: float) -> str:
    """A number for a tick: ``0.25``, ``1,200``, ``12k``, ``1.5M``, ``5e-6``."""
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.6g}" if size < 1000 else f"{value:,.0f}"


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    x_text: Callable[[float], str] = short,
    x_ticks: Callable[[float, float, int], list[float]] = ticks,
    y_text: Callable[[float], str] = short,
    y_range: tuple[float, float] | None = None,
    x_from: float | None = None,
    marks: Sequence[float] = (),
    width: int = WIDTH,
) -> Markup:
    """Lines over one x axis. ``marks`` are x positions of thin vertical lines (where attempts began).

    The SVG carries its geometry in data attributes, from which the page's script makes the readout at a
    point.
    """
    points = [p for line in lines for p in line.points]
    x_low, x_high = _span([x for x, _ in points] + ([] if x_from is None else [x_from]), pad=0.0)
    heights = [y for _, y in points] + [
        y for line in lines for _, low, high in line.band for y in (low, high)
    ]
    y_low, y_high = y_range or _span(heights, pad=0.06)

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (width - LEFT - RIGHT)

    def py(y: float) -> float:
        return (
            HEIGHT
            - BOTTOM
            - (min(max(y, y_low), y_high) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        )

    parts: list[Markup] = []
    for y in ticks(y_low, y_high):
        parts.append(tag("line", class_="grid", x1=LEFT, x2=width - RIGHT, y1=_f(py(y)), y2=_f(py(y))))
        parts.append(tag("text", y_text(y), class_="tick", x=LEFT - 7, y=_f(py(y) + 4), text_anchor="end"))
    for x in x_ticks(x_low, x_high, width // 80):
        anchor = "end" if px(x) > width - RIGHT - 14 else "middle"
        parts.append(tag("text", x_text(x), class_="tick", x=_f(px(x)), y=HEIGHT - 12, text_anchor=anchor))
    parts.append(
        tag("line", class_="axis", x1=LEFT, x2=width - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM)
    )
    for x in marks:
        if x_low <= x <= x_high:
            parts.append(tag("line", class_="mark", x1=_f(px(x)), x2=_f(px(x)), y1=TOP, y2=HEIGHT - BOTTOM))
    for line in lines:
        if line.band:
            for piece in _pieces(line.band, line.gap):
                upper = [(px(x), py(high)) for x, _, high in piece]
                lower = [(px(x), py(low)) for x, low, _ in reversed(piece)]
                parts.append(tag("path", class_=f"band {line.kind}", d=_path([*upper, *lower]) + "Z"))
        for piece in _pieces(line.points, line.gap):
            if len(piece) == 1:
                x, y = piece[0]
                parts.append(tag("circle", class_=f"dot {line.kind}", cx=_f(px(x)), cy=_f(py(y)), r=2))
            else:
                parts.append(
                    tag("path", class_=f"line {line.kind}", d=_path([(px(x), py(y)) for x, y in piece]))
                )
    label = _describe(name, lines, x_name, x_text, y_text)
    return tag(
        "svg", *parts,
        class_="chart", viewBox=f"0 0 {width} {HEIGHT}", role="img", aria_label=label, tabindex=0,
        data_left=LEFT, data_right=width - RIGHT, data_top=TOP, data_bottom=HEIGHT - BOTTOM,
        data_x=f"{x_low!r} {x_high!r}", data_y=f"{y_low!r} {y_high!r}",
    )  # fmt: skip


def bar_chart(name: str, groups: Sequence[Group]) -> Markup:
    """Horizontal bars from 0 to 100 %, with whiskers for the intervals and the number written beside each."""
    left, right, thick, between = 2, 58, 16, 18
    inner = WIDTH - left - right
    parts: list[Markup] = []
    top = 4.0
    rows: list[Markup] = []
    for group in groups:
        if group.label:
            rows.append(tag("text", *_label(group), class_="label", x=left, y=_f(top + 13)))
            top += 20
        for bar in group.bars:
            rows += _bar(bar, left, inner, top, thick)
            top += thick + 5
        top += between - 5
    height = top + 12
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _f(left + share * inner)
        parts.append(tag("line", class_="grid", x1=x, x2=x, y1=2, y2=_f(height - 20)))
        anchor = "start" if share == 0 else "middle"
        text = f"{100 * share:.0f}" + (" %" if share == 1 else "")
        parts.append(tag("text", text, class_="tick", x=x, y=_f(height - 5), text_anchor=anchor))
    said = "; ".join(
        f"{group.label} {bar.name} {percent(bar.value)}".strip() for group in groups for bar in group.bars
    )
    box = f"0 0 {WIDTH} {_f(height)}"
    return tag(
        "svg", *parts, *rows, class_="chart bars", viewBox=box, role="img", aria_label=f"{name}: {said}"
    )


def _bar(bar: Bar, left: float, inner: float, top: float, thick: float) -> list[Markup]:
    width = max(bar.value * inner, 1.5)
    middle = _f(top + thick / 2)
    note = percent(bar.value)
    counted = f" of {bar.rows:,} rows" if bar.rows is not None else ""
    tip = tag(
        "title", f"{bar.name}: {note}{counted}" + (_interval_text(bar.interval) if bar.interval else "")
    )
    parts = [
        tag("rect", tip, class_=f"bar {bar.kind}", x=left, y=_f(top), width=_f(width), height=thick, rx=2)
    ]
    if bar.interval:
        low, high = (left + share * inner for share in bar.interval)
        parts.append(tag("line", class_="whisker", x1=_f(low), x2=_f(high), y1=middle, y2=middle))
        for end in (_f(low), _f(high)):
            parts.append(
                tag("line", class_="whisker", x1=end, x2=end, y1=_f(top + 4), y2=_f(top + thick - 4))
            )
    if bar.beside is not None:
        x = _f(left + bar.beside * inner)
        told = tag("title", f"the tutorial's: {percent(bar.beside)}")
        parts.append(tag("line", told, class_="beside", x1=x, x2=x, y1=_f(top - 3), y2=_f(top + thick + 3)))
    parts.append(tag("text", note, class_="value", x=WIDTH - 2, y=_f(top + thick - 4), text_anchor="end"))
    return parts


def _label(group: Group) -> list[object]:
    """The group's name, and the rows it stands on where all its bars agree on them."""
    counts = {bar.rows for bar in group.bars}
    rows = counts.pop() if len(counts) == 1 else None
    return [group.label, None if rows is None else tag("tspan", f" · {rows:,} rows")]


def _interval_text(interval: tuple[float, float]) -> str:
    return f" (95 % interval {percent(interval[0])} to {percent(interval[1])})"


def _span(values: Sequence[float], pad: float) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if not high > low:
        extra = abs(low) * 0.1 or 1.0
        return low - (extra if pad else 0.0), high + extra
    room = (high - low) * pad
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def _pieces(points: Sequence[tuple[float, ...]], gap: float) -> list[list[tuple[float, ...]]]:
    pieces: list[list[tuple[float, ...]]] = []
    for point in points:
        if not pieces or point[0] - pieces[-1][-1][0] > gap:
            pieces.append([])
        pieces[-1].append(point)
    return pieces


def _path(points: Sequence[tuple[float, ...]]) -> str:
    return "M" + "L".join(f"{_f(p[0])} {_f(p[1])}" for p in points)


def _f(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _describe(
    name: str,
    lines: Sequence[Line],
    x_name: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    """What a reader who doesn't see the chart should hear."""
    said = []
    for line in lines:
        if line.points:
            (x1, y1), (x2, y2) = line.points[0], line.points[-1]
            ends = f"from {y_text(y1)} at {x_text(x1)} to {y_text(y2)} at {x_text(x2)}"
            low, high = min(y for _, y in line.points), max(y for _, y in line.points)
            said.append(f"{line.name} {ends}, lowest {y_text(low)}, highest {y_text(high)}")
    return f"{name} over {x_name}: " + "; ".join(said)


def split_bar(parts: Sequence[tuple[str, float]]) -> Markup:
    """One bar divided into shares of 1, each with its CSS class; the legend beside it carries the numbers."""
    drawn, left = [], 0.0
    for kind, share in parts:
        if share > 0:
            tip = tag("title", f"{kind}: {percent(share)}")
            drawn.append(
                tag(
                    "rect",
                    tip,
                    class_=f"bar {kind}",
                    x=f"{1000 * left:.2f}",
                    y=0,
                    width=f"{1000 * share:.2f}",
                    height=14,
                )
            )
            left += share
    said = ", ".join(f"{kind} {percent(share)}" for kind, share in parts if share > 0)
    return tag(
        "svg",
        *drawn,
        class_="chart split",
        viewBox="0 0 1000 14",
        preserveAspectRatio="none",
        role="img",
        aria_label=said,
    )
