"""Rules about ``#SBATCH`` lines and logs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpc.lint.batch import Batch, options, rule, split


@rule("directive-ignored")
def _ignored(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for d in batch.script.directives:
        if not d.heeded:
            yield (
                d.line,
                f"sbatch has stopped looking: `{d.text}` comes after the first command",
                "move it to the top",
            )
    for line, comment in batch.script.comments:
        if batch.is_batch and re.match(r"#\s+SBATCH\s+-", comment):
            yield (
                line,
                "with a blank after # this is a comment, not a directive",
                "#SBATCH, or ##SBATCH if it is meant so",
            )


@rule("directive-variable")
def _variable(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for d in batch.script.directives:
        if d.heeded and re.search(r"\$[A-Za-z_{(]", d.text.partition(" #")[0]):
            yield (
                d.line,
                f"no shell reads a directive: `{d.text}` keeps its $ as it is",
                "%j, %x, %u …, or an sbatch option",
            )


@rule("output-directory")
def _output(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for d in batch.script.directives:
        for name in ("output", "error"):
            value = options(split(d.text))[0].get(name, "")
            folder = value.rpartition("/")[0]
            if not folder or not d.heeded:
                continue
            made = [
                c
                for c in batch.commands
                if c.name == "mkdir" and any(folder == w.text.rstrip("/") for w in c.words)
            ]
            if made:
                yield (
                    made[0].line,
                    f"Slurm opens {value} before this runs: without {folder} the job fails at once",
                    ("make the directory before sbatch"),
                )


@rule("log-truncated-at-requeue")
def _append(batch: Batch) -> Iterator[tuple[int, str, str]]:
    requeues = [d for d in batch.script.directives if d.heeded and "--requeue" in split(d.text)]
    lines = [d.line for d in requeues]
    lines += [
        c.line for c in batch.commands if c.name == "scontrol" and "requeue" in [w.text for w in c.words]
    ]
    if not lines:
        return
    if not batch.options.get("open-mode", "").startswith("a"):
        yield lines[0], "a requeued job empties its own log", "#SBATCH --open-mode=append"
    for step in batch.steps:
        if "output" in step.options and not step.options.get("open-mode", "").startswith("a"):
            yield (
                step.command.line,
                "a requeued job's srun --output empties the file",
                "srun --open-mode=append",
            )


@rule("export-none")
def _export(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if batch.options.get("export") == "NONE" and not re.search(
        r"SLURM_EXPORT_ENV|SRUN_EXPORT_ENV", batch.script.text
    ):
        for step in batch.steps:
            if "export" not in step.options:
                yield (
                    step.command.line,
                    "--export=NONE is handed on: the step sees nothing of this script's environment",
                    ("unset SLURM_EXPORT_ENV first, or srun --export=ALL"),
                )
                return
