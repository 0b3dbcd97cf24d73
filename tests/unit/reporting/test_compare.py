"""Several runs side by side: what differs, the tests on common rows, one page, and bad words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tests.support.report_sample as sample
from glmjobs import compare
from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from glmjobs.scoring.statistics import compare as paired
from glmjobs.scoring.statistics import holm
from hpc.core.files import read_jsonl
from tests.support.html_page import Page
from tests.support.jsonl import write_jsonl


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Three runs: the second at another learning rate, the third at another too, and with more answers right."""
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    made = []
    for number, rate in enumerate(("1.0e-05", "2.0e-05", "5.0e-05")):
        run = sample.make_run(tmp_path / str(number), rows=120)
        target = tmp_path / f"run-{number}"
        run.path.rename(target)
        text = (target / "run.yaml").read_text().replace("learning_rate: 1.0e-05", f"learning_rate: {rate}")
        (target / "run.yaml").write_text(text)
        made.append(Run.open(target))
    predictions = made[2].scores / "finetuned" / "predictions.jsonl"
    rows = read_jsonl(predictions)
    write_jsonl(predictions, [{**row, "correct": place < 100} for place, row in enumerate(rows)])
    return made


def document(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert run_command(compare.main, [*(str(run.path) for run in runs), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_only_what_differs_is_listed(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    found = document(runs, capsys)
    assert found["differ"] == {
        "train.learning_rate": {"run-0": "1e-05", "run-1": "2e-05", "run-2": "5e-05"},
    }


def test_pairs_stand_on_the_rows_that_both_have(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    found = document(runs, capsys)
    verdicts = [
        {row["id"]: row["correct"] for row in read_jsonl(run.scores / "finetuned" / "predictions.jsonl")}
        for run in (runs[0], runs[2])
    ]
    expected = paired((verdicts[0][key], verdicts[1][key]) for key in verdicts[0])
    pair = next(p for p in found["pairs"] if (p["first"], p["second"]) == ("run-0", "run-2"))
    assert (pair["rows"], pair["only_second"]) == (120, expected.only_finetuned)
    assert (
        pair["difference"] == pytest.approx(expected.difference) and pair["mcnemar_p"] == expected.mcnemar_p
    )
    assert [p["holm_p"] for p in found["pairs"]] == holm([p["mcnemar_p"] for p in found["pairs"]])


def test_rows_of_one_run_alone_are_counted_and_left_out(
    runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = runs[0].scores / "finetuned" / "predictions.jsonl"
    rows = read_jsonl(predictions)
    write_jsonl(
        predictions, [{**row, "gold": "another"} if place < 7 else row for place, row in enumerate(rows)]
    )
    found = document([runs[0], runs[2]], capsys)
    assert found["pairs"][0]["rows"] == 113
    assert found["notes"] == ["run-0 and run-2: 7 rows are in one of them only and are left out"]


def test_the_page_and_the_terminal_say_the_same(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(compare.main, [run.path.name for run in runs]) == 0
    said = capsys.readouterr().out
    path = Path(said.splitlines()[-1])
    assert path == runs[0].path.parent / "comparison.html"
    page = Page(path.read_text(encoding="utf-8"))
    seen = " ".join(page.text)
    for word in ("run-0", "run-2", "train.learning_rate", "5e-05", "run-0 → run-2", "p (Holm)"):
        assert word in seen, word
    lines = [
        a
        for name, a in page.elements
        if name == "path" and a.get("class") in ("line s0", "line s1", "line s2")
    ]
    assert len(lines) == 3 * 6, "loss in two widths, and four further curves, of three runs"
    assert "run-0 → run-2" in said and "corrected for 3 pairs" in said


def test_a_run_that_is_not_scored_is_said(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    for file in runs[1].scores.rglob("*.json*"):
        file.unlink()
    for folder in runs[1].scores.iterdir():
        folder.rmdir() if folder.is_dir() else folder.unlink()
    found = document(runs[:2], capsys)
    assert found["pairs"] == [] and "run-1: not scored yet" in found["notes"]


def test_what_a_model_wrote_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    paths = [sample.make_run(tmp_path / name, rows=8, hostile=True).path for name in ("<b>a", "b")]
    assert run_command(compare.main, [*map(str, paths), "--into", str(tmp_path / "page.html")]) == 0
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not [name for name, _ in page.elements if name in ("b", "img", "iframe")]
    assert "<b>a/chatglm6b-7" in " ".join(page.text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run-0"], "run-0: one run is no comparison; name two or more"),
        (["run-0", "run-0"], "one run is no comparison"),
        (["run-0", "gone"], "gone: no run of this name or path"),
        (
            ["run-0", "run-1", "--into", "{tmp}/run-0/run.yaml/page.html"],
            "run.yaml is no directory",
        ),
    ],
)
def test_bad_words_are_one_line(
    runs: list[Run], words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(compare.main, [word.format(tmp=tmp_path) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("given", "corrected"),
    [([], []), ([0.2], [0.2]), ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.9, 0.8], [1.0, 1.0])],
)
def test_holm(given: list[float], corrected: list[float]) -> None:
    assert holm(given) == pytest.approx(corrected)
