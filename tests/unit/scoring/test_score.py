"""The score stage and command: a run's models, any model on any file, many processes, one line on errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal, score
from glmjobs.cli import run_command
from glmjobs.data.synthetic import write_problems
from glmjobs.generation.decoder import Decoding
from glmjobs.recipe.loading import parse
from glmjobs.run.directory import Run, Shape
from glmjobs.run.read_state import read_state
from glmjobs.scoring import evaluate
from glmjobs.scoring.predictions import Writer
from hpc.batch.profile import Profile
from hpc.core import timestamps
from hpc.core.errors import BadInput
from tests.support.small_families import small_chatglm

ROWS = 10


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No rank or array variables of the machine that runs the tests; the signal handlers put back."""
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}:
            monkeypatch.delenv(name)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and a "fine-tuned" model."""
    folder = tmp_path_factory.mktemp("models")
    return small_chatglm(folder / "base", seed=3), small_chatglm(folder / "tuned", seed=4)


@pytest.fixture
def run(tmp_path: Path, models: tuple[Path, Path]) -> Run:
    """A run whose training is over."""
    write_problems(tmp_path / "problems.jsonl", rows=80)
    recipe = parse(
        {
            "model": {"family": "chatglm", "path": str(models[0])},
            "data": {"path": str(tmp_path / "problems.jsonl"), "dev_rows": "1-20"},
            "score": {"rows": ROWS, "max_new_tokens": 12, "dtype": "float32"},
        }
    )
    made = Run.create(tmp_path / "run", recipe, Profile(), Shape(nodes=1, gpus=2))
    shutil.copytree(models[1], made.model)
    return made


def command(*words: object) -> int:
    return run_command(score.main, [str(word) for word in words])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_both_models_of_a_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run.path) == 0
    shown = capsys.readouterr().out
    for words in ("base", "fine-tuned", f"/{ROWS}", "accuracy (95 %)", "McNemar"):
        assert words in shown
    assert "tutorial" not in shown
    for which in ("base", "finetuned"):
        rows = [
            json.loads(line) for line in (run.scores / which / "predictions.jsonl").open(encoding="utf-8")
        ]
        assert [row["id"] for row in rows] == list(range(1, ROWS + 1))
        assert {row["finish"] for row in rows} <= {"stop", "length"}
        assert all(0 < row["tokens"] <= 12 or row["finish"] == "stop" for row in rows)
        summary = read(run.scores / which / "summary.json")
        assert summary["rows"] == ROWS
        assert summary["correct"] == sum(row["correct"] for row in rows)
        assert sum(summary["finish"].values()) == ROWS
    comparison = read(run.scores / "comparison.json")
    assert sum(comparison[k] for k in ("both", "only_base", "only_finetuned", "neither")) == ROWS
    marker = read(run.path / "stages" / "score.json")
    assert marker["outcome"] == "done"
    assert [output["path"] for output in marker["outputs"]] == [
        f"scores/{which}/{file}"
        for which in ("base", "finetuned")
        for file in ("predictions.jsonl", "summary.json")
    ] + ["scores/comparison.json"]  # fmt: skip
    assert marker["figures"]["base"]["rows"] == ROWS


def test_a_second_time_answers_nothing_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(run.path, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert set(first) == {"base", "finetuned", "comparison"}
    monkeypatch.setattr(evaluate, "_answers", lambda *_: pytest.fail("a model was asked again"))
    assert command(run.path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == first
    assert command(run.path, "--rejudge", "--json") == 0
    assert json.loads(capsys.readouterr().out) == first


def test_parts_by_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Array tasks 1-3; whoever comes last merges and marks."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    for task in (2, 3, 1):
        assert not run.done("score")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        assert command(run.path) == 0
        said = capsys.readouterr().err
        assert ("other parts still have" in said) == (task != 1)
    assert run.done("score")
    assert len(list((run.scores / "base").glob("predictions.shard-*"))) == 3
    assert len((run.scores / "base" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == ROWS


def test_parts_and_one_process_agree(run: Run) -> None:
    """Which rows are decoded together changes no answer."""
    assert command(run.path) == 0
    alone = (run.scores / "finetuned" / "predictions.jsonl").read_bytes()
    shutil.rmtree(run.scores)
    for part in ("2/2", "1/2"):
        assert command(run.path, "--shard", part) == 0
    assert (run.scores / "finetuned" / "predictions.jsonl").read_bytes() == alone


def test_told_to_stop_it_keeps_what_it_has(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual, calls = Writer.append, []

    def append(writer: Writer, key: str, *given: Any, **more: Any) -> None:
        calls.append(key)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        usual(writer, key, *given, **more)

    monkeypatch.setattr(Writer, "append", append)
    assert command(run.path) == 85
    assert "stopped on SIGUSR1" in capsys.readouterr().err
    assert len(calls) == 4
    assert not run.done("score")
    assert command(run.path) == 0
    assert len(calls) == 2 * ROWS
    assert run.done("score")


def test_ctrl_c_ends_between_two_tokens(
    models: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not only once the longest answer of a batch is done, which can take minutes; run again, it goes on."""
    data = tmp_path / "data.jsonl"
    rows = [{"question": f"{n}+1=?", "answer": str(n + 1)} for n in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    usual, steps = Decoding.step, []

    def step(batch: Decoding) -> Any:
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(batch)

    monkeypatch.setattr(Decoding, "step", step)
    words = (models[0], data, "--out", tmp_path / "out", "--max-new-tokens", 400, "--batch-size", 6)
    assert command(*words) == 130
    assert len(steps) == 5
    assert "stopped on SIGINT; run it again to go on" in capsys.readouterr().err
    assert command(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["base"]["rows"] == 6


def test_one_model_only(run: Run) -> None:
    assert command(run.path, "--which", "base") == 0
    assert (run.scores / "base" / "summary.json").is_file()
    assert not (run.scores / "finetuned").exists()
    assert not run.done("score")
    assert command(run.path, "--which", "finetuned") == 0
    assert run.done("score")


def test_merging_needs_no_torch(run: Run) -> None:
    """The report's node merges what GPU nodes left: no torch, and no other key than theirs."""
    assert command(run.path) == 0
    (run.scores / "base" / "summary.json").unlink()
    program = (
        "import sys; from glmjobs import score; from glmjobs.run.directory import Run; "
        f"found = score.summarise(Run.open({str(run.path)!r})); "
        "assert set(found['dev']) == {'base', 'finetuned'}, found; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
    assert (run.scores / "base" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("name", "form"),
    [("belle_school_math_samples.jsonl", "BELLE"), ("cmath_dev.jsonl", "CMATH"), ("mgsm_zh.tsv", "MGSM")],
)
def test_any_model_on_any_file(
    models: tuple[Path, Path], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, form: str,
) -> None:  # fmt: skip
    out = tmp_path / form
    words = (models[0], shared / "data" / name, "--out", out, "--rows", 3, "--max-new-tokens", 8, "--json")
    assert command(*words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["base"]["rows"] == 3
    assert len((out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert command(*words[:-1], "--batch-size", 1) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")


def test_a_question_longer_than_the_model_keeps_its_end(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "long.jsonl"
    rows = [{"question": "一共有3个苹果，" * n + "还剩几个？", "answer": "3"} for n in (1, 400)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = (models[0], data, "--out", tmp_path / "out", "--max-new-tokens", 4, "--json")
    assert command(*words) == 0
    summary = json.loads(capsys.readouterr().out)["base"]
    assert summary["questions_cut"] == 1
    assert list(summary["by_length"]) == ["up to 40 characters", "over 160 characters"]


def test_bad_input_is_one_line(
    run: Run, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "x"}\n', encoding="utf-8")
    good = tmp_path / "good.jsonl"
    good.write_text('{"question": "1+1=", "answer": "2"}\n', encoding="utf-8")
    shutil.rmtree(run.model)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((run.path, "--shard", "9/8"), "shard '9/8': write I/N"),
        ((tmp_path / "absent",), "no run of this name"),
        ((tmp_path / "absent", good), "no such model directory"),
        ((tmp_path, good), "no model directory (a directory with config.json and weights)"),
        ((models[0], tmp_path / "absent.jsonl"), "absent.jsonl: no such file"),
        ((models[0], bad), "no known columns of question and answer; found: text"),
        (
            (models[0], good, "--backend", "vllm", "--out", tmp_path / "v"),
            "vLLM serves GLM-4, GLM-4-0414, not chatglm",
        ),
        ((run.path,), "no fine-tuned model yet"),
        (
            (run.path, "--rows", "3"),
            "--rows is for MODEL_DIR DATA; a run is scored as its recipe's section score says",
        ),
        ((run.path, "--max-new-tokens", "3"), "--max-new-tokens is for MODEL_DIR DATA"),
        ((models[0],), "is a model directory: add the file to score it on"),
        ((models[0], good, "--which", "base"), "--which is for a run"),
        ((models[0], good, "--out", good), "good.jsonl: predictions cannot be written there: File exists"),
        ((models[0], good, "--out", "/proc/none"), "/proc/none: predictions cannot be written there"),
    ]
    for words, expected in cases:
        assert command(*words) == 2, words
        err = capsys.readouterr().err
        assert expected in err, err
        assert len(err.strip().splitlines()) == 1, err


def test_broken_weights_are_one_line(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(models[0], copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    good = tmp_path / "good.jsonl"
    good.write_text('{"question": "1+1=", "answer": "2"}\n', encoding="utf-8")
    assert command(copy, good, "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert "truncated" in err[0]


def scored(folder: Path) -> dict[str, bytes]:
    """What a folder of scores holds, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_models_of_two_runs_have_folders_of_their_own(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run's model is called "model"."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "d.jsonl"
    data.write_text('{"question": "1+1=", "answer": "2"}\n', encoding="utf-8")
    for name, model in zip(("a", "b"), models, strict=True):
        shutil.copytree(model, tmp_path / "runs" / name / "model")
        (tmp_path / "runs" / name / "run.yaml").write_text("{}\n")
        assert command(Path("runs") / name / "model", data, "--max-new-tokens", 4) == 0
    for name in ("a", "b"):
        assert read(Path("scores") / f"{name}-d" / "summary.json")["model"] == f"runs/{name}/model"
    before = scored(Path("scores/a-d"))
    assert command(Path("runs/b/model/../../a/model"), data, "--max-new-tokens", 4) == 0
    assert scored(Path("scores/a-d")).keys() == before.keys()
    shutil.copytree(models[0], tmp_path / "runs/a/base")
    assert score.default_folder(Path("runs/a/base"), data) == Path("scores/a-base-d")


def test_scores_of_another_model_or_file_are_not_overwritten(
    models: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = tmp_path / "one/m", tmp_path / "other/m"
    for model, place in zip(models, (one, other), strict=True):
        shutil.copytree(model, place)
    data = tmp_path / "d.jsonl"
    data.write_text('{"question": "1+1=", "answer": "2"}\n', encoding="utf-8")
    words = ("--max-new-tokens", 4)
    assert command(one, data, *words) == 0
    before = scored(Path("scores/m-d"))
    capsys.readouterr()

    def refused(model: Path, file: Path, said: str) -> None:
        for more in ((), ("--rejudge",)):
            assert command(model, file, *words, *more) == 2
            err = capsys.readouterr().err
            assert (
                err == f"error: scores/m-d: holds scores of another {said}; name another folder: --out DIR\n"
            )
            assert scored(Path("scores/m-d")) == before

    refused(other, data, f"model, {one}")
    (tmp_path / "elsewhere").mkdir()
    namesake = tmp_path / "elsewhere/d.jsonl"
    namesake.write_text('{"question": "1+2=", "answer": "3"}\n', encoding="utf-8")
    refused(one, namesake, f"data, {data}")
    assert command(other, namesake, *words, "--out", "mine") == 0
    # The same model and data go on wherever they are now; what was there before there was a note counts, too.
    moved = one.rename(tmp_path / "moved")
    shutil.copy(data, namesake)
    assert command(moved, namesake, *words, "--out", "scores/m-d") == 0
    assert scored(Path("scores/m-d"))["predictions.jsonl"] == before["predictions.jsonl"]
    (Path("scores/m-d") / "scored.json").unlink()
    before = scored(Path("scores/m-d"))
    capsys.readouterr()
    refused(other, data, f"model, {moved}")


def test_a_model_trained_further_is_scored_anew_in_its_place(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    model, data, out = tmp_path / "m", tmp_path / "d.jsonl", tmp_path / "out"
    rows = [{"question": f"{n}+1=?", "answer": str(n + 1)} for n in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prints = []
    for source in models:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(source, model)
        assert command(model, data, "--max-new-tokens", 4, "--out", out) == 0
        prints.append(read(out / "summary.json")["fingerprint"])
    assert prints[0] != prints[1]


def test_rejudge_marks_what_is_stored(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "d.jsonl", tmp_path / "out"
    rows = [{"question": f"{n}+1=?", "answer": str(n + 1)} for n in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rejudge = (models[0], data, "--rejudge", "--judge", "exact", "--json", "--out", out)

    def refused(*words: object) -> str:
        assert command(*words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert refused(*rejudge) == (
        f"error: {out}: --rejudge: no stored answers there; without --rejudge they are made\n"
    )
    assert not out.exists()
    assert command(models[0], data, "--rows", 2, "--max-new-tokens", 3, "--out", out) == 0
    capsys.readouterr()
    # Neither the rows nor the settings need be given again.
    for more in ((), ("--rows", 2), ("--max-new-tokens", 3)):
        assert command(*rejudge, *more) == 0
        said = capsys.readouterr()
        summary = json.loads(said.out)["base"]
        assert (summary["judge"], summary["answers"]) == ("exact", 2)
        few = "score: 2 of 4 rows have stored answers; these are marked\n"
        assert said.err == ("" if "--rows" in more else few)
    wrong = refused(*rejudge, "--max-new-tokens", 4)
    assert (
        "no stored answers of this model, these rows and settings (the last were made with max-new-tokens 3,"
        in wrong
    )
    assert len(read(out / "summary.json")["by_length"]) == 1 and read(out / "summary.json")["answers"] == 2


def test_a_scored_run_is_marked_by_another_judge(run: Run) -> None:
    """As docs/scoring.md says: heal --set score.judge, then score --rejudge."""
    run.mark("train", started=timestamps.now())  # else all that rests on it is done again
    assert command(run.path, "--json") == 0
    assert run.done("score") and read(run.scores / "finetuned/summary.json")["judge"] == "meaning"
    with pytest.raises(BadInput, match="score is done, so this would change nothing"):
        heal.change(run, read_state(run), ["score.max_new_tokens=9"], "local")
    told: list[str] = []
    heal.change(run, read_state(run), ["score.judge=[exact,meaning]"], "local", told.append)
    assert [line.split()[0] for line in told] == ["score", "report"] and "--rejudge" in told[0]
    assert command(run.path, "--rejudge", "--json") == 0
    found = read(run.scores / "finetuned/summary.json")
    assert (found["judge"], found["second_judge"]["judge"]) == ("exact", "meaning")
    assert run.done("score")


def test_rejudge_of_a_run_that_has_no_answers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run.path, "--rejudge") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--rejudge: no stored answers of " in err


def test_files_that_are_not_of_scoring_are_not_replaced(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "d.jsonl", tmp_path / "out"
    data.write_text('{"question": "1+1=", "answer": "2"}\n', encoding="utf-8")
    out.mkdir()
    for name in ("predictions.jsonl", "summary.json", "scored.json"):
        mine = out / name
        mine.write_text('{"mine": 1}\n')
        assert command(models[0], data, "--max-new-tokens", 3, "--out", out) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {mine}: is there already") and err.count("\n") == 1
        assert scored(out) == {name: b'{"mine": 1}\n'}
        mine.unlink()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "1/1"),
        ({"RANK": "2", "WORLD_SIZE": "4"}, "3/4"),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}, "4/8"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, "1/1"),  # the batch script itself
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "RANK": "3", "WORLD_SIZE": "4"}, "2/2"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "2/2"),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "8"}, "8/8"),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"}, "1/8"),
        (
            {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3",
             "SLURM_ARRAY_TASK_STEP": "2", "RANK": "1", "WORLD_SIZE": "2"}, "6/6",
        ),
    ],
)  # fmt: skip
def test_which_part_is_mine(environment: dict[str, str], expected: str) -> None:
    assert str(score.shard_here(environment)) == expected


def test_anchors_only_where_they_belong() -> None:
    def anchor(model: dict[str, Any], data: dict[str, Any]) -> Any:
        return score.anchor_for(parse({"model": model, "data": data}))

    belle = {"path": "data/school_math_0.25M.json"}
    assert anchor({"family": "chatglm", "path": "m"}, belle) == ("ChatGLM-6B", 0.048, 0.2)
    assert anchor({"family": "glm", "path": "m"}, belle) == ("GLM-10B", 0.097, 0.25)
    assert anchor({"family": "glm4", "path": "m"}, belle) is None
    assert anchor({"family": "chatglm", "path": "m"}, {"path": "other.jsonl"}) is None
    assert anchor({"make": {}}, {"make": {}, "dev_rows": "1-100"}) is None


@pytest.mark.slow
def test_two_processes_at_once(run: Run) -> None:
    """Real processes side by side, as the local chain starts them: each row once, one marker."""
    words = [
        sys.executable,
        "-m",
        "hpc.runtime.local_launch",
        "--nproc",
        "2",
        "--",
        sys.executable,
        "-m",
        "glmjobs.score",
    ]
    done = subprocess.run([*words, str(run.path)], check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert run.done("score")
    for which in ("base", "finetuned"):
        rows = (run.scores / which / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(row)["id"] for row in rows] == list(range(1, ROWS + 1))


@pytest.mark.parametrize("family", ["chatglm", "glm", "glm4", "chatglm3"])
def test_no_more_tokens_than_the_model_has_positions(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GLM-10B would look up rows that its tables do not have."""
    from tests.support.small_families import SMALL

    model, rows = tmp_path / "model", tmp_path / "rows.jsonl"
    SMALL[family](model)
    questions = ["三加五等于几？" * 120, "一加一？"]
    lines = [json.dumps({"instruction": q, "input": "", "output": "两个。"}) for q in questions]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = [
        str(model),
        str(rows),
        "--out",
        str(tmp_path / "out"),
        "--max-new-tokens",
        "4000",
        "--dtype",
        "float32",
    ]
    assert run_command(score.main, words) == 0
    said = capsys.readouterr().err
    most = {"chatglm": 255, "glm": 256, "glm4": 128, "chatglm3": 128}[family]
    has = 257 if family == "glm" else 256
    assert f"has {has} positions: an answer is cut at {most} tokens, not at max_new_tokens = 4,000\n" in said
