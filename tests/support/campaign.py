"""A campaign: runs on a real Slurm, struck by fault after fault in a seeded order, and what must hold all the while.

After each fault: the run goes on by itself, or it has ended and says why in one line; then `heal` lets it go on.
At each run's end: every stage is done, the weights are those of a run nobody hurt, no row is lost or counted twice,
no process of it is left and no job of it is in the queue.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from glmjobs import heal, submit
from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from glmjobs.run.state import DONE, RUNNING, STAGES, RunState
from hpc.chain import ledger
from hpc.core.errors import HpcError
from hpc.core.files import read_jsonl
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support.faults import FAULTS, Scene

SETTINGS = (
    "data.make.rows=400", "data.dev_rows=1-40", "train.epochs=1", "train.save_steps=25", "train.max_steps=600",
    "train.logging_steps=1", "score.rows=24", "score.max_new_tokens=12", "score.shards=2", "model.make.layers=2",
    "model.make.hidden_size=64", "jobs.signal_seconds=5",
)  # fmt: skip
PATIENCE = 300.0


@dataclass
class Struck:
    """One fault: what, of what stage, with what particulars, and what came of it."""

    fault: str
    stage: str
    what: str
    outcome: str
    seconds: float


@dataclass
class Campaign:
    """Runs under fault until ``wanted`` faults have struck."""

    cluster: DevCluster
    folder: Path
    disk: Path | None
    seed: int
    wanted: int
    faults_a_run: int = 10
    settings: tuple[str, ...] = ()
    """Besides :data:`SETTINGS`: a strict site's profile."""
    without: tuple[str, ...] = ()
    """Faults that cannot strike such a site."""
    struck: list[Struck] = field(default_factory=list)
    runs: int = 0
    say: Callable[[str], None] = print

    def execute(self) -> None:
        """All of it; an AssertionError names what did not hold."""
        quiet = self.start("quiet")
        self.wait(lambda: well(quiet), 2 * PATIENCE, "the quiet run", run=quiet)
        dice = random.Random(self.seed)
        deck: list[str] = []
        while len(self.struck) < self.wanted:
            self.runs += 1
            run = self.start(f"run{self.runs}")
            scene = Scene(run, self.cluster, self.disk, dice, self.wait)
            for _ in range(min(self.faults_a_run, self.wanted - len(self.struck))):
                able = [name for name in FAULTS if name not in self.without]
                deck = deck or dice.sample(able, len(able))
                if not self.strike(scene, deck):
                    break
            self.finish(run)
            self.compare(run, quiet)

    def start(self, name: str) -> Run:
        words = ["--recipe", "configs/tiny.yaml", "--cluster", "configs/clusters/devcluster.yaml"]
        words += ["--executor", "slurm", "--gpus", "2", "--name", name]
        for item in (*SETTINGS, *self.settings):
            words += ["--set", item]
        code, said = quietly(submit.main, words)
        assert code == 0, said
        return Run.open(self.folder / name)

    def strike(self, scene: Scene, deck: list[str]) -> bool:
        """One fault, the next of the deck that can strike; False when the run is over."""
        run = scene.run
        stage = self.ready(scene)
        if stage is None:
            return False
        for name in list(deck):
            begun = time.monotonic()
            before = progress(run)
            what = FAULTS[name](scene)
            if what is None:
                continue
            deck.remove(name)
            outcome = self.settle(run, before)
            scene.let_bystanders_go()
            self.struck.append(Struck(name, stage, what, outcome, time.monotonic() - begun))
            self.say(f"{len(self.struck):3} {run.name:6} {name:28} {stage:12} {what:36} {outcome}")
            return True
        deck.clear()
        return self.ready(scene) is not None

    def ready(self, scene: Scene) -> str | None:
        """Wait until something of the run is worth hurting: a stage runs (training: past a step); None when done."""
        run = scene.run
        found: list[str | None] = []
        steps = scene.dice.randint(1, 80)  # before an attempt's first save, or after some

        def worth() -> bool:
            state = read_state(run)
            if state.state == DONE:
                found.append(None)
            elif state.ended:
                self.heal(run, state)
            else:
                for stage in state.stages:
                    alive = stage.state == RUNNING and stage.stage in ("train", "score")
                    if alive and (stage.stage == "score" or fresh_steps(run) >= steps):
                        found.append(stage.stage)
            return bool(found)

        self.wait(worth, PATIENCE, "a stage to hurt", run=run)
        return found[0]

    def settle(self, run: Run, before: tuple[int, ...]) -> str:
        """Until the run has got on since the fault, or has ended and said why."""
        result: list[str] = []

        def settled() -> bool:
            state = read_state(run)
            if state.slurm:
                return False
            if state.state == DONE or (progress(run) > before and not state.ended):
                result.append("went on by itself")
            elif state.ended:
                trouble = state.trouble
                assert trouble is not None
                why = trouble.error or trouble.reason
                assert why and "\n" not in why, (
                    f"{trouble.stage} {trouble.state} says no reason in one line: {why!r}"
                )
                result.append(f"said {why[:90]!r}; healed")
                self.heal(run, state)
            return bool(result)

        self.wait(settled, PATIENCE, "the run to go on or to say why", run=run)
        return result[0]

    def heal(self, run: Run, state: RunState) -> None:
        code, said = quietly(heal.main, [str(run.path)])
        assert "Traceback" not in said, said
        assert code == 0, f"heal said {said!r} of {state.document()}"

    def finish(self, run: Run) -> None:
        """To the end, healing what has ended badly."""

        def over() -> bool:
            state = read_state(run)
            if state.ended and state.state != DONE:
                self.heal(run, state)
            return state.state == DONE

        self.wait(over, 2 * PATIENCE, "the run to be done", run=run)

    def compare(self, run: Run, quiet: Run) -> None:
        """What must hold at a run's end."""
        assert all(run.done(stage) for stage in STAGES)
        assert weights(run) == weights(quiet), f"{run.name}: the weights are not those of a quiet run"
        for which in ("base", "finetuned"):
            assert rows(run, which) == rows(quiet, which), f"{run.name}: rows of {which}"
        steps = [r["step"] for r in read_jsonl(run.checkpoints / "train_log.jsonl")]
        assert steps == sorted(set(steps)), f"{run.name}: steps logged twice"
        self.wait(lambda: not left_in_queue(run), 60, "the queue to be empty of it", run=run)
        self.wait(lambda: not orphans(run), 60, "its processes to be gone", run=run)
        self.wait(lambda: constant_cost(run), 60, "its GPU-hours to stay as they are", run=run)

    def wait(
        self, predicate: Callable[[], object], timeout: float, what: str, run: Run | None = None
    ) -> object:
        end = time.monotonic() + timeout
        while True:
            if value := predicate():
                return value
            assert time.monotonic() < end, (
                f"not within {timeout:g} s: {what}{story(run) if run else ''}{queue()}"
            )
            time.sleep(0.2)

    def table(self) -> str:
        """Fault, count, outcomes."""
        lines = [f"{'fault':30} count  went on  said why, healed  median s"]
        for name in FAULTS:
            mine = [s for s in self.struck if s.fault == name]
            alone = sum(s.outcome == "went on by itself" for s in mine)
            seconds = sorted(s.seconds for s in mine)
            middle = f"{seconds[len(seconds) // 2]:8.0f}" if seconds else "       -"
            lines.append(f"{name:30} {len(mine):5}  {alone:7}  {len(mine) - alone:16}  {middle}")
        stages = Counter(s.stage for s in self.struck)
        lines.append(
            f"{len(self.struck)} faults over {self.runs} runs, seed {self.seed}; struck during: {dict(stages)}"
        )
        return "\n".join(lines)


