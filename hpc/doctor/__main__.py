"""The command line of :mod:`hpc.doctor`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from hpc.batch import profile as cluster
from hpc.batch.profile import ClusterProfile
from hpc.core.errors import BadInput, HpcError
from hpc.core.resources import resource
from hpc.doctor import draft, examine
from hpc.doctor.checklist import show


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m hpc.doctor",
        description="Is this machine, this cluster, this environment fit? Run it on a login node.",
        epilog="Exit codes: 0 fit, 2 bad input, 3 not fit.",
    )
    p.add_argument(
        "--cluster",
        metavar="FILE",
        help="cluster profile; default: $GLMJOBS_CLUSTER, else configs/clusters/generic.yaml",
    )
    p.add_argument(
        "--stack", metavar="FILE", type=Path, help="pins to compare with; default: the stack for this Python"
    )
    p.add_argument(
        "--wheels", metavar="DIR", type=Path, help="also check a folder of wheels that you mean to install"
    )
    p.add_argument(
        "--remote-code", action="store_true", help="THUDM's own code is to be run (trust_remote_code)"
    )
    p.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    p.add_argument(
        "--write-profile",
        metavar="FILE",
        help="draft a cluster profile from sinfo and module avail (-: stdout)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """0 fit, 2 bad input, 3 not fit."""
    args = parser().parse_args(argv)
    try:
        if args.write_profile:
            return write_profile(args.write_profile)
        if args.stack is not None and not args.stack.is_file():
            raise BadInput(f"--stack {args.stack}: no such file; stacks are in configs/stacks")
        profile = load(args.cluster or os.environ.get("GLMJOBS_CLUSTER"))
        runs = Path(os.environ.get("GLMJOBS_RUNS", "runs")).absolute()
        rows = examine(profile, runs=runs, pins=args.stack, wheels=args.wheels, remote_code=args.remote_code)
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


def load(name: str | None) -> ClusterProfile:
    """A profile by path, or by its name in configs/clusters."""
    if name is None:
        return cluster.load(resource("configs/clusters/generic.yaml"))
    profiles = resource("configs/clusters")
    for place in (Path(name), profiles / name, profiles / f"{name}.yaml", resource(name)):
        if place.is_file():
            return cluster.load(place)
    known = ", ".join(sorted(p.stem for p in profiles.glob("*.yaml")))
    raise BadInput(f"--cluster {name}: no such file; profiles here: {known}")


def write_profile(where: str) -> int:
    """Draft a profile; never over a file that is there."""
    text = draft.draft()
    if where == "-":
        print(text, end="")
        return 0
    try:
        with Path(where).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(
            f"--write-profile {where}: it is there already; give another name, or - for stdout"
        ) from None
    except OSError as error:
        raise BadInput(f"--write-profile {where}: {error.strerror}") from None
    cluster.load(Path(where))
    print(f"{where}: look it through, then: python -m hpc.doctor --cluster {where}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
