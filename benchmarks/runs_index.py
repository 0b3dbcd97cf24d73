"""How long `python -m glmjobs.runs` takes with many finished runs: read anew, and from the index beside them.

    python benchmarks/runs_index.py [--quick] [--json FILE] [--runs 1000] [--repeat 5] [--of RUN]

Whole processes, in turns within one call: ``first`` with the index taken away before it, ``again`` with the one that
the reading before left, ``empty`` in a folder without runs (the interpreter and imports alone). The runs are copies of
a finished one: ``--of``, or one written here by the functions a chain writes its own with (five stages on Slurm, each
attempted twice, a training log of 500 lines). To be held: ``again`` under 1 s of processor time, as the clock
shows on a quiet machine, and the same answer both times. Exit code 1 where it isn't.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from glmjobs.run.index import NAME, SETTLED_SECONDS, SOURCES
from hpc.chain import ledger
from hpc.core import timestamps

PROJECT = Path(__file__).resolve().parent.parent
STAGES = ("preflight", "train", "consolidate", "score", "report")
HELD_SECONDS = 1.0


def main() -> int:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 runs, 3 times")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--of", type=Path, metavar="RUN", help="a finished run to copy")
    args = parser.parse_args()
    count, repeat = (200, 3) if args.quick else (args.runs, args.repeat)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        template = args.of or finished(work / "template")
        for n in range(count):
            copy(template, work / "runs" / f"run-{n:04}")
        (work / "empty").mkdir()
        times: dict[str, list[float]] = {"first": [], "again": [], "empty": []}
        busy: dict[str, list[float]] = {way: [] for way in times}
        for _ in range(repeat):
            (work / "runs" / NAME).unlink(missing_ok=True)
            answers = []
            for way, folder in (("first", "runs"), ("again", "runs"), ("empty", "empty")):
                seconds, processor, answer = timed(work / folder)
                times[way].append(seconds)
                busy[way].append(processor)
                answers.append(answer)
            if answers[0] != answers[1] or len(json.loads(answers[1])) != count:
                print("error: the index and the reading differ", file=sys.stderr)
                return 1
    for way, found in times.items():
        spread = f"{min(busy[way]):.2f}-{max(busy[way]):.2f}"
        print(
            f"{way:6} processor {median(busy[way]):5.2f} s ({spread})   clock {median(found):5.2f} s   {count} runs"
        )
    again, empty = median(busy["again"]), median(busy["empty"])
    ratio = (median(busy["first"]) - empty) / max(again - empty, 1e-9)
    print(f"reading anew / from the index, start of Python left out: {ratio:.1f}")
    if args.json:
        found_all = {"runs": count, "clock_s": times, "processor_s": busy, "ratio": round(ratio, 2)}
        args.json.write_text(json.dumps({**found_all, "cores": os.cpu_count()}, indent=1))
    return int(again > HELD_SECONDS)


def finished(run: Path) -> Path:
    """A run whose stages were each stopped once, went on and are done."""
    run.mkdir()
    (run / "run.yaml").write_text("{}\n", encoding="utf-8")
    ledger.append(run, "planned", stages=list(STAGES), executor="slurm")
    for number, stage in enumerate(STAGES, 1):
        if stage != "preflight":  # a step of the train job
            ledger.append(run, "submitted", stage=stage, job=str(number), executor="slurm")
        for outcome in ("stopped", "done"):
            ledger.append(run, "attempt", stage=stage, job=str(number), gpus=8, nodes=["node1"])
            ledger.append(run, "ended", stage=stage, job=str(number), outcome=outcome, exit_code=0)
        ledger.write_marker(run, stage, outcome="done", started=timestamps.now())
    log = run / "checkpoints" / "train_log.jsonl"
    log.parent.mkdir()
    lines = [json.dumps({"step": s, "loss": 1 / s, "learning_rate": 1e-5}) + "\n" for s in range(1, 501)]
    log.write_text("".join(lines), encoding="utf-8")
    return run


def copy(template: Path, run: Path) -> None:
    """A copy that was last changed longer ago than what counts as just now."""
    shutil.copytree(template, run)
    for name in SOURCES:
        then = time.time() - 10 * SETTLED_SECONDS
        os.utime(run / name, (then, then))


def timed(runs: Path) -> tuple[float, float, str]:
    """Seconds of a whole listing by the clock and of the processor, and what it said."""
    words = [sys.executable, "-m", "glmjobs.runs", "--json"]
    environment = {**os.environ, "GLMJOBS_RUNS": str(runs), "PYTHONPATH": str(PROJECT)}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
