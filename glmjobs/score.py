"""Score models: the chain's stage, and any model directory on any file.

    python -m glmjobs.score RUN [--shard I/N] [--which base|finetuned|both]
    python -m glmjobs.score MODEL_DIR DATA [--out DIR] [--rows N] …

The work is spread over the tasks of a Slurm array and over ranks. Each appends its rows as they come; whoever
finishes the last missing row merges, compares and writes the stage's marker. Killed anywhere, a rerun does
what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmjobs.cli import positive, run_command
from glmjobs.models.family import families
from glmjobs.recipe.schema import Recipe
from glmjobs.run import scored_sets
from glmjobs.run.directory import Run
from glmjobs.run.scored_sets import MODELS, Which
from glmjobs.scoring import base_cache
from glmjobs.scoring.claim import claim
from glmjobs.scoring.evaluate import Settings, Work, answer, finish, refuse_unreliable
from glmjobs.scoring.judges import JUDGES, Judging
from glmjobs.scoring.judges.options import add_judge, judging_of
from glmjobs.scoring.predictions import Shard
from glmjobs.scoring.test_sets import read_set
from glmjobs.terminal.score_tables import LABELS, show
from glmjobs.zero.directories import is_model
from hpc.chain import ledger
from hpc.core import hints, timestamps
from hpc.core.errors import BadInput, reading_what_was_named
from hpc.core.files import read_json, write_json
from hpc.runtime.rendezvous import of_slurm_step
from hpc.runtime.stop import EXIT_REQUEUE, StopFlag

NEWS_SECONDS = 30.0


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    args = parser().parse_args(argv)
    with reading_what_was_named():
        _check_belongs(args)
    shard = Shard.parse(args.shard) if args.shard else shard_here(os.environ)
    flag = StopFlag().install()
    if args.data is None:
        return score_run(args, Run.open(args.target), shard, flag)
    return score_file(args, Path(args.target), Path(args.data), shard, flag)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.score", description="answer, judge and sum up")
    p.add_argument("target", metavar="RUN | MODEL_DIR", help="a run (path or name), or a model directory")
    p.add_argument("data", nargs="?", metavar="DATA", help="with MODEL_DIR: a test set of any usual form")
    p.add_argument(
        "--shard", metavar="I/N", help="do only part I of N; default: by Slurm array task and rank"
    )
    p.add_argument("--json", action="store_true", help="print one JSON document")
    p.add_argument("--rejudge", action="store_true", help="judge the stored answers anew, generating nothing")
    group = p.add_argument_group("with RUN")
    group.add_argument("--which", choices=[*MODELS, "both"], help="default: both")
    group = p.add_argument_group("with MODEL_DIR DATA")
    group.add_argument("--out", type=Path, metavar="DIR", help="default: scores/<model, or its run>-<data>")
    group.add_argument(
        "--form", metavar="NAME", help="the test set's form; default: found by looking, and said"
    )
    group.add_argument("--rows", type=positive, metavar="N", help="only the first N rows")
    group.add_argument("--max-new-tokens", type=positive, metavar="N", help="default: 512")
    group.add_argument("--max-source-length", type=positive, metavar="N", help="default: 1024")
    group.add_argument("--batch-size", type=_batch_size, metavar="N|auto", help="default: auto")
    group.add_argument(
        "--dtype",
        choices=["float16", "bfloat16", "float32"],
        help="default: float16; without a GPU float32 where memory holds it, else bfloat16",
    )
    group.add_argument(
        "--backend",
        choices=["built-in", "vllm"],
        help="default: built-in; vllm serves GLM-4 and its like",
    )
    add_judge(group)
    return p


FILE_OPTIONS: dict[str, Any] = {
    "out": None, "form": "auto", "rows": None, "max_new_tokens": 512, "max_source_length": 1024, "batch_size": "auto",
    "dtype": None, "backend": "built-in", "judge": None, "verifier_url": None, "verifier_model": None,
}  # fmt: skip
"""Options that only MODEL_DIR DATA takes, with their defaults: a run's settings are those of its recipe."""


