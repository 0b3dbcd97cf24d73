"""What a rehearsal is made of, what its table says, what the profile keeps of it, and what plan makes of that."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmjobs import plan, rehearse, submit
from glmjobs.cli import run_command
from glmjobs.planning import rehearsed
from glmjobs.recipe import loading as recipes
from glmjobs.recipe.schema import Limits
from glmjobs.run import rehearsal
from glmjobs.run.directory import Run, Shape
from glmjobs.run.state import STAGES
from glmjobs.terminal.rehearsed import SHIPPED
from hpc.batch import profile as profiles
from hpc.batch.profile import Measured
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import BadInput
from hpc.core.files import write_json
from tests.support.paths import CONFIGS

TRAINED = {
    "load_seconds": 240.0, "step_seconds": 0.5, "tokens_per_s": 36_000.0, "mfu": 0.4321, "save_seconds": 100.0,
    "peak_gpu_bytes": 60 * 10**9, "peak_host_bytes": 14 * 10**9, "checkpoint_bytes": 98_800_000,
}  # fmt: skip
PROFILE = "# ours\nname: ours\npartition: gpu  # the big one\ngpu_type: a100\n"


def made(tmp_path: Path, *settings: str, resumed: bool = True, **figures: Any) -> Run:
    """A rehearsal of ChatGLM-6B on eight GPUs that is done; ``figures``: what training measured."""
    profile = tmp_path / "ours.yaml"
    profile.write_text(PROFILE, encoding="utf-8")
    whole = recipes.load(CONFIGS / "chatglm6b.yaml", settings)
    run = Run.create(
        tmp_path / "runs" / "rehearsal-1", rehearsal.short(whole), profiles.load(profile), Shape(gpus=8)
    )
    rehearsal.write(run.path, whole, profile)
    for checkpoint in (None, rehearsal.SAVE_STEP if resumed else None):
        ledger.append(run.path, "attempt", stage="train", job="1", checkpoint=checkpoint)
    for stage in STAGES:
        run.mark(stage, started=timestamps.now(), figures={**TRAINED, **figures} if stage == "train" else {})
    for which in ("base", "finetuned"):
        (run.scores / which).mkdir(parents=True)
        summary = {"answers": 8, "rows": 8, "seconds": 12.5, "tokens_per_s": 90.0}
        write_json(run.scores / which / "summary.json", summary)
    run.jobs("preflight").mkdir(parents=True)
    write_json(run.jobs("preflight") / "allreduce-0.json", {"node_gb_s": 225.0, "backend": "nccl"})
    return run


def test_a_rehearsal_keeps_what_decides_and_is_short() -> None:
    whole = recipes.load(CONFIGS / "chatglm6b.yaml", ["jobs.train.time=2-00:00:00"])
    short = rehearsal.short(whole)
    assert (short.model, short.data, short.consolidate) == (whole.model, whole.data, whole.consolidate)
    train = whole.train.model_copy(update={"max_steps": 20, "save_steps": 10, "logging_steps": 1})
    assert short.train == train
    assert short.score.rows == 8 and short.jobs.train.time == "01:00:00"
    assert short.jobs.consolidate == whole.jobs.consolidate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("10:30", 630), ("24:00:00", 86_400), ("1-0", 86_400), ("1-12", 129_600), ("2-00:30", 174_600),
        ("1-02:03:04", 93_784),
    ],
)  # fmt: skip
def test_time_limits_in_the_forms_of_sbatch(text: str, seconds: int) -> None:
    assert Limits(time=text).seconds == seconds


def test_where_all_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path)
    assert run_command(rehearse.main, ["--result", str(run.path)]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "goes on from step 10 holds",
        "0.5 s, 36,000 tokens/s, MFU 43.2%",
        "60.0 GB",
        "takes 100 s",
        "225 GB/s",
        "240 s",
    ):
        assert words in said, said
    assert said.endswith("all that was measured holds")


@pytest.mark.parametrize(
    ("what", "settings", "figures", "remedy"),
    [
        ("a save", (), {"save_seconds": 700.0}, "--set jobs.signal_seconds=1051"),
        ("the longest silence", (), {"step_seconds": 1000.0}, "--set jobs.heartbeat_seconds=1500"),
        ("GPU memory", (), {"peak_gpu_bytes": 79 * 10**9}, "--set train.activation_checkpointing=true"),
        ("a save", ("jobs.train.time=00:20:00",), {"save_seconds": 700.0},
         "--set jobs.signal_seconds=1051 --set jobs.train.time=00:36:00"),
        ("GPU memory", ("train.activation_checkpointing=true",), {"peak_gpu_bytes": 79 * 10**9},
         "more GPUs, or GPUs with more memory"),
        ("disk", (), {"checkpoint_bytes": 40 * 10**9}, "--set train.save_total_limit=1"),
        ("disk", ("train.save_total_limit=1",), {"checkpoint_bytes": 50 * 10**9}, "/runs"),
        ("disk", (), {"checkpoint_bytes": 10**15}, "/runs"),
        ("a rank killed", (), {"resumed": False}, "jobs/train"),
    ],
)  # fmt: skip
def test_what_will_not_hold(
    what: str,
    settings: tuple[str, ...],
    figures: dict[str, Any],
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rehearsed, "free_bytes", lambda path: 100 * 10**9)
    run = made(tmp_path, *settings, **figures)
    assert run_command(rehearse.main, ["--result", str(run.path)]) == 3
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("will not hold")]
    mine = next(line for line in lines if line.startswith(f"will not hold: {what}:"))
    assert mine.endswith(remedy), mine


def test_the_profile_keeps_it_and_plan_goes_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path)
    for _ in range(2):  # told once
        assert run_command(rehearse.main, ["--result", str(run.path), "--json"]) == 0
    text = (tmp_path / "ours.yaml").read_text(encoding="utf-8")
    assert text.startswith(PROFILE) and text.count("\n- ") == 1
    capsys.readouterr()
    words = ["--recipe", "configs/chatglm6b.yaml", "--cluster", str(tmp_path / "ours.yaml"), "--gpus"]
    found = {}
    for gpus in (8, 4):
        assert run_command(plan.main, [*words, str(gpus), "--json"]) == 0
        found[gpus] = json.loads(capsys.readouterr().out)
    setting = found[8]["setting"]
    assert 3600 * setting["hours"] / setting["steps"] == pytest.approx(TRAINED["step_seconds"], rel=0.01)
    assert found[8]["utilisation_from"] == profiles.load(tmp_path / "ours.yaml").measured[0].time
    assert found[4]["utilisation_from"] == "assumed", "another shape"


def test_a_profile_of_the_toolkit_is_not_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, shipped = made(tmp_path), CONFIGS / "clusters" / "devcluster.yaml"
    assert all((CONFIGS / "clusters" / name).is_file() for name in SHIPPED)
    before = shipped.read_bytes()
    rehearsal.write(run.path, recipes.load(CONFIGS / "chatglm6b.yaml"), shipped)
    for _ in range(2):  # shown each time
        assert run_command(rehearse.main, ["--result", str(run.path)]) == 0
        said = capsys.readouterr().err
        assert f"note: {shipped} comes with the toolkit" in said and said.count("\n") == 1
    assert shipped.read_bytes() == before and len(ledger.events(run.path, event="rehearsed")) == 1
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(before + ("\n" + said.partition("this line: ")[2]).encode())
    assert profiles.load(copy).measured[0].tokens_per_s == TRAINED["tokens_per_s"]


def test_a_second_entry_stands_after_the_first(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(
        PROFILE + "measured:\n- {time: a, what: x, nodes: 1, gpus: 8}\n\nqos: long\n", encoding="utf-8"
    )
    profiles.add_measured(path, Measured(time="b", what="y", nodes=2, gpus=8))
    found = profiles.load(path)
    assert [m.what for m in found.measured] == ["x", "y"] and found.qos == "long"


def test_a_profile_in_another_form_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text("{name: ours, partition: gpu}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"cannot be appended to it; the line: - \{"):
        profiles.add_measured(path, Measured(time="b", what="y", nodes=2, gpus=8))
    assert path.read_text(encoding="utf-8") == "{name: ours, partition: gpu}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stages", "train"], "error: --stages train: a rehearsal goes through all of them\n"),
        (["--result", "/nowhere"], "error: /nowhere: no run of this name or path"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(rehearse.main, words) == 2
    assert capsys.readouterr().err.startswith(said)


def test_another_run_is_no_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path)
    (run.path / rehearsal.FILE).unlink()
    assert run_command(rehearse.main, ["--result", str(run.path)]) == 2
    assert "no rehearsal; one is made by: python -m glmjobs.rehearse" in capsys.readouterr().err


def test_submit_rehearses_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rehearse", "--dry-run", "--executor", "slurm", "--gpus", "8"]
    assert run_command(submit.main, words) in (2, 3), "no such model here, and maybe no Slurm"
    assert "#SBATCH --job-name=rehearsal-chatglm6b-train" in capsys.readouterr().out


def test_the_rank_dies_after_its_step() -> None:
    from glmjobs.training.killed import Killed

    def steps() -> None:
        for step in range(1, 20):
            Killed(13).on_step_end(None, SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]
            if step == 13:
                os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=steps)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


def test_nothing_measured_is_no_line(tmp_path: Path) -> None:
    """Training on a CPU: no GPU's memory, and no utilisation for plan."""
    run = made(tmp_path, peak_gpu_bytes=None)
    of = rehearsal.read(run.path)
    assert of is not None
    assert "GPU memory" not in [line.what for line in rehearsed.lines(run, of)]
    assert rehearsed.measured(run, of).utilisation is None


