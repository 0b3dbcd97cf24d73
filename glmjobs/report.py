"""The last stage: one page about a run that one wants to open, from whatever the run directory holds.

    python -m glmjobs.report RUN [--json]

Writes ``report/report.html`` (one file, no network), ``report.md`` and ``report.json`` of the same content, and
``model/README.md`` for those who get the model alone, each atomically, then the stage's marker. Absent parts (no GPU
samples, a stage that failed, no scores yet) are said in the report, so it can be made at any moment of a run. Needs
neither torch nor Slurm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from glmjobs import score
from glmjobs.cli import error_line, run_command
from glmjobs.models.family import family_for
from glmjobs.reporting import document as content
from glmjobs.reporting import html, markdown, model_card
from glmjobs.reporting.load import load_facts
from glmjobs.run.directory import Run
from glmjobs.text import percent
from glmjobs.tracking import live
from glmjobs.zero.directories import is_adapter, is_model
from hpc.core import timestamps
from hpc.core.errors import HpcError, of_system
from hpc.core.files import write_atomic

Json = dict[str, Any]


def make(run: Run, *, mark: bool = True, write: bool = True) -> Json:
    """Write the three files (and the stage's marker) and return the document they show.

    Args:
        write: False leaves the run as it is: it is somebody else's, who shares it.

    Raises:
        WorkFailed: the run directory cannot be written.
    """
    started = timestamps.now()
    if write:
        summarise_scores(run)
    facts = load_facts(run.path, run.file.model_dump(mode="json"))
    document = content.document(facts, anchor=score.anchor_for(run.recipe))
    if not write:
        return document
    texts = {
        "report.html": html.render(document),
        "report.md": markdown.render(document),
        "report.json": json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
    }
    outputs = [run.report / name for name in texts]
    try:
        for path in outputs:
            write_atomic(path, texts[path.name])
        write_card(run, document)
        if mark:
            run.mark("report", started=started, outputs=outputs, figures=headline(document))
    except OSError as error:
        raise of_system(error, f"{run.report}: cannot write the report: {error.strerror}") from None
    return document


def write_card(run: Run, document: Json) -> None:
    """The model directory's README.md, unless there is no model, or a README.md that somebody else wrote."""
    path = run.model / "README.md"
    if not is_model(run.model):
        return
    if path.is_file() and model_card.MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    licences = sorted(
        p.name for p in run.model.iterdir() if "LICENSE" in p.name.upper() or p.name.startswith("NOTICE")
    )
    title = family_for(run.recipe.model.family).title
    write_atomic(path, model_card.render(document, title, licences, adapter=is_adapter(run.model)))


def summarise_scores(run: Run) -> None:
    """Merge the parts that scoring left: where its last array task died, nobody else has done it."""
    if run.done("score") or not run.scores.is_dir():
        return
    try:
        score.summarise(run)
    except (HpcError, OSError) as error:  # the report is made of what is there
        print(f"warning: the scores could not be summed up: {error_line(error)}", file=sys.stderr)


def headline(document: Json) -> Json:
    """The numbers one asks for first: accuracies, their difference, GPU-hours."""
    accuracy = document["accuracy"]
    figures: Json = {f"accuracy_{m['model']}": m["accuracy"] for m in accuracy["models"]}
    if accuracy["comparison"]:
        figures["difference"] = accuracy["comparison"]["difference"]
    figures["gpu_hours"] = round(document["cost"]["gpu_hours"]["held"], 3)
    return figures


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.report", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("run", metavar="RUN", help="a run directory, or its name under runs/")
    p.add_argument(
        "--json", action="store_true", help="print the report's content (without predictions) as JSON"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """The command; ``--json`` prints the report without its rows, and where the files are."""
    args = parser().parse_args(argv)
    run = Run.open(args.run)
    if os.access(run.path, os.W_OK):
        with run.recording("report"):
            document = make(run, mark=run.done("score"))  # else the chain's own report is still to come
        live.last(run)
    else:
        document = make(run, write=False)
        print(
            f"note: {run.path} is not yours to write in: the report is as its owner made it", file=sys.stderr
        )
    page = run.report / "report.html"
    if args.json:
        shown = {key: value for key, value in document.items() if key != "predictions"}
        print(json.dumps({"files": _files(run.report), **shown}, ensure_ascii=False, allow_nan=False))
        return 0
    for model in document["accuracy"]["models"]:
        low, high = model["interval"] or (None, None)
        between = f" (95 % interval {percent(low)} to {percent(high)})" if model["interval"] else ""
        print(f"{model['label']}: {percent(model['accuracy'])}{between}")
    for model in document["accuracy"]["unmarked"]:
        print(f"{model['label']}: –, none of its answers is marked")
    for sentence in document["missing"]:
        print(f"note: {sentence}", file=sys.stderr)
    print(page)
    return 0


def _files(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("report.html", "report.md", "report.json")]


if __name__ == "__main__":
    raise SystemExit(run_command(main))
