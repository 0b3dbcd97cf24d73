"""The preflight stage: `python -m glmjobs.preflight RUN`, one process per node, before the model loads.

Each node checks itself (:mod:`hpc.health.checks`) and hands in a report. The first one gathers them, has all ranks
measure their all-reduce, and decides: a bad node is recorded, and the job starts again without it
(:mod:`hpc.runtime.exclude_nodes`); a bad configuration ends with one table. Then it puts the inputs in
place (data read, checked and split; a small base model where the recipe makes one), so that bad data ends the job here.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from glmjobs.cli import run_command
from glmjobs.planning.on_nodes import needs, with_save, with_settings
from glmjobs.recipe.deepspeed_config import deepspeed_config
from glmjobs.recipe.schema import ScoreSection, TrainSection
from glmjobs.run.directory import Run
from glmjobs.run.kept_code import revision
from glmjobs.scoring.judges import load
from hpc.batch.profile import Floor
from hpc.core import timestamps
from hpc.core.errors import NotFit
from hpc.core.files import Json, read_json, write_json
from hpc.health.checks import Finding, NodeReport, check_node, node_name
from hpc.health.clock_skew import ClockServer, offset
from hpc.health.exchange import NodeExchange, Verdict, judge, poll
from hpc.runtime.failures import record_failure
from hpc.runtime.rendezvous import Rank, discover_rank, free_port

ALLREDUCE_SECONDS = 120
"""For the processes of the all-reduce to start, meet and measure."""

COMPILE_SECONDS = 600
COMPILE_ADAM = ("from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()",)

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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.preflight", description="Check the nodes of a run.")
    p.add_argument("run", help="run directory, or its name under runs/")
    return p


def main(argv: list[str] | None = None) -> int:
    """Check this node; 0 fit, 3 not."""
    run = Run.open(parser().parse_args(argv).run)
    place = discover_rank(run.jobs("preflight"))
    try:
        return preflight(run, place)
    except NotFit:
        raise  # on record already, with the node to blame
    except BaseException as error:
        record_failure(run.jobs("preflight"), place.rank, error)
        raise


def preflight(run: Run, place: Rank) -> int:
    """One node's part; the first node gathers the others', decides and writes the marker."""
    started = timestamps.now()
    need, floor = needs(run), run.cluster.preflight
    exchange = NodeExchange(run.jobs("preflight"), place.rank, place.world_size)
    clock = ClockServer(place.port) if place.rank == 0 and place.world_size > 1 else None
    try:
        report = check_node(run.path, need, tag=exchange.tag)
        if compiles_adam(run.recipe.train):
            report.findings.append(compile_adam())
        report.findings.extend(check_judges(run.recipe.score))
        report.findings[:] = [f if f.ok else with_settings(run, f) for f in report.findings]
        if place.rank > 0:
            report.findings.append(check_clock(place, floor.clock_seconds))
        exchange.hand_in(report)
        if place.rank > 0:
            return follow(run, place, exchange, exchange.hear(floor.wait_seconds + 60))
        reports = with_save(run, exchange.gather(floor.wait_seconds))
    finally:
        if clock is not None:
            clock.stop()
    verdict = judge(reports)
    if verdict.fit and measured(run):
        port = free_port()
        exchange.tell("allreduce", port=port)
        follow(run, place, exchange, {"what": "allreduce", "port": port})
        reports = with_bandwidth(reports, bandwidths(run, place.world_size), floor)
        verdict = judge(reports)
    else:
        exchange.tell("end")
    table = tabulate(reports)
    print(table, file=sys.stderr)
    if not verdict.fit:
        exchange.record(run.path, verdict, reports, requeues=floor.requeues, table=table)
        refuse(run, verdict, [r.node for r in reports])
    finish(run, exchange, reports, started)
    return 0


def finish(run: Run, exchange: NodeExchange, reports: list[NodeReport], started: str) -> None:
    """All nodes are fit: put the inputs in place, and write the marker."""
    from glmjobs.run import inputs

    prepared = inputs.ensure(run)
    write_json(run.path / "environment.json", environment())
    figures: dict[str, Any] = {
        "nodes": [r.node for r in reports],
        "train_rows": prepared.train,
        "dev_rows": prepared.dev,
        "dropped": sum(prepared.dropped_by_reason.values()),
        "dev_rows_in_train": prepared.record["overlap"]["dev_in_train"],
        "sources": {one["name"]: [one["read"], one["dev"]] for one in prepared.record.get("sources", ())},
    }
    run.mark("preflight", started=started, outputs=[exchange.report_file(0)], figures=figures)


def refuse(run: Run, verdict: Verdict, nodes: list[str]) -> NoReturn:
    """End with one line; the failure on record names the node that is to blame."""
    if verdict.bad and not verdict.configuration:
        node, reasons = next(iter(verdict.bad.items()))
        more = f" (and {len(verdict.bad) - 1} more nodes)" if len(verdict.bad) > 1 else ""
        error = NotFit(f"{node}{more}: {'; '.join(reasons)}")
        rank = nodes.index(node)
    else:
        error, node, rank = NotFit("; ".join(verdict.configuration)), node_name(), 0
    record_failure(run.jobs("preflight"), rank, error, host=node)
    raise error


def compiles_adam(train: TrainSection) -> bool:
    """Whether DeepSpeed steps on the CPU with its own Adam, which it compiles when training starts."""
    config = deepspeed_config(train)
    offloads = "offload_optimizer" in config.get("zero_optimization", {})
    return offloads and bool(config.get("zero_force_ds_cpu_optimizer", True))


def compile_adam(command: Sequence[str] = COMPILE_ADAM) -> Finding:
    """DeepSpeed's Adam for the CPU, compiled here before it is needed; what is compiled is kept for training.

    It takes one or two minutes the first time, and a C++ compiler that torch's headers and DeepSpeed agree with, ninja,
    and no other CUDA's nvcc than torch's: only trying tells.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", *command], capture_output=True, encoding="utf-8", errors="replace",
            timeout=COMPILE_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said, ok = done.stdout + done.stderr, done.returncode == 0
    except subprocess.TimeoutExpired:
        said, ok = f"not compiled within {COMPILE_SECONDS} s", False
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it failed"]
    wrong = [line for line in lines if re.search(r"error|Error|Exception|not found|within", line)]
    return Finding(
        what="optimizer offload", ok=ok, blame="configuration", needed="DeepSpeed's Adam compiles",
        found="compiled" if ok else [*lines, *wrong][-1][:300],
        remedy="modules of a newer compiler, of ninja, or of torch's CUDA (environment.modules); or torch's own "
        'Adam on the CPU, which is slower: a train.deepspeed file with "zero_force_ds_cpu_optimizer": false',
    )  # fmt: skip


