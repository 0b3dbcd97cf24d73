"""The judges: what each takes for the same answer, who is refused, and two of them held against each other."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import mark, preflight
from glmjobs.recipe.loading import load as load_recipe
from glmjobs.reporting import prediction_table
from glmjobs.scoring import evaluate
from glmjobs.scoring.evaluate import Settings, Work, answer, finish, refuse_unreliable
from glmjobs.scoring.judges import JUDGES, JudgeName, Judging, load
from glmjobs.scoring.judges.choice import letters
from glmjobs.scoring.judges.exact import normalise
from glmjobs.scoring.predictions import Prediction, Shard
from glmjobs.scoring.test_sets import Question
from glmjobs.terminal.score_tables import show
from hpc.core.command import run_command
from hpc.core.errors import BadInput, NotFit
from tests.support.paths import CONFIGS

QUESTION = "还剩几颗？"


def verdict(name: JudgeName, gold: str, prediction: str, question: str = QUESTION) -> tuple[str, bool]:
    found = load(name).mark(question, gold, prediction)
    return found.status, found.correct


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("3+4=7\n#### 1,007", "1007"), ("$1,007.", "1007"), ("The Answer.", "the answer"), (" 9颗。 ", "9颗"),
        ("#### 1\n#### 2", "2"), ("3.5", "3.5"), ("", ""), ("#### -5.", "-5"),
    ],
)  # fmt: skip
def test_exact_normalises_as_lm_eval_does_for_gsm8k(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_exact() -> None:
    assert verdict("exact", "#### 9", "9.") == ("marked", True)
    assert verdict("exact", "9颗", "还剩9颗。") == ("marked", False)
    assert verdict("exact", " 。", "9") == ("not marked", False)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "B"), ("B. 土地", "B"), ("（B）土地", "B"), ("Ｂ", "B"), ("答案：B", "B"), ("【答案】D", "D"),
        ("答案是 B。", "B"),
        ("A不对，所以答案是B。", "B"), ("选项A不正确，选项C正确。", "C"), ("本题应选B，不选C", "B"),
        ("不是A，而是B", "B"), ("A、B、C都错，选D项", "D"),
        ("The answer is (C).", "C"), ("\\boxed{B}", "B"), ("答案是 \\boxed{\\text{C}}", "C"), ("**B**", "B"),
        ("选择AC", "AC"),
        ("选A、C", "AC"), ("因此正确选项是（D）", "D"), ("B\n解析：A不对", "B"), ("A是正确的", "A"),
        ("都可以", ""), ("A和B", "AB"), ("甲", ""),
    ],
)  # fmt: skip
def test_choice_reads_the_letter(text: str, chosen: str) -> None:
    assert letters(text) == chosen


def test_choice() -> None:
    question = "最主要的生产资料是 A. 工具 B. 土地 C. 劳力 D. 资金"
    assert verdict("choice", "(B) 土地", "所以选B。", question) == ("marked", True)
    assert verdict("choice", "B", "所以选C。", question) == ("marked", False)
    assert verdict("choice", "B", "所以选E。", question) == ("marked", False)
    assert verdict("choice", "B", "不知道", question) == ("marked", False)
    assert verdict("choice", "土地", "B", question) == ("not marked", False)


def test_meaning_is_the_marker() -> None:
    assert verdict("meaning", "所以还剩9颗。", "15-6=9（颗）\n答：还剩九颗。") == ("marked", True)


def test_math_verify_where_it_is_installed() -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    assert verdict("math-verify", "$\\frac{1}{2}$", "so it is $0.5$") == ("marked", True)
    assert verdict("math-verify", "9", "8") == ("marked", False)
    assert verdict("math-verify", "不知道", "8") == ("not marked", False)


@pytest.fixture
def no_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)


@pytest.mark.usefixtures("no_math_verify")
def test_without_math_verify_it_is_one_line_before_anything_is_answered(tmp_path: Path) -> None:
    with pytest.raises(
        NotFit, match=r"the judge math-verify: math_verify is not installed here; pip install"
    ):
        load("math-verify")
    recipe = load_recipe(CONFIGS / "tiny.yaml", ["score.judge=[meaning, math-verify]"])
    (finding,) = preflight.check_judges(recipe.score)
    assert not finding.ok and finding.blame == "configuration" and "pip install" in finding.found
    of_a_set = load_recipe(
        CONFIGS / "tiny.yaml", ["score.sets=[{path: x.jsonl, name: x, form: gsm8k, judge: math-verify}]"]
    )
    assert len(preflight.check_judges(of_a_set.score)) == 1
    assert not preflight.check_judges(load_recipe(CONFIGS / "tiny.yaml").score)
    with pytest.raises(NotFit):
        work_with(tmp_path, "meaning", "math-verify")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["score.judge=exakt"],
         "score.judge = 'exakt': one of meaning, exact, choice, math-verify, verifier, or a list"),
        (["score.judge=[]"], "or a list of two"),
        (["score.judge=[meaning, exact, choice]"], "3 judges; name one, or two to see where they disagree"),
        (["score.judge=[exact, exact]"], "exact twice; name two that differ"),
        (["score.judge=verifier"], "give score.verifier.url and score.verifier.model"),
        (["score.verifier.url=10.0.0.1:8000", "score.verifier.model=m"], "is no address: write http://HOST:PORT/v1"),
        (["score.verifier.url=http://h:99999/v1", "score.verifier.model=m"], "has no port from 0 to 65535"),
        (["score.verifier.url=http://me:secret@h/v1", "score.verifier.model=m"], "GLMJOBS_VERIFIER_KEY"),
        (["score.verifier.url=http://h/v1/chat/completions", "score.verifier.model=m"], "leave that out"),
        (["score.verifier.url=http://h/v1"], "score.verifier.model"),
        (["score.verifier.url=http://h/v1", "score.verifier.model=m", "score.verifier.prompt='{gold}?'"],
         "lacks {question}, {prediction}"),
        (["score.verifier.url=http://h/v1", "score.verifier.model=m", "score.verifier.attempts=0"], "attempts = 0"),
    ],
)  # fmt: skip
def test_a_wrong_judge_is_one_line_at_submit(sets: list[str], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_recipe(CONFIGS / "tiny.yaml", sets)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_names_one_judge_or_two() -> None:
    assert load_recipe(CONFIGS / "tiny.yaml").score.judging == Judging(("meaning",))
    assert load_recipe(CONFIGS / "tiny.yaml", ["score.judge=exact"]).score.judging == Judging(("exact",))
    two = load_recipe(CONFIGS / "tiny.yaml", ["score.judge=[meaning, exact]"]).score
    assert two.judging == Judging(("meaning", "exact"))
    assert json.loads(two.model_dump_json())["judge"] == ["meaning", "exact"]


def work_with(tmp_path: Path, *names: JudgeName) -> Work:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text('{"model_type": "chatglm"}')
    (model / "model.safetensors").write_bytes(random.Random(0).randbytes(500))
    questions = [Question(i, f"小明有{i}个苹果，又买了1个，一共有几个？", f"{i + 1}") for i in range(9)]
    questions.append(Question(9, "证明：两个偶数的和是偶数。", "偶数"))
    return Work.of(model, questions, tmp_path / "scores", Settings(), Judging(names))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 0 to 2 a bare number, the others a sentence; row 3 wrong; row 9 the gold's text."""

    def made(work: Work, todo: list[int], stop: Callable[[], bool]) -> Any:
        def each() -> Iterator[tuple[int, str, int, str]]:
            for p in todo:
                number = str(p + 1 + (p == 3))
                yield p, number if p < 3 else "偶数" if p == 9 else f"一共有{number}个。", 5, "stop"

        return evaluate._Answers(each(), "test", frozenset())

    monkeypatch.setattr(evaluate, "_answers", made)


