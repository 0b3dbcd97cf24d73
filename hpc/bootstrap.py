"""`python -m hpc.bootstrap --stack S --into DIR`: the environment of a stack, made from exact pins.

    python3.10 -m hpc.bootstrap --stack centos7-cu117 --into /scratch/env
    python3.10 -m hpc.bootstrap --stack centos7-cu117 --wheelhouse WHEELS               collect, on a login node
    python3.10 -m hpc.bootstrap --stack centos7-cu117 --into DIR --wheelhouse WHEELS --offline

A stack is a file in ``configs/stacks/``: one ``name==version`` a line, with the SHA-256 of the one file to install
where the stack is for one platform. Broken off, it goes on where it was; run again, it returns at once. Packages that
exist as source only (DeepSpeed) are built last, since their build looks at what is installed. Needs nothing but the
Python that runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc.core import hints
from hpc.core.command import run_command
from hpc.core.errors import BadInput, NotFit, WorkFailed
from hpc.core.files import exclusive, read_json, sha256_file, write_atomic, write_json
from hpc.core.resources import checkout, default_stack, resource

STACKS = resource("configs/stacks")
SUMS = "SHA256SUMS"
STATE = ".stack.json"
BUILD_TOOLS = ("setuptools", "wheel", "ninja")
"""What building from source uses; pinned by the stacks, installed first."""


@dataclass(frozen=True)
class Pin:
    """One line of a stack: ``name==version``, and the hash and name of its file where they are given."""

    name: str
    version: str
    sha256: str | None = None
    file: str | None = None

    @property
    def line(self) -> str:
        """As pip reads it."""
        return f"{self.name}=={self.version}" + (f" --hash=sha256:{self.sha256}" if self.sha256 else "")


@dataclass(frozen=True)
class Stack:
    """A stack's file, read. ``python``: (3, 10) or a range of minors; ``source``: packages without wheels."""

    name: str
    path: Path
    pins: tuple[Pin, ...]
    python: tuple[tuple[int, int], tuple[int, int]]
    source: tuple[str, ...]

    @property
    def hashed(self) -> bool:
        """Every package's file is named by its hash: the list is whole, and pip adds nothing to it."""
        return all(pin.sha256 for pin in self.pins)

    @property
    def digest(self) -> str:
        """SHA-256 of the file: two environments with the same one are the same."""
        return sha256_file(self.path)


def read_stack(name: str) -> Stack:
    """A stack by name or by path.

    Raises:
        BadInput: no such stack, or a line that is no exact pin.
    """
    path = Path(name) if name.endswith(".txt") else STACKS / f"{name}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(
            sorted(p.stem for p in STACKS.glob("*.txt") if "# python:" in p.read_text(encoding="utf-8"))
        )
        raise BadInput(f"--stack {name}: no such stack; there are {known}") from None
    head = dict(re.findall(r"^# (python|source): *(.*?) *$", text, re.M))
    minors = [int(m) for m in re.findall(r"3\.(\d+)", head.get("python", ""))]
    if not minors:
        raise BadInput(f'{path}: a stack says for which Python it is: "# python: 3.10"')
    pins = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(
            r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+)(?: --hash=sha256:([0-9a-f]{64}))?(?:\s+# (\S+))?", line
        )
        if match is None:
            raise BadInput(f"{path} line {number}: {line.strip()!r} is no exact pin such as torch==2.0.1")
        pins.append(Pin(*match.groups()))
    versions = ((3, min(minors)), (3, max(minors)))
    return Stack(path.stem, path, tuple(pins), versions, tuple(head.get("source", "").split()))


def check_python(stack: Stack, python: str) -> None:
    """The Python that the environment is made with fits the stack.

    Raises:
        NotFit: it doesn't, or there is none.
    """
    try:
        said = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        raise NotFit(f"--python {python}: cannot be run") from None
    found, (low, high) = (int(said[0]), int(said[1])), stack.python
    if not low <= found <= high:
        wanted = f"3.{low[1]}" if low == high else f"3.{low[1]} to 3.{high[1]}"
        raise NotFit(
            f"{python} is Python {found[0]}.{found[1]}, but the stack {stack.name} is for {wanted}; "
            f"run this with python3.{low[1]}, or give --python"
        )