def check_judges(score: ScoreSection) -> list[Finding]:
    """What a judge of the recipe lacks, hours before it is wanted; nothing where none lacks anything."""
    named = {*score.judge, *(name for given in score.sets for name in given.judge or ())}
    try:
        for name in sorted(named - {"verifier"}):  # whether its server runs by then cannot be known now
            load(name)
    except NotFit as error:
        return [
            Finding(what="judge", ok=False, blame="configuration", needed=", ".join(sorted(named)), found=str(error),
                    remedy="install it where the jobs run, or python -m glmjobs.heal RUN --set score.judge=meaning")
        ]  # fmt: skip
    return []


def check_clock(place: Rank, limit: float) -> Finding:
    """This node's clock against node 0's, over the network."""
    try:
        ahead = offset(place.address, place.port, patience=20)
    except OSError as error:
        return Finding(
            what="clock and network", ok=False, found=f"no answer from {place.address}:{place.port}: {error}",
            needed="node 0 reachable", remedy="the node's network is down or filtered; report it",
        )  # fmt: skip
    return Finding(
        what="clock and network", ok=abs(ahead) <= limit, found=f"{ahead:+.3f} s from node 0", needed=f"±{limit:g} s",
        remedy="the node does not keep time (chronyd, ntpd); report it",
    )  # fmt: skip


def measured(run: Run) -> bool:
    """Whether the all-reduce bandwidth is measured: on GPUs always, on CPUs where a floor asks for it."""
    demanded = run.cluster.preflight.allreduce_gb_s is not None
    return run.shape.world_size > 1 and (demanded or run.recipe.train.device == "cuda")


