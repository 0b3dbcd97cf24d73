"""submit: what it says, what it refuses, and that a dry run touches nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glmjobs import submit
from glmjobs.cli import run_command
from glmjobs.recipe.loading import load_both
from glmjobs.run import submit_checks
from glmjobs.run.directory import Run, free_name
from glmjobs.run.jobs import make_shape
from glmjobs.training.arguments import deepspeed_config
from hpc.slurm import client as slurm
from tests.support.paths import REPO

TINY = ["--recipe", "configs/tiny.yaml"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for runs; it does not exist yet."""
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("GLMJOBS_CLUSTER", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Slurm's commands."""
    (tmp_path / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path))


def test_dry_run_prints_the_whole_chain_and_touches_nothing(
    runs: Path, no_slurm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is submit's own: here, where no Slurm is, 3."""
    assert submit.main(["--nodes", "2", "--gpus", "8", "--executor", "slurm", "--dry-run"]) == 3
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("note: as it is now, this would be refused: sinfo")
    assert out.count("#!/bin/bash") == 4
    assert (
        "#SBATCH --nodes=2" in out
        and "#SBATCH --gres=gpu:a100:8" in out
        and "#SBATCH --ntasks-per-node=8" in out
    )
    assert "srun --ntasks=16 --ntasks-per-node=8" in out
    for before in ("train", "consolidate", "score"):
        assert f"--dependency=afterok:<{before}'s job id>" in err
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 0, ""),
        (["--set", "jobs.train.memory=1M"], 3, "jobs.train.memory = 1M, and this training takes "),
        (["--set", "train.freeze=[dense_h_to_5h]"], 2, "train.freeze: dense_h_to_5h: this model has embeddings, "),
        (["--set", "train.method=lora", "--set", "train.lora.targets=[q_proj]"], 2, "no linear map 'q_proj'"),
        (["--set", "model.make=", "--set", "model.path=gone"], 2, "no such model directory (model.path)"),
        (["--name", "there"], 2, "there is a run of this name already"),
        (["--rehearse"], 0, ""),
        *[
            (["--rehearse", "--layers", n], 2, f"--layers {n}: the recipe's model has")
            for n in ("0", "-1", "99")
        ],
    ],
)
def test_a_dry_run_says_all_that_submit_would_refuse(
    words: list[str], code: int, said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "there").mkdir(parents=True)
    command = [*TINY, "--gpus", "1", "--executor", "local", *words]
    assert run_command(submit.main, [*command, "--dry-run"]) == code
    out, err = capsys.readouterr()
    assert out.count("#!/bin/bash") == 4
    notes = [line for line in err.splitlines() if "this would be refused" in line]
    assert len(notes) == (code != 0) and all(said in note for note in notes)
    assert [path.name for path in runs.iterdir()] == ["there"]
    if code:
        assert run_command(submit.main, command) == code
        assert said in capsys.readouterr().err


def test_dry_run_as_json(runs: Path, no_slurm: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["--executor", "slurm", "--dry-run", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert [job["stage"] for job in document["jobs"]] == ["train", "consolidate", "score", "report"]
    for job in document["jobs"]:
        subprocess.run(["bash", "-n"], input=job["script"], text=True, check=True)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--executor", "local", "--recipe", "configs/chatglm6b.yaml"], 3, "NVIDIA GPUs"),
        (["--executor", "local", "--set", "train.device=auto"], 2, "no such model directory (model.path)"),
        (["--recipe", "nope.yaml"], 2, "nope.yaml: no such recipe file"),
        (["--cluster", "nope.yaml"], 2, "nope.yaml: no such cluster profile file"),
        (["--nodes", "0"], 2, "--nodes 0"),
        (["--gpus", "0"], 2, "--gpus 0"),
        ([*TINY, "--executor", "local", "--nodes", "2"], 2, "the local executor has one node"),
        (["--name", "../x"], 2, "--name"),
        (["--stages", "cook"], 2, "'cook' is not a stage"),
        (["--set", "cluster.partiton=x"], 2, "did you mean partition?"),
        (
            [*TINY, "--executor", "local", "--set", "data.make=", "--set", "data.path=no.json"],
            2,
            "no such data",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_made(
    words: list[str], code: int, said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(submit.main, words) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not runs.exists()


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 2, "empty"),
        (b'{"content": "a", "summary": "b"}\n', 2, "no column 'instruction'"),
        ("{}".encode("utf-16"), 2, "UTF-8"),
    ],
)
def test_data_are_looked_at_before_anything_is_queued(
    content: bytes, code: int, said: str, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    words = [*TINY, "--executor", "local", "--set", "data.make=", "--set", f"data.path={path}"]
    assert run_command(submit.main, words) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not runs.exists()


def test_a_deepspeed_file_is_found_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"zero_allow_untested_optimizer": true}')
    for name, wanted in (("mine.json", str(tmp_path / "mine.json")), ("configs/deepspeed/zero3.json", None)):
        recipe, profile = load_both("configs/tiny.yaml", None, [f"train.deepspeed={name}"], "local")
        checked = submit_checks.check(recipe, profile, make_shape(1, 1, "local"), ("train",), "local")
        assert checked.train.deepspeed == (wanted or name)
        monkeypatch.chdir(tmp_path.parent)  # where the job runs
        assert deepspeed_config(checked.train)
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such DeepSpeed configuration (train.deepspeed)"),
        ("{", "not valid JSON (train.deepspeed)"),
        ("[]", "is a JSON object"),
    ],
)
def test_a_deepspeed_file_is_read_before_anything_is_queued(
    content: str | None, said: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    words = [*TINY, "--executor", "local", "--set", f"train.deepspeed={path}"]
    assert run_command(submit.main, words) == 2
    error = capsys.readouterr().err
    assert str(path) in error and said in error and error.count("\n") == 1
    assert not runs.exists()


def test_no_slurm_here_is_said(runs: Path, no_slurm: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert slurm.__name__ and run_command(submit.main, [*TINY, "--executor", "slurm", "--gpus", "1"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "sinfo" in error
    assert not runs.exists()


def test_a_name_is_taken_once(runs: Path) -> None:
    recipe, profile = load_both("configs/tiny.yaml", None, [], "local")
    shape = make_shape(1, 1, "local")
    first = submit.create(runs, "mine", recipe, profile, shape, fixed=True)
    assert oct(first.path.stat().st_mode & 0o777) == "0o700"
    assert run_command(lambda _: bool(submit.create(runs, "mine", recipe, profile, shape, fixed=True))) == 2
    second = submit.create(runs, "tiny-1", recipe, profile, shape, fixed=False)
    third = submit.create(runs, "tiny-1", recipe, profile, shape, fixed=False)
    assert (second.name, third.name, free_name("tiny", runs)) == ("tiny-1", "tiny-2", "tiny-3")
    assert Run.open(first.path).recipe == recipe


LIGHT = ("submit", "plan", "status", "runs", "logs", "cancel", "heal", "prepare", "consolidate", "report")


@pytest.mark.parametrize("command", LIGHT)
def test_what_people_type_starts_without_torch(command: str) -> None:
    code = (
        f"import sys, runpy\nsys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('glmjobs.{command}', run_name='__main__')\n"
        "except SystemExit as e: assert e.code == 0\n"
        "bad = {'torch', 'transformers', 'deepspeed', 'datasets'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_list_of_commands_is_whole() -> None:
    from glmjobs.__main__ import COMMANDS

    for name in COMMANDS:
        places = (f"{name}.py", f"{name}/__main__.py")
        assert any((REPO / "glmjobs" / place).is_file() for place in places), name
