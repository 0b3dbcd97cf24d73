"""The comparison of several runs as one HTML file, in the report's style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glmjobs.reporting import charts, html, html_sections
from glmjobs.reporting.figures import TRAINING, WIDE
from glmjobs.reporting.markup import Markup, join, script_json, tag
from glmjobs.reporting.wording import Table
from glmjobs.text import gpu_hours, p_equals, p_value, percent, points, shown

Json = dict[str, Any]

COLOURS = 8
"""Runs that have a colour of their own in the style sheet; the next ones have the same again, dashed."""


def render(document: Json, made: str) -> str:
    """The page of what :func:`glmjobs.reporting.comparison.comparison` found.

    Args:
        made: when, as text.
    """
    script = html.asset("page.js", "compare.js")
    names = [row["run"] for row in document["runs"]]
    parts = [
        ("result", "Result", _result(document)),
        ("pairs", "Run against run", _pairs(document)),
        ("curves", "Curves", _curves(document, names)),
        ("differ", "What differs", html_sections.table(differ_table(document))),
    ]
    notes = document["notes"]
    header = tag(
        "header",
        tag("p", "Comparison", class_="eyebrow"),
        tag("button", "Dark", id="theme", class_="theme", type="button", hidden=True),
        tag("h1", f"{len(names)} runs"),
        tag("p", ", ".join(names), class_="facts"),
        tag("div", tag("ul", *(tag("li", note) for note in notes)), class_="note", role="note")
        if notes
        else None,
        class_="top",
    )
    footer = tag("footer", tag("p", f"Made {made} by python -m glmjobs.compare."))
    shown_parts = [html.section(key, title, body) for key, title, body in parts if body is not None]
    body = tag(
        "body",
        tag("div", header, tag("main", *shown_parts), footer, class_="page"),
        tag("script", script_json({}), type="application/json", id="chart-data"),
        tag("script", script),
    )
    return html.page(f"{len(names)} runs · comparison", body, script)


def result_table(document: Json) -> Table:
    """A row a run: its accuracies, how far it went, what it cost."""
    head = [
        "Run",
        "Base",
        "Fine-tuned",
        "95 % interval",
        "Rows",
        "Steps",
        "Epochs",
        "Loss",
        "Dev loss",
        "GPU-hours",
        "Not done",
    ]
    rows = []
    for row in document["runs"]:
        base, tuned = row["models"].get("base"), row["models"].get("finetuned")
        main = tuned or base
        interval = main["interval"] if main else None
        rows.append([
            row["run"], percent(base["accuracy"]) if base else "", percent(tuned["accuracy"]) if tuned else "",
            f"{100 * interval[0]:.1f} to {percent(interval[1])}" if interval else "",
            f"{main['rows']:,}" if main and main["rows"] else "", f"{row['steps']:,}" if row["steps"] else "",
            f"{row['epochs']:.3g}" if row["epochs"] else "", f"{row['loss']:.4f}" if row["loss"] is not None else "",
            f"{row['dev_loss']:.4f}" if row["dev_loss"] is not None else "",
            gpu_hours(row["gpu_hours"]), ", ".join(row["not_done"]),
        ])  # fmt: skip
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    cut = [[row[i] for i in kept] for row in rows]
    right = frozenset(new for new, old in enumerate(kept) if 0 < old < 10)
    return Table([head[i] for i in kept], cut, right)


def pair_table(document: Json) -> Table | None:
    """A row a pair of runs: the difference on their common rows, and whether chance would do."""
    if not document["pairs"]:
        return None
    rows = [
        [
            f"{pair['first']} → {pair['second']}", points(pair["difference"]),
            f"{points(pair['difference_interval'][0])} to {points(pair['difference_interval'][1])}",
            f"{pair['rows']:,}", f"{pair['only_second']:,}", f"{pair['only_first']:,}",
            p_value(pair["mcnemar_p"]), p_value(pair["holm_p"]),
        ]
        for pair in document["pairs"]
    ]  # fmt: skip
    head = [
        "Runs",
        "Points",
        "95 % interval",
        "Rows",
        "Only the second",
        "Only the first",
        "p (McNemar)",
        "p (Holm)",
    ]
    return Table(head, rows, frozenset(range(1, len(head))))


def differ_table(document: Json) -> Table | None:
    """A row a setting that differs, a column a run."""
    if not document["differ"]:
        return None
    names = [row["run"] for row in document["runs"]]
    rows = [[setting, *(values[name] for name in names)] for setting, values in document["differ"].items()]
    return Table(["Setting", *names], rows)


def _result(document: Json) -> Markup:
    scored = [row for row in document["runs"] if row["models"]]
    groups = [
        charts.Group(
            row["run"],
            [
                charts.Bar(
                    {"base": "Base", "finetuned": "Fine-tuned"}[model], found["accuracy"], model,
                    tuple(found["interval"]) if found["interval"] else None, found["rows"],
                )
                for model, found in row["models"].items()
            ],
        )
        for row in scored
    ]  # fmt: skip
    legend = html_sections.colour_key([("base", "Base"), ("finetuned", "Fine-tuned")])
    card = tag(
        "figure",
        tag("figcaption", tag("h3", "Accuracy")),
        charts.bar_chart("Accuracy", groups),
        class_="card alone",
    )
    return join(*((legend, card) if scored else ()), html_sections.table(result_table(document)))


def _pairs(document: Json) -> Markup | None:
    table = html_sections.table(pair_table(document))
    if table is None:
        return None
    several = (
        " Holm's correction takes into account how many pairs there are."
        if len(document["pairs"]) > 1
        else ""
    )
    lead = f"Each pair on the rows that both have marked. p: so often would chance alone do as much.{several}"
    return join(tag("p", lead, class_="lead"), table)


def _curves(document: Json, names: Sequence[str]) -> Markup | None:
    kinds = {name: _kind(place) for place, name in enumerate(names)}
    cards = []
    loss, *others = [(key, title) for key, title, _ in TRAINING]
    for key, title in (loss, ("dev_loss", "Loss on dev rows"), *others):
        if not (by_run := document["curves"].get(key)):
            continue
        lines = [
            charts.Line(name, [(x, y) for x, y, *_ in found], kinds[name]) for name, found in by_run.items()
        ]
        wide = key == "loss"
        svg = charts.line_chart(title, lines, x_name="step", x_from=0.0, width=WIDE if wide else charts.WIDTH)
        caption = tag("figcaption", tag("h3", title), tag("span", "by step", class_="soft"))
        cards.append(tag("figure", caption, svg, class_="card wide-chart" if wide else "card"))
        if wide:
            svg = charts.line_chart(title, lines, x_name="step", x_from=0.0)
            cards.append(tag("figure", caption, svg, class_="card narrow"))
    if not cards:
        return None
    return join(html_sections.colour_key([(kinds[n], n) for n in names]), tag("div", *cards, class_="grid"))


def _kind(place: int) -> str:
    return f"s{place % COLOURS}" + (" again" if place >= COLOURS else "")


def lines_of_pairs(document: Json) -> list[str]:
    """The pairs as sentences, for a terminal."""
    said = []
    for pair in document["pairs"]:
        low, high = pair["difference_interval"]
        count = len(document["pairs"])
        corrected = f", {p_value(pair['holm_p'])} corrected for {count} pairs" if count > 1 else ""
        said.append(
            f"{pair['first']} → {pair['second']}: {points(pair['difference'])} points (95 % interval {points(low)} to "
            f"{points(high)}) on {pair['rows']:,} rows, p {p_equals(pair['mcnemar_p'])}{corrected}"
        )
    return [shown(line, 1000) for line in said]
