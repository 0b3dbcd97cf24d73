"""Everything that only a GPU can show, into one folder, in nine minutes at most.

    make gpu-acceptance            python benchmarks/gpu_acceptance.py [--quick] [--out DIR] [--part NAME …]

On a bare machine with one GPU and no network: torch and transformers have to be there, DeepSpeed for some of the parts.
Each part runs in a process of its own with a time limit of its own, so that one that hangs or dies leaves the others'
figures; the summary is written anew after each. ``--quick`` runs small sizes on the CPU: it shows that the parts work,
and says nothing about a GPU.

Exit code 0 where all bounds held, 1 where one was missed or a part failed; a part that lacks a package is left out, and
that is said.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))  # as a script, sys.path has this folder only

from benchmarks.gpu import Findings, Missing, Place  # noqa: E402

#: Seconds that each part may take; together they stay below nine minutes.
PARTS = {"machine": 30, "numerics": 75, "attention": 75, "steps": 200, "answering": 50, "chain": 110}


def main(argv: list[str] | None = None) -> int:
    """Run the parts one after the other; or, with ``--inside``, one of them in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, on the CPU")
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/results/<date>-<card>; with --quick under build/"
    )
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    card = "cpu" if args.quick else card_name()
    if card is None:
        print("error: torch sees no GPU here; --quick runs the parts in small on the CPU", file=sys.stderr)
        return 3
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    results_of_cards = REPO / ("build/gpu-acceptance" if args.quick else "benchmarks/results")
    out: Path = args.out or results_of_cards / f"{today}-{card}"
    out.mkdir(parents=True, exist_ok=True)
    if args.inside:
        return inside(args.part[0], Place("cpu" if args.quick else "cuda", args.quick, out))
    results: dict[str, Any] = {}
    for name in args.part:
        results[name] = outside(name, args.quick, out)
        write_summary(out, card, results)
        print(f"{name}: {words(results[name])}", flush=True)
    print(f"summary: {out / 'summary.md'}")
    return 0 if all(r["state"] in ("held", "left out") for r in results.values()) else 1


def card_name() -> str | None:
    """The GPU's name as a file name; None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return "-".join("".join(c if c.isalnum() else " " for c in torch.cuda.get_device_name()).lower().split())


def outside(name: str, quick: bool, out: Path) -> dict[str, Any]:
    """A part in a process of its own: its state (held, missed, failed, cut off, left out), figures, seconds."""
    command = [sys.executable, str(Path(__file__).resolve()), "--inside", "--part", name, "--out", str(out)]
    command += ["--quick"] if quick else []
    started = time.monotonic()
    result_file = out / f"{name}.json"
    result_file.unlink(missing_ok=True)
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"\n==== {name}\n")
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(PARTS[name])
        except subprocess.TimeoutExpired:
            code = None
            end_all(process)
    result = {"state": "cut off" if code is None else "failed", "figures": {}, "missed": []}
    if result_file.is_file():
        result = json.loads(result_file.read_text(encoding="utf-8"))
        result_file.unlink()
    return {**result, "seconds": round(time.monotonic() - started, 1)}


def end_all(process: subprocess.Popen[bytes]) -> None:
    """The part's process, which may end what it has started elsewhere; then all of its session."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def inside(name: str, place: Place) -> int:
    """One part in this process; its result in a file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` clauses run
    result: dict[str, Any]
    try:
        found: Findings = importlib.import_module(f"benchmarks.gpu.{name}").run(place)
        result = {"state": "missed" if found.missed else "held", **asdict(found)}
    except Missing as missing:
        result = {"state": "left out", "figures": {}, "missed": [str(missing)]}
    except Exception as error:
        traceback.print_exc()
        result = {"state": "failed", "figures": {}, "missed": [f"{type(error).__name__}: {error}"]}
    (place.out / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


def words(result: dict[str, Any]) -> str:
    """A part's result in a line."""
    return f"{result['state']} ({result['seconds']} s){''.join('; ' + line for line in result['missed'])}"


def write_summary(out: Path, card: str, results: dict[str, Any]) -> None:
    """``results.json`` for machines, ``summary.md`` for people."""
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    lines = [f"# GPU acceptance: {card}, {out.name}", ""]
    for name, result in results.items():
        lines += [f"## {name}: {result['state']}, {result['seconds']} s", ""]
        lines += [f"- **{line}**" for line in result["missed"]]
        lines += [f"- {key}: {short(value)}" for key, value in result["figures"].items()]
        lines.append("")
    (out / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def short(value: Any) -> str:
    """A figure as it is read: four digits are enough."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(part)}" for key, part in value.items())
    return ", ".join(map(short, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
