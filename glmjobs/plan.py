"""`python -m glmjobs.plan --nodes 1 --gpus 8`: memory, disk, steps and time of a training, before it costs GPU hours.

Everything is counted from the recipe and the model's config.json (or the published sizes, where the model is not here);
nothing is loaded and no torch imported. The formulas are in :mod:`glmjobs.planning.memory` and are tested against what
torch allocates. A setting fits where it takes at most :data:`ROOM` of a GPU's memory: the formulas are good to 10 %,
and CUDA's context and NCCL's buffers want room too.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from glmjobs.cli import add_overrides, add_shape, run_command
from glmjobs.planning.estimate import BELLE_TOKENS, GB, UTILISATION, plan
from glmjobs.recipe.loading import DEFAULT_RECIPE, load_both
from glmjobs.run.jobs import make_shape
from hpc.core import hints
from hpc.core.errors import BadInput, reading_what_was_named


def show(document: dict[str, Any]) -> None:
    """The document as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    model, shape, gpu, data = (document[key] for key in ("model", "shape", "gpu", "data"))
    source = "" if model["read"] else " (published sizes: its directory is not here)"
    rows = f"{data['rows']:,} examples" + ("" if data["counted"] else " (BELLE's: the file is not here)")
    assumed = data["counted"] and data["tokens_from"] == "assumed"
    average = f"{data['tokens_per_example']:g} tokens on average" + (
        " (assumed, as BELLE's: the tokenizer is not here; --tokens N says it)" if assumed else ""
    )
    for line in (
        f"model       {model['name']}, {model['parameters']:,} parameters{source}",
        f"data        {rows} of {average}",
        *(
            f"            {name}: {examples:,} examples an epoch"
            for name, examples in data["sources"].items()
        ),
        *([f"            {data['too_long']}"] if "too_long" in data else []),
        f"GPUs        {shape['nodes']} × {shape['gpus']} {gpu['kind']} of {gpu['memory_gb']} GB; GB on each:",
    ):
        console.print(line, soft_wrap=True)
    parts = ("parameters", "gradients", "optimizer", "activations", "buckets", "total")
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("weights", *parts[1:], "hours"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    table.add_column("smallest", no_wrap=True)
    table.add_column("fullest at", no_wrap=True)
    given = document["setting"]
    rest = [row for row in document["settings"] if row["name"] != given["name"]]
    for row in (given, *rest):
        memory = [f"{row['memory'][part] / GB:.1f}" for part in parts]
        label = f"{'* ' if row is given else '  '}{row['name']}"
        table.add_row(
            label,
            *memory,
            f"{row['hours']:.1f}",
            "yes" if row["fits"] else "no",
            row["smallest_gpu"],
            row["moment"],
        )
    Console(highlight=False, width=max(console.width, 140)).print(table)
    sizes = {key: f"{document[key] / GB:,.1f} GB" for key in document if "bytes" in key}
    console.print(
        "* the recipe as it is; each row at the moment of its step that needs most memory\n"
        f"steps       {given['steps']:,} of {given['per_device_batch_size']} examples a GPU"
        f" × {given['gradient_accumulation']}"
    )
    console.print(f"checkpoint  {sizes['checkpoint_bytes']}; model {sizes['model_bytes']}")
    console.print(f"disk        {sizes['disk_bytes']} for the run, while the next checkpoint is written")
    console.print(
        f"host        {sizes['host_bytes_per_node']} a node, besides the libraries' own, while loading and saving"
    )
    source = {"assumed": "assumed, not measured", "given": "as given"}.get(
        document["utilisation_from"], f"measured by a rehearsal, {document['utilisation_from']}"
    )
    console.print(f"hours       if a GPU computes at {document['utilisation']:.0%} of its peak: {source}")
    propose(console, document)


def propose(console: Any, document: dict[str, Any]) -> None:
    """The last line: what to do."""
    best, gpu = document["proposal"], document["gpu"]
    if best is None:
        other = hints.settings(document["with_lora"] or []) or "GPUs with more memory"
        console.print(
            f"proposal    nothing fits {gpu['memory_gb']} GB: take more GPUs, or {other}", soft_wrap=True
        )
    elif not best["set"]:
        console.print("proposal    this recipe as it is: nothing faster fits")
    else:
        words = hints.settings(best["set"])
        console.print(
            f"proposal    {best['name']}: {best['memory']['total'] / GB:.1f} GB, {best['hours']:.1f} hours\n"
            f"            {words}",
            soft_wrap=True,
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.plan",
        description="Memory, disk, steps and hours of a training, before it costs GPU hours.",
        epilog="Exit codes: 0 something fits, 2 bad input, 3 nothing fits.",
    )
    add_shape(p)
    p.add_argument("--recipe", metavar="FILE", default=DEFAULT_RECIPE, help="default: %(default)s")
    p.add_argument("--cluster", metavar="FILE", help="cluster profile: the GPU's kind and its memory")
    add_overrides(
        p, "override a field of the recipe, or of the profile: cluster.gpu_memory_gb=40; repeatable"
    )
    p.add_argument(
        "--tokens", type=float, metavar="N", help=f"of an example on average (default {BELLE_TOKENS})"
    )
    p.add_argument(
        "--utilisation", type=float, metavar="X",
        help="share of a GPU's peak at which it computes, recomputation included (default: what the profile's newest "
        f"rehearsal has measured, else {UTILISATION})",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return p


def main(argv: list[str] | None = None) -> int:
    """Plan and print; 3 where nothing fits."""
    args = parser().parse_args(argv)
    if args.utilisation is not None and not 0 < args.utilisation <= 1:
        raise BadInput(f"--utilisation {args.utilisation:g}: a share above 0, at most 1")
    if args.tokens is not None and not 1 <= args.tokens <= 1_000_000:
        raise BadInput(f"--tokens {args.tokens:g}: tokens of an example, from 1 on")
    recipe, profile = load_both(args.recipe, args.cluster, args.overrides, "slurm")
    shape = make_shape(args.nodes, args.gpus, "slurm")
    with reading_what_was_named():
        document = plan(recipe, profile, shape, tokens=args.tokens, utilisation=args.utilisation)
    if args.json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    else:
        show(document)
    return 0 if document["proposal"] else 3


if __name__ == "__main__":
    raise SystemExit(run_command(main))
