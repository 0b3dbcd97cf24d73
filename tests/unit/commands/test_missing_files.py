"""What a person names and is not there is bad input, exit 2 and one line, whichever command is asked."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from glmjobs.cli import run_command
from glmjobs.recipe.loading import load
from glmjobs.run.directory import Run, Shape
from hpc.batch.profile import Profile
from tests.support.paths import CONFIGS

TINY = str(CONFIGS / "tiny.yaml")
SUBMIT = f"submit --recipe {TINY} --executor local"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{SUBMIT} --set data.make=null --set data.path=gone.json", "gone.json: no such data (data.path)"),
        (
            f"{SUBMIT} --set model.make=null --set model.path=gone",
            "gone: no such model directory (model.path)",
        ),
        (f"{SUBMIT} --set train.deepspeed=gone.json", "gone.json: no such DeepSpeed configuration"),
        (f"{SUBMIT} --cluster gone.yaml", "gone.yaml: no such cluster profile file"),
        ("plan --recipe gone.yaml", "gone.yaml: no such recipe file"),
        (
            f"plan --recipe {TINY} --set train.deepspeed=gone.json",
            "gone.json: no such DeepSpeed configuration",
        ),
        ("prepare gone.json", "gone.json: no such file"),
        ("prepare --recipe gone.yaml", "gone.yaml: no such recipe file"),
        ("score gone rows.jsonl", "gone: no such model directory"),
        ("score . gone.jsonl", "gone.jsonl: no such file"),
        ("score run", "run/model: no fine-tuned model yet"),
        ("train gone", "gone: no run of this name"),
        ("train run", "gone.json: no such file"),
        ("consolidate run", "run/checkpoints: no committed checkpoint here"),
        ("consolidate run/checkpoints/checkpoint-7 out", "run/checkpoints/checkpoint-7: no run of this name"),
        ("consolidate --verify gone", "--verify gone: no such directory"),
        ("consolidate --verify empty.txt", "--verify empty.txt: not a directory"),
        ("consolidate --verify run", "python -m glmjobs.consolidate --verify"),
        ("consolidate --verify run/model more", "more: --verify run/model takes one model directory"),
        ("reshard gone --world-size 2", "gone: no such directory"),
        ("chat gone --once x", "gone: no model directory"),
        ("convert split gone out --parts 2", "gone/config.json: missing"),
        ("fetch model gone/ --into there", "gone/: neither a path that exists nor a hub id"),
        ("fetch model --into gone --verify", "gone: no fetched.json"),
    ],
)
def test_it_is_bad_input(
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    recipe = load(TINY, ["data.make=null", "data.path=gone.json"])
    Run.create(tmp_path / "run", recipe, Profile(name="test"), Shape(nodes=1, gpus=1))
    command, *rest = words.split()
    assert run_command(import_module(f"glmjobs.{command}").main, rest) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and said in line, line
    assert not (tmp_path / "runs").exists()
