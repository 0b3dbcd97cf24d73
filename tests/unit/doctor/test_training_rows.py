"""glmjobs.doctor --recipe: what a training takes, by the one function that submit asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmjobs import doctor
from glmjobs.cli import run_command
from glmjobs.planning import demands

GB = 10**9
TITLE = "Training chatglm6b on 1 × 8 GPUs"


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Asks the doctor; what it says of the training. Nothing of Slurm's is here but an sbatch that is not called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "scontrol", "sinfo"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("GLMJOBS_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demands, "free_bytes", lambda path: 90 * GB)

    def ask(*words: str, cluster: str = "") -> tuple[int, dict[str, dict[str, str]]]:
        (tmp_path / "mine.yaml").write_text(cluster or "{}")
        line = ["--cluster", str(tmp_path / "mine.yaml"), "--json", *words]
        code = run_command(doctor.main, line)
        checks = json.loads(capsys.readouterr().out)["checks"]
        return code, {c["what"]: c for c in checks if c["section"].startswith("Training ")}

    return ask


def test_each_demand_is_a_row_with_numbers_and_a_setting(rows: Any) -> None:
    settings = ("jobs.train.memory=16G", "cluster.gpu_memory_gb=24")
    words = [word for item in settings for word in ("--set", item)]
    code, found = rows("--recipe", "configs/chatglm6b.yaml", *words)
    assert code == 3 and {row["section"] for row in found.values()} == {TITLE}
    assert list(found) == ["model", "data", "disk", "host memory", "GPU memory", "a save"]
    for name, why in (("model", "no such model directory"), ("data", "no such data")):
        assert found[name]["state"] == "warn" and why in found[name]["found"], "submit refuses it"
    for name, needed, mend in (
        ("disk", "172.9 GB", "--set train.method=lora"),
        ("host memory", "24.7 GB of a node", "--set jobs.train.memory=29G"),
        ("GPU memory", "GB of it", "--set train.zero_stage=3"),
    ):
        row = found[name]
        assert row["state"] == "bad" and needed in row["needed"] and row["mend"].endswith(mend), row
    assert "that this machine writes" in found["a save"]["found"] and found["a save"]["state"] in ("ok", "warn")


def test_a_figure_of_the_profile_refuses(rows: Any) -> None:
    figure = "{time: 2026-01-01, what: chatglm-6b, nodes: 1, gpus: 8, write_gb_s: 0.1}"
    code, found = rows("--recipe", "configs/chatglm6b.yaml", cluster=f"measured: [{figure}]")
    assert code == 3 and found["a save"]["state"] == "bad"
    assert found["a save"]["mend"] == "--set jobs.signal_seconds=1297"
    assert found["GPU memory"]["state"] == "ok"


def test_a_nodes_memory_that_nobody_has_said_is_a_note(rows: Any) -> None:
    for memory, state, said in (
        ("null", "warn", "the node's share"),
        ("0", "warn", "all that a node has"),
        ("64G", "ok", "64G"),
    ):
        _, found = rows("--recipe", "configs/chatglm6b.yaml", "--set", f"jobs.train.memory={memory}")
        row = found["host memory"]
        assert row["state"] == state and row["found"] == f"jobs.train.memory = {said}"
        assert row["mend"] == ("" if state == "ok" else "how much that is, preflight looks when the job starts")


def test_a_warning_as_long_as_the_job_is_refused(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "configs/chatglm6b.yaml", "--set", "jobs.train.time=00:10:00"]
    assert run_command(doctor.main, words) == 2
    assert "jobs.train.time = 00:10:00: 600 s before its end" in capsys.readouterr().err


def test_without_a_recipe_nothing_is_said_of_a_training(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows()[1] == {}
    assert run_command(doctor.main, ["--set", "train.method=lora"]) == 2
    assert capsys.readouterr().err == "error: --set goes with --recipe FILE\n"
