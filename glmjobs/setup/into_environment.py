"""The first step: an environment with the packages of a stack, and this command going on in it.

Standard library only, since there may be nothing else yet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from glmjobs.setup.asking import Answers
from hpc import bootstrap
from hpc.core import hints
from hpc.core.errors import BadInput, NotFit
from hpc.core.resources import LIGHT, TOP, checkout, default_stack

NEEDED = (*LIGHT, "torch", "transformers", "accelerate", "deepspeed")
"""Without these no job runs; whether their versions go together is the doctor's to say."""

LOOK = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class IntoEnvironment:
    """The Python that has all packages: this one, one that is named, or one that is made here.

    Attributes:
        place: its prefix.
        whole: it is there.
    """

    title = "environment"

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.place, self.whole = Path(sys.prefix), False

    def found(self) -> str:
        """This Python, where it has what is needed; or the one that was named."""
        named = self.answers.known("environment") is not None
        self.place = self.answers.ask("environment", "", None, directory) if named else Path(sys.prefix)
        versions = packages(self.place)
        if all(name in versions for name in LIGHT) and not named and (where := elsewhere(self.answers)):
            self.whole = True
            return f"{self.place}, to submit from; {where}"
        if bootstrap.state(self.place) is None and any(name not in versions for name in NEEDED):
            return ""
        self.whole = True
        told = ("torch", "transformers", "deepspeed")
        shown = ", ".join(f"{name} {versions[name]}" for name in told if name in versions)
        return f"{self.place}: {shown or 'as its stack has it'}"

    def ask(self) -> None:
        """Where it goes."""
        own = sys.prefix if self._of_this_package(Path(sys.prefix)) else (checkout() or Path.cwd()) / ".venv"
        self.place = self.answers.ask(
            "environment",
            "Directory of the Python environment (several GB; every node has to see it)",
            own,
            directory,
        )

    def would(self) -> str:
        """Make it."""
        return f"make {self.place} with the packages of the stack {self.stack} (minutes)"

    def do(self) -> str:
        """Make it, or go on making it; nothing that was not made so is changed."""
        there = (self.place / "bin" / "python").exists()
        if there and not (begun(self.place) or self._of_this_package(self.place)):
            missing = [name for name in NEEDED if name not in packages(self.place)]
            raise NotFit(
                f"{self.place}: it lacks {', '.join(missing)}, and was not made here: install them there "
                f"({self.by_hand()}), or name another --environment"
            )
        self.answers.keep("stack", "wheelhouse")
        path = os.environ.pop("PYTHONPATH", None)  # another environment's packages are not this one's
        try:
            bootstrap.main(self._words())
        finally:
            if path is not None:
                os.environ["PYTHONPATH"] = path
        self.whole = True
        return f"made: {self.place}"

    def by_hand(self) -> str:
        """hpc.bootstrap."""
        return hints.command("hpc.bootstrap", *self._words())

    @property
    def stack(self) -> str:
        """The stack that is installed: the one that is named, else the one for this Python."""
        return str(self.answers.known("stack") or default_stack())

    @staticmethod
    def _of_this_package(place: Path) -> bool:
        """It is the virtual environment that this package was installed into."""
        return checkout() is None and sys.prefix != sys.base_prefix and place == Path(sys.prefix)

    def _words(self) -> list[str]:
        words = ["--stack", self.stack, "--into", str(self.place)]
        wheels = self.answers.known("wheelhouse")
        return [*words, "--wheelhouse", str(wheels), "--offline"] if wheels else words


def directory(text: str) -> Path:
    """A check: an environment, or a directory where one can be made."""
    path = Path(text).expanduser().absolute()
    if not text or (path.exists() and not path.is_dir()):
        raise BadInput("a directory, which need not be there yet")
    if not begun(path) and path.is_dir() and any(path.iterdir()) and not (path / "bin" / "python").exists():
        raise BadInput(f"{path} has other things in it: name an environment (bin/python), or a new directory")
    return path


def begun(place: Path) -> bool:
    """hpc.bootstrap has been at work there."""
    return (place / ".bootstrap.lock").exists()


def elsewhere(answers: Answers) -> str:
    """Where the jobs find their packages by the cluster profile, in words; "": where this command runs."""
    from glmjobs.setup.settled import Settled

    settled = Settled(answers)
    if not settled.profile_path.exists():
        return ""
    environment = settled.profile().environment
    if environment.container is not None:
        return f"jobs run in {environment.container.image} ({settled.profile_path})"
    return f"jobs run in {environment.python} ({settled.profile_path})" if environment.python else ""


def packages(prefix: Path) -> dict[str, str]:
    """Those of :data:`NEEDED` that an environment has, with their versions."""
    here = prefix == Path(sys.prefix)
    python = Path(sys.executable) if here else prefix / "bin" / "python"
    environ = {k: v for k, v in os.environ.items() if here or k != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [str(python), "-c", LOOK, *NEEDED], capture_output=True, encoding="utf-8", errors="replace", env=environ,
            check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return {}


def enter(prefix: Path, argv: list[str]) -> None:
    """Go on as a process of that environment's Python; return where this is it.

    Raises:
        NotFit: the toolkit itself is installed in this Python alone.
    """
    if prefix.resolve() == Path(sys.prefix).resolve():
        return
    python = prefix / "bin" / "python"
    environ = dict(os.environ)
    if checkout() is not None:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TOP), environ.get("PYTHONPATH")]))
    elif subprocess.run([python, "-c", "import glmjobs.setup"], capture_output=True, check=False).returncode:
        raise NotFit(f"{prefix}: glmjobs is not installed there: {python} -m pip install --no-deps its wheel")
    sys.stdout.flush()
    os.execve(python, [str(python), "-m", "glmjobs.setup", *argv], environ)
