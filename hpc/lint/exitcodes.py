"""Rules about exit codes that get lost, and about set-up that fails in silence."""

from __future__ import annotations

from collections.abc import Iterator

from hpc.lint.batch import ERRANDS, SETUP, WORK, Batch, raw_text, rule
from hpc.lint.shell import Command


@rule("pipe-swallows-exit-code")
def _pipe(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for at, c in enumerate(batch.commands):
        if (
            batch.works(c)
            and c.piped
            and not batch.pipe_fails(at)
            and not c.substituted
            and not _errand(batch, c)
        ):
            yield (
                c.line,
                f"the exit code of `{c.name} … |` is that of the pipe's last command",
                "set -o pipefail before it",
            )


@rule("or-true-swallows-exit-code")
def _or_true(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for at, c in enumerate(batch.commands[:-1]):
        then = batch.commands[at + 1]
        passes = then.name in ("true", ":", "echo", "printf") or [w.text for w in then.words] == ["exit", "0"]
        if c.name in WORK and c.after == "||" and passes:
            after = batch.commands[at + 2 : at + 3]
            if any(n.name in ("exit", "return") for n in after) and then.after in ("&&", ";", "\n"):
                continue
            yield (
                c.line,
                f"`{c.name} … || {then.name}` turns a failure into success",
                "leave it out, or `|| exit $?`",
            )


@rule("trailing-command-swallows-exit-code")
def _trailing(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for at, c in enumerate(batch.commands):
        if c.name not in WORK or c.is_exec or c.substituted or c.tested or c.piped or c.background:
            continue
        if _errand(batch, c) or batch.shell_option("e", "errexit", at):
            continue
        after = batch.following(c)
        if not after or "$?" in raw_text(after[0]) or "PIPESTATUS" in raw_text(after[0]):
            continue
        yield (
            c.line, f"when `{c.name}` fails, the script goes on, and the job ends with the code of its last command",
            "set -e at the top, or rc=$? right after it and exit $rc at the end",
        )  # fmt: skip


@rule("wait-swallows-exit-code")
def _wait(batch: Batch) -> Iterator[tuple[int, str, str]]:
    started = [c for c in batch.work if c.background and not c.substituted]
    if not started:
        return
    waits = [c for c in batch.commands if c.name == "wait"]
    if not waits:
        last = batch.index(started[-1])
        rest = [c for c in batch.commands[last + 1 :] if c.name and not c.background and not c.substituted]
        if any(c.name not in ERRANDS and not c.function for c in rest):
            return  # what runs beside is a helper (a server, a ray worker) that may end with the script
        line = started[-1].line
        yield (
            line,
            "the script ends while its background step runs, and Slurm kills the step",
            'pid=$!; wait "$pid"',
        )
    elif all(len(c.words) == 1 for c in waits):
        yield (
            waits[0].line,
            "`wait` without a process id returns 0 whatever the steps did",
            'pid=$!; wait "$pid"',
        )


def _errand(batch: Batch, command: Command) -> bool:
    steps = [step for step in batch.steps if step.command is command]
    return bool(steps) and all(step.errand for step in steps)


@rule("unchecked-setup")
def _setup(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for at, c in enumerate(batch.commands):
        if c.name in SETUP and not c.tested and not c.substituted and not c.function and batch.following(c):
            if not batch.work or c.line > batch.work[-1].line or batch.shell_option("e", "errexit", at):
                continue
            if (c.name in ("module", "ml") and not _loads(c)) or "$?" in raw_text(batch.following(c)[0]):
                continue
            yield (
                c.line,
                f"when `{c.name}` fails, the work runs all the same, elsewhere or with something else",
                "set -e",
            )
            return


def _loads(command: Command) -> bool:
    words = command.program
    if words[:1] == ["ml"]:
        return (
            len(words) > 1
            and not words[1].startswith("-")
            and words[1] not in ("purge", "list", "avail", "use")
        )
    return words[:1] == ["module"] and words[1:2] in (["load"], ["add"], ["switch"], ["swap"])


@rule("unchecked-module")
def _module(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if "LOADEDMODULES" in batch.script.text:
        return
    loads = [c for c in batch.commands if _loads(c) and not c.tested]
    if loads:
        yield (
            loads[0].line, "`module load` returns 0 for a missing module on Modules 3.2 (CentOS 7), also under set -e",
            'ask $LOADEDMODULES afterwards, as load_modules of hpc/batch/modules.sh does',
        )  # fmt: skip


@rule("missing-shebang")
def _shebang(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if not batch.script.text.strip():
        yield 1, "sbatch refuses an empty script", "#!/bin/bash and the commands"
    elif batch.script.text.startswith("\ufeff#!"):
        yield (
            1,
            "sbatch refuses a script that begins with a byte order mark",
            "sed -i '1s/^\\xef\\xbb\\xbf//'",
        )
    elif batch.is_batch and not batch.script.shebang:
        yield 1, "sbatch refuses a script whose first line is not #!…", "#!/bin/bash"


@rule("dos-line-ends")
def _dos(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if "\r\n" in batch.script.text:
        line = batch.script.text[: batch.script.text.index("\r\n")].count("\n") + 1
        yield line, "sbatch refuses a script with DOS line ends (\\r\\n)", "dos2unix, or sed -i 's/\\r$//'"
