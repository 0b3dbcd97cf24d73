"""A row that the marker cannot mark is never one the model got wrong: it is counted apart and shown; many end it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs.marking import judge
from glmjobs.reporting import prediction_table
from glmjobs.scoring import evaluate
from glmjobs.scoring.evaluate import MARKER_FAILURES, Settings, Work, answer, finish, refuse_unreliable
from glmjobs.scoring.predictions import Shard
from glmjobs.scoring.test_sets import Question
from glmjobs.terminal.score_tables import show
from hpc.core.errors import WorkFailed

PROOF = "证明：两个偶数的和是偶数。"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Ten rows: eight right, one wrong, one proof."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "chatglm"}')
    (model / "model.safetensors").write_bytes(random.Random(0).randbytes(500))
    questions = [Question(i, f"小明有{i}个苹果，又买了1个，一共有几个？", f"{i + 1}") for i in range(9)]
    questions.append(Question(9, PROOF, "2m+2n=2(m+n)，是偶数。"))

    def answers(work: Work, todo: list[int], stop: Callable[[], bool]) -> Any:
        def each() -> Iterator[tuple[int, str, int, str]]:
            for p in todo:
                yield p, f"一共有{p + 1 + (p == 3)}个。", 5, "stop"

        return evaluate._Answers(each(), "test", frozenset())

    monkeypatch.setattr(evaluate, "_answers", answers)
    return Work.of(model, questions, tmp_path / "scores", Settings())


def fail_on(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """A rule that raises on the gold ``number``."""
    module = __import__("sys").modules["glmjobs.marking.judge"]
    real = module._judge

    def judged(asked: Any, gold: str, predicted: str) -> Any:
        if gold == number:
            raise KeyError(number)
        return real(asked, gold, predicted)

    monkeypatch.setattr(module, "_judge", judged)


def test_a_rule_that_raises_is_a_failure_of_the_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on(monkeypatch, "7")
    verdict = judge("几个？", "7", "7个")
    assert (verdict.status, verdict.correct) == ("failed", False)
    assert verdict.reason.startswith("KeyError in test_never_silent.py:")


def test_proofs_are_not_marked() -> None:
    assert judge(PROOF, "2m+2n=2(m+n)，是偶数。", "不知道").status == "not marked"
    assert judge("求证：对顶角相等。", "因为同角的补角相等，所以对顶角相等。", "略").status == "not marked"
    assert judge("已知求证略，那么一共有多少个？", "3个", "3个").status == "marked"
    assert judge("求函数f(x)=x²-4x+7的最小值。", "f(x)=(x-2)²+3，因此最小值为3。", "最小值为3").correct
    assert judge("求导数", "f(x)=3sin(x)", "cos(x)").status == "not marked"


def test_what_is_not_marked_counts_nowhere_and_is_said(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(work, Shard())
    summary = finish(work)
    assert summary is not None
    assert (summary["rows"], summary["correct"], summary["answers"]) == (9, 8, 10)
    assert summary["not_marked"] == 1
    assert summary["marker_failures"] == {"rows": 0, "share": 0.0, "reasons": {}}
    assert sum(part["rows"] for part in summary["by_length"].values()) == 9
    refuse_unreliable(summary)
    show({"model": summary}, None, None, as_json=False)
    assert "1 of 10 rows are not marked and count nowhere" in capsys.readouterr().out


def test_too_many_failures_end_it(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on(monkeypatch, "5")
    answer(work, Shard())
    summary = finish(work)
    assert summary is not None
    assert summary["rows"] == 8
    assert summary["marker_failures"]["rows"] == 1
    with pytest.raises(WorkFailed, match=r"raised an error on 1 of 10 rows, more than 0\.1 %.*KeyError"):
        refuse_unreliable(summary)
    rare = {**summary, "marker_failures": {**summary["marker_failures"], "share": MARKER_FAILURES}}
    refuse_unreliable(rare)
    monkeypatch.undo()
    again = finish(work)
    assert again is not None
    assert (again["rows"], again["correct"]) == (9, 8)


def test_the_report_has_an_outcome_of_its_own_for_them() -> None:
    right, apart = {"correct": True, "status": "marked"}, {"correct": False, "status": "not marked"}
    assert prediction_table.outcome({"base": right, "finetuned": apart}) == "unmarked"
    assert prediction_table.outcome({"finetuned": {"correct": False, "status": "failed"}}) == "unmarked"
    assert prediction_table.outcome({"base": right, "finetuned": {"correct": True}}) == "both"