class Pip:
    """pip of one environment."""

    def __init__(self, python: Path, *sources: str) -> None:
        self.python, self.sources = python, sources

    def run(self, *words: str) -> None:
        """Run pip.

        Raises:
            JobFailed: it failed; its own last words.
        """
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *words]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode != 0:
            said = [
                line for line in done.stderr.splitlines() if line.startswith("ERROR")
            ] or done.stderr.splitlines()
            raise WorkFailed(f"pip {words[0]} failed: {' '.join(' '.join(said[-3:]).split())[-500:]}")

    def install(self, pins: Sequence[Pin], *words: str, hashes: bool) -> None:
        """Install pins; with ``hashes``, exactly these files and nothing else."""
        if pins:
            with requirements(pins if hashes else [Pin(p.name, p.version) for p in pins]) as file:
                extra = ("--require-hashes", "--no-deps") if hashes else ()
                self.run("install", "--quiet", *self.sources, *extra, *words, "-r", file)


@contextlib.contextmanager
def requirements(pins: Sequence[Pin]) -> Iterator[str]:
    """A requirements file of some pins."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(pin.line + "\n" for pin in pins))
        file.flush()
        yield file.name


def parts(stack: Stack) -> tuple[list[Pin], list[Pin], list[Pin]]:
    """The pins in the order of installing: build tools, wheels, sources."""
    source = [p for p in stack.pins if p.name in stack.source]
    tools = [p for p in stack.pins if p.name in BUILD_TOOLS]
    return tools, [p for p in stack.pins if p not in source and p not in tools], source


def make(stack: Stack, into: Path, python: str, wheelhouse: Path | None = None, *, dev: bool = False) -> bool:
    """Make, or go on making, the environment; False where it was there already.

    Args:
        wheelhouse: install from this directory alone, without a network.
        dev: also this project itself, editable, and the tools of its tests.
    """
    into = into.absolute()
    wanted = {"stack": stack.name, "sha256": stack.digest, "dev": dev_digest() if dev else None}
    with locked(into):
        if state(into) == wanted:
            return False
        (into / STATE).unlink(missing_ok=True)
        if not (into / "bin" / "python").exists():
            say(f"making {into}")
            subprocess.run([python, "-m", "venv", str(into)], check=True)
        check_python(stack, str(into / "bin" / "python"))
        sources = ("--no-index", "--find-links", str(wheelhouse.absolute())) if wheelhouse else ()
        pip = Pip(into / "bin" / "python", *sources)
        tools, wheels, source = parts(stack)
        for label, pins, words in (
            ("build tools", tools, ()),
            (f"{len(wheels)} packages", wheels, ("--prefer-binary",)),
            (f"from source: {', '.join(p.name for p in source)}", source, ("--no-build-isolation",)),
        ):
            if pins:
                say(label)
                # In a wheelhouse the sources are wheels built on the spot, whose hashes the wheelhouse's list keeps.
                hashes = stack.hashed and not (wheelhouse and pins is source)
                pip.install(pins, *words, *(("--no-deps",) if pins is source else ()), hashes=hashes)
        if dev:
            say("this project and the tools of its tests")
            pip.run("install", "--quiet", "-r", str(STACKS / "dev.txt"))
            pip.run("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(project()))
        if stack.hashed:
            pip.run("check")
        write_json(into / STATE, wanted)
    return True


def project() -> Path:
    """The checkout, which ``--dev`` installs.

    Raises:
        BadInput: this runs from an installed package.
    """
    top = checkout()
    if top is None:
        raise BadInput(
            "--dev: this is an installed package; the tools of its tests go with a checkout of the project"
        )
    return top


def dev_digest() -> str:
    """What the development part of an environment depends on."""
    files = (STACKS / "dev.txt", project() / "pyproject.toml")
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def state(into: Path) -> dict[str, str | None] | None:
    """What was installed into an environment, or None while it is not whole."""
    return read_json(into / STATE)


@contextlib.contextmanager
def locked(into: Path) -> Iterator[None]:
    """One at a time: a second call waits, and finds it done."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        (into / ".bootstrap.lock").touch()
    except OSError as error:
        raise BadInput(f"{into}: cannot make an environment here: {error.strerror}") from None
    with exclusive(into / ".bootstrap.lock", patience=None):
        yield


