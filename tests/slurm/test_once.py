"""Each job exactly once: sbatch without an answer, a submitter killed between two jobs, two at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel, submit
from glmjobs.run.directory import Run
from glmjobs.run.jobs import chain_of
from hpc.chain import ledger, submission
from hpc.core import timestamps
from hpc.core.errors import WorkFailed
from hpc.core.files import exclusive
from hpc.runtime import attempt
from hpc.slurm import client as slurm
from tests.support.paths import REPO
from tests.support.small_chain import done, healed, ids, start, starts, with_key, words

pytestmark = pytest.mark.slurm

SHIM = """#!/bin/bash
# sbatch as on a bad day. $MOOD: lost (accepted, but the answer is lost), dead (accepted, then sbatch
# is killed), deaf (never arrives), once each; kill (the submitter dies when job $AT has
# been accepted).
count=$(cat "$SHIM_DIR/count" 2>/dev/null || echo 0); count=$((count + 1)); echo $count >"$SHIM_DIR/count"
timed_out() { echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1; }
case $MOOD in
  lost) [ $count = "$AT" ] && { "$REAL_SBATCH" "$@" >/dev/null; timed_out; } ;;
  dead) [ $count = "$AT" ] && { "$REAL_SBATCH" "$@" >/dev/null; kill -9 $$; } ;;
  deaf) [ $count = "$AT" ] && timed_out ;;
  kill) [ $count = "$AT" ] && { "$REAL_SBATCH" "$@" >/dev/null; kill -9 "$SUBMITTER"; exit 1; } ;;
esac
exec "$REAL_SBATCH" "$@"
"""


@pytest.fixture
def shim(tmp_path: Path, slurm_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``shim("lost", at=2)``: the second call of sbatch goes wrong in that way."""
    import shutil

    folder = tmp_path / "shim"
    folder.mkdir()
    real = shutil.which("sbatch", path=os.environ["PATH"])
    (folder / "sbatch").write_text(SHIM)
    (folder / "sbatch").chmod(0o755)

    def install(mood: str, at: int) -> None:
        (folder / "count").unlink(missing_ok=True)
        for name, value in {
            "MOOD": mood,
            "AT": str(at),
            "REAL_SBATCH": str(real),
            "SHIM_DIR": str(folder),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return install


@pytest.mark.parametrize(("mood", "at"), [("lost", 1), ("lost", 3), ("dead", 2)])
def test_accepted_but_the_answer_was_lost(place: Path, shim: Any, mood: str, at: int, wait_for: Any) -> None:
    shim(mood, at)
    run = start(place, f"{mood}{at}", train="wait")
    found = [e for e in ledger.events(run.path, event="submitted") if e.get("found_by_comment")]
    assert len(found) == 1
    assert with_key(run) == sorted(ids(run).values(), key=int) and len(ids(run)) == 4
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60)
    assert starts(run, "train") == ["0"]


def test_never_arrived(place: Path, shim: Any, monkeypatch: pytest.MonkeyPatch, wait_for: Any) -> None:
    monkeypatch.setattr(submission, "LOOK_UP_PAUSES", (0.0, 0.1))
    shim("deaf", 2)
    run = start(place, "deaf")
    assert len(ledger.events(run.path, event="submitting", stage="consolidate")) == 2
    assert with_key(run) == sorted(ids(run).values(), key=int) and len(ids(run)) == 4
    wait_for(lambda: done(run), 60)


DRIVER = """
import os, sys
sys.path[:0] = [{here!r}]
from tests.support import small_chain
from glmjobs import heal, submit
from glmjobs.run import jobs
jobs.requests = small_chain.requests
os.environ["SUBMITTER"] = str(os.getpid())
from glmjobs.cli import run_command
raise SystemExit(run_command({module}.main, {words!r}))
"""


def driver(module: str, line: list[str]) -> list[str]:
    """A command line that submits or heals with stand-ins, as a process of its own."""
    return [sys.executable, "-c", DRIVER.format(here=str(REPO), module=module, words=line)]


