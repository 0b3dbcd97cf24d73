"""The page's sections, each a function from the report's document to markup (``None``: nothing to show)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from glmjobs.reporting import charts, figures, wording
from glmjobs.reporting.markup import Markup, join, tag
from glmjobs.reporting.prediction_table import OUTCOMES
from glmjobs.text import duration, gpu_hours, shown
from hpc.core.config_files import flat

Json = dict[str, Any]


def all_sections(doc: Json) -> list[tuple[str, str, Markup | None]]:
    """``(id, title, content)`` in the page's order."""
    return [
        ("accuracy", "Accuracy", accuracy(doc)),
        ("predictions", "Predictions", predictions(doc)),
        ("training", "Training", training(doc)),
        ("gpus", "GPUs", gpus(doc)),
        ("cost", "Attempts and cost", cost(doc)),
        ("efficiency", "Asked for and used", efficiency(doc)),
        ("data", "Data", data(doc)),
        ("where", "What ran where", where(doc)),
        ("recipe", "Recipe", recipe(doc)),
        ("reproduce", "Reproduce it", reproduce(doc)),
    ]


def accuracy(doc: Json) -> Markup:
    content = doc["accuracy"]
    if not content["models"]:
        said = wording.accuracy_sentences(doc) if content["unmarked"] else []
        return tag("p", " ".join(said) or "No model of this run has been scored yet.", class_="lead")
    cards = [tag("figure", tag("figcaption", tag("h3", "All rows")), figures.accuracy(doc), class_="card")]
    for key, title in (
        ("by_source", "By source of the rows"),
        ("by_length", "By length of the problem"),
        ("by_answer_type", "By type of the answer"),
    ):
        if content[key]:
            svg = figures.breakdown(title, content[key])
            cards.append(tag("figure", tag("figcaption", tag("h3", title)), svg, class_="card"))
    entries = [(m["model"], m["label"]) for m in content["models"]]
    if anchor := content["anchor"]:
        entries.append(("beside", f"{anchor['name']} in the tutorial's own table"))
    legend = colour_key(entries)
    return join(
        tag("p", *(tag("span", sentence) for sentence in wording.accuracy_sentences(doc)), class_="lead"),
        legend,
        tag("div", *cards, class_="grid"),
        table(wording.metrics_table(doc), caption="Both models in numbers"),
        table(wording.sets_table(doc), caption="What was gained, and what was forgotten"),
    )


def predictions(doc: Json) -> Markup | None:
    content = doc["predictions"]
    total = sum(content["counts"].values())
    if not total:
        return None
    buttons = [_filter("", "All", total - content["left_out"], pressed=True)]
    buttons += [_filter(kind, OUTCOMES[kind], count) for kind, count in content["counts"].items()]
    if content.get("unsure"):
        buttons.append(_filter("unsure", "worth a look", content["unsure"]))
    if content.get("disagree"):
        buttons.append(_filter("disagree", "judges disagree", content["disagree"]))
    further = f" {content['left_out']:,} further rows are only in scores/." if content["left_out"] else ""
    lead = "Changed answers come first. Open a row to read it; what was taken as its answer is "
    field = tag(
        "div",
        tag("label", "Search the predictions", for_="search"),
        tag("input", type="search", id="search", placeholder="Search texts and answers", autocomplete="off"),
        class_="search",
    )
    listed = join(tag("div", id="rows"), tag("button", "Show more", id="more", type="button", hidden=True))
    return join(
        tag("p", lead, tag("mark", "marked"), f".{further}", class_="lead"),
        tag("div", *buttons, field, class_="controls", role="group", aria_label="Filter the predictions"),
        tag("p", "", id="shown", role="status"),
        tag("div", listed, id="box", tabindex=0, role="region", aria_label="Predictions"),
        tag("noscript", "The table of predictions needs JavaScript; report.json holds the same rows."),
    )


def training(doc: Json) -> Markup | None:
    cards = figures.training(doc)
    if not cards:
        return None
    kinds = [("main", "the training that counts")]
    if doc["training"].get("evaluation"):
        kinds.append(("dev", "loss on dev rows"))
    if doc["training"]["replaced_rows"]:
        kinds.append(("redone", "trained again after a resume"))
    return join(
        tag("p", wording.training_sentence(doc), class_="lead"),
        colour_key(kinds) if len(kinds) > 1 else None,
        tag("div", *cards, class_="grid"),
    )


def gpus(doc: Json) -> Markup | None:
    cards = figures.gpu(doc)
    if not doc["gpu"]:
        return None
    lead = "The line is the mean over all GPUs, the band the range of single readings"
    lead += "; dotted lines are where attempts began." if doc["gpu"]["attempts"] else "."
    return join(
        tag("p", lead, class_="lead"),
        tag("div", *cards, class_="grid") if cards else None,
        table(wording.gpu_table(doc), caption="By node"),
    )


