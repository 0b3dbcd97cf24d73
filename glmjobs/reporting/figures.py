"""Which charts a report has: each with its title, its SVG and the numbers behind it for the readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from glmjobs.reporting import charts
from glmjobs.reporting.markup import Markup, tag

Json = dict[str, Any]

#: Training curves: key of the log, title, how its values are written (see the page's script).
TRAINING = (
    ("loss", "Loss", "number"),
    ("dev_answers", "Right answers on dev rows", "percent"),
    ("learning_rate", "Learning rate", "number"),
    ("tokens_per_s", "Tokens per second", "speed"),
    ("mfu", "Model FLOPs utilisation (MFU)", "share"),
    ("grad_norm", "Gradient norm", "number"),
)
GPU = (
    ("utilisation", "GPU utilisation", "percent"),
    ("memory", "GPU memory", "memory"),
    ("power", "Power per GPU", "watts"),
)


#: Width of the one chart that stands alone in its row.
WIDE = 1040

Y_TEXT: dict[str, Callable[[float], str]] = {
    "percent": lambda v: f"{v:g} %",
    "share": lambda v: f"{100 * v:g} %",
    "memory": lambda v: f"{v:g} G",
    "watts": lambda v: f"{v:g} W",
}


def readouts(doc: Json) -> Json:
    """For the page's script: by chart, its points and how x and y are written."""
    found: Json = {}
    for key, _, unit in TRAINING:
        if curve := doc["training"]["curves"].get(key):
            found[key] = {"x": "step", "y": unit, "points": curve["points"]}
    for key, _, unit in GPU:
        if points := gpu_points(doc, key):
            found[f"gpu_{key}"] = {"x": "time", "y": unit, "points": points}
    return found


def gpu_points(doc: Json, key: str) -> list[Sequence[float]]:
    """``(seconds, mean, lowest, highest)``; memory in GiB."""
    points: list[Sequence[float]] = doc["gpu"]["curves"][key] if doc["gpu"] else []
    if key != "memory":
        return points
    return [(point[0], *(value / 2**30 for value in point[1:])) for point in points]


def training(doc: Json) -> list[Markup]:
    """Loss (wide), learning rate, tokens/s, MFU and gradient norm over steps; what was trained again is dashed."""
    made = []
    for key, title, _ in TRAINING:
        curve = doc["training"]["curves"].get(key)
        if not curve:
            continue
        if key == "loss":
            made.append(
                _figure(key, title, _training_chart(key, title, curve, WIDE), "by step", "card wide-chart")
            )
            made.append(_figure(key, title, _training_chart(key, title, curve), "by step", "card narrow"))
        else:
            made.append(_figure(key, title, _training_chart(key, title, curve), "by step"))
    return made


def _training_chart(key: str, title: str, curve: Json, width: int = charts.WIDTH) -> Markup:
    lines = [charts.Line(title, curve["points"], band=curve.get("band", ()))]
    if curve.get("dev"):
        lines.append(charts.Line("on dev rows", curve["dev"], "dev"))
    if curve["replaced"]:
        lines.insert(0, charts.Line("trained again", curve["replaced"], "redone"))
    if key == "dev_answers":
        y_text = Y_TEXT["percent"]
        return charts.line_chart(
            title, lines, x_name="step", y_range=(0.0, 100.0), x_from=0.0, width=width, y_text=y_text
        )
    highest = max(y for line in lines for _, y in line.points)
    y_range = (
        (0.0, highest * 1.08) if key in ("tokens_per_s", "mfu", "learning_rate") and highest > 0 else None
    )
    y_text = Y_TEXT["share"] if key == "mfu" else charts.short
    return charts.line_chart(
        title, lines, x_name="step", y_text=y_text, y_range=y_range, x_from=0.0, width=width
    )


def gpu(doc: Json) -> list[Markup]:
    """Utilisation, memory and power over time: the mean of all GPUs, the range of readings behind it."""
    made = []
    for key, title, unit in GPU:
        points = gpu_points(doc, key)
        if not points:
            continue
        line = charts.Line(
            title,
            [(p[0], p[1]) for p in points],
            band=[(p[0], p[2], p[3]) for p in points],
            gap=max(30.0, 4 * (points[-1][0] - points[0][0]) / len(points)),
        )
        svg = charts.line_chart(
            title,
            [line],
            x_name="time since the first sample",
            x_text=charts.elapsed,
            x_ticks=charts.time_ticks,
            y_text=Y_TEXT[unit],
            y_range=(0.0, 100.0) if key == "utilisation" else (0.0, max(p[3] for p in points) * 1.08 or 1.0),
            x_from=0.0,
            marks=doc["gpu"]["attempts"],
        )
        made.append(_figure(f"gpu_{key}", title, svg, "mean and range"))
    return made


def accuracy(doc: Json) -> Markup:
    """One bar for each model, with its 95 % interval."""
    anchor = doc["accuracy"]["anchor"] or {}
    bars = [
        charts.Bar(
            m["label"], m["accuracy"], m["model"], _pair(m["interval"]), m["rows"], anchor.get(m["model"])
        )
        for m in doc["accuracy"]["models"]
    ]
    return charts.bar_chart("Accuracy", [charts.Group(bar.name, [bar]) for bar in bars])


def breakdown(name: str, groups: list[Json]) -> Markup:
    """Bars of both models for each group of rows."""
    labels = {"base": "Base", "finetuned": "Fine-tuned"}
    made = [
        charts.Group(
            group["group"],
            [
                charts.Bar(labels[b["model"]], b["accuracy"], b["model"], _pair(b["interval"]), b["rows"])
                for b in group["bars"]
            ],
        )
        for group in groups
    ]
    return charts.bar_chart(name, made)


def _pair(interval: list[float] | None) -> tuple[float, float] | None:
    return (interval[0], interval[1]) if interval else None


def _figure(key: str, title: str, svg: Markup, idle: str, kind: str = "card") -> Markup:
    caption = tag("figcaption", tag("h3", title), tag("output", idle, aria_live="off"))
    return tag("figure", caption, svg, class_=kind, data_chart=key)
