"""Rules about signals, sruns, ports, secrets and submission."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpc.lint.batch import LAUNCHERS, SECRET, WORK, Batch, count, raw_text, rule
from hpc.lint.shell import Command


@rule("trap-behind-foreground")
def _foreground(batch: Batch) -> Iterator[tuple[int, str, str]]:
    traps = [c for c in batch.commands if c.name == "trap" and _signals(c)]
    for c in batch.work:
        inside = c.substituted or c.function or c.is_exec or c.after in ("&", "|", "|&")
        before = [t for t in traps if t.line <= c.line and not t.function]
        if before and not inside and c.name in LAUNCHERS | {"python", "python3"}:
            yield (
                c.line,
                f"the trap of line {before[-1].line} does not run until `{c.name}` has ended",
                (f'{c.name} … & pid=$!; then wait "$pid" in a loop; or exec {c.name}'),
            )
            return


def _signals(command: Command) -> list[str]:
    words = [w.text.removeprefix("SIG") for w in command.words]
    if len(words) > 1 and words[1] in ("", "-"):
        return []  # ignores or resets
    return [w for w in words[2:] if w in ("USR1", "USR2", "TERM", "CONT", "INT", "HUP", "10", "12", "15")]


@rule("wait-cut-short-by-trap")
def _once(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if not any(c.after == "&" for c in batch.work):
        return
    waits = [c for c in batch.commands if c.name == "wait" and not c.function]
    for trap in [c for c in batch.commands if c.name == "trap" and _signals(c)]:
        handler = " ; ".join(batch.handles(_signals(trap)[0]))
        if re.search(r"\b(wait|exit|requeue)\b", handler) or not waits:
            continue
        if not any(c.loop for c in waits) and len(waits) == 1:
            yield (
                waits[0].line,
                f"the trap of line {trap.line} interrupts `wait`, and the script ends before its step",
                ('while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done; wait "$pid"'),
            )
            return


@rule("signal-goes-elsewhere")
def _signal(batch: Batch) -> Iterator[tuple[int, str, str]]:
    asked = re.fullmatch(r"([RB]*:)?(SIG)?([A-Z0-9]+)(@\d+)?", batch.options.get("signal", ""))
    if not asked:
        return
    line = next(d.line for d in batch.script.directives if "--signal" in d.text)
    to_shell, name = "B" in (asked[1] or ""), asked[3]
    if not to_shell and batch.handles(name):
        yield (
            line,
            f"without B: {name} goes to the job's steps only, and the script's trap never runs",
            (f"--signal=B:{name}{asked[4] or ''}"),
        )
    if to_shell and not batch.handles(name) and not any(c.is_exec for c in batch.commands):
        yield (
            line,
            f"nothing handles {name} here: the batch shell is killed by it, and the job with it",
            (f"trap … {name}, or exec the program that handles it"),
        )


@rule("srun-loses-cpus-per-task")
def _cpus(batch: Batch) -> Iterator[tuple[int, str, str]]:
    asked = batch.options.get("cpus-per-task", "1")
    if asked == "1" or "SRUN_CPUS_PER_TASK" in batch.exported:
        return
    for step in batch.steps:
        if not {"cpus-per-task", "exact", "whole"} & set(step.options):
            yield (
                step.command.line,
                f"from Slurm 22.05 on srun no longer takes over --cpus-per-task={asked}",
                ("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK, or srun --cpus-per-task=…"),
            )
            return


@rule("dead-rank-hangs-the-others")
def _kill(batch: Batch) -> Iterator[tuple[int, str, str]]:
    tasks = count(batch.options.get("ntasks")) * count(batch.options.get("ntasks-per-node"))
    if "SLURM_KILL_BAD_EXIT" in batch.exported:
        return
    for step in batch.steps:
        mine = count(step.options.get("ntasks")) if "ntasks" in step.options else tasks
        mine = mine if step.options.get("ntasks", "1").isdigit() else tasks
        if mine > 1 and not {"kill-on-bad-exit", "K"} & set(step.options) and _is_python(step.program):
            yield (
                step.command.line,
                "when one rank dies the others wait for it until the time limit",
                ("srun --kill-on-bad-exit=1"),
            )


def _is_python(words: list[str]) -> bool:
    return any(re.fullmatch(r"(.*/)?(python[0-9.]*|torchrun|deepspeed|accelerate)", word) for word in words)


@rule("launcher-in-every-task")
def _double(batch: Batch) -> Iterator[tuple[int, str, str]]:
    per_node = count(batch.options.get("ntasks-per-node"))
    for step in batch.steps:
        launcher = next((w for w in step.program if w.rsplit("/", 1)[-1] in LAUNCHERS - {"srun"}), None)
        mine = step.options.get("ntasks-per-node")
        if launcher and (count(mine) if mine else per_node) > 1 and step.options.get("ntasks", "2") != "1":
            yield (
                step.command.line,
                f"{per_node} tasks a node each start `{launcher}`, which starts a process per GPU again",
                ("--ntasks-per-node=1 with a launcher, or no launcher"),
            )


@rule("fixed-port")
def _port(batch: Batch) -> Iterator[tuple[int, str, str]]:
    right = "a free port chosen by rank 0 and handed on by a file or the step, or one made from $SLURM_JOB_ID"
    for c in batch.commands:
        text = " ".join(w.text for w in [*c.assignments, *c.words])
        found = re.search(
            r"(?:\bMASTER_PORT=|--(?:master|main_process)[_-]port[= ]|--rdzv[_-]endpoint[= ]\S*:)(\d{2,5})\b",
            text,
        )
        if found:
            yield c.line, f"two jobs on one node cannot both have port {found[1]}", right
    named = r"MASTER_PORT|--(master|main_process)[_-]port|--rdzv|--standalone"
    for c in batch.commands:
        words = c.program
        launchers = [w for w in words if w in ("torchrun", "deepspeed")] if c.name in WORK else []
        if launchers and not re.search(named, batch.script.text):
            yield (
                c.line,
                f"`{launchers[0]}` without a port takes 29500: two jobs on one node cannot both have it",
                right,
            )
            return


@rule("secret-traced")
def _traced(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for at, c in enumerate(batch.commands):
        found = SECRET.search(raw_text(c))
        if found and batch.shell_option("x", "xtrace", at):
            yield c.line, f"set -x writes the value of {found[0]} into the log", "set +x before it"
            return


@rule("secret-in-script")
def _secret(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for name, value in batch.exported.items():
        if (
            SECRET.fullmatch(name)
            and len(value) >= 8
            and re.fullmatch(r"[A-Za-z0-9_./+=-]+", value)
            and "/" not in value[:1]
        ):
            line = next(c.line for c in batch.commands if f"{name}=" in raw_text(c))
            yield (
                line,
                f"Slurm keeps the script, and with it {name}, where scontrol and sacct show it",
                ("read it from a file of mode 600, on the login node"),
            )


@rule("job-id-not-parsable")
def _parsable(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for c in batch.commands:
        piped = not c.substituted or c.after in ("|", "|&")
        if c.name == "sbatch" and not piped and "--parsable" not in raw_text(c) and True:
            yield (
                c.line,
                'sbatch prints "Submitted batch job N", which is no job id for --dependency',
                "sbatch --parsable",
            )
