"""The model families and what is supported of them; or what a model directory is.

python -m glmjobs.models
python -m glmjobs.models DIR            its family, release and sizes, and what keeps it from being used
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from glmjobs.cli import run_command
from glmjobs.models.family import Family, families, family_for, read_config
from hpc.core.errors import BadInput

COLUMNS = ("family", "models", "train", "LoRA", "packed", "chat", "vLLM")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.models", description="the model families, or what a model directory is"
    )
    p.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="a model directory")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    args = parser().parse_args(argv)
    if args.dir is None:
        every = [describe(family) for family in families().values()]
        print(json.dumps(every, ensure_ascii=False, indent=2) if args.json else table(every))
        return 0
    found = look_at(args.dir)
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print(
            f"{args.dir}: {found['title']}, {found['parameters']:,} parameters in {found['layers']} layers "
            f"(model.family: {found['family']}); "
            + (f"not usable: {found['problem']}" if found["problem"] else "usable")
        )
    return 2 if found["problem"] else 0


def describe(family: Family) -> dict[str, Any]:
    """What is supported of a family: every stage takes each, so what differs is where it runs."""
    missing = family.unavailable()
    return {
        "family": family.name, "title": family.title, "models": list(family.directories), "train": missing is None,
        "LoRA": missing is None, "packed": missing is None, "chat": missing is None, "vLLM": family.vllm,
        "unavailable": missing,
    }  # fmt: skip


def table(every: list[dict[str, Any]]) -> str:
    """The descriptions side by side, and below them what this environment lacks."""
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    for one in every:
        cells = {
            name: {True: "yes", False: "no"}.get(one[name], one[name]) for name in ("family", *COLUMNS[2:])
        }
        rows += [
            {**cells, "models": name} if i == 0 else {"models": name}
            for i, name in enumerate(one["models"] or [""])
        ]
    widths = {name: max(len(row.get(name, "")) for row in rows) for name in COLUMNS}
    lines = ["  ".join(row.get(name, "").ljust(widths[name]) for name in COLUMNS).rstrip() for row in rows]
    return "\n".join([*lines, *(one["unavailable"] for one in every if one["unavailable"])])


def look_at(directory: Path) -> dict[str, Any]:
    """What a directory holds; ``problem`` is what a job that takes it would be refused for, or None.

    Raises:
        BadInput: it is no model directory, or of no family.
    """
    if not directory.is_dir():
        what = "no directory" if directory.exists() else "no such directory"
        raise BadInput(f"{directory}: {what}; a model directory has a config.json and weights")
    family = family_for(directory)
    sizes = family.architecture(read_config(directory))
    try:
        family.check(directory)
        problem = None
    except BadInput as error:
        problem = str(error)
    return {
        "family": family.name, "title": family.title, "parameters": sizes.parameters, "layers": sizes.layers,
        "problem": problem,
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run_command(main))
