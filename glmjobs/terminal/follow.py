"""Watching a run to its end: one line a change, and at the end the result and where things are."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from glmjobs.run.state import DONE, RUNNING, WAITING, RunState, StageState
from glmjobs.text import duration, left_out_words
from glmjobs.zero.directories import is_model
from hpc.chain import ledger
from hpc.core import hints
from hpc.core.files import read_json

POLL_SECONDS = 0.5
SLURM_EVERY = 10  # polls: the controller is asked every 5 s, the run directory every half second


def follow(run: Run, *, as_json: bool = False) -> int:
    """Show progress until the chain ends; 0 when every stage is done, else 1."""
    shown: dict[str, str] = {}
    polls = 0
    try:
        while True:
            now = read_state(run, ask_slurm=polls % SLURM_EVERY == 0)
            for stage in now.stages:
                line = describe(stage)
                if line and shown.get(stage.stage) != line:
                    shown[stage.stage] = line
                    print(line, file=sys.stderr, flush=True)
            if now.data and "data" not in shown:
                shown["data"] = data_line(now)
                print(shown["data"], file=sys.stderr, flush=True)
            if now.ended:
                return finish(run, now, as_json=as_json)
            polls += 1
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(
            f"the run goes on; watch it: {hints.command('glmjobs.status', run.path)}   "
            f"end it: {hints.command('glmjobs.cancel', run.path)}",
            file=sys.stderr,
        )
        return 130


def describe(stage: StageState) -> str:
    """A stage in one line; empty while there is nothing to say."""
    if stage.state == WAITING:
        return f"{stage.stage:<12} waiting  {stage.reason}" if stage.reason and stage.job else ""
    if stage.state == RUNNING:
        if stage.step is None:
            return f"{stage.stage:<12} running  on {stage.nodes}"
        loss = f"  loss {stage.loss:.4f}" if stage.loss is not None else ""
        loss += f"  dev loss {stage.dev_loss:.4f}" if stage.dev_loss is not None else ""
        rate = f"  {stage.tokens_per_s:,.0f} tokens/s" if stage.tokens_per_s else ""
        mfu = f"  MFU {stage.mfu:.0%}" if stage.mfu is not None else ""
        left = f"  {duration(stage.time_left)} left" if stage.time_left is not None else ""
        return f"{stage.stage:<12} running  step {stage.step}/{stage.of}{loss}{rate}{mfu}{left}"
    seconds = f"  {stage.seconds:.0f} s" if stage.seconds is not None else ""
    return f"{stage.stage:<12} {stage.state}{seconds}{'  ' + stage.error if stage.error else ''}"


def data_line(state: RunState) -> str:
    """What is trained on, and what was left out."""
    return f"data         {state.data.get('examples', 0):,} training examples{left_out_words(state.data)}"


def finish(run: Run, state: RunState, *, as_json: bool) -> int:
    """The result table, or what went wrong and where to look."""
    if as_json:
        print(json.dumps(outcome(run, state), ensure_ascii=False))
    elif state.state == DONE:
        result(run)
    if state.state == DONE:
        return 0
    bad = state.trouble or state.stages[-1]
    why = ": ".join(filter(None, (f"{bad.stage} {bad.state}", bad.error or bad.reason)))
    print(f"error: {why} (logs: {run.jobs(bad.stage)})", file=sys.stderr)
    return 1


def outcome(run: Run, state: RunState) -> dict[str, Any]:
    """The run's result as one document."""
    return {
        "run": run.name,
        "path": str(run.path),
        "state": state.state,
        "model": str(run.model),
        "report": str(run.report / "report.html"),
        "scores": {which: read_json(run.scores / which / "summary.json") for which in ("base", "finetuned")},
        "comparison": read_json(run.scores / "comparison.json"),
    }


def result(run: Run) -> None:
    """Accuracy before and after, and the paths of the model and the report."""
    table = Table(title=f"{run.name}: accuracy on the dev set", title_justify="left")
    for column in ("model", "accuracy", "95 % interval", "correct", "rows"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for which, label in (("base", "base"), ("finetuned", "fine-tuned")):
        summary = read_json(run.scores / which / "summary.json")
        if summary:
            low, high = summary["interval"] or (0.0, 1.0)
            table.add_row(
                label,
                f"{summary['accuracy']:.1%}" if summary["rows"] else "–",
                f"{low:.1%} – {high:.1%}" if summary["rows"] else "–",
                str(summary["correct"]),
                str(summary["rows"]),
            )
    console = Console(width=100, soft_wrap=True)
    if table.row_count:
        console.print(table)
    rows = (ledger.marker(run.path, "preflight") or {}).get("figures", {})
    if "dev_rows_in_train" in rows:
        counts = f"{rows['train_rows']} train rows, {rows['dev_rows']} dev rows"
        for name, (read, dev) in rows.get("sources", {}).items():
            console.print(f"data    {name}: {read} train rows, {dev} dev rows", highlight=False, markup=False)
        console.print(
            f"data    {counts}, {rows['dev_rows_in_train']} of them in train (checked)", highlight=False
        )
    if is_model(run.model):
        console.print(f"model   {run.model}", highlight=False)
    if (run.report / "report.html").exists():
        console.print(f"report  {run.report / 'report.html'}", highlight=False)
