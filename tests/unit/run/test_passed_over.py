"""A checkpoint that is passed over is said where a person looks: by heal before the job, by status after it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal, status
from glmjobs.recipe.loading import load
from glmjobs.run.directory import Run, Shape
from glmjobs.run.read_state import read_state
from glmjobs.zero import committed
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.chain import ledger, repair
from tests.support.paths import CONFIGS


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(
        tmp_path / "run", load(CONFIGS / "tiny.yaml"), Profile(name="x"), Shape(nodes=1, gpus=1)
    )
    for step in (2, 4, 6):
        folder = made.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(b"weights")
        committed.commit(folder, step=step, world_size=1)
    (made.checkpoints / "checkpoint-6" / "model.bin").write_bytes(b"wei")
    return made


def test_status_says_what_the_newest_attempt_passed_over(run: Run, capsys: Any) -> None:
    ledger.append(run.path, "submitted", stage="train", job="local-999999999", executor="local")
    for name in ("checkpoint-9", "checkpoint-6"):
        ledger.append(run.path, "attempt", stage="train", job="local-999999999")
        ledger.append(run.path, "passed_over", stage="train", checkpoint=name, why="is damaged")
    assert read_state(run, ask_slurm=False).passed_over == ["checkpoint-6: is damaged"]
    status.main([str(run.path)])
    assert "passed over at resume: checkpoint-6: is damaged" in capsys.readouterr().out


def test_heal_says_it_before(run: Run, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = repair.Action(stage="train", what=repair.START, job="local-1")

    def start(chain: Chain, why: Any, *, intend: Any, tell: Any) -> None:
        tell(started)

    monkeypatch.setattr(heal, "repair", start)
    ledger.append(run.path, "submitted", stage="train", job="local-999999999", executor="local")
    assert heal.main([str(run.path)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert (
        said[0].startswith("train        checkpoint-6 is passed over: ") and "3 bytes instead of" in said[0]
    )
    assert not any("checkpoint-4" in line for line in said) and "started again" in said[1]


def test_a_chain_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    """Healed in the moment after its stage failed, a chain on this machine starts again."""
    job = Job(stage="one", name="one", steps=(Step(stage="one", command=("true",)),))
    chain = Chain(name="x", run=tmp_path, jobs=(job,), profile=Profile(), local=True)
    code = "import sys, time; sys.stdin.read()"
    old = subprocess.Popen([sys.executable, "-c", code, "hpc.chain.local"], stdin=subprocess.PIPE)
    try:
        name = f"local-{old.pid}"
        ledger.append(tmp_path, "submitted", stage="one", job=name, executor="local")
        ledger.append(tmp_path, "attempt", stage="one", job=name)
        while not repair.at_work(name):
            time.sleep(0.01)  # until it is Python that runs
        assert [a.what for a in repair.repair(chain)] == [repair.KEEP], "it works"
        ledger.append(tmp_path, "ended", stage="one", job=name, outcome="failed", exit_code=1)
        ender = subprocess.Popen(["sh", "-c", "sleep 0.5; kill $0", str(old.pid)])
        actions = repair.repair(chain)
        ender.wait()
        assert [a.what for a in actions] == [repair.START]
        started = str(actions[0].job)
    finally:
        old.kill()
        old.wait()
    end = time.monotonic() + 60
    while repair.at_work(started) and time.monotonic() < end:
        time.sleep(0.05)
    assert ledger.events(tmp_path, event="chain_ended")
