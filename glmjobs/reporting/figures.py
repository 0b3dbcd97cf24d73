"""Which charts a report has: each with its title, its SVG and the numbers behind it for the readout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glmjobs.reporting import charts
from glmjobs.reporting.markup import Markup, tag

Json = dict[str, Any]

#: Training curves: key of the log, title, how its values are written (see the page's script).
TRAINING = (
    ("loss", "Loss", "number"),
    ("learning_rate", "Learning rate", "number"),
    ("tokens_per_s", "Tokens per second", "speed"),
    ("grad_norm", "Gradient norm", "number"),
)
GPU = (
    ("utilisation", "GPU utilisation", "percent"),
    ("memory", "GPU memory", "memory"),
    ("power", "Power per GPU", "watts"),
)


def readouts(doc: Json) -> Json:
    """For the page's script: by chart, its points and how x and y are written."""
    found: Json = {}
    for key, _, unit in TRAINING:
        if curve := doc["training"]["curves"].get(key):
            found[key] = {"x": "step", "y": unit, "points": curve["points"]}
    for key, _, unit in GPU:
        if doc["gpu"] and (points := doc["gpu"]["curves"][key]):
            found[f"gpu_{key}"] = {"x": "time", "y": unit, "points": points}
    return found


def training(doc: Json) -> list[Markup]:
    """Loss, learning rate, tokens/s and gradient norm over steps; what was trained again is dashed."""
    made = []
    for key, title, _ in TRAINING:
        if curve := doc["training"]["curves"].get(key):
            lines = [charts.Line(title, curve["points"])]
            if curve["replaced"]:
                lines.insert(0, charts.Line("trained again", curve["replaced"], "redone"))
            low = [0.0, max(y for _, y in curve["points"]) * 1.08 or 1.0] if key == "tokens_per_s" else None
            svg = charts.line_chart(title, lines, x_name="step", y_range=(low[0], low[1]) if low else None)
            made.append(_figure(key, title, svg, "by step"))
    return made


def gpu(doc: Json) -> list[Markup]:
    """Utilisation, memory and power over time: the mean of all GPUs, and the range of single readings behind it."""
    made = []
    for key, title, _ in GPU:
        points = doc["gpu"]["curves"][key] if doc["gpu"] else []
        if not points:
            continue
        gap = max(30.0, 4 * (points[-1][0] - points[0][0]) / 240)
        line = charts.Line(
            title, [(p[0], p[1]) for p in points], band=[(p[0], p[2], p[3]) for p in points], gap=gap
        )
        texts: dict[str, Callable[[float], str]] = {
            "utilisation": lambda v: f"{v:g} %",
            "memory": lambda v: f"{v / 2**30:.3g}G",
            "power": lambda v: f"{v:g} W",
        }
        top = max(p[3] for p in points)
        svg = charts.line_chart(
            title, [line], x_name="time since the first sample", x_text=charts.elapsed, x_ticks=charts.time_ticks,
            y_text=texts[key], y_range=(0.0, 100.0) if key == "utilisation" else (0.0, top * 1.08 or 1.0),
            marks=doc["gpu"]["attempts"],
        )  # fmt: skip
        made.append(_figure(f"gpu_{key}", title, svg, "mean and range"))
    return made


def accuracy(doc: Json) -> Markup:
    """One bar for each model, with its 95 % interval."""
    models = doc["accuracy"]["models"]
    groups = [
        charts.Group(
            m["label"], [charts.Bar(m["label"], m["accuracy"], m["model"], _pair(m["interval"]), m["rows"])]
        )
        for m in models
    ]
    return charts.bar_chart("Accuracy", groups)


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


def _figure(key: str, title: str, svg: Markup, idle: str) -> Markup:
    caption = tag("figcaption", tag("h3", title), tag("output", idle, aria_live="off"))
    return tag("figure", caption, svg, class_="card", data_chart=key)
