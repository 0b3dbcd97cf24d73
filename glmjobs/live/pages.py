"""The pages themselves: all runs, and one run. Pure: from what was read to HTML, escaped as the report's is.

A page's script asks for the page again and puts in what has changed, section by section; no other file is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from glmjobs.reporting import figures, html, html_sections
from glmjobs.reporting.markup import Markup, join, script_json, tag
from glmjobs.reporting.wording import State, Table
from glmjobs.run.state import RunState
from glmjobs.terminal import tables
from glmjobs.text import shown, visible

Json = dict[str, Any]

SCRIPT = html.asset("page.js", "live.js")


@dataclass(frozen=True)
class LogTail:
    """The end of one of a run's logs."""

    name: str
    lines: Sequence[str]


def overview(runs: dict[str, RunState], where: str) -> str:
    """All runs, each a line with a link to its own page.

    Args:
        runs: by the name that its page has in the address.
        where: what is shown, in words.
    """
    rows = tables.Overview(list(runs.values())).rows
    linked = [
        (tag("a", name, href=f"run/{quote(key, safe='')}/"), State(state), *rest)
        for key, (name, state, *rest) in zip(runs, rows, strict=True)
    ]
    head = tables.Overview.HEAD
    listed = html_sections.table(Table(head=head, rows=linked, numeric=frozenset(tables.Overview.RIGHT)))
    empty = tag("p", "No runs there yet; this page shows them as they come.", class_="lead")
    section = tag("section", listed if rows else empty, id="runs", aria_label="Runs")
    return _page("Runs", None, where, None, section, charts={})


def run(
    state: RunState, document: Json, answers: Table | None, logs: Sequence[LogTail], *, many: bool
) -> str:
    """One run: stages, curves, GPUs, scores, the newest answers, the ends of its logs.

    Args:
        document: the report's (:func:`glmjobs.reporting.document.document`).
        many: other runs are shown, too: a link leads to them.
    """
    names = [c for c in tables.COLUMNS if c in ("stage", "state") or any(_cells(s)[c] for s in state.stages)]
    rows = [
        [State(cell) if name == "state" else cell for name, cell in _cells(stage).items() if name in names]
        for stage in state.stages
    ]
    right = frozenset(at for at, name in enumerate(names) if name in tables.RIGHT)
    scored = bool(document["accuracy"]["models"] or document["accuracy"]["unmarked"])
    texts = (
        tag("div", tag("h3", visible(log.name)), tag("pre", "\n".join(map(visible, log.lines)), tabindex=0))
        for log in logs
    )
    cards = figures.training(document)
    sections = (
        _section("stages", "Stages", html_sections.table(Table(head=names, rows=rows, numeric=right))),
        _section("training", "Training", tag("div", *cards, class_="grid") if cards else None),
        _section("gpus", "GPUs", html_sections.gpus(document)),
        _section("accuracy", "Accuracy", html_sections.accuracy(document) if scored else None),
        _section("answers", "Newest answers", html_sections.table(answers)),
        _section("logs", "Logs", join(*texts) if logs else None),
        _section("cost", "Attempts and cost", html_sections.cost(document)),
    )
    costs = tables.cost_line(state.gpu_hours) if any(h >= 0.005 for h in state.gpu_hours.values()) else ""
    facts = " · ".join(filter(None, [document["summary"]["model"], document["summary"]["method"], costs]))
    back = "../../" if many else None
    return _page(visible(state.name), state.state, facts, back, *sections, charts=figures.readouts(document))


def answers_table(found: Sequence[Json]) -> Table | None:
    """Scored rows, newest last, of which each has its ``model`` (and all that a prediction's line has)."""
    if not found:
        return None
    head = ("row", "model", "question", "answer", "value", "gold", "marked")
    rows = [
        (
            shown(row.get("id"), 40), shown(row.get("model"), 40), shown(row.get("question"), 160),
            shown(row.get("prediction"), 300), shown(row.get("predicted_value"), 60),
            shown(row.get("gold_value"), 60), State(_verdict(row)),
        )
        for row in found
    ]  # fmt: skip
    return Table(head=head, rows=rows)


def _verdict(row: Json) -> str:
    status = row.get("status", "marked")
    return ("right" if row.get("correct") is True else "wrong") if status == "marked" else shown(status, 30)


def _cells(stage: Any) -> dict[str, str]:
    return dict(zip(tables.COLUMNS, tables.cells(stage), strict=True))


def _section(key: str, title: str, body: Markup | None) -> Markup:
    """One that has nothing to show yet keeps its place, unseen."""
    made = html.section(key, title, body or Markup(""))
    return made if body else Markup(made.replace("<section ", "<section hidden ", 1))


def _page(
    title: str, state: str | None, facts: str, back: str | None, *sections: Markup, charts: Json
) -> str:
    badge = join(" ", tag("span", state, class_=f"state {state}")) if state else None
    header = tag(
        "header",
        tag("p", tag("a", "All runs", href=back) if back else "Watching", class_="eyebrow"),
        tag("button", "Dark", id="theme", class_="theme", type="button", hidden=True),
        tag("h1", title, badge),
        tag("p", facts, class_="facts"),
        id="head",
        class_="top",
    )
    body = tag(
        "body",
        tag(
            "div",
            header,
            tag("main", *sections),
            tag("footer", tag("p", "This page keeps itself up to date.", id="fresh", role="status")),
            class_="page live",
        ),
        tag("script", script_json(charts), type="application/json", id="chart-data"),
        tag("script", SCRIPT),
    )
    return html.page(f"{title} · watch", body, SCRIPT, connect=True)
