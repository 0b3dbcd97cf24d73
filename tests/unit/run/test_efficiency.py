"""What jobs asked for and used: from the ledger, GPU samples and the training log, and from nothing else."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest

import tests.support.report_sample as sample
from glmjobs import report, status
from glmjobs.recipe import loading
from glmjobs.run import efficiency
from glmjobs.run.directory import Run, Shape
from glmjobs.run.efficiency import GIB, RULES, Advice, Use, advice, of_run
from hpc.batch.profile import Profile
from tests.support.paths import REPO

TRAIN = {"gres": "gpu:a100:8", "nodes": "1", "mem": "512G", "time": "24:00:00", "signal": "B:USR1@600"}
SCORE = {"gres": "gpu:1", "mem": "64G", "time": "06:00:00"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    return sample.make_run(tmp_path)


def measured(run: Run, stage: str, asks: dict[str, str] | None, memory: int | None) -> None:
    """Have the ledger say what a stage's job asked for, and how much memory its attempts took."""
    path = run.path / "ledger.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event.get("stage") == stage and event["event"] == "submitted":
            event["asks"] = asks
        if event.get("stage") == stage and event["event"] == "ended":
            event["memory"] = memory
    path.write_text("".join(json.dumps(e) + "\n" for e in events))


def use_of(run: Run, stage: str) -> Use:
    return next(use for use in of_run(run.path) if use.stage == stage)


def test_the_rules_examples() -> None:
    assert doctest.testmod(efficiency).failed == 0
    assert doctest.testmod(efficiency).attempted >= len(RULES)


def test_a_run_of_which_nothing_was_measured(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """An older run's ledger: no advice, and the report says what is not known."""
    for use in of_run(run.path):
        assert (use.asked_memory, use.used_memory, use.asked_seconds) == (None, None, None)
        assert all(rule(use) is None for rule in RULES if rule is not efficiency.idle_gpus)
    report.make(run)
    text = (run.report / "report.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| consolidate | – |"))
    assert row.count("not measured") == 1 and "1 min 48 s" in row
    assert status.main([str(run.path)]) == 0
    assert "next time" not in capsys.readouterr().out


