"""`python -m glmjobs.template [NAME]`: recipes, cluster profiles, DeepSpeed settings and batch scripts to start from.

    python -m glmjobs.template                                            their names
    python -m glmjobs.template configs/clusters/centos7-a100.yaml > mine.yaml

They come with the package, so there need be no checkout; every command takes them by these names where no file of that
name is found.
"""

from __future__ import annotations

import argparse

from glmjobs.cli import run_command
from hpc.core.resources import resource

FOLDERS = {"configs": "*.yaml", "configs/clusters": "*.yaml", "configs/deepspeed": "*.json", "sbatch": "*.sh"}


def names(*folders: str) -> list[str]:
    """The files of some of :data:`FOLDERS`, as ``folder/name``."""
    found = {folder: resource(folder, "glmjobs", "hpc").glob(FOLDERS[folder]) for folder in folders}
    return [f"{folder}/{name}" for folder, files in found.items() for name in sorted(f.name for f in files)]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.template", description="Recipes, profiles and batch scripts to start from."
    )
    p.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        choices=names(*FOLDERS),
        help="print this one; without it: the names",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """List the files, or print one."""
    name = parser().parse_args(argv).name
    if name is None:
        print("\n".join(names(*FOLDERS)))
    else:
        print(resource(name, "glmjobs", "hpc").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
