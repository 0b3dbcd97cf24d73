"""Rules about ``#SBATCH`` lines and logs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpc.lint.batch import WORK, Batch, options, raw_text, rule, split
from hpc.lint.shell import Command


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


@rule("time-in-minutes")
def _minutes(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for d in batch.script.directives:
        asked = options(split(d.text))[0].get("time", "") if d.heeded else ""
        hours = re.fullmatch(r"(\d+)(:00)?", asked)
        if hours and (int(hours[1]) in _HOURS or (hours[2] and hours[1] in ("01", "02", "03", "04"))):
            read = "minutes and seconds" if hours[2] else "minutes"
            right = f"--time={int(hours[1])}:00:00 for hours, --time=00:{hours[1]}:00 for minutes"
            yield d.line, f"Slurm reads --time={asked} as {read}", right


_HOURS = frozenset({8, 12, 16, 18, 24, 36, 48, 72, 96, 144, 168, 192, 336, 720})
"""Numbers that people write when they mean hours."""


@rule("memory-in-megabytes")
def _megabytes(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if not any(c.name in WORK for c in batch.commands):
        return
    asked = [(d.line, options(split(d.text))[0]) for d in batch.script.directives if d.heeded]
    asked += [(step.command.line, step.options) for step in batch.steps]
    for line, given in asked:
        for name, most in (("mem", 1000), ("mem-per-gpu", 1000), ("mem-per-cpu", 64)):
            value = re.fullmatch(r"(\d+)[Mm]?", given.get(name, ""))
            if value and 0 < int(value[1]) <= most:
                yield (
                    line,
                    f"--{name}={value[1]} is {value[1]} MB: Python is killed for it",
                    f"--{name}={value[1]}G",
                )


@rule("one-log-for-all-elements")
def _one_log(batch: Batch) -> Iterator[tuple[int, str, str]]:
    elements = batch.options.get("array")
    if elements is None or re.fullmatch(r"\d+", elements) or elements.endswith("%1"):
        return
    right = "%A_%a in the name"
    for d in batch.script.directives:
        given = options(split(d.text))[0] if d.heeded else {}
        for name in ("output", "error"):
            if _shared(given.get(name, "%a")):
                yield (
                    d.line,
                    f"all elements of the array write {given[name]}: each empties it for the others",
                    right,
                )
                break
    for step in batch.steps:
        for name in ("output", "error"):
            if _shared(step.options.get(name, "%a")):
                yield step.command.line, f"all elements of the array write {step.options[name]}", right
                break
    if any(c.name in ("cd", "pushd") and "$" in raw_text(c) for c in batch.commands):
        return
    for c in batch.work:
        for operator, target in c.redirections:
            static = re.match(r"[\w./~-]+\Z", target.text) and not re.match(r"/dev/|\d+\Z", target.text)
            if operator in (">", "&>", ">|") and static:
                yield (
                    c.line,
                    f"all elements of the array write {target.text}",
                    "$SLURM_ARRAY_TASK_ID in the name",
                )


def _shared(pattern: str) -> bool:
    """Whether a log's name is the same for every element: %j differs, %A does not."""
    return not re.search(r"%\d*[aj]|\$|\{|^none$|^/dev/null$", pattern.replace("%%", ""))


@rule("log-truncated-at-requeue")
def _append(batch: Batch) -> Iterator[tuple[int, str, str]]:
    requeues = [d for d in batch.script.directives if d.heeded and "--requeue" in split(d.text)]
    lines = [d.line for d in requeues]
    lines += [c.line for c in batch.commands if _requeues(c)]
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


def _requeues(command: Command) -> bool:
    """Runs ``scontrol requeue``, or has a trap do it, or a shell: then it stands in one of their words."""
    words = [word.text for word in command.words]
    if command.name == "scontrol":
        return "requeue" in words
    told = words[1:2] if command.name == "trap" else words if command.name in ("bash", "sh", "eval") else []
    return any(re.search(r"\bscontrol\s(.*\s)?requeue\s", text) for text in told)


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
