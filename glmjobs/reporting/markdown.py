"""The report as Markdown. Untrusted text goes into fences or escaped cells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from glmjobs.reporting import wording
from glmjobs.reporting.document import LABELS
from glmjobs.reporting.prediction_table import OUTCOMES
from glmjobs.text import percent

Json = dict[str, Any]

#: Changed rows written out in full, of each kind; report.html and report.json have all of them.
EXAMPLES = 10


def render(doc: Json) -> str:
    """The Markdown of a document made by :func:`glmjobs.reporting.document.document`."""
    parts = [f"# {escape(doc['name'])}", f"Run report, made {doc['made']}."]
    ended = [
        f"{s['stage']} {s['outcome']}" + (f": {s['error']}" if s["error"] else "")
        for s in wording.unfinished(doc)
    ]
    parts += _list("This run is not complete", ended)
    parts += _list("Not in this report", doc["missing"])
    parts.append("## Accuracy")
    parts.append(
        escape(" ".join(wording.accuracy_sentences(doc))) or "No model of this run has been scored yet."
    )
    parts += [
        table(wording.metrics_table(doc)),
        table(wording.sets_table(doc)),
        *_breakdowns(doc),
        *_examples(doc),
    ]
    if doc["training"]["steps"]:
        parts += ["## Training", escape(wording.training_sentence(doc)), _curve_table(doc)]
    if doc["gpu"]:
        parts += ["## GPUs", table(wording.gpu_table(doc))]
    if doc["cost"]["attempts"]:
        parts += ["## Attempts and cost", escape(wording.cost_sentence(doc)), table(wording.cost_table(doc))]
    if asked := wording.efficiency_table(doc):
        advised = "\n".join(f"- {escape(line)}" for line in wording.advice(doc))
        parts += ["## Asked for and used", escape(wording.EFFICIENCY_NOTE), table(asked), advised]
    if pairs := wording.data_pairs(doc):
        parts += ["## Data", table(wording.Table(["Fact", "Value"], pairs))]
    parts += [
        "## What ran where",
        table(wording.stage_table(doc)),
        table(wording.node_table(doc)),
        *_environment(doc["environment"]),
    ]
    parts += ["## Reproduce it", *_reproduce(doc)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text on one line in which nothing is Markdown or HTML."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text).replace("://", ":&#47;&#47;")
    return re.sub(r"^([#+-])", r"\\\1", text)


def fence(text: str) -> str:
    """A code block that its text cannot end: the fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}text\n{text}\n{mark}"


def table(content: wording.Table | None) -> str:
    """A pipe table."""
    if content is None:
        return ""
    rule = ["---:" if i in content.numeric else "---" for i in range(len(content.head))]
    rows = [content.head, *content.rows, *([content.foot] if content.foot else [])]
    if any(content.notes):
        notes = [content.note_head, *content.notes, *([""] if content.foot else [])]
        rows = [[*row, note] for row, note in zip(rows, notes, strict=True)]
        rule.append("---")
    lines = ["| " + " | ".join(escape(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _list(title: str, items: Iterable[str]) -> list[str]:
    lines = [f"- {escape(item)}" for item in items]
    return [f"**{title}**", "\n".join(lines)] if lines else []


def _breakdowns(doc: Json) -> list[str]:
    labels = {m["model"]: m["label"] for m in doc["accuracy"]["models"]}
    parts = []
    for key, title in (
        ("by_source", "By source of the rows"),
        ("by_length", "By length of the problem"),
        ("by_answer_type", "By type of the answer"),
    ):
        rows = []
        for group in doc["accuracy"][key]:
            bars = {bar["model"]: bar for bar in group["bars"]}
            shares = [percent(bars[m]["accuracy"]) if m in bars else "" for m in labels]
            count = max((bar["rows"] or 0 for bar in group["bars"]), default=0)
            rows.append([group["group"], *shares, wording.plain(count)])
        if rows:
            parts += [
                f"### {title}",
                table(wording.Table(["Group", *labels.values(), "Rows"], rows, frozenset(range(1, 9)))),
            ]
    return parts


def _examples(doc: Json) -> list[str]:
    rows = doc["predictions"]["rows"]
    chosen = {OUTCOMES[kind]: [row for row in rows if row["outcome"] == kind] for kind in ("lost", "gained")}
    chosen["the judges disagree"] = [row for row in rows if row["disagree"]]
    parts = []
    for title, found in chosen.items():
        if found:
            parts.append(f"### {title}: {min(len(found), EXAMPLES)} of {len(found):,}")
            parts += [_example(row) for row in found[:EXAMPLES]]
    return parts


def _example(row: Json) -> str:
    answers = "; ".join(
        f"{LABELS[model]}: {answer['value'] or 'no answer'} ({'right' if answer['correct'] else 'wrong'})"
        for model, answer in row["answers"].items()
    )
    head = f"**Row {escape(row['id'])}** · gold {escape(row['gold_value'])} · {escape(answers)}"
    texts = [
        f"question\n{row['question']}",
        *(f"{LABELS[m]}:\n{''.join(a['text'])}" for m, a in row["answers"].items()),
        *(f"{LABELS[m]}, the second judge, {a['second']}" for m, a in row["answers"].items() if a["second"]),
    ]
    return f"{head}\n\n{fence(chr(10).join(texts))}"


def _curve_table(doc: Json) -> str:
    """Some points of the curves, for readers without the charts."""
    curves = doc["training"]["curves"]
    if "loss" not in curves:
        return ""
    points = curves["loss"]["points"]
    chosen = points[:: max(len(points) // 12, 1)]
    if chosen[-1] != points[-1]:
        chosen = [*chosen, points[-1]]
    rate = dict(map(tuple, curves.get("learning_rate", {}).get("points", [])))
    rows = [
        [wording.plain(step), f"{loss:.4g}", f"{rate[step]:.3g}" if step in rate else ""]
        for step, loss in chosen
    ]
    return table(wording.Table(["Step", "Loss", "Learning rate"], rows, frozenset(range(3))))


def _environment(environment: Json) -> list[str]:
    rows = [
        [wording.words(name), wording.plain(value)]
        for name, value in environment.items()
        if value not in (None, "", [], {})
    ]
    return [table(wording.Table(["Environment", "Value"], rows))] if rows else []


def _reproduce(doc: Json) -> list[str]:
    parts = []
    for what, command in wording.reproduce(doc):
        parts.append(escape(what))
        if command:
            parts.append(fence(command).replace("```text", "```sh", 1))
    if text := wording.recipe_text(doc):
        parts += ["recipe.yaml:", fence(text).replace("```text", "```yaml", 1)]
    return parts
