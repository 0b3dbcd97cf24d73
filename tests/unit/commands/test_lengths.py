"""How many examples are too long is said by submit and plan, and refused there where training would refuse it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")  # makes the models; what is tested needs none

from glmjobs import plan, submit
from glmjobs.cli import run_command
from glmjobs.data.framing import LEFT_OUT
from glmjobs.recipe.loading import load
from glmjobs.recipe.schema import Recipe
from glmjobs.run import lengths
from glmjobs.run.lengths import Lengths
from tests.support.paths import CONFIGS
from tests.support.small_families import SMALL

ROWS, DEV = 60, 5
NONE = dict.fromkeys(LEFT_OUT, 0)
LONG = "一共" + "很多" * 40 + "个。"


def data(folder: Path, long: int, rows: int = ROWS) -> Path:
    """``long`` of the train rows have a long answer."""
    path = folder / f"rows-{long}-{rows}.jsonl"
    lines = [
        {"instruction": f"{i}个和{i}个？", "input": "", "output": LONG if DEV <= i < DEV + long else "两个。"}
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def settings(family: str, bases: Path, path: Path, *more: str) -> list[str]:
    return [
        f"model.family={family}", "model.make=", f"model.path={bases / family}", "data.make=", f"data.path={path}",
        f"data.dev_rows=1-{DEV}", "data.max_target_length=40", "train.device=auto", *more,
    ]  # fmt: skip


def recipe(family: str, bases: Path, path: Path, *more: str) -> Recipe:
    return load(CONFIGS / "tiny.yaml", settings(family, bases, path, *more))


@pytest.mark.parametrize("family", SMALL)
def test_every_familys_rows_are_measured_without_torch(family: str, bases: Path, tmp_path: Path) -> None:
    found = lengths.estimate(recipe(family, bases, data(tmp_path, 11)))
    assert found == Lengths(ROWS - DEV, {**NONE, "long answer": 11}, 0, found.tokens, exact=True)
    assert found.share == found.surely == 11 / (ROWS - DEV)
    script = (
        "import sys, json\nfrom glmjobs.run import lengths\nlengths.main()\nassert not sys.modules['torch']"
    )
    document = {
        "model": str(bases / family), "family": family, "label_sop": False, "limits": [64, 40, "drop"],
        "asked": [["一", [], "", "二"], ["一", [], "", LONG]],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(document), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["too_long"] == {**NONE, "long answer": 1}


def test_what_training_finds_is_what_submit_says(bases: Path, tmp_path: Path) -> None:
    """The estimate of all rows is the count, and the tokens are training's."""
    from glmjobs.data.prepared import prepare
    from glmjobs.data.tokenised import tokenise
    from glmjobs.models import load_tokenizer
    from glmjobs.models.family import families

    for family in SMALL:
        made = recipe(family, bases, data(tmp_path, 7), "data.max_source_length=12", "data.too_long=keep_end")
        found = lengths.estimate(made)
        prepared = prepare(str(made.data.path), tmp_path / f"prepared-{family}", dev_rows=made.data.dev_rows)
        tokens = tokenise(
            prepared, "train", load_tokenizer(bases / family), families()[family], tmp_path / family,
            max_source_length=12, max_target_length=40, too_long="keep_end",
        )  # fmt: skip
        assert found is not None and found.rows == prepared.train
        assert found.too_long == {
            k: v for k, v in tokens.figures["left_out"].items() if k != "answer without tokens"
        }
        assert found.cut == tokens.figures["cut_questions"]
        assert found.tokens == pytest.approx(tokens.lengths.mean())


def submitted(family: str, bases: Path, path: Path, *more: str) -> int:
    words = ["--recipe", "configs/tiny.yaml", "--executor", "local", "--gpus", "1", "--stages", "train"]
    for item in settings(family, bases, path, *more):
        words += ["--set", item]
    return run_command(submit.main, words)


