"""Scores as a person reads them in a terminal: one table, one by kind of row, and what to know about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LABELS = {"base": "base", "finetuned": "fine-tuned"}
NONE = "–"
"""Where no row is marked, and so no accuracy known."""
WIDTH = 110
"""Columns where the output is not a terminal."""


def show(
    models: Mapping[str, Mapping[str, Any]],
    comparison: Mapping[str, Any] | None,
    anchor: tuple[str, float, float] | None,
    *,
    as_json: bool,
    files: Path | None = None,
    sets: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]] | None = None,
) -> None:
    """Print the summaries of one model or two.

    Args:
        models: summaries, by "base" and "finetuned" or by the model directory's name.
        comparison: of the two, where there are two.
        anchor: a published result to show beside: model, accuracy before and after, as fractions of 1.
        as_json: one JSON document instead.
        files: where the predictions are.
        sets: of further test sets, by name: summaries of the models, and their comparison.
    """
    if as_json:
        beside: dict[str, Any] = {"comparison": comparison} if comparison else {}
        if sets:
            beside["sets"] = {
                name: {**found, "comparison": compared} for name, (found, compared) in sets.items()
            }
        print(json.dumps({**models, **beside}, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(_scores(models, anchor))
    if anchor:
        console.print(
            f"the tutorial's: {anchor[0]} in its own table, judged by its own rules", highlight=False
        )
    if (kinds := _by_kind(models)) is not None:
        console.print(kinds)
    if sets:
        console.print(_sets(sets))
    for line in _remarks(comparison, list(models.values())[-1]):
        console.print(line, highlight=False, markup=False)
    if files is not None:
        console.print(f"predictions and summary: {files}", highlight=False, markup=False, soft_wrap=True)


def _scores(models: Mapping[str, Any], anchor: tuple[str, float, float] | None) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Scores")
    columns = ["model", "accuracy (95 %)", "correct", "BLEU-4", "ROUGE-L", "tokens/s"]
    for name in [*columns, *(["the tutorial's"] if anchor else [])]:
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    beside = dict(zip(LABELS, anchor[1:], strict=True)) if anchor else {}
    for name, summary in models.items():
        cells = [
            escape(LABELS.get(name, name)), _accuracy(summary),
            f"{summary['correct']}/{summary['rows']}" if summary["rows"] else NONE,
            f"{summary['bleu4']:.1f}", f"{summary['rougeL']:.1f}",
            f"{summary['tokens_per_s']:.0f}" if summary["tokens_per_s"] else "",
        ]  # fmt: skip
        table.add_row(*cells, *([percent(beside[name])] if name in beside else []))
    return table


def _sets(sets: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> Any:
    """Gain and loss on further test sets."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Test sets")
    for name in ("set", "rows", *LABELS.values(), "difference (95 %)"):
        table.add_column(name, justify="left" if name == "set" else "right", no_wrap=True)
    for name, (found, compared) in sets.items():
        cells = [_accuracy(found[model]) if model in found else "" for model in LABELS]
        rows = next(iter(found.values()))["rows"]
        table.add_row(escape(name), str(rows), *cells, _difference(compared) if compared else "")
    return table


def _difference(compared: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in compared["difference_interval"])
    return f"{100 * compared['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def _by_kind(models: Mapping[str, Any]) -> Any:
    """Accuracies by length of the question and by type of the answer, where there is more than one kind."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in ("", "rows", *(LABELS.get(name, name) for name in models)):
        table.add_column(escape(column), justify="right" if column else "left", no_wrap=True)
    last = list(models.values())[-1]
    for key, said in (
        ("by_source", "source: "),
        ("by_length", "question of "),
        ("by_answer_type", "answer: "),
    ):
        if len(last.get(key, ())) < 2:
            continue
        for kind, part in last[key].items():
            parts = (summary[key].get(kind) for summary in models.values())
            cells = (_accuracy(p) if p else "" for p in parts)
            table.add_row(f"{said}{escape(kind)}", str(part["rows"]), *cells)
        table.add_section()
    return table if table.rows else None


def _accuracy(part: Mapping[str, Any]) -> str:
    if not part["rows"]:
        return NONE
    low, high = (100 * end for end in part["interval"])
    return f"{percent(part['accuracy'])} ({low:.1f}–{high:.1f})"


def _remarks(comparison: Mapping[str, Any] | None, last: Mapping[str, Any]) -> list[str]:
    lines = []
    if comparison:
        low, high = comparison["difference_interval"]
        lines.append(
            f"difference {100 * comparison['difference']:+.1f} points, 95 % interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}; McNemar's exact test p = {comparison['mcnemar_p']:.2g}; wrong to right "
            f"{comparison['only_finetuned']}, right to wrong {comparison['only_base']}"
        )
    if last["finish"]["length"] or last["empty"] or last["questions_cut"]:
        lines.append(
            f"of {last.get('answers', last['rows'])} answers {last['finish']['length']} reached the length limit, "
            f"{last['empty']} are empty; {last['questions_cut']} questions were cut to their end"
        )
    if last.get("not_marked"):
        scope = "proofs, drawings, explanations and functions are out of the marker's scope"
        judge = last.get("judge", "meaning")
        why = (
            scope if judge == "meaning" else f"the judge {judge} gave no verdict (predictions.jsonl says why)"
        )
        lines.append(
            f"{last['not_marked']} of {last['answers']} rows are not marked and count nowhere: {why}"
        )
    if second := last.get("second_judge"):
        lines.append(agreement(last.get("judge", "meaning"), second))
    if (failures := last.get("marker_failures") or {}).get("rows"):
        lines.append(f"{failures['rows']} rows made the marker raise an error and count nowhere")
    noise = last["gold_false_equations"]
    if noise["rows"]:
        lines.append(
            f"{noise['rows']} of {last.get('answers', last['rows'])} gold answers ({percent(noise['share'])}) "
            "contain a false equation"
        )
    return lines


def agreement(first: str, second: Mapping[str, Any]) -> str:
    """A second judge's accuracy, and the rows on which the two disagree, in a sentence."""
    if not second["rows"]:
        why = f": {second['why']}" if second.get("why") else ""
        return f"judge {second['judge']}: {NONE}, none of {second['not_marked']} rows marked{why}"
    pairs = second["pairs"]
    both, apart = sum(pairs.values()), pairs["only_first"] + pairs["only_second"]
    marks = f"{percent(second['accuracy'])} of {second['rows']} rows"
    lacks = f", {second['not_marked']} not marked" if second["not_marked"] else ""
    return (
        f"judge {second['judge']}: {marks}{lacks}; the judges disagree on {apart} of the {both} rows that both mark: "
        f"right by {first} alone {pairs['only_first']}, by {second['judge']} alone {pairs['only_second']}"
    )


def percent(fraction: float) -> str:
    """A fraction of 1 for people."""
    return f"{100 * fraction:.1f} %"
