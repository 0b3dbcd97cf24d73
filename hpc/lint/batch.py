"""A batch script with what several rules ask about it, and the register of the rules.

A rule is a function from a :class:`Batch` to (line, what happens, what would be right).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hpc.lint.shell import Command, Script

LAUNCHERS = frozenset({"srun", "mpirun", "mpiexec", "torchrun", "deepspeed", "accelerate"})
WORK = LAUNCHERS | {"apptainer", "singularity", "python", "python3"}
PYTHON = re.compile(r"(.*/)?python[0-9.]*")
ERRANDS = frozenset({"hostname", "echo", "printf", "env", "printenv", "date", "nvidia-smi", "rocm-smi", "ip", "mkdir",
                     "ls", "rm", "cp", "rsync", "tar", "df", "free", "lscpu", "numactl", "true", "sleep", "which",
                     "hostid", "uname", "cat",
                     "huggingface-cli", "hf", "wget", "curl", "git", "chmod", "sync",
                     "scontrol", "squeue"})  # fmt: skip
"""Programs whose steps are done in a moment: how they are started matters to nobody."""
SETUP = frozenset({"cd", "source", ".", "conda", "mamba", "micromamba", "module", "ml", "cp", "rsync", "tar"})
SHORT = {"-n": "ntasks", "-N": "nodes", "-c": "cpus-per-task", "-o": "output", "-e": "error", "-J": "job-name",
         "-t": "time", "-p": "partition", "-A": "account", "-a": "array", "-d": "dependency", "-D": "chdir",
         "-w": "nodelist", "-x": "exclude", "-G": "gpus", "-q": "qos", "-C": "constraint"}  # fmt: skip
VALUED = frozenset(SHORT.values()) | {
    "ntasks-per-node", "gres", "mem", "open-mode", "signal", "mpi", "cpu-bind", "gpus-per-node", "gpus-per-task",
    "mem-per-cpu", "mem-per-gpu", "export", "jobid", "job_id", "container-image", "container-mounts", "container-name",
    "container-workdir", "het-group", "distribution", "wait", "threads-per-core", "comment", "ntasks-per-gpu",
    "ntasks-per-socket", "cpus-per-gpu", "gpu-bind", "input", "task-prolog", "network", "nodefile",
}  # fmt: skip
UNKNOWN = "$"
"""Among a step's options: a variable that could hold any of them."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that bites: where, which rule, what happens, what would be right."""

    line: int
    rule: str
    what: str
    right: str


@dataclass(frozen=True)
class Step:
    """One srun: its options by long name, and the words of what it starts."""

    command: Command
    options: dict[str, str]
    program: list[str]

    def lacks(self, *names: str) -> bool:
        """Whether none of the options is given, as far as can be seen."""
        return not {UNKNOWN, *names} & set(self.options)

    @property
    def errand(self) -> bool:
        """Runs something that is done in a moment."""
        words = [word for word in self.program if word not in ("bash", "sh", "-c", "-lc", "-l")]
        text = re.sub(r"\$\([^()]*\)", "", words[0]) if words else ""
        first = text.strip().split()
        alone = len(words) == 1 and len(self.program) > 1  # the text after bash -c
        if not first or (alone and re.search(r"[;&|\n]", text)):
            return False
        return first[0].rsplit("/", 1)[-1] in ERRANDS