def cost(doc: Json) -> Markup | None:
    content = doc["cost"]
    if not content["attempts"]:
        return None
    parts = [(part, name) for part, name, _ in wording.COST_PARTS]
    unit = content["gpu_hours"] if content["gpu_hours"]["held"] > 0 else content["seconds"]
    total = sum(unit[part] for part, _ in parts) or 1.0
    write = gpu_hours if unit is content["gpu_hours"] else duration
    names = [(part, f"{name} {write(unit[part])}") for part, name in parts if unit[part] > 0]
    bar = tag("div", charts.split_bar([(part, unit[part] / total) for part, _ in parts]), class_="card")
    notes = (
        join(tag("dt", name), tag("dd", meaning))
        for _, name, meaning in (*wording.COST_PARTS, wording.WAITING)
    )
    return join(
        tag("p", wording.cost_sentence(doc), class_="lead"),
        tag("div", colour_key(names), bar, class_="cost"),
        table(wording.cost_table(doc), caption="Every attempt"),
        tag(
            "details", tag("summary", "How this is counted"), tag("dl", *notes, class_="pairs"), class_="more"
        ),
    )


def efficiency(doc: Json) -> Markup | None:
    asked = wording.efficiency_table(doc)
    advised = wording.advice(doc)
    return (
        join(
            tag("p", wording.EFFICIENCY_NOTE, class_="lead"),
            tag("ul", *(tag("li", line) for line in advised)) if advised else None,
            table(asked, caption="Every job"),
        )
        if asked
        else None
    )


def data(doc: Json) -> Markup | None:
    pairs = wording.data_pairs(doc)
    return tag("div", _pairs(pairs), class_="card") if pairs else None


def where(doc: Json) -> Markup:
    stages = table(wording.stage_table(doc), caption="Stages")
    nodes = table(wording.node_table(doc), caption="Nodes")
    return join(stages, nodes, *_environment(doc["environment"]))


def recipe(doc: Json) -> Markup | None:
    if not doc["recipe"]:
        return None
    blocks = []
    for name, section in doc["recipe"].items():
        if isinstance(section, dict):  # what is not set is left out
            pairs = [(name, shown(value)) for name, value in flat(section).items() if value is not None]
            blocks.append(tag("div", tag("h3", name), _pairs(pairs), class_="card"))
    return tag("div", *blocks, class_="columns")


def reproduce(doc: Json) -> Markup:
    steps = []
    for what, command in wording.reproduce(doc):
        steps.append(tag("li", tag("p", what), tag("pre", command, tabindex=0) if command else None))
    text = wording.recipe_text(doc)
    whole = (
        tag("details", tag("summary", "recipe.yaml of this run"), tag("pre", text, tabindex=0), class_="more")
        if text
        else None
    )
    return tag("div", tag("ol", *steps, class_="steps"), whole, class_="card")


def table(content: wording.Table | None, caption: str = "") -> Markup | None:
    """A table with a header row; it scrolls sideways inside its own box where the page is narrow."""
    if content is None:
        return None
    numeric = content.numeric

    def cell(index: int, value: object) -> Markup:
        if index == 0:
            return tag("th", value, scope="row")
        if isinstance(value, wording.State):
            return tag("td", tag("span", value, class_=f"state {value.partition(' ')[0]}"))
        return tag("td", value, class_="n" if index in numeric else "t" if len(str(value)) < 40 else "long")

    head = (
        tag("th", name, scope="col", class_="n" if i in numeric else None)
        for i, name in enumerate(content.head)
    )
    body = [tag("tr", *(cell(i, v) for i, v in enumerate(row))) for row in content.rows]
    for index, note in reversed(list(enumerate(content.notes))):
        if note:
            body.insert(index + 1, tag("tr", tag("td", note, colspan=len(content.head)), class_="below"))
    foot = (
        tag("tfoot", tag("tr", *(cell(i, v) for i, v in enumerate(content.foot)))) if content.foot else None
    )
    made = tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
        foot,
    )
    return tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption or "Table")


def _filter(kind: str, name: str, count: int, pressed: bool = False) -> Markup:
    text = join(name, tag("span", f"{count:,}", class_="count"))
    return tag("button", text, type="button", data_outcome=kind, aria_pressed="true" if pressed else "false")


def colour_key(entries: Sequence[tuple[str, str]]) -> Markup:
    """What the colours of a chart mean: (CSS class, name)."""
    return tag("p", *(tag("span", name, class_=f"k-{kind}") for kind, name in entries), class_="legend")


def _pairs(pairs: Iterable[tuple[str, str]]) -> Markup:
    return tag("dl", *(join(_name(name), tag("dd", value)) for name, value in pairs), class_="pairs")


def _name(name: str) -> Markup:
    """A setting's name, which breaks between its words where its column is narrow."""
    first, *others = re.split(r"(?<=[._])(?=\w)", name)
    return tag("dt", first, *(join(tag("wbr"), part) for part in others))


def _environment(environment: Json) -> list[Markup]:
    """Short facts as pairs; nested ones (packages, modules, nodes) fold away under their name."""
    short, folded = [], []
    for name, value in environment.items():
        if isinstance(value, dict) and value:
            pairs = [(key, shown(item)) for key, item in value.items()]
            folded.append(_fold(name, len(pairs), _pairs(pairs)))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            text = tag("pre", json.dumps(value, ensure_ascii=False, indent=1), tabindex=0)
            folded.append(_fold(name, len(value), text))
        elif value not in (None, "", [], {}):
            short.append((wording.words(name), shown(value)))
    if not short and not folded:
        return []
    return [tag("div", tag("h3", "Environment"), _pairs(short) if short else None, *folded, class_="card")]


def _fold(name: str, count: int, content: Markup) -> Markup:
    return tag(
        "details",
        tag("summary", f"{wording.words(name)} ({count})"),
        content,
        class_="more",
        open=count <= 30,
    )
