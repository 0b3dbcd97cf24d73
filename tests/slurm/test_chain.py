"""The whole chain on a real Slurm: by submit over two nodes, by sbatch, with a failing train, and cancelled."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel, submit
from glmjobs.run.directory import Run
from glmjobs.run.state import STAGES
from hpc.chain import ledger
from hpc.core.files import read_json
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from hpc.slurm.client import JobState
from tests.support.by_hand import sbatch_training
from tests.support.small_chain import words

pytestmark = pytest.mark.slurm

SMALL = (
    "data.make.rows=400", "data.dev_rows=1-40", "train.epochs=1", "train.save_steps=4", "train.max_steps=6",
    "score.rows=24", "score.max_new_tokens=12", "score.shards=2", "model.make.layers=2", "model.make.hidden_size=64",
)  # fmt: skip
PATIENCE = 420.0


@pytest.fixture
def here(
    slurm_env: dict[str, str], cluster: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    clean_queue: Callable[[DevCluster], None],
) -> Iterator[Path]:  # fmt: skip
    """A folder for runs, on the cluster."""
    clean_queue(cluster)
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    yield tmp_path


arguments = functools.partial(words, settings=SMALL, nodes=2)


def jobs_of(run: Run) -> dict[str, str]:
    """Job ids by stage, from the ledger."""
    return {str(e["stage"]): str(e["job"]) for e in ledger.events(run.path, event="submitted")}


def show(run: Run) -> str:
    """Everything the jobs wrote, for a failure's message."""
    return "\n".join(
        f"== {p}\n{p.read_text(errors='replace')[-3000:]}" for p in sorted(run.path.glob("jobs/*/*.*"))
    )


def wait_done(run: Run, wait_for: Callable[..., Any], stage: str = "report") -> None:
    """Until a stage is done, or any job of the chain has failed."""

    def ended() -> bool:
        if run.done(stage):
            return True
        last = [e for e in ledger.read(run.path) if e["event"] == "ended"]
        assert not (last and last[-1]["outcome"] == "failed"), show(run)
        return False

    try:
        wait_for(ended, PATIENCE, f"{stage} of {run.name}")
    except pytest.fail.Exception:
        pytest.fail(f"{stage} not done:\n{show(run)}")


def test_whole_chain_over_two_nodes(here: Path, cluster: DevCluster, wait_for: Any, capsys: Any) -> None:
    assert submit.main([*arguments("whole"), "--dry-run", "--json"]) == 0
    shown = {job["stage"]: job["script"] for job in json.loads(capsys.readouterr().out)["jobs"]}
    assert not (here / "runs").exists(), "a dry run touches nothing"
    assert submit.main([*arguments("whole"), "--json"]) == 0
    announced = json.loads(capsys.readouterr().out)
    run = Run.open(announced["path"])
    for stage, script in shown.items():
        assert (run.jobs(stage) / "script.sh").read_text() == script, "what was shown is what went out"
    assert set(announced["jobs"]) == {"train", "consolidate", "score", "report"}
    for stage, before in (("consolidate", "train"), ("score", "consolidate"), ("report", "score")):
        dependency = (slurm.show(announced["jobs"][stage]) or {}).get("Dependency", "")
        assert dependency.startswith(f"afterok:{announced['jobs'][before]}"), (stage, dependency)
    wait_done(run, wait_for)
    assert all(run.done(stage) for stage in STAGES), show(run)
    train = ledger.marker(run.path, "train")
    assert train is not None and train["figures"]["world_size"] == 2 and train["figures"]["step"] == 6
    [ended] = ledger.events(run.path, event="ended", stage="train")
    assert 100 << 20 < ended["memory"] < 16 << 30, "measured without sacct"
    nodes = (ledger.marker(run.path, "preflight") or {})["figures"]["nodes"]
    assert sorted(nodes) == ["node1", "node2"]
    newest = run.checkpoints / "checkpoint-6"
    assert sorted(p.name for p in (newest / "global_step6").iterdir()) == [
        "mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "zero_pp_rank_1_mp_rank_00_optim_states.pt",
    ]
    for name in ("latest", "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth", "committed.json"):
        assert (newest / name).is_file(), name
    for name in ("all_results.json", "train_results.json", "trainer_state.json"):
        assert (run.checkpoints / name).is_file(), name
    for which in ("base", "finetuned"):
        summary = read_json(run.scores / which / "summary.json")
        assert summary is not None and summary["rows"] == 24
    assert "<html" in (run.report / "report.html").read_text(encoding="utf-8")[:2000].lower()
    assert oct(run.path.stat().st_mode & 0o777) == "0o700"


