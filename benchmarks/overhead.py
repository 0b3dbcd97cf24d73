"""What the toolkit costs on top of Slurm itself: submitting, passing from stage to stage, looking.

    python benchmarks/overhead.py [--quick] [--json FILE] [--runs 100] [--repeat 9]

On a rehearsal cluster of its own (``hpc.devcluster``, nothing else in its queue), in turns within one call:

submit   ``python -m glmjobs.submit`` of the four-job chain, whole, against four bare ``sbatch`` calls of the same
         scripts with the same dependencies. Start-up is the same line with ``--dry-run`` in a process that imports all
         that a submission does: the interpreter, imports, recipe, rendered scripts. ratio = (submit - start-up) / bare,
         medians. To be held: ratio <= 2, start-up <= 0.6 s.
gap      from a stage's end to the next stage's first line, through ``hpc.runtime.attempt`` and the ledger, against the
         same in four bare batch scripts that only write the time. Both contain Slurm's own scheduling.
status   ``python -m glmjobs.status`` of so many runs, each with four queued jobs, some with one that Slurm has
         forgotten; whole process. To be held: under 2 s, one squeue and one sacct call (counted by shims on PATH).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Environment, Profile
from hpc.chain import ledger, submission
from hpc.core import timestamps
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm

PROJECT = Path(__file__).resolve().parent.parent
STAGES = ("train", "consolidate", "score", "report")
COUNTING = """#!/bin/bash
echo "$0" >>{count}
exec {real} "$@"
"""


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=9)
    args = parser.parse_args()
    repeat = 3 if args.quick else args.repeat
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with DevCluster(work / "cluster", nodes=1, gpus=8, accounting=True, min_job_age=2) as cluster:
            os.environ.update(cluster.environ())
            found: dict[str, Any] = {
                **gap(work, repeat),
                **submitting(work, repeat),
                **looking(work, args.runs, 3 if args.quick else 5),
            }
    found["ratio"] = round(found["ratio"], 2)
    show(found)
    if args.json:
        args.json.write_text(json.dumps({**found, "cores": os.cpu_count()}, indent=1))
    return 0


def show(found: dict[str, Any]) -> None:
    """The table."""
    s = found["submit_s"]
    print(
        f"submit   ours {spread(s)}   start-up {spread(found['startup_s'])}   4 sbatch {spread(found['sbatch_s'])}"
    )
    print(
        f"         (ours - start-up) / 4 sbatch = {found['ratio']:.2f}   to be held: <= 2, start-up <= 0.6 s"
    )
    print(
        f"gap      ours {spread(found['gap_s'])}   bare {spread(found['bare_gap_s'])}   ratio {found['gap_ratio']:.2f}"
    )
    print(
        f"status   {found['runs']} runs {spread(found['status_s'])}   squeue calls {found['squeue_calls']}, "
        f"sacct calls {found['sacct_calls']}   to be held: < 2 s, 1 and 1"
    )


def spread(values: list[float]) -> str:
    """Median, least and most, in seconds."""
    return f"{median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def run(*words: str, **environ: str) -> str:
    """A command's output; its failure is this program's."""
    env = {**os.environ, "PYTHONPATH": str(PROJECT), **environ}
    done = subprocess.run(words, env=env, cwd=PROJECT, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(words)}: exit code {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def empty_queue() -> None:
    """Cancel everything and wait until Slurm has let go of it."""
    run("scancel", "-u", str(os.getuid()))
    while run("squeue", "-h"):
        time.sleep(0.1)


def submitting(work: Path, repeat: int) -> dict[str, Any]:
    """Four jobs by us, by sbatch, and start-up alone, in turns. The node is drained, so that none starts."""
    slurm.update_node("node1", "drain", reason="nothing is to start")
    code = "import sys, hpc.slurm.executor, glmjobs.run.submit_checks as _; from glmjobs.submit import main; main()"
    start = [sys.executable, "-c", code]
    line = ["--recipe", "configs/tiny.yaml", "--executor", "slurm", "--gpus", "2"]
    line += ["--cluster", "configs/clusters/devcluster.yaml"]
    runs = str(work / "runs")
    ours = [sys.executable, "-m", "glmjobs.submit", *line]
    run(*ours, "--name", "warm", GLMJOBS_RUNS=runs)
    scripts = [work / "runs" / "warm" / "jobs" / stage / "script.sh" for stage in STAGES]
    times: dict[str, list[float]] = {"submit_s": [], "startup_s": [], "sbatch_s": []}
    for n in range(repeat):
        empty_queue()
        times["startup_s"].append(
            timed(lambda n=n: run(*start, *line, "--name", f"r{n}", "--dry-run", GLMJOBS_RUNS=runs))
        )
        times["sbatch_s"].append(timed(lambda: bare_chain(scripts)))
        empty_queue()
        times["submit_s"].append(timed(lambda n=n: run(*ours, "--name", f"r{n}", GLMJOBS_RUNS=runs)))
    empty_queue()
    slurm.update_node("node1", "resume")
    more = median(times["submit_s"]) - median(times["startup_s"])
    return {**times, "ratio": more / median(times["sbatch_s"])}


def bare_chain(scripts: list[Path]) -> list[str]:
    """Four sbatch calls, each waiting for the one before; the job ids."""
    ids: list[str] = []
    for script in scripts:
        waits = [f"--dependency=afterok:{ids[-1]}"] if ids else []
        ids.append(run("sbatch", "--parsable", *waits, str(script)).strip())
    return ids


def gap(work: Path, repeat: int) -> dict[str, Any]:
    """Seconds between a stage's end and the next one's first line, ours and bare, in turns."""
    ours: list[float] = []
    bare: list[float] = []
    for n in range(max(1, repeat // 3)):
        ours += our_gaps(work / f"gap{n}")
        bare += bare_gaps(work / f"bare{n}")
    return {"gap_s": ours, "bare_gap_s": bare, "gap_ratio": round(median(ours) / median(bare), 2)}


def our_gaps(path: Path) -> list[float]:
    """A chain whose stages do nothing, through the toolkit."""
    path.mkdir()
    requests = [
        Job(
            stage=stage, name=stage, steps=(Step(stage=stage, command=("true",)),), after=STAGES[max(i - 1, 0) : i]
        )
        for i, stage in enumerate(STAGES)
    ]  # fmt: skip
    profile = Profile(environment=Environment(python=sys.prefix))
    submission.submit(Chain(run=path, jobs=tuple(requests), profile=profile, project=PROJECT))
    await_events(path, "ended", len(STAGES))
    begun = {e["stage"]: timestamps.parse_time(e["time"]) for e in ledger.events(path, event="attempt")}
    ended = {e["stage"]: timestamps.parse_time(e["time"]) for e in ledger.events(path, event="ended")}
    return [(begun[b] - ended[a]).total_seconds() for a, b in pairwise(STAGES)]


def await_events(path: Path, event: str, count: int) -> None:
    """Until the ledger has so many; a minute at most."""
    until = time.monotonic() + 60
    while len(ledger.events(path, event=event)) < count:
        if time.monotonic() > until:
            raise SystemExit(f"{path}: fewer than {count} {event} events after a minute")
        time.sleep(0.05)


def bare_gaps(path: Path) -> list[float]:
    """The same four jobs as bare scripts that write the time and end."""
    path.mkdir()
    script = path / "job.sh"
    out = shlex.quote(str(path))
    script.write_text(f"#!/bin/bash\ndate +%s.%N >>{out}/begun\ndate +%s.%N >>{out}/ended\n")
    waits: list[str] = []
    for _ in STAGES:
        words = ["sbatch", "--parsable", "--output=/dev/null", *waits, str(script)]
        waits = [f"--dependency=afterok:{run(*words).strip()}"]
    until = time.monotonic() + 60
    while not (path / "ended").exists() or len((path / "ended").read_text().split()) < len(STAGES):
        if time.monotonic() > until:
            raise SystemExit(f"{path}: the bare chain did not end within a minute")
        time.sleep(0.05)
    begun, ended = (sorted(map(float, (path / name).read_text().split())) for name in ("begun", "ended"))
    return [b - a for a, b in zip(ended, begun[1:], strict=False)]


def looking(work: Path, count: int, repeat: int) -> dict[str, Any]:
    """``status`` of many runs; what it calls is counted."""
    slurm.update_node("node1", "drain", reason="nothing is to start")
    runs = work / "many"
    template = work / "runs" / "warm"
    forgotten = run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "true").strip()
    run("scancel", forgotten)
    held = [
        run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "true").strip()
        for _ in range(4 * count)
    ]
    for n in range(count):
        copy_run(template, runs / f"run-{n:03}", held[4 * n : 4 * n + 4], forgotten if n % 10 == 0 else None)
    until = time.monotonic() + 60
    while slurm.show(forgotten) is not None and time.monotonic() < until:
        time.sleep(0.2)
    folder, log = work / "shims", work / "calls"
    folder.mkdir()
    for name in ("squeue", "sacct"):
        (folder / name).write_text(COUNTING.format(count=shlex.quote(str(log)), real=shutil.which(name)))
        (folder / name).chmod(0o755)
    words = (sys.executable, "-m", "glmjobs.status")
    run(*words, GLMJOBS_RUNS=str(runs), PATH=f"{folder}:{os.environ['PATH']}")
    calls = [Path(line).name for line in log.read_text().split()]
    times = [timed(lambda: run(*words, GLMJOBS_RUNS=str(runs))) for _ in range(repeat)]
    empty_queue()
    return {
        "runs": count, "status_s": times, "squeue_calls": calls.count("squeue"), "sacct_calls": calls.count("sacct"),
    }  # fmt: skip


def copy_run(template: Path, path: Path, jobs: list[str], forgotten: str | None) -> None:
    """A run as status finds one: its run.yaml, and a ledger in which its jobs were submitted."""
    path.mkdir(parents=True)
    shutil.copy(template / "run.yaml", path)
    if forgotten:
        jobs = [*jobs[:3], forgotten]
    lines = [{"time": timestamps.now(), "event": "planned", "stages": STAGES, "executor": "slurm"}]
    lines += [
        {"time": timestamps.now(), "event": "submitted", "stage": stage, "job": job, "executor": "slurm"}
        for stage, job in zip(STAGES, jobs, strict=True)
    ]
    (path / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
