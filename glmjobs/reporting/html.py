"""The report as one HTML file: no network, no markup from outside, and a policy that enforces both."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from glmjobs.reporting import figures, html_sections, wording
from glmjobs.reporting.markup import Markup, join, script_json, tag
from glmjobs.reporting.prediction_table import OUTCOMES
from glmjobs.text import duration, gpu_hours, p_value, percent, points

Json = dict[str, Any]


def render(doc: Json) -> str:
    """The page of a document made by :func:`glmjobs.reporting.document.document`."""
    script = asset("page.js", "report.js")
    parts = [(key, title, body) for key, title, body in html_sections.all_sections(doc) if body is not None]
    nav = tag(
        "nav", tag("ul", *(tag("li", tag("a", t, href=f"#{k}")) for k, t, _ in parts)), aria_label="Sections"
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", class_="skip", href="#accuracy"),
        tag(
            "div",
            _header(doc),
            nav,
            tag("main", *(section(*part) for part in parts)),
            _footer(doc),
            class_="page",
        ),
        tag("script", script_json(figures.readouts(doc)), type="application/json", id="chart-data"),
        tag("script", script_json(_prediction_data(doc)), type="application/json", id="prediction-data"),
        tag("script", script),
    )
    return page(f"{doc['name']} · run report", body, script)


def page(title: str, body: Markup, script: str, *, connect: bool = False) -> str:
    """A whole page around a body, in the report's style.

    Args:
        script: the one that the body holds.
        connect: it may ask the server that it came from for more.
    """
    style = asset("report.css")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(style, script, connect=connect)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", style),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def policy(style: str, script: str, *, connect: bool = False) -> str:
    """A content security policy that allows this very style and script, and nothing else."""
    connecting = "; connect-src 'self'" if connect else ""
    allowed = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{allowed[0]}'; script-src 'sha256-{allowed[1]}'; "
        f"base-uri 'none'; form-action 'none'{connecting}"
    )


def asset(*names: str) -> Markup:
    """The package's own files of these names, one after the other."""
    folder = resources.files("glmjobs.reporting") / "assets"
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in names))


def section(key: str, title: str, body: Markup) -> Markup:
    """A part of a page, with its heading."""
    return tag("section", tag("h2", title, id=f"{key}-title"), body, id=key, aria_labelledby=f"{key}-title")


def _prediction_data(doc: Json) -> Json:
    labels = {m["model"]: m["label"] for m in doc["accuracy"]["models"]}
    return {"rows": doc["predictions"]["rows"], "outcomes": OUTCOMES, "labels": labels}


def _header(doc: Json) -> Markup:
    summary = doc["summary"]
    shape = ""
    if summary["nodes"] and summary["gpus_per_node"]:
        nodes = f"{summary['nodes']} node{'s' if summary['nodes'] != 1 else ''}"
        shape = f"{nodes} × {summary['gpus_per_node']} {'CPU ranks' if summary['on_cpus'] else 'GPUs'}"
    zero = f"ZeRO-{summary['zero_stage']}" if summary["zero_stage"] else ""
    facts = [summary["model"], summary["method"], zero, summary["precision"], shape, doc["created"]]
    return tag(
        "header",
        tag("p", "Run report", class_="eyebrow"),
        tag("button", "Dark", id="theme", class_="theme", type="button", hidden=True),
        tag("h1", doc["name"]),
        tag("p", " · ".join(fact for fact in facts if fact), class_="facts"),
        _failures(doc),
        _tiles(doc),
        _missing(doc),
        class_="top",
    )


def _failures(doc: Json) -> Markup | None:
    bad = [
        s for s in doc["stages"] if s["outcome"] in ("failed", "killed", "vanished", "stopped", "cancelled")
    ]
    if not bad:
        return None
    items = (
        tag("li", tag("strong", s["stage"]), f" {s['outcome']}", f": {s['error']}" if s["error"] else "")
        for s in bad
    )
    return tag(
        "div", tag("h3", "This run is not complete"), tag("ul", *items), class_="note bad", role="note"
    )


def _missing(doc: Json) -> Markup | None:
    if not doc["missing"]:
        return None
    items = (tag("li", sentence) for sentence in doc["missing"])
    return tag("div", tag("h3", "Not in this report"), tag("ul", *items), class_="note", role="note")


def _tiles(doc: Json) -> Markup | None:
    tiles = [
        *_accuracy_tiles(doc["accuracy"], wording.unseen(doc)),
        *_cost_tiles(doc["cost"]),
        *_training_tiles(doc),
    ]
    cells = (
        tag("div", tag("dt", t), tag("dd", v), tag("dd", note, class_="why"), class_="tile")
        for t, v, note in tiles
    )
    return tag("dl", *cells, class_="tiles") if tiles else None


def _accuracy_tiles(accuracy: Json, unseen: bool) -> list[tuple[str, object, str]]:
    models = {m["model"]: m for m in accuracy["models"]}
    tiles: list[tuple[str, object, str]] = []
    kind = "unseen rows" if unseen else "rows"
    if "base" in models and "finetuned" in models:
        value = join(
            tag("span", percent(models["base"]["accuracy"]), class_="from"),
            tag("span", "→", class_="arrow"),
            percent(models["finetuned"]["accuracy"]),
        )
        rows = models["finetuned"]["rows"]
        tiles.append(("Accuracy, base → fine-tuned", value, f"on {rows:,} {kind}" if rows else ""))
    else:
        for model in models.values():
            tiles.append(
                (
                    f"Accuracy, {model['label'].lower()}",
                    percent(model["accuracy"]),
                    f"on {model['rows'] or 0:,} rows",
                )
            )
    if (comparison := accuracy["comparison"]) and comparison["difference"] is not None:
        between = comparison["difference_interval"]
        note = f"95 % interval {points(between[0])} to {points(between[1])} points · " if between else ""
        p = p_value(comparison["mcnemar_p"])
        tiles.append(
            (
                "Paired difference",
                f"{points(comparison['difference'])} points",
                note + (f"McNemar p {p}" if p else ""),
            )
        )
    return tiles


def _cost_tiles(cost: Json) -> list[tuple[str, object, str]]:
    if not cost["attempts"]:
        return []
    hours, tries = cost["gpu_hours"], len(cost["attempts"])
    if hours["held"] > 0:
        useful, lost = percent(hours["useful"] / hours["held"], 0), gpu_hours(hours["lost"])
        note = f"{useful} useful, {lost} lost, {tries} attempts"
        return [("GPU-hours", gpu_hours(hours["held"]), note)]
    total = sum(value for part, value in cost["seconds"].items() if part != "waiting")
    return [("Time of all stages", duration(total), f"{tries} attempts; no GPUs were held")]


def _training_tiles(doc: Json) -> list[tuple[str, object, str]]:
    training = doc["training"]
    if not training["steps"]:
        return []
    note = []
    if "loss_first" in training:
        note.append(f"loss {training['loss_first']:.3g} → {training['loss_last']:.3g}")
    if training.get("tokens_per_s_median"):
        note.append(f"{training['tokens_per_s_median']:,.0f} tokens/s")
    if training.get("mfu_median"):
        note.append(f"MFU {percent(training['mfu_median'], 0)}")
    return [("Optimizer steps", f"{training['steps']:,}", ", ".join(note))]


def _footer(doc: Json) -> Markup:
    text = f"Made {doc['made']} by python -m glmjobs.report. The same content: report.md, report.json."
    return tag("footer", tag("p", text))