def collect(stack: Stack, wheelhouse: Path, python: str) -> None:
    """Fetch every file of a stack, build what has no wheel, and list all with their checksums.

    Files that are there already are not fetched again.
    """
    wheelhouse = wheelhouse.absolute()
    with locked(wheelhouse):
        builder = wheelhouse / ".build"
        if not (builder / "bin" / "python").exists():
            subprocess.run([python, "-m", "venv", str(builder)], check=True)
        pip = Pip(builder / "bin" / "python")
        tools, wheels, source = parts(stack)
        say(f"{len(tools) + len(wheels)} files")
        with requirements([*tools, *wheels]) as file:
            exact = ("--require-hashes", "--no-deps") if stack.hashed else ()
            pip.run(
                "download", "--quiet", "--only-binary", ":all:", *exact, "-d", str(wheelhouse), "-r", file
            )
        missing = [p for p in source if not built(wheelhouse, p)]
        if missing:
            say(f"from source: {', '.join(p.name for p in missing)}")
            pip.install(tools, hashes=stack.hashed)
            with requirements(missing) as file:
                words = ("--require-hashes",) if stack.hashed else ()
                pip.run(
                    "wheel",
                    "--quiet",
                    *words,
                    "--no-deps",
                    "--no-build-isolation",
                    "-w",
                    str(wheelhouse),
                    "-r",
                    file,
                )
        shutil.rmtree(builder)
        files = sorted(p for p in wheelhouse.iterdir() if p.suffix in (".whl", ".gz"))
        text = "".join(f"{sha256_file(p)}  {p.name}\n" for p in files)
        write_atomic(wheelhouse / SUMS, text)


def built(wheelhouse: Path, pin: Pin) -> bool:
    """A wheel of this version is there."""
    stem = f"{re.sub(r'[-_.]+', '_', pin.name)}-{pin.version}"
    return any(re.match(re.escape(stem) + r"[-+]", p.name, re.I) for p in wheelhouse.glob("*.whl"))


def verify(wheelhouse: Path) -> None:
    """Every file of a wheelhouse is the one that was collected.

    Raises:
        NotFit: a file is missing or another; or the directory was never whole.
    """
    try:
        lines = (wheelhouse / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise NotFit(
            f"{wheelhouse}: no {SUMS}: not a whole wheelhouse; collect it on a machine with a network: "
            + hints.command("hpc.bootstrap", "--stack", default_stack(), "--wheelhouse", wheelhouse)
        ) from None
    for line in lines:
        digest, _, name = line.partition("  ")
        if not (wheelhouse / name).is_file():
            raise NotFit(f"{wheelhouse / name}: missing; collect the wheelhouse again")
        if sha256_file(wheelhouse / name) != digest:
            raise NotFit(f"{wheelhouse / name}: not the file that was collected; delete it and collect again")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    p = argparse.ArgumentParser(
        prog="python -m hpc.bootstrap", description="Make the environment of a stack."
    )
    p.add_argument("--stack", required=True, metavar="S", help="a name in configs/stacks, or a file")
    p.add_argument("--into", type=Path, metavar="DIR", help="the environment (a virtual environment)")
    p.add_argument("--wheelhouse", type=Path, metavar="DIR", help="without --into: collect every file there")
    p.add_argument(
        "--offline", action="store_true", help="install from --wheelhouse alone, checksums checked first"
    )
    p.add_argument("--python", default=sys.executable, metavar="EXE", help="default: the one that runs this")
    p.add_argument(
        "--dev", action="store_true", help="also this project, editable, and the tools of its tests"
    )
    args = p.parse_args(argv)
    stack = read_stack(args.stack)
    if args.into is None and args.wheelhouse is None:
        raise BadInput("give --into DIR (make an environment) or --wheelhouse DIR (collect its files)")
    if args.offline and (args.wheelhouse is None or args.into is None):
        raise BadInput("--offline: give --wheelhouse DIR, collected before, and --into DIR")
    if args.wheelhouse is not None and args.into is not None and not args.offline:
        raise BadInput("--wheelhouse with --into: say --offline to install from it")
    check_python(stack, args.python)
    if args.into is None:
        collect(stack, args.wheelhouse, args.python)
        words = ("--stack", args.stack, "--into", "DIR", "--wheelhouse", args.wheelhouse, "--offline")
        say(f"collected: {args.wheelhouse}; install: {hints.command('hpc.bootstrap', *words)}")
        return 0
    if args.offline:
        verify(args.wheelhouse)
    new = make(stack, args.into, args.python, args.wheelhouse if args.offline else None, dev=args.dev)
    say(f"{'ready' if new else 'ready already'}: {args.into} ({stack.name})")
    return 0


def entry(argv: list[str] | None = None) -> int:
    """The command."""
    os.environ.pop("PYTHONPATH", None)  # another environment's packages must not be taken for installed
    try:
        return main(argv)
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(run_command(entry))
