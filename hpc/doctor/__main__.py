"""The command line of :mod:`hpc.doctor`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpc.batch import profile as profiles
from hpc.batch.profile import Profile
from hpc.core import hints
from hpc.core.command import run_command
from hpc.core.errors import BadInput, HpcError
from hpc.core.files import write_atomic
from hpc.core.resources import resource
from hpc.doctor import draft, examine
from hpc.doctor.checklist import Row, show


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Whose doctor it is: the command's name, variables that stand for its words, how findings are mended."""

    prog: str = "python -m hpc.doctor"
    cluster: str = "HPC_CLUSTER"
    runs: str = "HPC_RUNS"
    remedies: Mapping[str, str] = field(default_factory=dict)
    words: Callable[[argparse.ArgumentParser], None] | None = None
    """Adds options of its own."""
    more: Callable[[argparse.Namespace, Profile, Path], tuple[Profile, list[Row]]] | None = None
    """From what was typed, the profile, and where runs go: the profile as it is to be judged, and rows of its own."""


def parser(setting: Setting) -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=setting.prog,
        description="Is this machine, this cluster, this environment fit? Run it on a login node.",
        epilog="Exit codes: 0 fit, 2 bad input, 3 not fit.",
    )
    p.add_argument(
        "--cluster",
        metavar="FILE",
        help=f"cluster profile; default: ${setting.cluster}, else configs/clusters/generic.yaml",
    )
    p.add_argument(
        "--stack", metavar="FILE", type=Path, help="pins to compare with; default: the stack for this Python"
    )
    p.add_argument(
        "--wheels", metavar="DIR", type=Path, help="also check a folder of wheels that you mean to install"
    )
    p.add_argument(
        "--remote-code", action="store_true", help="a model's own code is to be run (trust_remote_code)"
    )
    p.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    p.add_argument(
        "--write-profile",
        metavar="FILE",
        help="draft a cluster profile from sinfo and module avail (-: stdout)",
    )
    if setting.words is not None:
        setting.words(p)
    return p


def main(argv: list[str] | None = None, setting: Setting | None = None) -> int:
    """0 fit, 2 bad input, 3 not fit."""
    setting = setting or Setting()
    args = parser(setting).parse_args(argv)
    try:
        if args.write_profile:
            return write_profile(args.write_profile)
        if args.stack is not None and not args.stack.is_file():
            raise BadInput(f"--stack {args.stack}: no such file; stacks are in configs/stacks")
        profile = load(args.cluster or os.environ.get(setting.cluster))
        if profile.login:
            print(
                f"note: profile {profile.name} is of another place, this is {os.uname().nodename}: log in to "
                f"{profile.login} and start doctor there",
                file=sys.stderr,
            )
        runs = Path(os.environ.get(setting.runs, "runs")).absolute()
        profile, more = setting.more(args, profile, runs) if setting.more is not None else (profile, [])
        rows = examine(
            profile, runs=runs, pins=args.stack, wheels=args.wheels, remote_code=args.remote_code,
            remedies=setting.remedies,
        )  # fmt: skip
        rows += more
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    fit = all(row.state != "bad" for row in rows)
    if args.json:
        document = {
            "fit": fit,
            "profile": profile.name,
            "host": os.uname().nodename,
            "checks": [r.to_json() for r in rows],
        }
        print(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        show(rows, f"doctor: {os.uname().nodename}, profile {profile.name}")
    return 0 if fit else 3


def load(name: str | None) -> Profile:
    """A profile by path, or by its name in configs/clusters."""
    if name is None:
        return profiles.load(resource("configs/clusters/generic.yaml"))
    folder = resource("configs/clusters")
    for place in (Path(name), folder / name, folder / f"{name}.yaml", resource(name)):
        if place.is_file():
            return profiles.load(place)
    known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise BadInput(f"--cluster {name}: no such file; profiles here: {known}")


def write_profile(where: str) -> int:
    """Draft a profile; never over a file that is there."""
    text = draft.draft()
    if where == "-":
        print(text, end="")
        return 0
    write_new(Path(where), text)
    checked = hints.command("hpc.doctor", "--cluster", where)
    print(f"{where}: look it through, then: {checked}", file=sys.stderr)
    return 0


def write_new(path: Path, text: str) -> None:
    """Write a drafted profile whole, or not at all; and read it.

    Raises:
        BadInput: there is such a file already, or it cannot be written.
    """
    if path.exists():
        raise BadInput(f"--write-profile {path}: it is there already; give another name, or - for stdout")
    try:
        path.parent.stat()  # a directory that is missing may be a wrong word
        write_atomic(path, text)
    except OSError as error:
        raise BadInput(f"--write-profile {path}: {error.strerror}") from None
    profiles.load(path)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
