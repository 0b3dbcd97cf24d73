"""The preflight stage: `python -m glmjobs.preflight RUN`, one process per node, before the model loads.

Checks the node (:mod:`hpc.preflight`); the first node also puts the inputs in place (data read, checked and split;
a small base model where the recipe makes one), so that bad data ends the job here.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.table import Table

from glmjobs.cli import run_command
from glmjobs.errors import NotFit, WorkFailed
from glmjobs.run import PROJECT, Run
from hpc import ledger, ranks
from hpc.preflight import Need, NodeReport, check_node, node_name

WAIT_SECONDS = 600.0
PACKAGES = (
    "torch",
    "transformers",
    "deepspeed",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "submitit",
)


def main(argv: list[str] | None = None) -> int:
    """Check this node; 0 fit, 3 not."""
    parser = argparse.ArgumentParser(
        prog="python -m glmjobs.preflight", description="Check the nodes of a run."
    )
    parser.add_argument("run", help="run directory, or its name under runs/")
    run = Run.open(parser.parse_args(argv).run)
    place = ranks.find(run.jobs("preflight"))
    try:
        return preflight(run, place)
    except BaseException as error:
        ranks.record_failure(run.jobs("preflight"), place.rank, error)
        raise


def preflight(run: Run, place: ranks.Ranks) -> int:
    """One node's part; the first node gathers the others' and writes the marker."""
    started = ledger.now()
    report = check_node(run.path, needs(run))
    mine = run.jobs("preflight") / f"node-{place.rank}.json"
    ledger.write_json(mine, report.to_json())
    show(report)
    if not report.fit:
        bad = next(f for f in report.findings if not f.ok)
        raise NotFit(f"{report.node}: {bad.what}: found {bad.found}, needed {bad.needed}; {bad.remedy}")
    if place.rank == 0:
        from glmjobs import inputs

        prepared = inputs.ensure(run)
        ledger.write_json(run.path / "environment.json", environment())
        reports = gather(run, place.world_size, since=started)
        figures: dict[str, Any] = {
            "nodes": [r["node"] for r in reports],
            "train_rows": prepared.train,
            "dev_rows": prepared.dev,
            "dropped": sum(prepared.dropped_by_reason.values()),
            "dev_rows_in_train": prepared.record["overlap"]["dev_in_train"],
        }
        run.mark("preflight", started=started, outputs=[mine], figures=figures)
    return 0


def needs(run: Run) -> Need:
    """What each node of this run must have."""
    gpus = run.shape.gpus if run.recipe.train.device == "cuda" else 0
    return Need(
        gpus=gpus,
        gpu_memory=run.cluster.gpu_memory_gb * 10**9 if gpus else 0,
        host_memory=2 << 30,
        disk=1 << 30,
    )


def gather(run: Run, nodes: int, since: str) -> list[ledger.Json]:
    """All nodes' reports of this attempt; waits for the slower ones."""
    end = time.monotonic() + WAIT_SECONDS
    missing = set(range(nodes))
    found: dict[int, ledger.Json] = {}
    while missing:
        for rank in sorted(missing):
            report = ledger.read_json(run.jobs("preflight") / f"node-{rank}.json")
            # Clocks of nodes differ a little: a report from shortly before this rank started is of this attempt.
            if report and _seconds(str(report["time"])) > _seconds(since) - 60:
                found[rank] = report
        missing -= set(found)
        if missing and time.monotonic() > end:
            raise WorkFailed(
                f"no report from node {min(missing)} within {WAIT_SECONDS:.0f} s; can it see {run.path}?"
            )
        if missing:
            time.sleep(0.1)
    return [found[rank] for rank in sorted(found)]


def _seconds(when: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(when.replace("Z", "+00:00")).timestamp()


def environment() -> ledger.Json:
    """Code revision, package versions and machine, for the run's environment.json."""
    import os

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    git = subprocess.run(
        ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "time": ledger.now(),
        "code": git.stdout.strip() if git.returncode == 0 else metadata.version("glmjobs"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "modules": [m for m in os.environ.get("LOADEDMODULES", "").split(":") if m],
        "nodes": os.environ.get("SLURM_JOB_NODELIST") or node_name(),
    }


def show(report: NodeReport) -> None:
    """The node's table, into the log."""
    table = Table(title=f"preflight: {report.node}", title_justify="left")
    for column in ("what", "found", "needed", ""):
        table.add_column(column)
    for finding in report.findings:
        table.add_row(
            finding.what, finding.found, finding.needed, "ok" if finding.ok else f"NO: {finding.remedy}"
        )
    Console(file=sys.stderr, width=120).print(table)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