def follow(run: Run, place: Rank, exchange: NodeExchange, told: Json) -> int:
    """Do what node 0 told: end, or measure the all-reduce with one process a rank."""
    if told["what"] != "allreduce":
        return 0
    file = bandwidth_file(run, place.rank)
    file.unlink(missing_ok=True)
    code = measure(place, run.shape.gpus, int(told["port"]), run.cluster.preflight.allreduce_mb, file)
    if code != 0:
        write_json(file, {"failed": f"exit code {code}", "tag": exchange.tag})
    return 0


def bandwidth_file(run: Run, rank: int) -> Path:
    """Where a node's first rank leaves its figures."""
    return run.jobs("preflight") / f"allreduce-{rank}.json"


def measure(place: Rank, gpus: int, port: int, mb: int, out: Path) -> int:
    """One process for each of this node's ranks; the exit code of the first that failed."""
    command = [
        sys.executable,
        "-m",
        "hpc.health.allreduce",
        "--mb",
        str(mb),
        "--seconds",
        str(ALLREDUCE_SECONDS),
        "--out",
        str(out),
    ]
    processes = []
    for local in range(gpus):
        member = replace(
            place, rank=place.rank * gpus + local, world_size=place.world_size * gpus, local_rank=local,
            local_size=gpus, port=port,
        )  # fmt: skip
        processes.append(
            subprocess.Popen(command, env={**os.environ, **member.variables()}, stdin=subprocess.DEVNULL)
        )
    end = time.monotonic() + 2 * ALLREDUCE_SECONDS
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(timeout=max(0.1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(process.wait())
    return next((code for code in codes if code), 0)


def bandwidths(run: Run, nodes: int) -> list[Json]:
    """The figures of every node."""
    files = [bandwidth_file(run, rank) for rank in range(nodes)]
    found = [poll(partial(read_json, file), ALLREDUCE_SECONDS) for file in files]
    return [data or {"failed": "no figures"} for data in found]


def with_bandwidth(reports: list[NodeReport], figures: list[Json], floor: Floor) -> list[NodeReport]:
    """Reports with findings about bandwidth: each node's own, and on the first node that of all ranks together."""
    wanted = floor.allreduce_gb_s
    needed = f"{wanted:g} GB/s" if wanted else ""
    found = []
    for at, (report, figure) in enumerate(zip(reports, figures, strict=True)):
        findings = list(report.findings)
        if "failed" in figure:
            findings.append(
                Finding(what="all-reduce", ok=False, found=figure["failed"], needed="it ends well",
                        remedy="see jobs/preflight/rank-*.log; NCCL_DEBUG=INFO says more (environment.nccl.debug)")
            )  # fmt: skip
        for key, title in (
            ("node_gb_s", "all-reduce in the node"),
            ("all_gb_s", f"all-reduce, {len(reports)} nodes"),
        ):
            value = figure.get(key)
            if value is None or (key == "all_gb_s" and (at > 0 or len(reports) == 1)):
                continue
            # A node slower by itself than all should be together is to blame; else it is the network between them.
            findings.append(
                Finding(what=title, ok=wanted is None or value >= wanted, found=f"{value:g} GB/s ({figure['backend']})",
                        needed=needed, remedy="NVLink, the adapters or environment.nccl (interface, hca)",
                        blame="node" if key == "node_gb_s" else "cluster")
            )  # fmt: skip
        found.append(replace(report, findings=findings))
    return found


def environment() -> Json:
    """Code revision, package versions and machine, for the run's environment.json."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "time": timestamps.now(),
        "code": revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "modules": [m for m in os.environ.get("LOADEDMODULES", "").split(":") if m],
        "nodes": os.environ.get("SLURM_JOB_NODELIST") or node_name(),
    }


def tabulate(reports: list[NodeReport]) -> str:
    """All nodes in one table: of one node every finding, of several what is amiss and a line for each fit one."""
    table = Table(title=f"preflight: {len(reports)} node{'s' * (len(reports) > 1)}", title_justify="left")
    for column in ("node", "what", "found", "needed", ""):
        table.add_column(column, overflow="fold")
    for report in reports:
        shown = report.findings if len(reports) == 1 else [f for f in report.findings if not f.ok]
        if not shown:
            table.add_row(report.node, f"{len(report.findings)} checks", "", "", "fit")
        for at, f in enumerate(shown):
            table.add_row(
                report.node if at == 0 else "", f.what, f.found, f.needed, "ok" if f.ok else f"NO: {f.remedy}"
            )
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return text.getvalue().rstrip()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
