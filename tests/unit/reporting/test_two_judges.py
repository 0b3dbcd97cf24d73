"""A run with two judges: the report says where they disagree, how often, and on which rows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glmjobs import report
from glmjobs.run.directory import Run
from glmjobs.scoring.evaluate import second_judge
from tests.support.html_page import Page
from tests.support.jsonl import write_jsonl


def rows_of(run: Run, model: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.scores / model / "predictions.jsonl").open(encoding="utf-8")]


def add_second(run: Run, model: str) -> dict[str, Any]:
    """A second judge that turns every fifth verdict round, and does not mark the rows that end in 7."""
    rows = rows_of(run, model)
    for row in rows:
        marked = row["id"] % 10 != 7
        correct = marked and row["correct"] != (row["id"] % 5 == 0)
        row["status"] = "marked"
        row["second"] = {
            "judge": "exact", "correct": correct, "gold_value": "", "predicted_value": "<b>9</b>",
            "reason": "same text" if correct else "other text", "status": "marked" if marked else "not marked",
        }  # fmt: skip
    write_jsonl(run.scores / model / "predictions.jsonl", rows)
    path = run.scores / model / "summary.json"
    summary = json.loads(path.read_text())
    summary |= {"judge": "meaning", "second_judge": second_judge(rows)}
    path.write_text(json.dumps(summary))
    found: dict[str, Any] = summary["second_judge"]
    return found


def test_the_report_shows_where_two_judges_disagree(run: Run) -> None:
    added = {model: add_second(run, model) for model in ("base", "finetuned")}
    document = report.make(run)
    assert {m["model"]: m["second_judge"]["pairs"] for m in document["accuracy"]["models"]} == {
        model: second["pairs"] for model, second in added.items()
    }
    table = document["predictions"]
    apart = [row for row in table["rows"] if row["disagree"]]
    assert sorted(int(row["id"]) for row in apart) == list(range(5, 121, 5)) and table["disagree"] == 24
    said = apart[0]["answers"]["base"]["second"]
    assert said.startswith("exact: ") and said.endswith(" text: <b>9</b>")
    page = Page((run.report / "report.html").read_text(encoding="utf-8"))
    seen = " ".join(" ".join(page.text).split())
    assert "judges disagree" in seen and "<b>9</b>" not in seen
    tuned = added["finetuned"]
    sentence = (
        f"They disagree on 24 of the 108 answers that both mark: {tuned['pairs']['only_first']} are right by meaning "
        f"alone, {tuned['pairs']['only_second']} by exact alone."
    )
    assert sentence in seen and "12 not marked" in seen
    markdown = (run.report / "report.md").read_text(encoding="utf-8")
    assert (
        sentence in markdown
        and "the judges disagree: " in markdown
        and "the second judge, exact: " in markdown
    )


def test_no_marked_row_is_no_accuracy(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a second judge, and of a first one: not 0 %, and why."""
    for model in ("base", "finetuned"):
        path = run.scores / model / "summary.json"
        summary = json.loads(path.read_text())
        rows = rows_of(run, model)
        for row in rows:
            row["status"] = "marked"
            row["second"] = {
                "judge": "verifier",
                "correct": False,
                "status": "not marked",
                "reason": "no server: URL",
            }
        summary |= {"judge": "meaning", "second_judge": second_judge(rows)}
        if model == "finetuned":
            summary |= {"rows": 0, "correct": 0, "accuracy": None, "interval": None, "not_marked": 120}
        path.write_text(json.dumps(summary))
    document = report.make(run)
    second = document["accuracy"]["models"][0]["second_judge"]
    assert (second["accuracy"], second["why"]) == (None, "no server: URL")
    assert [m["model"] for m in document["accuracy"]["models"]] == ["base"]
    page = Page((run.report / "report.html").read_text(encoding="utf-8"))
    markdown = (run.report / "report.md").read_text(encoding="utf-8")
    for said in (" ".join(" ".join(page.text).split()), markdown):
        assert "verifier gives –, none of 120 answers marked: no server: URL." in said
        assert (
            "Fine-tuned: –, no accuracy: none of its answers is marked. Fine-tuned: 120 rows are not marked"
            in said
        )
        assert "0 of the 0" not in said and "0 of 0" not in said
    assert report.main([str(run.path)]) == 0
    assert "Fine-tuned: –, none of its answers is marked" in capsys.readouterr().out


def test_one_judge_shows_nothing_of_two(run: Run) -> None:
    document = report.make(run)
    assert not document["predictions"]["disagree"]
    markdown = (run.report / "report.md").read_text(encoding="utf-8")
    assert "second judge" not in markdown and "disagree" not in markdown


def test_figures_that_are_not_whole_are_left_out(run: Run) -> None:
    path = run.scores / "base" / "summary.json"
    summary = json.loads(path.read_text())
    for broken in ({"judge": "exact"}, {"pairs": 3}, [1], {**(second_judge([]) or {}), "rows": None}):
        path.write_text(json.dumps({**summary, "second_judge": broken}))
        assert report.make(run)["accuracy"]["models"][0]["second_judge"] is None