def test_submit_refuses_and_its_advice_helps(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("hpc.chain.submission.submit", lambda chain: {})
    path = data(tmp_path, 22)
    assert submitted("chatglm", bases, path) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not (tmp_path / "runs").exists()
    assert (
        "about 40% of the training examples would be left out (long answer: 40%; of 55 rows): raise" in said
    )
    advice = re.search(r"--set (data\.allow_dropped=\S+)$", said.strip())
    assert advice
    assert submitted("chatglm", bases, path, advice[1]) == 0
    assert "too long, of 55 rows: long answer: 40.0%" in capsys.readouterr().err
    assert submitted("chatglm", bases, path, "data.max_target_length=200") == 0
    assert "too long" not in capsys.readouterr().err


def test_a_sample_is_only_refused_where_it_leaves_little_doubt() -> None:
    for too_long, doubted in ((30, True), (60, False)):  # of 500: 6 and 12 %, where 5 % are allowed
        found = Lengths(500, {"long answer": too_long}, 0, 100.0)
        assert found.share > 0.05 and (found.surely <= 0.05) == doubted


def test_large_files_are_sampled_everywhere(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data(tmp_path, 0, rows=4000)
    with path.open("a", encoding="utf-8") as file:
        file.write(path.read_text(encoding="utf-8").replace("两个。", LONG))
    monkeypatch.setattr(lengths, "READ_BYTES", 1000)
    found = lengths.estimate(recipe("chatglm", bases, path))
    assert found is not None and not found.exact and found.rows > 0.9 * lengths.SAMPLE
    assert found.share > 0.5  # by bytes, the long half is more than half of it


def test_a_tokenizer_that_does_not_fit_is_refused(bases: Path, tmp_path: Path) -> None:
    import shutil

    for change, said in (
        (lambda d: (d / "tokenizer.json").write_text("<html>"), "its tokenizer cannot be used"),
        (lambda d: raise_ids(d / "tokenizer.json"), "it is another model's tokenizer"),
    ):
        model = shutil.copytree(bases / "glm4", tmp_path / "models" / "glm4", dirs_exist_ok=True)
        change(model)
        with pytest.raises(ValueError, match=said):
            lengths.estimate(recipe("glm4", tmp_path / "models", data(tmp_path, 0)))


def raise_ids(path: Path) -> None:
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {word: 10 * number for word, number in tokenizer["model"]["vocab"].items()}
    tokenizer["added_tokens"] = []
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def test_plan_says_it_and_counts_these_tokens(
    bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "configs/tiny.yaml", "--gpus", "1"]
    for item in settings("chatglm", bases, data(tmp_path, 11)):
        words += ["--set", item]
    assert plan.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["data"]
    assert document["too_long"] == "too long, of 55 rows: long answer: 20.0%"
    found = lengths.estimate(recipe("chatglm", bases, data(tmp_path, 11)))
    assert found is not None and document["tokens_per_example"] == pytest.approx(found.tokens)
    assert plan.main(words) == 0
    assert document["too_long"] in capsys.readouterr().out


def test_nothing_is_said_where_nothing_can_be_known(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe("chatglm", bases, data(tmp_path, 11))
    monkeypatch.setattr(lengths, "find_spec", lambda name: None)
    assert lengths.estimate(made) is None


@pytest.mark.parametrize("family", SMALL)
def test_examples_beyond_the_models_positions_are_counted_and_not_the_recipes_limits(
    family: str,
    bases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The limits allow more tokens than there are positions; that is no fault where the examples are short."""
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("hpc.chain.submission.submit", lambda chain: {})
    wide = ["data.max_source_length=4000", "data.max_target_length=4000", "train.packing=false"]
    assert submitted(family, bases, data(tmp_path, 0), *wide) == 0
    assert "positions" not in capsys.readouterr().err
    path = data(tmp_path, 22)
    path.write_text(path.read_text(encoding="utf-8").replace(LONG, LONG * 8), encoding="utf-8")
    assert submitted(family, bases, path, *wide) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "left out (more than the model's positions: 40%; of 55 rows): take another model" in said
    advice = re.search(r"--set (data\.allow_dropped=\S+)$", said.strip())
    assert advice and submitted(family, bases, path, *wide, advice[1]) == 0
    assert "too long, of 55 rows: more than the model's positions: 40.0%" in capsys.readouterr().err