def test_sbatch_script_runs_the_same_chain(
    here: Path, cluster: DevCluster, wait_for: Any, wait_job: Any
) -> None:
    path = here / "runs" / "by-hand"
    job = sbatch_training(path, SMALL, here, cluster.environ())
    log = here / f"{job}.out"

    def made() -> bool:
        info = slurm.jobs([job]).get(job)
        assert info is None or not info.state.is_final or info.state.is_success, log.read_text()
        return (path / "run.yaml").is_file() and len(ledger.events(path, event="submitted")) == 4

    wait_for(made, PATIENCE, "the run directory and three jobs that wait")
    run = Run.open(path)
    assert jobs_of(run)["train"] == job
    assert run.shape.gpus == 2
    wait_done(run, wait_for)
    assert all(run.done(stage) for stage in STAGES)


def test_failing_train_leaves_the_rest_waiting(here: Path, cluster: DevCluster, wait_job: Any) -> None:
    # Every answer is too long: known only to the train stage, which has the tokenizer.
    assert submit.main(arguments("failing", "data.max_target_length=16", gpus=1, nodes=1)) == 0
    run = Run.open(here / "runs" / "failing")
    ids = jobs_of(run)
    info = wait_job(cluster, ids["train"], timeout=PATIENCE)
    assert info.state is JobState.FAILED
    ended = ledger.events(run.path, event="ended", stage="train")
    assert [e["outcome"] for e in ended] == ["failed"], "bad input is not tried again"
    assert "no example is left to train on" in ended[-1]["error"]
    after = slurm.jobs([ids["consolidate"], ids["score"], ids["report"]])
    assert {i.state for i in after.values()} == {JobState.PENDING} and after, "waiting, not running"
    assert not ledger.events(run.path, event="attempt", stage="consolidate")


def test_cancel_ends_everything(here: Path, cluster: DevCluster, wait_for: Any) -> None:
    assert submit.main(arguments("cancelled", "train.max_steps=100000")) == 0
    run = Run.open(here / "runs" / "cancelled")
    wait_for(lambda: ledger.events(run.path, event="attempt", stage="train"), PATIENCE, "train to start")
    ids = jobs_of(run)
    assert cancel.main([str(run.path)]) == 0
    wait_for(
        lambda: all(i.state.is_final for i in slurm.jobs(list(ids.values())).values()),
        90,
        "all jobs to be gone",
    )
    left = [line for line in slurm.run(["squeue", "-h", "-o", "%i"], env=os.environ).split() if line]
    assert left == []
    assert cancel.main([str(run.path)]) == 0, "twice is no mistake"


def test_warning_signal_saves_and_requeues(here: Path, cluster: DevCluster, wait_for: Any) -> None:
    assert (
        submit.main([*arguments("warned", "train.max_steps=60", nodes=1, gpus=2), "--stages", "train"]) == 0
    )
    run = Run.open(here / "runs" / "warned")
    job = jobs_of(run)["train"]
    wait_for(lambda: (ledger.progress(run.path, "train").get("step") or 0) >= 1, PATIENCE, "a first step")
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
    wait_for(lambda: ledger.events(run.path, event="requeued", stage="train"), PATIENCE, "a requeue")
    stopped = ledger.events(run.path, event="ended", stage="train")[0]
    assert stopped["outcome"] == "stopped" and stopped["last_checkpoint"] > 0
    wait_done(run, wait_for, "train")
    attempts = ledger.events(run.path, event="attempt", stage="train")
    assert len(attempts) == 2 and {a["job"] for a in attempts} == {job}, "the same job id"
    assert (
        f"resuming from checkpoint-{stopped['last_checkpoint']}"
        in (run.jobs("train") / "rank-0.log").read_text()
    )


def test_more_gpus_than_any_node_has(here: Path, cluster: DevCluster, repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glmjobs.submit", *arguments("huge", nodes=3, gpus=8)],
        cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1 and "2 nodes" in done.stderr and "a100:8" in done.stderr
    assert not (here / "runs").exists()
