"""``python -m glmjobs.prepare FILE``: read, check and split a data set, and say what was dropped and why.

It does what training does with the recipe's data, ahead of time: better to know whether a file is right
before a job waits for GPUs.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from glmjobs.cli import add_overrides, run_command
from glmjobs.data.prepared import Prepared
from glmjobs.data.rows import answers
from glmjobs.data.sources import MadeSource
from glmjobs.recipe import loading as recipes
from glmjobs.recipe.schema import Recipe
from glmjobs.run.inputs import prepare_data, prepare_sources
from hpc.core import config_files, hints
from hpc.core.errors import BadInput

_SAMPLE = 2000  # rows whose tokens are counted, spread over the train rows
_LINES = 5  # so many first lines of each reason for dropping


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.prepare",
        description="Read, check and split a data set: JSON lines, a JSON array, CSV or TSV (also .gz), parquet, "
        "arrow or a Hugging Face data set, in any of the usual forms (data.form). Bad rows "
        "are dropped and reported; for a bad file, nothing is written, and no file that was not prepared is replaced.",
        epilog="Exit codes: 0 done, 1 the work failed, 2 bad input, 3 this machine is not fit for it.",
    )
    p.add_argument(
        "file", nargs="?", metavar="FILE", help="file, directory or hub id; default: the recipe's data.path"
    )
    p.add_argument(
        "--out", metavar="DIR", help="data directory to make (default: prepared/ and the file's name)"
    )
    p.add_argument("--recipe", metavar="RECIPE", help="take the columns, rows and limits from this recipe")
    add_overrides(p, "override a field, such as data.dev_rows=1-1000; repeatable")
    p.add_argument(
        "--tokenizer", metavar="DIR", help="also estimate lengths in tokens with this model's tokenizer"
    )
    p.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    return p


def main(argv: list[str] | None = None) -> int:
    """Prepare, and print a summary."""
    args = parser().parse_args(argv)
    recipe = settings(args.file, args.recipe, args.overrides)
    if args.out is not None and not args.out.strip():
        raise BadInput("--out: name a directory")
    out = Path(args.out) if args.out else default_directory(recipe)
    data = recipe.data
    if data.sources:
        prepared = prepare_sources(recipe, out)
    else:
        source = MadeSource(data.make.rows, data.make.seed) if data.make else str(data.path)
        prepared = prepare_data(data, source, out)
    lengths = token_lengths(prepared, recipe, args.tokenizer) if args.tokenizer else None
    if args.json:
        document = {"directory": str(prepared.directory), **prepared.record, "lengths": lengths}
        json.dump(document, sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        show(prepared, lengths)
    return 0


def settings(file: str | None, recipe_file: str | None, overrides: list[str]) -> Recipe:
    """The recipe, with ``file`` as its data; without a recipe file, the defaults.

    Raises:
        BadInput: neither a file nor a recipe is named, or a setting is wrong.
    """
    if recipe_file:
        raw = config_files.read_yaml(recipes.find_config(recipe_file), "recipe")
        if file:
            section = raw.setdefault("data", {})
            if isinstance(section, dict):
                section.pop("make", None)
                section.pop("sources", None)
                section["path"] = file
        return recipes.parse(raw, recipe_file, overrides)
    if not file:
        raise BadInput(
            "name the data file, or --recipe FILE: "
            + hints.command("glmjobs.prepare", "school_math_0.25M.json")
        )
    return recipes.parse({"model": {"make": {}}, "data": {"path": file}}, "--set", overrides)


def default_directory(recipe: Recipe) -> Path:
    """``prepared/NAME`` for a data file NAME.json, ``prepared/RECIPE`` for made data."""
    name = Path(recipe.data.path).name.split(".json")[0] if recipe.data.path else recipe.name
    return Path("prepared") / (name or recipe.name)


def token_lengths(prepared: Prepared, recipe: Recipe, tokenizer_dir: str) -> dict[str, Any]:
    """Lengths of questions and answers in tokens (without frame), from a sample of the train rows."""
    import numpy as np

    from glmjobs.data.framing import Frame, Limits, examples
    from glmjobs.models import load_tokenizer
    from glmjobs.models.family import family_for

    family = family_for(recipe.model.family)
    tokenizer = load_tokenizer(tokenizer_dir)
    step = max(1, prepared.train // _SAMPLE)
    rows = list(islice(prepared.rows("train"), 0, None, step))
    limits = Limits(recipe.data.max_source_length, recipe.data.max_target_length, recipe.data.too_long)
    frame = Frame.of(family, tokenizer, recipe.train.label_sop)
    asked = [one for row in rows for one in answers(row, recipe.data.loss_on)]
    made = examples(asked, tokenizer, family, frame, limits)
    parts = (
        ("question", [example.asked(frame) for example in made], limits.source()),
        ("answer", [len(example.target) for example in made], limits.target(frame)),
    )
    found: dict[str, Any] = {"rows": len(rows)}
    for name, counted, limit in parts:
        sizes = np.array(counted)
        found[name] = {
            "mean": round(float(sizes.mean()), 1),
            "median": int(np.median(sizes)),
            "p95": int(np.percentile(sizes, 95)),
            "longest": int(sizes.max()),
            "limit": limit,
            "over_limit": round(float((sizes > limit).mean()), 5),
        }
    mean = found["question"]["mean"] + found["answer"]["mean"]
    found["train_tokens"] = round(mean * prepared.train * len(made) / max(1, len(rows)))
    return found


def show(prepared: Prepared, lengths: dict[str, Any] | None) -> None:
    """The summary, as tables on a terminal or in a log."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    record = prepared.record
    console.print(f"{record['source']} → {prepared.directory}", markup=False, highlight=False, soft_wrap=True)
    form = record.get("form") or {
        "name": "belle",
        "title": "BELLE's columns",
    }  # prepared before there were forms
    console.print(f"form {form['name']}: {form['title']}", markup=False, highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, count, remark in summary(record):
        table.add_row(name, f"{count:,}", escape(remark))
    console.print(table)
    if sources := record.get("sources"):
        console.print(_sources_table(sources))
    for file in record["files_left_out"]:
        console.print(f"not read: {file}", markup=False, highlight=False, soft_wrap=True)
    if lengths:
        console.print(_lengths_table(lengths))
    held = record["overlap"]["dev_in_train"]
    console.print(
        f"dev questions in train: {held} (checked); fingerprint {prepared.fingerprint[:16]}", highlight=False
    )


def _sources_table(sources: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption="read: train rows in an epoch, each time counted", caption_justify="left")
    for name in ("source", "form", "rows", "dev", "train", "read", "not read", "dropped"):
        table.add_column(name, justify="left" if name in ("source", "form") else "right")
    for one in sources:
        counts = (one[key] for key in ("rows", "dev", "train", "read", "unread", "dropped"))
        table.add_row(escape(one["name"]), one["form"], *(f"{count:,}" for count in counts))
    return table


def summary(record: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Lines of the summary: what, how many rows, remark."""
    overlap = record["overlap"]
    ranges = {"train_rows": "of each source", "dev_rows": "of each source", **record["settings"]}
    lines = [
        ("rows read", record["rows"], ""),
        ("train", record["train"], f"data.train_rows = {ranges['train_rows']}"),
        ("dev", record["dev"], f"data.dev_rows = {ranges['dev_rows']}"),
    ]
    if record.get("conversations"):
        lines.append(("conversations", record["conversations"], "with earlier turns or a system prompt"))
    if record["unused"]:
        asked = "see the sources" if "sources" in record else 'data.train_rows = "rest" would train on them'
        lines.append(("in neither", record["unused"], asked))
    if overlap["train_rows_removed"]:
        lines.append(("train rows left out", overlap["train_rows_removed"], "their question is a dev row's"))
    for name, count in record["context"]["columns"].items():
        lines.append((f"rows with {name!r}", count, "not read: training does not see it"))
    unmarked = record.get("unmarked") or {"rows": 0}
    if unmarked["rows"]:
        mark = "no #### or \\boxed{} in the answer, which is read as it is: "
        known = _where(unmarked["rows"], unmarked["lines"])
        lines.append(("results not marked", unmarked["rows"], (mark + known).removesuffix(": ")))
    for reason, count in record["dropped_by_reason"].items():
        where = [dropped["line"] for dropped in record["dropped"] if dropped["reason"] == reason]
        lines.append((f"dropped: {reason}", count, _where(count, where)))
    return lines


def _where(count: int, lines: list[int]) -> str:
    more = ", …" if count > _LINES else ""
    return f"line {', '.join(map(str, lines[:_LINES]))}{more}" if lines else ""


def _lengths_table(lengths: dict[str, Any]) -> Any:
    from rich.table import Table

    about = f"tokens, from {lengths['rows']:,} rows; about {lengths['train_tokens']:,} in all train rows"
    table = Table(caption=about, caption_justify="left")
    for name in ("", "mean", "median", "95 %", "longest", "limit", "over it"):
        table.add_column(name, justify="right" if name else "left")
    for name in ("question", "answer"):
        part = lengths[name]
        numbers = [f"{part[key]:,}" for key in ("mean", "median", "p95", "longest", "limit")]
        table.add_row(name, *numbers, f"{part['over_limit']:.2%}")
    return table


if __name__ == "__main__":
    raise SystemExit(run_command(main))
