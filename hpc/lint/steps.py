"""Rules about signals, sruns, ports, secrets and submission."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpc.core.secrets import could_be_secret, is_secret_name, looks_like_secret
from hpc.lint.batch import LAUNCHERS, PYTHON, WORK, Batch, Step, count, launcher, raw_text, rule
from hpc.lint.shell import Command


@rule("trap-behind-foreground")
def _foreground(batch: Batch) -> Iterator[tuple[int, str, str]]:
    traps = [c for c in batch.commands if c.name == "trap" and _signals(c)]
    for c in batch.work:
        inside = c.substituted or c.function or c.is_exec or batch.beside(c)
        before = [t for t in traps if t.line <= c.line and not t.function]
        inside = inside or any(step.errand for step in batch.steps if step.command is c)
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
        if step.lacks("cpus-per-task", "exact", "whole", "overlap") and step.program and not step.errand:
            yield (
                step.command.line,
                f"Slurm 22.05 to 23.02: srun does not take over --cpus-per-task={asked}",
                ("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK, or srun --cpus-per-task=…"),
            )
            return


@rule("dead-rank-hangs-the-others")
def _kill(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if "SLURM_KILL_BAD_EXIT" in batch.exported or "ntasks-per-gpu" in batch.options:
        return  # several tasks a GPU: none of them waits for another
    for step in batch.steps:
        mine = _tasks(batch, step)
        if (
            mine > 1
            and step.lacks("kill-on-bad-exit", "K")
            and any(PYTHON.fullmatch(w) for w in step.program)
        ):
            yield (
                step.command.line,
                "when one rank dies srun lets the others go on: they wait for it until the time limit",
                ("srun --kill-on-bad-exit=1"),
            )


def _tasks(batch: Batch, step: Step) -> int:
    """How many tasks a step has, by its own options before the job's."""
    given = step.options
    if given.get("ntasks", "").isdigit():
        return int(given["ntasks"])
    if {"nodes", "ntasks-per-node"} & set(given):
        nodes = count(given["nodes"]) if "nodes" in given and given["nodes"].isdigit() else batch.nodes
        each = given.get("ntasks-per-node", batch.options.get("ntasks-per-node", "1"))
        return nodes * (count(each) if each.isdigit() else 1)
    return batch.tasks


@rule("launcher-in-every-task")
def _double(batch: Batch) -> Iterator[tuple[int, str, str]]:
    per_node = count(batch.options.get("ntasks-per-node"))
    for step in batch.steps:
        found = launcher(step.program)
        mine = step.options.get("ntasks-per-node")
        if found and (count(mine) if mine else per_node) > 1 and step.options.get("ntasks", "2") != "1":
            yield (
                step.command.line,
                f"{per_node} tasks a node each start `{found}`, which starts a process per GPU again",
                ("--ntasks-per-node=1 with a launcher, or no launcher"),
            )


ELSEWHERE = frozenset({"srun", "mpirun", "mpiexec", "ssh", "pdsh", "clush", "ray", "parallel", "orterun", "prun",
                       "ibrun", "jsrun", "aprun", "flux", "horovodrun"})  # fmt: skip
"""What starts programs on other nodes, or several of them."""


@rule("tasks-without-srun")
def _without(batch: Batch) -> Iterator[tuple[int, str, str]]:
    errands = {id(step.command) for step in batch.steps if step.errand}
    others = [c for c in batch.commands if id(c) not in errands and not c.substituted]
    text = " ".join(line for line in batch.script.text.splitlines() if not line.lstrip().startswith("#"))
    if any(c.name in ELSEWHERE for c in others) or re.search(
        r"[Hh]ostfile|HOSTFILE|=[\"']?\s*(srun|mpirun)\b", text
    ):
        return
    if any(word.text.startswith("$") for c in others for word in c.words[:1]):
        return  # `$LAUNCHER train.py`
    for c in others:
        words = c.program
        found = launcher(words) if c.name in WORK else ""
        trains = c.name.startswith("python") and any(word.endswith(".py") for word in words[1:3])
        if batch.nodes > 1 and (found or (trains and c is others[-1])):
            what = f"{batch.nodes} nodes are asked for, and `{found or c.name}` starts on the first only"
            yield c.line, what, f"srun {found or c.name} …, one task a node for a launcher"
            return
        if batch.tasks > 1 and batch.gpus and trains and not found and batch.nodes == 1:
            what = (
                f"{batch.tasks} tasks are asked for, and `{c.name}` starts once: only srun starts one a task"
            )
            yield c.line, what, f"srun {c.name} …, or --ntasks=1 with a launcher such as torchrun"
            return