Rule = Callable[["Batch"], Iterator[tuple[int, str, str]]]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Registers a rule under its name."""

    def register(check: Rule) -> Rule:
        RULES[name] = check
        return check

    return register


class Batch:
    """A script with what several rules ask about it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.commands = script.commands
        self.options = options([word for d in script.directives if d.heeded for word in split(d.text)])[0]
        self.work = [c for c in self.commands if c.name in WORK]
        self.is_batch = bool(script.directives)
        self.assigned = [
            (c, match[1], match[2])
            for c in self.commands
            for word in [
                *c.assignments,
                *(c.words[1:] if c.name in ("export", "declare", "env", "local") else []),
            ]
            if (match := re.match(r"([A-Za-z_][A-Za-z0-9_]*)\+?=(.*)", word.text, re.S))
        ]
        self.exported = {name: value for _, name, value in self.assigned}
        self.places = {id(command): place for place, command in enumerate(self.commands)}
        named = [
            (place, [w.text for w in c.words]) for place, c in enumerate(self.commands) if not c.substituted
        ]
        self.sets = [(place, words) for place, words in named if words[:1] == ["set"]]
        """The script's `set` commands: index and words."""
        self.steps = [step for c in self.commands for step in self._steps(c)]
        self.working_functions = {c.function for c in self.work if c.function and not c.substituted}

    def shell_option(self, letter: str, name: str, before: int) -> bool:
        """Whether ``set -e`` (x, …), or ``set -o pipefail``, is on at the command with that index."""
        on = bool(letter) and letter in "".join(re.findall(r"\s-([a-z]+)", self.script.shebang))
        for place, words in self.sets:
            if place >= before:
                break
            for at, word in enumerate(words[1:], 1):
                named = word[1:2] != "-" and word.endswith("o") and words[at + 1 : at + 2] == [name]
                if word[:1] in "-+" and (named or (letter and letter in word[1:])):
                    on = word[0] == "-"
        return on

    def index(self, command: Command) -> int:
        """Where a command stands in the script."""
        return self.places[id(command)]

    def pipe_fails(self, at: int) -> bool:
        """Whether pipefail is on, or the command's own code is asked for by PIPESTATUS."""
        return self.shell_option("", "pipefail", at) or "PIPESTATUS" in self.script.text

    def beside(self, command: Command) -> bool:
        """Whether a command runs beside the script: in the background, alone or with the pipe that it is in."""
        for following in self.commands[self.index(command) :]:
            goes_on = (
                following.piped or following.substituted or {"while", "until", "if"} & set(following.keywords)
            )
            if following.background or not goes_on:
                return following.background
        return False

    def works(self, command: Command) -> bool:
        """Whether a command is the job's work, or calls a function of the script that does it."""
        return command.name in WORK or (command.name in self.working_functions and not command.function)

    @property
    def gpus(self) -> bool:
        """Whether the directives ask for GPUs."""
        asked = " ".join(f"{name}={value}" for name, value in self.options.items() if name)
        return bool(re.search(r"\bgpus?(-per-\w+)?=|gres=\S*gpu|tres\S*=\S*gpu", asked))

    @property
    def nodes(self) -> int:
        """The fewest nodes that the directives ask for."""
        return count(self.options.get("nodes", "").partition("-")[0])

    @property
    def tasks(self) -> int:
        """Tasks that the directives ask for, on all nodes."""
        asked = self.options
        return (
            count(asked.get("ntasks"))
            if "ntasks" in asked
            else self.nodes * count(asked.get("ntasks-per-node"))
        )

    def _steps(self, command: Command) -> list[Step]:
        """The sruns of a command, also behind a wrapper: ``exec python -m x --stage a srun … --stage b srun …``."""
        words = [word.text for word in command.words] if command.name in WORK else []
        starts = [at for at, word in enumerate(words) if word.rsplit("/", 1)[-1] == "srun"]
        return [
            Step(command, *options(words[at + 1 : end], self.exported))
            for at, end in zip(starts, [*starts[1:], len(words)], strict=False)
        ]

    def following(self, command: Command) -> list[Command]:
        """Commands after one, in the same function, outside of substitutions and function definitions."""
        at = self.index(command)
        return [c for c in self.commands[at + 1 :] if c.function == command.function and not c.substituted]

    def handles(self, name: str) -> list[str]:
        """What the script's traps for a signal do: the handlers' text, functions expanded."""
        found = []
        for command in self.commands:
            words = [w.text for w in command.words]
            if command.name != "trap" or not any(w.removeprefix("SIG") == name for w in words[2:]):
                continue
            body = [c for c in self.commands if c.function and c.function in re.findall(r"\w+", words[1])]
            found.append(" ; ".join([words[1], *(" ".join(w.text for w in c.words) for c in body)]))
        return found


def options(words: list[str], variables: Mapping[str, str] | None = None) -> tuple[dict[str, str], list[str]]:
    """Slurm options at the start of a list of words, by long name; and the words after them.

    Args:
        variables: values of ``$NAME`` in front of the program; one whose value is not known leaves :data:`UNKNOWN`.
    """
    found: dict[str, str] = {}
    rest, opened = list(words), 0
    while rest and rest[0] != "--":
        word = rest.pop(0)
        if (variable := re.fullmatch(r"\$\{?(\w+)(\[@\]|\[\*\])?\}?", word)) and variables is not None:
            value = variables.get(variable[1], "").strip()
            value = value[1:-1] if value.startswith("(") else value
            inside = split(value) if opened < 50 else []
            if inside and inside[0].startswith(("-", "$")):
                opened += 1
                rest = [*inside, *rest]
                continue
            if rest and not inside:  # options of another file, or the program: no telling
                found[UNKNOWN] = word
                continue
        if not word.startswith("-"):
            return found, [word, *rest]
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and name in VALUED and rest and not rest[0].startswith("-"):
                value = rest.pop(0)
        else:
            name, value = SHORT.get(word[:2], word[1:2]), word[2:].removeprefix("=")
            if not value and word[:2] in SHORT and rest:
                value = rest.pop(0)
        found[name.replace("_", "-")] = value
    return found, rest


def split(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return text.split()


def launcher(words: list[str]) -> str:
    """The launcher of processes among a command's words, by its short name; "" where there is none.

    ``python -m torch.distributed.run`` is torchrun.
    """
    for at, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        if name in ("torchrun", "deepspeed", "accelerate"):
            return name
        if word == "-m" and at and PYTHON.fullmatch(words[at - 1]) and at + 1 < len(words):
            return _MODULES.get(words[at + 1], "")
        if name.endswith(".py"):
            return ""
    return ""


_MODULES = {
    "torch.distributed.run": "torchrun", "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate", "accelerate": "accelerate", "deepspeed": "deepspeed",
    "deepspeed.launcher.runner": "deepspeed", "deepspeed.launcher.launch": "deepspeed",
}  # fmt: skip


def count(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 1


def raw_text(command: Command) -> str:
    """A command as written, without its redirections."""
    return " ".join(w.raw for w in [*command.assignments, *command.words])
