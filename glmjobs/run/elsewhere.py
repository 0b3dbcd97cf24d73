"""Runs on a cluster that is reached by ssh (``cluster.login`` of its profile): what is typed here is done there.

The same commands run there, in ``cluster.remote_dir``, and what they write and their exit codes come back as they are.
``submit`` sends the recipe and the profile along; models and data are paths there. Which runs were sent from here is
kept beside the runs of this machine, one small file a run, written before the run is sent: the same command after a
lost connection meets the same run, whose lock and ledger there see to it that nothing is queued twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmjobs import __version__
from glmjobs.run import locate
from hpc.core import ssh
from hpc.core.errors import BadInput, NotFit
from hpc.core.files import Json, exclusive, read_json, write_atomic, write_json

if TYPE_CHECKING:
    from glmjobs.recipe.schema import Recipe
    from hpc.batch.profile import Profile

NOT_BY_SSH = ("sweep", "rehearse")

THERE = "GLMJOBS_CAME_BY_SSH"
"""Set for a command that has come from another machine: it goes no further."""

IN_PLACE = """
cd "$1" 2>/dev/null || {
 echo "error: $4: there is no directory $1 that you can go to; cluster.remote_dir names it" >&2; exit 3; };
"""
START = """
p=$2/bin/python; [ -n "$2" ] || p=.venv/bin/python;
[ -x "$p" ] || { [ -z "$2" ] && p=python3; } || {
 echo "error: $4: there is no $p; cluster.environment.python names an environment there" >&2; exit 3; };
v=$("$p" -c "import glmjobs; print(glmjobs.__version__)" 2>/dev/null) || {
 echo "error: $4: $p in $1 starts no glmjobs; put the checkout and its environment there as here" >&2; exit 3; };