def _check_belongs(args: argparse.Namespace) -> None:
    """Refuse an option that would have no effect; fill in the defaults of the others."""
    given = [name for name in FILE_OPTIONS if getattr(args, name) is not None]
    if args.data is None and given:
        raise BadInput(
            f"--{given[0].replace('_', '-')} is for MODEL_DIR DATA; a run is scored as its recipe's "
            "section score says, set when it is submitted"
        )
    if args.data is None and is_model(Path(args.target)):
        raise BadInput(
            f"{args.target} is a model directory: add the file to score it on (BELLE, CMATH, GSM8K, C-Eval, …)"
        )
    if args.data is not None and args.which is not None:
        raise BadInput("--which is for a run; here there is one model, MODEL_DIR")
    stored = _stored_settings(args) if args.rejudge and args.data is not None else {}
    for name, default in {**FILE_OPTIONS, **stored}.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    args.which = args.which or "both"


def _stored_settings(args: argparse.Namespace) -> dict[str, Any]:
    """With --rejudge: the options that the answers there were made with, so that none need be given again."""
    folder = args.out or default_folder(Path(args.target), Path(args.data))
    settings = (read_json(folder / "summary.json") or {}).get("settings")
    if not isinstance(settings, dict):
        return {}
    found = {**settings, "dtype": settings.get("cpu_dtype")}
    return {
        name: found[name]
        for name in ("max_new_tokens", "max_source_length", "dtype", "backend")
        if name in found
    }


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else positive(text)


def shard_here(environ: Mapping[str, str]) -> Shard:
    """This process's part: array task and rank, each where there is one.

    Array tasks come from ``SLURM_ARRAY_TASK_*``; ranks from a Slurm step, else from ``RANK``/``WORLD_SIZE``.

    >>> str(shard_here({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"}))
    '4/8'
    """

    def number(name: str, default: int) -> int:
        text = environ.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else default

    tasks = number("SLURM_ARRAY_TASK_COUNT", 1)
    first, stride = number("SLURM_ARRAY_TASK_MIN", 0), max(1, number("SLURM_ARRAY_TASK_STEP", 1))
    task = (number("SLURM_ARRAY_TASK_ID", first) - first) // stride
    if of_slurm_step(environ):
        rank, size = number("SLURM_PROCID", 0), number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS", 1))
    elif "RANK" in environ:
        rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
    else:
        rank, size = 0, 1
    if not (0 <= task < tasks and 0 <= rank < size):
        raise BadInput(
            f"array task {task + 1} of {tasks}, rank {rank} of {size}: the environment contradicts itself"
        )
    return Shard(task * size + rank + 1, tasks * size)


# A run


def score_run(args: argparse.Namespace, run: Run, shard: Shard, flag: StopFlag) -> int:
    """The stage: this process's part of both models, and the merge once nothing is missing."""
    started = timestamps.now()
    with run.recording("score", shard.index - 1):
        wanted = _wanted(run, args.which)
        _ensure_inputs(run)
        sets = scored_sets.names(run.recipe.score)
        works = {(which, name): scored_sets.work(run, which, name) for which in wanted for name in sets}
        for (which, _), work in works.items():
            if which == "base" and not args.rejudge:
                base_cache.take(work, run.path.parent / scored_sets.BASE_CACHE)
        news = _News(
            run if shard.index == 1 else None, sum(len(work.questions) for work in works.values()), works
        )
        for asked, work in works.items():
            if not args.rejudge:
                answer(work, shard, stop=lambda: flag.requested, on_row=news.rows(_said(*asked)))
            if flag.requested:
                return _stopped(flag)
        found = summarise(run, which=wanted, started=started, stop=lambda: flag.requested)
        if flag.requested:
            return _stopped(flag)
    lacking = {
        _said(which, name): len(work.missing())
        for (which, name), work in works.items()
        if which not in found.get(name, {})
    }
    if lacking:
        text = ", ".join(f"{rows} rows of the {said}" for said, rows in lacking.items())
        if args.rejudge:
            raise BadInput(
                f"{run.path}: --rejudge: no stored answers of {text}; without --rejudge they are made"
            )
        print(f"score: part {shard} is done; other parts still have {text} to do", file=sys.stderr)
        if args.json:
            print(json.dumps({"shard": str(shard), "missing": lacking}))
        return 0
    comparisons = {
        name: read_json(scored_sets.folder(run.scores, name) / "comparison.json") for name in found
    }
    show(
        found.pop(scored_sets.DEV), comparisons.pop(scored_sets.DEV), anchor_for(run.recipe),
        as_json=args.json, sets={name: (found[name], comparisons[name]) for name in found},
    )  # fmt: skip
    return 0