def test_of_a_few_layers_what_all_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever few layers take, the table and the profile say what all of them would, by plan's proportions."""
    whole = recipes.load(
        CONFIGS / "tiny.yaml", ["model.make.layers=8", "train.device=cuda", "data.make.rows=100000"]
    )
    few = rehearsal.shallow(rehearsal.short(whole), 2, tmp_path)
    assert few.model.make is not None and few.model.make.layers == 2
    run = Run.create(tmp_path / "runs" / "r", few, profiles.Profile(), Shape(gpus=1))
    rehearsal.write(run.path, whole, None, 2)
    run.mark("train", started=timestamps.now(), figures={**TRAINED})
    of = rehearsal.read(run.path)
    assert of is not None and of.layers == 2
    found = {line.what: line for line in rehearsed.lines(run, of)}
    assert found["layers"].found == "the first 2 of 8 ran"
    step = float(found["a step"].found.split()[0])
    assert 1.5 * TRAINED["step_seconds"] < step < 4 * TRAINED["step_seconds"], (
        "all but the embedding grows with layers"
    )
    measured = rehearsed.measured(run, of)
    assert measured.layers == 2 and measured.write_gb_s == pytest.approx(98_800_000 / 100 / 1e9, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers", "0"], "error: --layers 0: the recipe's model has 4 (model.make.layers)"),
        (["--layers", "5"], "error: --layers 5: the recipe's model has 4 (model.make.layers)"),
        (["--layers", "x"], "error: argument --layers: invalid int value: 'x'"),
        (
            ["--layers", "2", "--set", "model.make=null", "--set", "model.path=/nowhere"],
            "error: /nowhere: no such",
        ),
    ],
)
def test_layers_that_are_not_there(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "--recipe",
        "configs/tiny.yaml",
        "--set",
        "model.make.layers=4",
        "--executor",
        "local",
        "--gpus",
        "1",
    ]
    assert run_command(rehearse.main, [*line, *words]) == 2
    assert said in capsys.readouterr().err


def test_a_training_takes_all_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(submit.main, ["--recipe", "configs/tiny.yaml", "--gpus", "1", "--layers", "2"]) == 2
    assert "--layers: of a rehearsal" in capsys.readouterr().err
