"""``python -m hpc.devcluster up|down|status|env``."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path

from hpc.core import hints
from hpc.core.command import run_command
from hpc.devcluster.cluster import DevCluster, default_dir
from hpc.devcluster.config import Options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpc.devcluster",
        description="A real Slurm on this machine, with pretended nodes and GPUs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it")
    up.add_argument("--nodes", type=int, default=2, help="pretended nodes (default: 2)")
    up.add_argument("--gpus", type=int, default=8, help="pretended GPUs a node (default: 8)")
    up.add_argument("--gpu-type", default="a100", help="their GRES type (default: a100)")
    up.add_argument(
        "--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct works"
    )
    up.add_argument(
        "--preemption", action="store_true", help="a partition `high` that preempts by requeueing"
    )
    up.add_argument(
        "--cgroups", action="store_true", help="track jobs by cgroup v1 where allowed (OUT_OF_MEMORY)"
    )
    up.add_argument(
        "--min-job-age", type=int, default=300, help="seconds finished jobs are remembered (default: 300)"
    )
    down = commands.add_parser("down", help="stop it, with every job")
    status = commands.add_parser("status", help="what runs")
    status.add_argument("--json", action="store_true", help="one JSON document on stdout")
    env = commands.add_parser("env", help='shell words: eval "$(python -m hpc.devcluster env)"')
    for command in (up, down, status, env):
        command.add_argument(
            "--dir", type=Path, default=None, help=f"its directory (default: {default_dir()})"
        )
    return parser


def _up(args: argparse.Namespace) -> int:
    options = Options(
        nodes=args.nodes, gpus=args.gpus, gpu_type=args.gpu_type, accounting=args.accounting,
        preemption=args.preemption, cgroups=args.cgroups, min_job_age=args.min_job_age,
    )  # fmt: skip
    cluster = DevCluster(args.dir, options)
    started = cluster.up()
    words = hints.command("hpc.devcluster", "env", *(["--dir", args.dir] if args.dir else []))
    print(
        f"{'up' if started else 'already up'}: {options.nodes} nodes x {options.gpus} {options.gpu_type}"
        f" in {cluster.root}"
    )
    for note in cluster.status()["notes"]:
        print(f"note: {note}")
    print(f'use it: eval "$({words})"')
    return 0


def _down(args: argparse.Namespace) -> int:
    cluster = DevCluster(args.dir)
    print(f"down: {cluster.root}" if cluster.down() else f"nothing is up in {cluster.root}")
    return 0


def _status(args: argparse.Namespace) -> int:
    status = DevCluster(args.dir).status()
    if args.json:
        print(json.dumps(status, indent=1))
        return 0 if status["up"] else 1
    if not status["daemons"]:
        print(f"nothing is up in {status['dir']}")
        return 1
    print(f"{'up' if status['up'] else 'HALF DEAD'}: {status['dir']}")
    for name, daemon in status["daemons"].items():
        print(f"  {name:<16} pid {daemon['pid']:<8} {'running' if daemon['alive'] else 'DEAD'}")
    for name, state in status["nodes"].items():
        print(f"  {name:<16} {state}")
    for note in status["notes"]:
        print(f"  note: {note}")
    return 0 if status["up"] else 1


def _env(args: argparse.Namespace) -> int:
    cluster = DevCluster(args.dir)
    for name, value in cluster.env().items():
        print(f"export {name}={shlex.quote(value)}")
    if shutil.which("sbatch") is None:
        print(f"export PATH={shlex.quote(cluster.environ()['PATH'])}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command."""
    args = _parser().parse_args(argv)
    return {"up": _up, "down": _down, "status": _status, "env": _env}[args.command](args)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
