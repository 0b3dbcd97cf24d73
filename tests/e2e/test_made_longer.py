"""A finished training goes on from its optimizer's state, as one that was as long from the start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from glmjobs import consolidate, heal, report, score
from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from glmjobs.run.longer import share_of_rate
from glmjobs.run.read_state import read_state
from hpc.chain import ledger
from hpc.core.errors import BadInput
from hpc.core.files import read_json, read_jsonl
from tests.e2e.test_families_chain import make_run, train

SHORT: dict[str, Any] = {"max_steps": -1, "epochs": 1, "save_steps": 50, "scheduler": "constant"}


def finished(folder: Path, **settings: Any) -> Run:
    """A run whose chain has ended, as far as its training goes."""
    run = make_run(folder, "glm", gpus=1, train={**SHORT, **settings})
    train(run)
    return run


def change(run: Run, *items: str) -> tuple[Run, str]:
    said: list[str] = []
    return heal.change(run, read_state(run, ask_slurm=False), items, "local", said.append), " ".join(said)


def steps(run: Run) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for row in read_jsonl(run.checkpoints / "train_log.jsonl")}


def test_it_goes_on_as_if_it_had_been_as_long_from_the_start(tmp_path: Path) -> None:
    """Constant rate: to the bit. The other stages run again; ledger and report tell both parts."""
    whole = finished(tmp_path / "whole", epochs=2)
    run = finished(tmp_path / "parts", epochs=1)
    first = (ledger.marker(run.path, "train") or {})["figures"]
    assert first["epoch"] == 1
    for main in (consolidate.main, score.main, report.main):
        assert run_command(main, [str(run.path)]) == 0
    run, said = change(run, "train.epochs=2")
    assert (
        f"goes on from checkpoint-{first['step']}: 2 epochs in all; the learning rate is about 0.005" in said
    )
    assert not any(run.done(stage) for stage in ("train", "consolidate", "score", "report"))
    assert "made longer" in read_state(run, ask_slurm=False).get("train").reason
    log = train(run)
    last = 2 * first["step"]
    assert f"resuming from checkpoint-{first['step']}" in log and f"{last:,} steps in all instead of" in log
    ours, wanted = (steps(r) for r in (run, whole))
    assert max(ours) == last == max(wanted)
    assert [ours[s]["loss"] for s in sorted(ours)] == [wanted[s]["loss"] for s in sorted(wanted)]
    told = ledger.events(run.path, event="reopened", stage="train")
    assert told[0]["step"] == first["step"] and set(told[0]["accuracy"]) == {"base", "finetuned"}
    for main in (consolidate.main, score.main, report.main):
        assert run_command(main, [str(run.path)]) == 0
    assert (read_json(run.model / "manifest.json") or {})["step"] == last
    assert run_command(consolidate.main, [str(whole.path)]) == 0
    made, expected = ((r.model / "model.safetensors").read_bytes() for r in (run, whole))
    assert made == expected
    document = read_json(run.report / "report.json") or {}
    assert [part["step"] for part in document["training"]["parts"]] == [first["step"], last]
    page = (run.report / "report.md").read_text()
    assert f"In 2 parts: to step {first['step']:,} (1 epoch" in page and f"to step {last:,} (2 epochs" in page


def test_the_rate_goes_up_again_where_its_schedule_is_stretched(tmp_path: Path) -> None:
    run = finished(tmp_path, scheduler="linear")
    at = (ledger.marker(run.path, "train") or {})["figures"]["step"]
    assert steps(run)[at]["learning_rate"] < 0.005 / at * 1.01
    run, said = change(run, "train.epochs=2")
    assert "about 0.0025 from there on (linear, over the whole) and falls to 0" in said
    log = train(run)
    assert "it is 0.0025 from here on (linear)" in log
    rate = steps(run)[at + 1]["learning_rate"]
    assert 0.002 < rate <= 0.0025, "the first step after is on the new schedule"
    assert steps(run)[2 * at]["learning_rate"] < 0.005 / at


def test_what_is_refused_is_one_line(tmp_path: Path) -> None:
    run = finished(tmp_path)
    at = (ledger.marker(run.path, "train") or {})["figures"]["step"]
    before = (run.path / "run.yaml").read_bytes()

    def refused(words: str, *items: str) -> None:
        with pytest.raises(BadInput, match=words) as error:
            change(run, *items)
        assert "\n" not in str(error.value)
        assert (run.path / "run.yaml").read_bytes() == before and run.done("train")
        assert not ledger.events(run.path, event="reopened")

    refused(f"train.epochs = 0.5: training has done {at} steps .1 epoch. already", "train.epochs=0.5")
    refused(f"train.max_steps = {at}: training has done {at} steps", f"train.max_steps={at}")
    refused(r"train is done.*or train longer: --set train\.epochs=N", "train.learning_rate=1e-6")
    refused("make a new run", "train.epochs=2", "train.seed=7")
    refused("optimizer state is made for", "train.epochs=2", "train.precision=bf16")
    shutil.rmtree(run.checkpoints / f"checkpoint-{at}")
    refused(r"no checkpoint is left.*--set model\.path=", "train.epochs=2")


def test_what_a_schedule_gives() -> None:
    """As transformers' own schedules."""
    import torch
    from transformers import get_scheduler

    for name in ("linear", "cosine", "constant"):
        for warmup in (0, 25):
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            kind = "constant_with_warmup" if name == "constant" else name
            schedule = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=100)
            for step in range(100):
                assert share_of_rate(name, step / 100, warmup / 100) == pytest.approx(
                    schedule.get_last_lr()[0]
                )
                optimizer.step()
                schedule.step()