def _said(which: Which, name: str) -> str:
    """A model, and the test set where it isn't the dev rows, in words."""
    return f"{LABELS[which]} model" + (f" on {name}" if name != scored_sets.DEV else "")


def _stopped(flag: StopFlag) -> int:
    print(f"score: stopped on {flag.reason}; run it again to go on", file=sys.stderr)
    return EXIT_REQUEUE


def _wanted(run: Run, which: str) -> tuple[Which, ...]:
    wanted = tuple(
        w for w in MODELS if which == w or (which == "both" and (w != "base" or run.recipe.score.base))
    )
    if "finetuned" in wanted and not is_model(run.model):
        raise BadInput(
            f"{run.model}: no fine-tuned model yet; first: {hints.command('glmjobs.consolidate', run.path)}"
        )
    return wanted


def _ensure_inputs(run: Run) -> None:
    if (run.data / "prepare.json").is_file() and (run.base_model / "config.json").is_file():
        return
    from glmjobs.run import inputs

    inputs.ensure(run)


def summarise(
    run: Run, *, which: tuple[Which, ...] | None = None, started: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Merge what is complete, compare base and fine-tuned model, and mark the stage once all is there.

    Idempotent, and safe when several processes call it at once: all would write the same.

    Returns:
        summaries of the complete models, by "base" and "finetuned", of each set that has one, by its name; "dev": the
        dev rows.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in scored_sets.names(run.recipe.score):
        for model in which or _wanted(run, "both"):
            work = scored_sets.work(run, model, name)
            summary = finish(work, stop=stop)
            if summary is not None:
                refuse_unreliable(summary)
                found.setdefault(name, {})[model] = summary
                if model == "base":
                    base_cache.keep(work, run.path.parent / scored_sets.BASE_CACHE)
    needed = _wanted(run, "both")
    folders = {name: scored_sets.folder(run.scores, name) for name in scored_sets.names(run.recipe.score)}
    files = ("predictions.jsonl", "summary.json")
    outputs = [there / name / file for there in folders.values() for name in needed for file in files]
    if not all(path.is_file() for path in outputs) or not found or stop():
        return found
    if len(needed) == len(MODELS):
        for there in folders.values():
            write_json(there / "comparison.json", scored_sets.compare_models(there))
            outputs.append(there / "comparison.json")
    figures: dict[str, Any] = {name: _figures(run.scores / name / "summary.json") for name in needed}
    if sets := [name for name in folders if name != scored_sets.DEV]:
        figures["sets"] = {
            name: {model: _figures(folders[name] / model / "summary.json") for model in needed}
            for name in sets
        }
    run.mark("score", started=started or timestamps.now(), outputs=outputs, figures=figures)
    return found


def _figures(path: Path) -> dict[str, Any]:
    summary = json.loads(path.read_text(encoding="utf-8"))
    return {
        key: summary[key] for key in ("rows", "correct", "accuracy", "interval", "tokens_per_s", "seconds")
    }


def anchor_for(recipe: Recipe) -> tuple[str, float, float] | None:
    """The tutorial's accuracies, where this is its model on its data: not for small models made on the
    spot."""
    if recipe.model.path is None or "school_math" not in str(recipe.data.path or ""):
        return None
    family = families().get(recipe.model.family)
    return (family.title, *family.tutorial) if family and family.tutorial else None


# Any model and file


def score_file(args: argparse.Namespace, model: Path, data: Path, shard: Shard, flag: StopFlag) -> int:
    """Score one model directory on one file."""
    settings = Settings(
        max_new_tokens=args.max_new_tokens,
        dtype=args.dtype or "float16",
        cpu_dtype=args.dtype,
        max_source_length=args.max_source_length,
        batch_size=args.batch_size,
        backend=args.backend,
    )
    judging = judging_of(args)
    with reading_what_was_named():
        if not model.is_dir():
            raise BadInput(f"{model}: no such model directory")
        form, questions = read_set(data, args.form, args.rows)
        if args.judge is None:
            judging = Judging(tuple(name for name in JUDGES if name == form.judge))
        folder = args.out or default_folder(model, data)
        work = Work.of(model, questions, folder, settings, judging)
    if args.rejudge and next(folder.glob("predictions.shard-*"), None) is None:
        raise BadInput(f"{folder}: --rejudge: no stored answers there; without --rejudge they are made")
    claim(folder, model, data)
    if args.rejudge:
        work = _stored_rows(work, args)
    else:
        answer(
            work, shard, stop=lambda: flag.requested, on_row=_News(None, len(questions), {}).rows(model.name)
        )
    summary = finish(work, stop=lambda: flag.requested)
    if flag.requested:
        return 130 if _stopped(flag) and flag.signal == signal.SIGINT else EXIT_REQUEUE
    if summary is None:
        lacking = len(work.missing())
        print(f"score: part {shard} is done; {lacking} rows of other parts are still to do", file=sys.stderr)
        if args.json:
            print(json.dumps({"shard": str(shard), "missing": lacking}))
        return 0
    show({model.resolve().name: summary}, None, None, as_json=args.json, files=folder)
    if not args.json:
        print(f"test set: form {form.name} ({form.title}), judge {judging.names[0]}")
    refuse_unreliable(summary)
    return 0


def _stored_rows(work: Work, args: argparse.Namespace) -> Work:
    """The rows whose answers are there, which is said where it isn't all of them.

    Raises:
        BadInput: there is none of this model with these settings.
    """
    missing = set(work.missing())
    kept = [position for position in range(len(work.keys)) if position not in missing]
    if not kept:
        made = _stored_settings(args)
        words = ", ".join(
            f"{name.replace('_', '-')} {value}" for name, value in made.items() if value is not None
        )
        raise BadInput(
            f"{work.folder}: --rejudge: no stored answers of this model, these rows and settings"
            + (f" (the last were made with {words})" if words else "")
            + "; without --rejudge they are made"
        )
    if missing:
        print(
            f"score: {len(kept)} of {len(work.keys)} rows have stored answers; these are marked",
            file=sys.stderr,
        )
    return replace(work, questions=[work.questions[p] for p in kept], keys=[work.keys[p] for p in kept])


def default_folder(model: Path, data: Path) -> Path:
    """scores/<model>-<data>; every run's model is called "model", so the run's name stands for it."""
    place = model.resolve()
    name, run = place.name, place.parent
    if (run / "run.yaml").is_file():
        name = run.name if place == run / "model" else f"{run.name}-{name}"
    return Path("scores") / f"{name}-{data.name.split('.')[0]}"


# What people see


class _News:
    """Says how far it is: a line now and then on stderr, and the stage's progress file (first part only)."""

    def __init__(self, run: Run | None, total: int, works: Mapping[Any, Work]) -> None:
        self.run = run
        self.total = total
        self.before = total - sum(len(work.missing()) for work in works.values()) if run is not None else 0
        self.done = 0
        self.said = time.monotonic()

    def rows(self, label: str) -> Callable[[int, int], None]:
        """A callback for one model's rows."""
        start = time.monotonic()

        def on_row(done: int, of: int) -> None:
            self.done += 1
            now = time.monotonic()
            if now - self.said < NEWS_SECONDS and done < of:
                return
            self.said = now
            minutes = (now - start) / done * (of - done) / 60
            # The first rows come all at once after a while: too early to say when the last will.
            left = f", {minutes:.0f} min left" if of > done > of / 20 else ""
            print(f"score: {label}: {done} of {of} rows{left}", file=sys.stderr, flush=True)
            if self.run is not None:
                rows = self.before + self.done
                ledger.write_progress(
                    self.run.path, "score", checkpoint=rows, rows=rows, of=self.total, model=label
                )

        return on_row


if __name__ == "__main__":
    raise SystemExit(run_command(main))