@pytest.mark.parametrize("at", [1, 2, 4])
def test_submitter_killed_between_two_jobs(
    place: Path, shim: Any, repo: Path, at: int, wait_for: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim("kill", at)
    killed = subprocess.run(
        driver("submit", words(f"killed{at}")), cwd=repo, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = Run.open(place / f"killed{at}")
    wait_for(lambda: len(with_key(run)) == at, 30, "the accepted jobs")
    assert len(ids(run)) <= at - 1 + len(starts(run, "train")), "the last answer was never written down"
    monkeypatch.setenv("MOOD", "good")
    healed(capsys, run)
    assert len(with_key(run)) == 4 and set(ids(run)) == {"train", "consolidate", "score", "report"}
    wait_for(lambda: done(run), 60)
    assert starts(run, "train") == ["0"] and starts(run, "consolidate") == ["0"]


def test_cancel_finds_what_a_killed_submit_never_wrote_down(
    place: Path, shim: Any, repo: Path, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim("kill", 2)
    subprocess.run(driver("submit", words("orphan")), cwd=repo, check=False, capture_output=True)
    run = Run.open(place / "orphan")
    wait_for(lambda: len(with_key(run)) == 2, 30, "the accepted jobs")
    monkeypatch.setenv("MOOD", "good")
    (run.path / "ledger.jsonl").write_text("")
    assert cancel.main([str(run.path)]) == 0
    wait_for(lambda: all(i.state.is_final for i in slurm.jobs(with_key(run)).values()), 60, "no job left")


def test_two_submits_of_one_name_at_once(place: Path, repo: Path, wait_for: Any) -> None:
    both = [
        subprocess.Popen(driver("submit", words("twin")), cwd=repo, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [p.communicate()[1] for p in both]
    assert sorted(p.returncode for p in both) == [0, 2], said
    refused = next(text for p, text in zip(both, said, strict=True) if p.returncode == 2)
    assert refused.count("\n") == 1 and "there is a run of this name already" in refused
    run = Run.open(place / "twin")
    assert len(with_key(run)) == 4
    wait_for(lambda: done(run), 60)


def test_two_heals_at_once(place: Path, repo: Path, wait_for: Any) -> None:
    run = start(place, "heals", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.cancel(list(ids(run).values()))
    wait_for(lambda: all(i.state.is_final for i in slurm.jobs(list(ids(run).values())).values()), 60)
    (run.path / "go").touch()
    both = [subprocess.Popen(driver("heal", [str(run.path)]), cwd=repo) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    wait_for(lambda: done(run), 60)
    assert starts(run, "train") == ["0", "0"] and starts(run, "consolidate") == ["0"]


def test_a_child_never_waits_for_a_job_that_slurm_does_not_know(place: Path) -> None:
    run = start(place, "unknown", train="wait")
    chain = chain_of(run)
    consolidate = next(job for job in chain.jobs if job.stage == "consolidate")
    with pytest.raises(WorkFailed, match="is gone from Slurm and train is not done"):
        submission.waits_for(chain, consolidate, {"train": "99999"})
    assert submission.waits_for(chain, consolidate, ids(run)) == [ids(run)["train"]]
    ledger.write_marker(run.path, "train", outcome="done", started=timestamps.now())
    assert submission.waits_for(chain, consolidate, {"train": "99999"}) == []


def test_two_jobs_at_one_stage_of_a_run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run = start(place, "rivals", train="wait")
    monkeypatch.setattr(attempt, "RIVAL_SECONDS", 0.0)
    with exclusive(attempt.work_lock(run.path, "train", None)) as held:
        assert held
        assert attempt.main([str(run.path), "--stage", "train", "touch", str(run.path / "rival")]) == 1
    assert "at work in another job" in capsys.readouterr().err
    assert not (run.path / "rival").exists()


def test_refused_in_the_middle_leaves_no_half_chain(place: Path, wait_for: Any) -> None:
    line = words("refused", "cluster.cpu_partition=nowhere")
    with pytest.raises(WorkFailed, match="partition"):
        submit.main(line)
    run = Run.open(place / "refused")
    assert list(ids(run)) == ["train"], "the first was accepted, the second refused"
    wait_for(lambda: all(job.state.is_final for job in slurm.jobs(list(ids(run).values())).values()), 60)