@pytest.mark.usefixtures("answers")
def test_the_first_judge_decides_and_the_pairs_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = work_with(tmp_path, "meaning", "exact")
    answer(work, Shard())
    summary = finish(work)
    assert summary is not None
    assert (summary["judge"], summary["rows"], summary["correct"], summary["not_marked"]) == (
        "meaning",
        9,
        8,
        1,
    )
    second = summary["second_judge"]
    assert (second["judge"], second["rows"], second["correct"], second["not_marked"]) == ("exact", 10, 4, 0)
    assert second["pairs"] == {"both": 3, "only_first": 5, "only_second": 0, "neither": 1}
    rows = [json.loads(line) for line in (work.folder / "predictions.jsonl").open(encoding="utf-8")]
    assert list(rows[0]) == list(Prediction.__dataclass_fields__)
    assert [row["second"]["correct"] for row in rows] == [True] * 3 + [False] * 6 + [True]
    assert [prediction_table.disagree(row) for row in rows] == [False] * 4 + [True] * 5 + [False]
    show({"model": summary}, None, None, as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    assert "judge exact: 40.0 % of 10 rows; the judges disagree on 5 of the 9 rows that both mark" in out
    assert "right by meaning alone 5, by exact alone 0" in out
    # The other way round, without answering anew: the accuracy is the other's.
    turned = finish(work_with(tmp_path, "exact", "meaning"))
    assert turned is not None and (turned["correct"], turned["rows"]) == (4, 10)
    assert turned["second_judge"]["not_marked"] == 1
    assert turned["second_judge"]["pairs"] == {"both": 3, "only_first": 0, "only_second": 5, "neither": 1}
    alone = finish(work_with(tmp_path, "exact"))
    assert alone is not None and alone["second_judge"] is None


@pytest.mark.usefixtures("answers")
def test_a_judge_that_marks_no_row_gives_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = work_with(tmp_path, "choice")
    answer(work, Shard())
    summary = finish(work)
    assert summary is not None and (summary["rows"], summary["not_marked"]) == (0, 10)
    with pytest.raises(BadInput, match="the judge choice marks none of the 10 rows"):  # no retry would help
        refuse_unreliable(summary)
    assert (summary["accuracy"], summary["interval"]) == (None, None)
    show({"model": summary}, None, None, as_json=False)
    out = capsys.readouterr().out
    assert "–" in out and "%" not in out.split("BLEU")[1].splitlines()[2] and "0/0" not in out


@pytest.mark.usefixtures("answers")
def test_stopped_while_marking_it_leaves_what_was_there(tmp_path: Path) -> None:
    work = work_with(tmp_path, "meaning")
    answer(work, Shard())
    assert finish(work) is not None
    before = (work.folder / "summary.json").read_bytes()
    asked: list[bool] = []
    assert (
        finish(work_with(tmp_path, "exact"), stop=lambda: len(asked) > 4 or bool(asked.append(True))) is None
    )
    assert (work.folder / "summary.json").read_bytes() == before


def test_mark_takes_a_judge_or_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": QUESTION, "gold": "9颗", "prediction": text} for text in ("9颗", "还剩9颗。", "8颗")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert mark.main([str(file), "--judge", "meaning", "--judge", "exact"]) == 0
    out = capsys.readouterr()
    assert "meaning: right" in out.out and "exact: wrong: other text" in out.out and "还剩9颗" in out.out
    assert (
        out.err == "1 of 3 rows shown (exact: right 1, exact: wrong 2, meaning: right 2, meaning: wrong 1)\n"
    )
    assert mark.main([str(file), "--judge", "meaning", "--judge", "exact", "--json"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["meaning"]["correct"], row["exact"]["correct"]) == (True, False)
    assert mark.main([QUESTION, "B", "选B", "--judge", "choice"]) == 0
    assert "right: same option" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--judge", "exact", "--judge", "exact"], "--judge: exact twice"),
        (["--judge", "verifier"], "add --verifier-url URL and --verifier-model NAME"),
        (["--judge", "exact", "--verifier-url", "http://h/v1"], "go together"),
        (
            ["--judge", "verifier", "--verifier-url", "h", "--verifier-model", "m"],
            "--verifier-url is no address",
        ),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(mark.main, [QUESTION, "9", "9", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_every_judge_has_a_name_and_a_way() -> None:
    for name in JUDGES:
        if name not in ("math-verify", "verifier"):
            assert load(name).name == name
    with pytest.raises(BadInput, match="give its url and model"):
        load("verifier")