def test_memory_and_time_that_were_asked_for_in_vain(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    measured(run, "train", TRAIN, 100 * GIB)
    measured(run, "score", SCORE, 60 * GIB)
    train = use_of(run, "train")
    assert (train.asked_memory, train.used_memory) == (512 * GIB, 100 * GIB)
    assert train.used_seconds == pytest.approx(1.8 * 3600), "the longest of its three starts, not their sum"
    assert train.warning_seconds == 600 and not train.whole
    assert train.gpu_share is not None and train.gpu_memory is None, (
        "preflight did not say how much a GPU has"
    )
    settings = [word for a in advice(of_run(run.path)) for word in a.settings]
    assert settings == ["jobs.score.memory=78G", "jobs.train.memory=150G", "jobs.score.time=00:40:00"]
    assert status.main([str(run.path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "next time score: memory is short, 60.0 GiB of 64.0 GiB used: --set jobs.score.memory=78G" in said
    assert said.count("next time") == 3
    assert status.main([str(run.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["efficiency"]
    assert [word for a in found["advice"] for word in a["settings"]] == settings
    assert {j["stage"]: j["used_memory"] for j in found["jobs"]}["score"] == 60 * GIB
    document = report.make(run)
    assert [word for a in document["efficiency"]["advice"] for word in a["settings"]] == settings
    page = (run.report / "report.html").read_text(encoding="utf-8")
    assert "Asked for and used" in page and "--set jobs.train.memory=150G" in page


def test_every_setting_that_is_advised_is_one(run: Run) -> None:
    """What follows --set is taken by the recipe as it stands."""
    uses = [
        Use(stage=s, asked_memory=64 * GIB, used_memory=m * GIB, asked_seconds=86400, used_seconds=600)
        for s in ("train", "consolidate", "score", "report")
        for m in (1, 63)
    ]
    section = {"packing": True, "per_device_batch_size": 4, "gradient_accumulation": 2}
    uses += [
        Use(stage="train", gpu_share=0.3, gpu_memory=0.2, train=section),
        Use(stage="train", gpu_share=0.3, gpu_memory=0.2, train={**section, "gradient_accumulation": 1}),
        Use(stage="train", gpu_share=0.3, train={"packing": False}),
    ]
    settings = [word for a in advice(uses) for word in a.settings]
    assert len(settings) >= 12
    for setting in settings:
        loading.load(REPO / "configs" / "chatglm6b.yaml", [setting])


def test_gpus_while_steps_are_made(run: Run) -> None:
    """Samples of loading and of pauses between attempts don't count; memory is a share of what preflight found."""
    node = run.jobs("preflight") / "node-0.json"
    report_of_node = json.loads(node.read_text())
    for gpu in report_of_node["gpus"]:
        gpu["memory.total"] = "81920"
    node.write_text(json.dumps(report_of_node))
    before = use_of(run, "train")
    assert before.gpu_memory is not None and 0 < before.gpu_memory <= 1
    samples = run.path / "gpu" / "node17.jsonl"
    idle = {"time": sample.at(0.201), "node": "node17", "gpu": 0, "utilisation": 0, "memory": 1}
    rows = [json.dumps(idle) + "\n"] * 5000
    samples.write_text("".join(rows) + samples.read_text())
    assert use_of(run, "train") == before


@pytest.mark.parametrize(
    ("asks", "gigabytes"),
    [
        ({"mem": "64G"}, 64), ({"mem": "0"}, None), ({}, None),
        ({"mem-per-cpu": "2048M", "ntasks-per-node": "4", "cpus-per-task": "8"}, 64),
        ({"mem-per-gpu": "8G", "gres": "dcu:8"}, 64), ({"mem-per-gpu": "8G", "gpus-per-node": "a100:8"}, 64),
        ({"mem-per-gpu": "8G", "gpus": "a100:16", "nodes": "2"}, 64), ({"mem-per-gpu": "8G", "exclusive": ""}, None),
    ],
)  # fmt: skip
def test_memory_of_a_node_in_each_of_slurms_ways(
    asks: dict[str, str], gigabytes: int | None, run: Run
) -> None:
    measured(run, "score", asks, GIB)
    assert use_of(run, "score").asked_memory == (gigabytes * GIB if gigabytes else None)


def test_what_was_asked_for_before_a_repair_does_not_count(run: Run) -> None:
    """Submitted anew with other limits, a job is judged by those."""
    measured(run, "score", SCORE, 60 * GIB)
    asks = {**SCORE, "mem": "128G"}
    line = {"time": sample.at(30), "event": "submitted", "stage": "score", "job": "5000", "asks": asks}
    with (run.path / "ledger.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert [use.stage for use in of_run(run.path)] == ["train", "consolidate"]


@pytest.mark.parametrize("asks", [None, 7, {"time": "soon", "mem": "much", "nodes": "x", "signal": 3}])
def test_a_ledger_with_nonsense(asks: Any, run: Run) -> None:
    measured(run, "train", asks, None)
    use = use_of(run, "train")
    assert (use.asked_memory, use.asked_seconds, use.nodes) == (None, None, 1)


def test_a_run_that_never_began(tmp_path: Path) -> None:
    recipe = loading.load(REPO / "configs" / "tiny.yaml")
    made = Run.create(tmp_path / "new", recipe, Profile(), Shape(nodes=1, gpus=1))
    assert of_run(made.path) == [] and advice(of_run(made.path)) == []


def test_several_nodes_are_said(run: Run) -> None:
    found = advice([Use(stage="train", nodes=4, asked_memory=64 * GIB, used_memory=8 * GIB)])
    assert found == [
        Advice(
            stage="train", about="memory", settings=("jobs.train.memory=12G",),
            text="less memory is enough, 8.0 GiB of 64.0 GiB used on the first of 4 nodes",
        )
    ]  # fmt: skip