[ "$v" = "$3" ] || echo "note: $4 has glmjobs $v, this is $3" >&2;
e=$5; shift 5; exec env $e "$p" -m glmjobs "$@"
"""
AT_RUNS = """
cd "$1" && cd "${GLMJOBS_RUNS:-runs}" 2>/dev/null || exit 0;
"""
KEEP = """
d=${GLMJOBS_RUNS:-runs}/.sent; umask 077;
mkdir -p "$d" && cat >"$d/$5.$$" && mv "$d/$5.$$" "$d/$5" && echo "$d/$5"
"""
PAGE = """
cd "$1" && { case "$5" in /*) cd "$5";; *) cd "${GLMJOBS_RUNS:-runs}/$5" 2>/dev/null || cd "$5";; esac; } &&
 cat report/report.html
"""


@dataclass(frozen=True)
class Place:
    """A login, the directory there, and the prefix of the Python there ("": ``.venv`` there, else python3)."""

    login: str
    directory: str
    python: str = ""

    @classmethod
    def of(cls, profile: Profile) -> Place | None:
        """A profile's; None: it names none."""
        if profile.login is None or profile.remote_dir is None:
            return None
        return cls(profile.login, profile.remote_dir, profile.environment.python or "")

    def run(self, words: Sequence[str]) -> int:
        """Run a command of glmjobs there; its exit code.

        Raises:
            NotFit: there is no connection, or it was lost; or the directory or Python there is none.
        """
        code = ssh.Remote(self.login).run(line(IN_PLACE + START), [*self._words(), terminal(), *words])
        if code == ssh.LOST:
            raise NotFit(
                f"{self.login}: the connection was lost; the same command again finds out how it stands"
            )
        return code

    def runs(self) -> list[str]:
        """The names in the folder of the runs there."""
        text = self._ask(AT_RUNS + "ls -A")[1].decode("utf-8", "replace")
        return text.splitlines()

    def has(self, run: str) -> bool:
        """Whether there is a run of this name."""
        return self._ask(AT_RUNS + '[ -f "$5/run.yaml" ] && echo yes', run)[1].strip() == b"yes"

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this path, from the directory there."""
        return self._ask('cd "$1" && [ -e "$5" ] && echo yes', path)[1].strip() == b"yes"

    def keep(self, file: Path) -> str:
        """Send a small file; its path there. The same content has the same path.

        Raises:
            NotFit: it cannot be kept there.
            BadInput: it cannot be read here.
        """
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BadInput(f"{file}: cannot be read: {error.strerror}") from None
        name = f"{hashlib.sha256(content).hexdigest()[:16]}-{file.name}"
        code, path, said = self._ask(IN_PLACE + KEEP, name, given=content)
        if code != 0:
            why = said.strip().rpartition("\n")[2].removeprefix("error: ")
            raise NotFit(why if code == 3 else f"{self.login}: {file.name} cannot be kept there: {why}")
        return path.decode("utf-8").rstrip("\n")

    def page(self, run: str) -> bytes:
        """A run's report; nothing where there is none."""
        return self._ask(PAGE, run)[1]

    def _ask(self, script: str, *words: str, given: bytes = b"") -> tuple[int, bytes, str]:
        code, out, said = ssh.Remote(self.login).ask(line(script), [*self._words(), *words], given=given)
        if code == ssh.LOST:
            raise NotFit(f"{self.login}: the connection was lost; nothing was changed there")
        return code, out, said

    def _words(self) -> list[str]:
        return [self.directory, self.python, __version__, self.login]


def line(script: str) -> str:
    """A script on one line: csh takes no other in quotes."""
    return script.replace("\n", " ")


def terminal() -> str:
    """What a command there is to know of this terminal, as variables for ``env``, to write as if it had it."""
    found = [f"{THERE}=1"]
    if sys.stdout.isatty():
        size = shutil.get_terminal_size()
        found += ["FORCE_COLOR=1", f"COLUMNS={size.columns}", f"LINES={size.lines}"]
        if re.fullmatch(r"[A-Za-z0-9._-]+", os.environ.get("TERM", "")):
            found.append(f"TERM={os.environ['TERM']}")
    return " ".join(found)


def go(command: str, argv: Sequence[str]) -> int | None:
    """Do one of :data:`glmjobs.cli.BY_SSH` where it belongs, if that is not here; its exit code. None: it is for this
    machine.

    Raises:
        NotFit: the cluster cannot be reached.
        BadInput: wrong words; or a command that cannot be sent.
    """
    if THERE in os.environ or {"-h", "--help"} & set(argv):
        return None
    if command == "submit":
        return submit(argv)
    if command in NOT_BY_SSH:
        profile = _profile(_parsed(command, argv))
        if profile is not None and profile.login:
            where = f"log in to {profile.login} and start it there, in {profile.remote_dir}"
            raise BadInput(f"{command}: not over ssh: {where}")
        return None
    run = getattr(_parsed(command, argv), "run", None)
    place = of_run(run)
    if place is None:
        return None
    code = place.run([command, *argv])
    if command == "report" and code == 0 and run is not None:
        copy_report(place, run)
    return code


def of_run(run: str | None) -> Place | None:
    """Where a run is that is not on this machine: as was kept when it was sent, else the cluster that
    ``$GLMJOBS_CLUSTER`` names. None: here."""
    if run is not None:
        with contextlib.suppress(BadInput):
            locate.locate(run)
            return None
        known = locate.sent(run)
        if known is not None:
            return Place(**known["place"])
    if not os.environ.get("GLMJOBS_CLUSTER"):
        return None
    from glmjobs.recipe import loading
    from hpc.batch import profile as profiles

    return Place.of(profiles.load(loading.profile_file(None, "slurm")))


def submit(argv: Sequence[str]) -> int | None:
    """Send a run to its cluster; None: its profile names no login."""
    from glmjobs.recipe import loading
    from glmjobs.run.jobs import asked

    args = _parsed("submit", argv)
    profile = _profile(args)
    place = Place.of(profile) if profile is not None else None
    if profile is None or place is None:
        return None
    if args.rehearse:
        raise BadInput(
            f"--rehearse: not over ssh: log in to {place.login} and start it there, in {place.directory}"
        )
    executor = "slurm" if args.executor == "auto" else args.executor
    asked(args, executor)
    recipe, _ = loading.load_both(args.recipe, args.cluster, args.overrides, executor)
    files = [loading.find_config(args.recipe), loading.profile_file(args.cluster, executor)]
    words = [
        *argv,
        "--executor",
        executor,
        "--recipe",
        place.keep(files[0]),
        "--cluster",
        place.keep(files[1]),
    ]
    if recipe.train.deepspeed and (own := loading.find_config(recipe.train.deepspeed)).is_file():
        words += ["--set", f"train.deepspeed={place.keep(own)}"]
    if args.dry_run:
        return place.run(["submit", *words, "--name", args.name or free_name(recipe, place)])
    name, again = _claim(place, recipe, args.name, words)
    if again and place.has(name):
        print(f"note: {name} was sent before, and no answer came: it is there, and goes on", file=sys.stderr)
        code = place.run(["heal", name, *(f"--{word}" for word in ("json", "follow") if getattr(args, word))])
    else:
        code = place.run(["submit", *words, "--name", name])
    if code == 2:
        _say_what_is_here(place, recipe)
    if code == 0 or (code != 130 and place.has(name)):
        write_json(locate.sent_record(name), {"place": asdict(place), "open": ""})
    elif code != 130:
        locate.sent_record(name).unlink(missing_ok=True)
    return code


def _claim(place: Place, recipe: Recipe, given: str | None, words: Sequence[str]) -> tuple[str, bool]:
    """The run's name, on record as sent from now on; and whether the same was sent before without an answer."""
    same = hashlib.sha256("\0".join([*asdict(place).values(), *words]).encode()).hexdigest()
    folder = locate.parent() / locate.SENT
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / "lock", patience=60.0):
        for file in sorted(folder.glob("*.json")):
            known: Json = read_json(file) or {}
            if known.get("open") == same and given in (None, file.stem):
                return file.stem, True
        name = given or free_name(recipe, place)
        write_json(locate.sent_record(name), {"place": asdict(place), "open": same})
        return name, False


def free_name(recipe: Recipe, place: Place) -> str:
    """The recipe's name with the lowest number above all that are there or were sent there."""
    names = [*place.runs(), *(file.stem for file in (locate.parent() / locate.SENT).glob("*.json"))]
    found = (re.fullmatch(re.escape(recipe.name) + r"-(\d+)", name) for name in names)
    return f"{recipe.name}-{max((int(match[1]) for match in found if match), default=0) + 1}"


def _say_what_is_here(place: Place, recipe: Recipe) -> None:
    """Models and data that are on this machine and not there."""
    named = [recipe.model.path, recipe.data.path, *(source.path for source in recipe.data.sources)]
    for path in filter(None, named):
        if Path(path).exists() and not place.exists(path):
            to = path if Path(path).is_absolute() else f"{place.directory.rstrip('/')}/{path}"
            print(
                f"note: {path} is on this machine and not there: rsync -a it to {place.login}:{to}",
                file=sys.stderr,
            )


def copy_report(place: Place, run: str) -> None:
    """Bring a run's page here: ``NAME.html`` beside the runs."""
    page, content = locate.parent() / f"{Path(run).name}.html", place.page(run)
    if content:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(page, content)
        print(f"copy  {page}", file=sys.stderr)


def _parsed(command: str, argv: Sequence[str]) -> Any:
    return importlib.import_module(f"glmjobs.{command}").parser().parse_args(list(argv))


def _profile(args: Any) -> Profile | None:
    """The profile that a command would use; None: it stays on this machine for certain."""
    from glmjobs.recipe import loading
    from hpc.batch import profile as profiles

    overrides, _ = loading.split_overrides(args.overrides)
    named = args.cluster or os.environ.get("GLMJOBS_CLUSTER")
    if getattr(args, "executor", "auto") == "local" or not (named or overrides):
        return None
    return profiles.load(loading.profile_file(args.cluster, "slurm"), overrides)