@rule("fixed-port")
def _port(batch: Batch) -> Iterator[tuple[int, str, str]]:
    if batch.options.get("exclusive") == "":
        return  # no other job is on these nodes
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
        found_launcher = launcher(c.program) if c.name in WORK else ""
        text = " ".join(c.program)
        if found_launcher == "accelerate" and (
            "config_file" in text or not re.search(r"--(multi_gpu|use_deepspeed|use_fsdp)", text)
        ):
            continue  # the configuration may name the port; a single process needs none
        if found_launcher and not re.search(named, batch.script.text):
            yield (
                c.line,
                f"`{found_launcher}` without a port takes 29500: two jobs on one node cannot both have it",
                right,
            )
            return


@rule("secret-traced")
def _traced(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for at, c in enumerate(batch.commands):
        shown = [name for word in [*c.assignments, *c.words] for name in _traced_names(word.raw)]
        if shown and batch.shell_option("x", "xtrace", at):
            yield c.line, f"set -x writes the value of {shown[0]} into the log", "set +x before it"
            return


def _traced_names(raw: str) -> list[str]:
    """Secrets that a word's trace shows: those it expands, and the one it sets to something that gives it away."""
    expanded = re.sub(r"(?<!\$)'[^']*'", "", raw)
    names = re.findall(r"\$\{?([A-Za-z_]\w*)(?!\w|:?\+)", expanded)
    found = [name for name in names if is_secret_name(name)]
    set_to = re.match(r"([A-Za-z_]\w*)\+?=(.+)", raw, re.S)
    if set_to and is_secret_name(set_to[1]):
        value = set_to[2].strip("\"'")
        if "$" in value or "`" in value or could_be_secret(value):
            found.append(set_to[1])
    return found


@rule("secret-in-script")
def _secret(batch: Batch) -> Iterator[tuple[int, str, str]]:
    right = "read it from a file of mode 600, on the login node"
    for command, name, value in batch.assigned:
        if is_secret_name(name) and could_be_secret(value) and not value.startswith("("):
            yield (
                command.line,
                f"Slurm keeps the script, and with it {name}, where scontrol and sacct show it",
                right,
            )
    for c in batch.commands:
        words = [w.text for w in c.words]
        if any(looks_like_secret(w.text) for w in [*c.words, *c.assignments]) or _handed(words):
            what = f"Slurm keeps the script, and with it the key in `{c.name} …`, where scontrol and sacct show it"
            yield c.line, what, right


def _handed(words: list[str]) -> bool:
    """Whether a key is an argument: ``wandb login KEY``, ``--token KEY``, ``Authorization: Bearer KEY``."""
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.startswith("-") and is_secret_name(option.lstrip("-").replace("-", "_")):
            value = value if equals else " ".join(words[at + 1 : at + 2])
            if len(value) >= 16 and could_be_secret(value) and re.search(r"\d", value):
                return True
        if (bearer := re.search(r"(?:Bearer|token|Basic) ([^\s\"']{16,})", word)) and could_be_secret(
            bearer[1]
        ):
            return bool(re.search(r"\d", bearer[1]))
    logins = (
        [word for word in words[words.index("login") + 1 :] if word[0:1] != "-"]
        if "login" in words[:3]
        else []
    )
    return any(re.fullmatch(r"[A-Za-z0-9_-]{24,}", word) and could_be_secret(word) for word in logins)


@rule("job-id-not-parsable")
def _parsable(batch: Batch) -> Iterator[tuple[int, str, str]]:
    for at, c in enumerate(batch.commands):
        piped = not c.substituted or c.after in ("|", "|&")
        shown = at + 1 < len(batch.commands) and batch.commands[at + 1].name in ("echo", "printf")
        if c.name == "sbatch" and not piped and not shown and "--parsable" not in raw_text(c):
            yield (
                c.line,
                'sbatch prints "Submitted batch job N", which is no job id for --dependency',
                "sbatch --parsable",
            )
