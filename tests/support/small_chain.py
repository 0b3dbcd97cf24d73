"""Runs whose stages are stand-ins (:mod:`stand_in`): seconds for a whole chain on a real Slurm."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal, submit
from glmjobs.run import jobs
from glmjobs.run.directory import Run
from hpc.batch.jobs import Chain, Job, Step
from hpc.chain import ledger, submission
from hpc.slurm import client as slurm
from tests.support.paths import SUPPORT

STAND_IN = SUPPORT.joinpath("stand_in.py")
SETTINGS = ("jobs.train.time=00:10:00", "score.shards=2")


def requests(recipe: Any, shape: Any, stages: tuple[str, ...] = jobs.CHAIN, **_: Any) -> list[Job]:
    """The chain, each stage a stand-in; times and shards as the recipe says."""
    return [
        Job(
            stage=stage, name=f"small-{stage}", time=getattr(recipe.jobs, stage).time, attempt_limit=1,
            settings=f"jobs.{stage}",
            array=2 if stage == "score" else None, gpus_per_node=int(stage == "train"),
            attempts=recipe.jobs.train.attempts if stage == "train" else 1,
            after=jobs.CHAIN[max(i - 1, 0) : i], own_markers=True, lane="" if i else recipe.jobs.lane,
            steps=(Step(stage=stage, command=(sys.executable, str(STAND_IN), "$RUN", stage)),),
        )
        for i, stage in enumerate(jobs.CHAIN) if stage in stages
    ]  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Submit and heal use stand-ins; runs go to the returned folder."""
    monkeypatch.setattr(jobs, "requests", requests)
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    yield tmp_path / "runs"


def words(
    name: str, *more: str, nodes: int = 1, gpus: int = 1, settings: tuple[str, ...] = SETTINGS
) -> list[str]:
    """submit's command line for a small run on the rehearsal cluster."""
    line = [
        "--recipe",
        "configs/tiny.yaml",
        "--cluster",
        "configs/clusters/devcluster.yaml",
        "--executor",
        "slurm",
    ]
    line += ["--nodes", str(nodes), "--gpus", str(gpus), "--name", name]
    for item in settings + more:
        line += ["--set", item]
    return line


def tell(run: Path, **stages: str) -> None:
    """From now on stages behave so; of one element of an array: ``score_1="fail 7"``."""
    (run / "behaviour").mkdir(exist_ok=True)
    for stage, what in stages.items():
        (run / "behaviour" / stage.replace("_", "-")).write_text(what)


def start(folder: Path, name: str, *more: str, **stages: str) -> Run:
    """A run that has been submitted with its stages told how to behave before the first can start."""
    original = submission.write_scripts

    def first_tell(chain: Chain) -> None:
        tell(chain.run, **stages)
        original(chain)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "write_scripts", first_tell)
        assert submit.main(words(name, *more)) == 0
    return Run.open(folder / name)


def ids(run: Run) -> dict[str, str]:
    """Stage → its job now."""
    return {stage: job for stage, job in submission.current_jobs(run.path).items() if stage in jobs.CHAIN}


def starts(run: Run, stage: str) -> list[str]:
    """Which elements started, in order ("0" for a job that is no array)."""
    path = run.path / "starts" / stage
    return path.read_text().split() if path.exists() else []


def ended(run: Run, stage: str, outcome: str) -> bool:
    """Whether the newest attempt at a stage ended so, and Slurm knows it."""
    events = ledger.events(run.path, event="ended", stage=stage)
    if not any(e["outcome"] == outcome for e in events):
        return False
    known = slurm.jobs([ids(run)[stage]])
    return all(info.state.is_final for info in known.values())


def done(run: Run) -> bool:
    """Whether the whole chain is."""
    return all(run.done(stage) for stage in jobs.CHAIN)


def with_key(run: Run) -> list[str]:
    """Every job in Slurm's memory that carries the run's key: job ids, an array counted once."""
    text = slurm.run(["squeue", "-h", "-t", "all", "-O", "JobArrayID:32,Comment:256"])
    found = [
        line.split()[0].partition("_")[0] for line in text.splitlines() if f"glmjobs:{run.file.key}:" in line
    ]
    return sorted(set(found), key=int)


def healed(capsys: pytest.CaptureFixture[str], run: Run, *more: str) -> dict[str, tuple[str, str]]:
    """Heal it: stage → (what was done, job)."""
    capsys.readouterr()
    assert heal.main([str(run.path), "--json", *more]) == 0
    return {job["stage"]: (job["what"], job["job"]) for job in json.loads(capsys.readouterr().out)["jobs"]}