def well(run: Run) -> bool:
    """Whether it is done; it must not end in another way."""
    state = read_state(run)
    assert state.state == DONE or not state.ended, f"the quiet run ended badly{story(run)}"
    return state.state == DONE


def quietly(main: Callable[[list[str] | None], int], words: list[str]) -> tuple[int, str]:
    """A command's exit code and all it printed."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = run_command(main, words)
    return code, said.getvalue()


def progress(run: Run) -> tuple[int, ...]:
    """Grows whenever the run gets on: stages done, attempts begun, lines of its log, scored rows."""
    done = sum(run.done(stage) for stage in STAGES)
    attempts = len(ledger.events(run.path, event="attempt"))
    return done, attempts


def fresh_steps(run: Run) -> int:
    """Steps that the newest attempt at training has made."""
    begun = str((ledger.events(run.path, event="attempt", stage="train") or [{"time": "9"}])[-1]["time"])
    return sum(str(r["time"]) > begun for r in read_jsonl(run.checkpoints / "train_log.jsonl"))


def weights(run: Run) -> str:
    """A hash of the model's weights."""
    digest = hashlib.sha256()
    for file in sorted(run.model.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def rows(run: Run, which: str) -> list[tuple[Any, Any]]:
    """(id, answer) of every scored row, sorted."""
    found = list(read_jsonl(run.scores / which / "predictions.jsonl"))
    summary = json.loads((run.scores / which / "summary.json").read_text())
    assert summary["rows"] == len({r["id"] for r in found}), (
        f"{run.name}: {which} counts rows twice, or not at all"
    )
    return sorted((r["id"], r.get("answer", r.get("prediction"))) for r in found)


def constant_cost(run: Run) -> bool:
    """Whether what it has cost is settled: the clock adds nothing any more."""
    return read_state(run).gpu_hours == read_state(run).gpu_hours


def left_in_queue(run: Run) -> list[str]:
    """Its jobs that are not over, told by their output: a site may replace comments."""
    of_it = slurm.find(lambda job: job.output.startswith(f"{run.path}/"))
    return [job.id for job in of_it if not job.state.is_final]


def orphans(run: Run) -> list[str]:
    """Processes that still have this run in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if any(str(run.path) in word for word in line) and process.pid != os.getpid():
            found.append(" ".join(line)[:200])
    return found


def queue() -> str:
    """What the cluster itself says of its jobs and nodes, for a failure's message."""
    try:
        return "\n".join(
            ["", slurm.run(["squeue", "-t", "all"]), slurm.run(["sinfo", "-N", "-o", "%N %P %T %E"])]
        )
    except HpcError as error:
        return f"\n{error}"


def story(run: Run) -> str:
    """The end of a run's ledger and its state, for a failure's message."""
    lines = "\n".join((run.path / "ledger.jsonl").read_text().splitlines()[-14:])
    try:
        state = json.dumps(read_state(run).document())
    except HpcError as error:
        state = str(error)
    logs = "\n".join(
        f"== {p}\n{p.read_text(errors='replace')[-1500:]}"
        for p in sorted(run.path.glob("jobs/*/*.*"))
        if p.suffix in (".out", ".log")
    )
    return f"\n{lines}\n{state}\n{logs}"
