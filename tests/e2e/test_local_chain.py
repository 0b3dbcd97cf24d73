"""The main job on this machine: README's command with a smaller recipe, run twice, broken off, and its record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from glmjobs.run.directory import Run
from glmjobs.run.state import STAGES
from hpc.chain import ledger

SMALL = (
    "data.make.rows=400", "data.dev_rows=1-40", "train.epochs=1", "train.save_steps=4", "train.max_steps=6",
    "score.rows=24", "score.max_new_tokens=12", "model.make.layers=2", "model.make.hidden_size=64",
)  # fmt: skip
BOUND = 300


def command(*more: str) -> list[str]:
    """README's command for the tiny recipe, made smaller."""
    words = [
        sys.executable,
        "-m",
        "glmjobs.submit",
        "--recipe",
        "configs/tiny.yaml",
        "--nodes",
        "1",
        "--gpus",
        "2",
    ]
    words += ["--executor", "local", *more]
    for item in SMALL:
        words += ["--set", item]
    return words


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Runs go to the test's own folder."""
    return {**os.environ, "GLMJOBS_RUNS": str(tmp_path / "runs")}


def test_the_whole_chain_here(repo: Path, tmp_path: Path, environ: dict[str, str]) -> None:
    done = subprocess.run(
        command("--follow"), cwd=repo, env=environ, capture_output=True, text=True, check=False, timeout=BOUND
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.open(tmp_path / "runs" / "tiny-1")
    assert all(run.done(stage) for stage in STAGES)
    for words in (
        "base",
        "fine-tuned",
        "95 % interval",
        "0 of them in train (checked)",
        str(run.model),
        str(run.report / "report.html"),
    ):
        assert words in done.stdout, done.stdout
    assert_files(run)
    assert_honest(run)
    before = {p: p.stat().st_mtime_ns for p in [*run.model.iterdir(), *run.checkpoints.rglob("*")]}
    for stage in ("train", "consolidate"):
        again = subprocess.run(
            [sys.executable, "-m", f"glmjobs.{stage}", str(run.path)],
            cwd=repo, env=environ, capture_output=True, text=True, check=False, timeout=BOUND,
        )  # fmt: skip
        assert again.returncode == 0, again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in before}, "a stage run again changes nothing"


def assert_files(run: Run) -> None:
    """The output has the shape people know."""
    checkpoint = run.checkpoints / "checkpoint-6"
    names = {p.name for p in (checkpoint / "global_step6").iterdir()}
    assert names == {"mp_rank_00_model_states.pt"} | {
        f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)
    }
    assert (checkpoint / "latest").read_text() == "global_step6"
    for name in ("rng_state_0.pth", "rng_state_1.pth", "trainer_state.json", "committed.json"):
        assert (checkpoint / name).is_file(), name
    for name in ("all_results.json", "train_results.json", "trainer_state.json", "train_log.jsonl"):
        assert (run.checkpoints / name).is_file(), name
    for name in ("config.json", "ice_text.model", "tokenizer_config.json"):
        assert (run.model / name).is_file(), name
    assert list(run.model.glob("*.safetensors"))


def assert_honest(run: Run) -> None:
    """No dev question is a train question, checked here and recorded by the run."""
    questions: dict[str, set[str]] = {}
    for part in ("dev", "train"):
        rows = [
            json.loads(line) for line in (run.data / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        questions[part] = {row["instruction"].strip() for row in rows}
        assert rows
    assert not questions["dev"] & questions["train"]
    recorded = json.loads((run.data / "prepare.json").read_text(encoding="utf-8"))["overlap"]
    assert recorded["checked"] is True and recorded["dev_in_train"] == 0


def test_ctrl_c_leaves_the_run_going_and_cancel_ends_it(
    repo: Path, tmp_path: Path, environ: dict[str, str]
) -> None:
    words = [*command("--follow", "--name", "broken-off"), "--set", "train.max_steps=100000"]
    process = subprocess.Popen(words, cwd=repo, env=environ, stderr=subprocess.PIPE, text=True)
    run_path = tmp_path / "runs" / "broken-off"
    try:
        wait(lambda: (ledger.progress(run_path, "train").get("step") or 0) >= 1, "a first step", BOUND)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "the run goes on" in said and "Traceback" not in said
        chain = int(ledger.events(run_path, event="submitted")[0]["job"].removeprefix("local-"))
        assert psutil.pid_exists(chain)
        family = psutil.Process(chain).children(recursive=True)
        done = cancelled(repo, environ, run_path)
        assert done.returncode == 0, done.stderr
        wait(
            lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family),
            "no process left",
        )
        status = subprocess.run(
            [sys.executable, "-m", "glmjobs.status", str(run_path), "--json"],
            cwd=repo, env=environ, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        stages = {s["stage"]: s["state"] for s in json.loads(status.stdout)["stages"]}
        assert stages["preflight"] == "done" and stages["train"] in ("cancelled", "stopped")
    finally:
        process.kill()
        cancelled(repo, environ, run_path)


def test_a_model_made_of_a_cut_off_training_is_made_again_when_it_goes_on(
    repo: Path, tmp_path: Path, environ: dict[str, str]
) -> None:
    run_path = tmp_path / "runs" / "cut-off"

    def python(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", f"glmjobs.{module}", str(run_path), *words],
            cwd=repo, env=environ, capture_output=True, text=True, check=False, timeout=BOUND,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    try:
        words = [*command("--name", "cut-off"), "--set", "train.max_steps=100000"]
        subprocess.run(words, cwd=repo, env=environ, check=True, timeout=BOUND)
        wait(lambda: (ledger.progress(run_path, "train").get("checkpoint") or 0) >= 4, "a checkpoint", BOUND)
        assert cancelled(repo, environ, run_path).returncode == 0
        first = ledger.progress(run_path, "train")["checkpoint"]
        run = Run.open(run_path)
        said = python("consolidate").stdout
        assert f"of step {first}: training isn't finished, 100000 steps are wanted" in said
        python("score", "--which", "both")
        python("report")
        assert all(run.done(stage) for stage in ("consolidate", "score", "report")) and not run.done("train")
        assert f"The model is of step {first}: training isn't finished" in (run.report / "report.md").read_text()
        assert f"of step {first}: training isn't finished" in python("status").stdout
        old = (run.model / "manifest.json").read_text()
        healed = python("heal", "--follow", "--set", f"train.max_steps={first + 3}")
        assert healed.stderr.count("training goes on") >= 3, healed.stderr
        made = json.loads((run.model / "manifest.json").read_text())
        assert made["step"] == first + 3 != json.loads(old)["step"]
        assert all(run.done(stage) for stage in STAGES)
        ends = [(ledger.marker(run_path, stage) or {}) for stage in ("train", "consolidate", "score", "report")]
        assert [m["ended"] for m in ends] == sorted(m["ended"] for m in ends), "each after the one before"
        assert "The model is of step" not in (run.report / "report.md").read_text()
    finally:
        cancelled(repo, environ, run_path)


def cancelled(repo: Path, environ: dict[str, str], run: Path) -> subprocess.CompletedProcess[str]:
    """The cancel command; nothing is left running, however a test ends."""
    return subprocess.run(
        [sys.executable, "-m", "glmjobs.cancel", str(run)],
        cwd=repo, env=environ, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


def wait(predicate: Any, what: str, bound: float = 120.0) -> None:
    """Until the predicate is true."""
    end = time.monotonic() + bound
    while not predicate():
        assert time.monotonic() < end, f"not within {bound:.0f} s: {what}"
        time.sleep(0.1)
