"""Reports of runs that are not complete, or whose files are broken: said, not fatal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tests.support.report_sample as sample
from glmjobs import report
from glmjobs.cli import run_command
from glmjobs.reporting import document as content
from glmjobs.reporting import html, markdown
from glmjobs.run.directory import Run
from tests.support.html_page import Page


def test_the_last_step_counts_though_it_was_not_logged(run: Run):
    with (run.path / "ledger.jsonl").open("a") as ledger:
        last = {"time": sample.at(9), "event": "ended", "stage": "train", "last_checkpoint": 3107}
        ledger.write(json.dumps(last) + "\n")
    assert report.make(run)["training"]["steps"] == 3107


def test_ranks_on_cpus_hold_no_gpus(run: Run):
    """A local run on a machine without GPUs: its ledger counts ranks, which are no GPUs."""
    ledger = (run.path / "ledger.jsonl").read_text().replace('"4711"', '"local-4711"')
    (run.path / "ledger.jsonl").write_text(ledger)
    assert report.make(run)["cost"]["gpu_hours"]["held"] > 30, "GPUs were found: they count"
    node = run.jobs("preflight") / "node-0.json"
    node.write_text(json.dumps({"node": "laptop", "gpus": []}))
    document = report.make(run)
    assert {a["gpus"] for a in document["cost"]["attempts"] if a["job"].startswith("local-")} == {0}
    assert "1 node × 8 CPU ranks" in (run.report / "report.html").read_text(encoding="utf-8")
    shutil.rmtree(run.path / "gpu")
    assert not any("GPU" in sentence for sentence in report.make(run)["missing"]), "nothing is missing there"


def test_a_row_appended_twice_counts_once(run: Run):
    path = run.scores / "base" / "predictions.jsonl"
    path.write_text(
        path.read_text() + path.read_text().splitlines()[0] + '\n{"id": 9, "corr', encoding="utf-8"
    )
    document = report.make(run)
    assert len(document["predictions"]["rows"]) == 120
    assert any("1 of 122 lines" in sentence for sentence in document["missing"])


@pytest.mark.parametrize(
    "part",
    [
        "ledger.jsonl",
        "environment.json",
        "gpu",
        "scores",
        "scores/base",
        "scores/comparison.json",
        "data",
        "model",
        "stages",
        "checkpoints",
        "scores/finetuned/predictions.jsonl",
        "scores/base/summary.json",
    ],
)
@pytest.mark.parametrize("how", ["absent", "broken"])
def test_missing_or_broken_parts_are_said_not_fatal(run: Run, part: str, how: str):
    path = run.path / part
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    if how == "absent":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        for file in files:
            file.write_bytes(
                b'\xff\xfe{"half": [[[\n\n7\n"x"\nnull\n{"time": {}, "event": [], "id": [], "step": "?"}\n'
            )
    if part.startswith("scores"):
        (run.path / "stages" / "score.json").write_text('{"stage": "score", "outcome": "done"}')
    document = report.make(run)
    if part != "stages":
        assert document["missing"], f"{part} {how}: nothing was said"
    for name in ("report.html", "report.md", "report.json"):
        assert (run.report / name).stat().st_size > 2000


def test_damaged_commit_is_a_note(run: Run):
    (run.checkpoints / "checkpoint-3100" / "committed.json").write_text('{"step": 3100, "files": [')
    document = report.make(run)
    [said] = [sentence for sentence in document["missing"] if "committed.json" in sentence]
    assert said.startswith("checkpoints/checkpoint-3100/committed.json")


def test_an_empty_run_has_a_report(tmp_path: Path):
    run = sample.make_run(tmp_path, rows=3)
    for path in run.path.iterdir():
        if path.name != "run.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    document = report.make(run)
    assert "No model of this run has been scored yet" in (run.report / "report.html").read_text(
        encoding="utf-8"
    )
    assert len(document["missing"]) >= 6
    assert document["cost"]["gpu_hours"]["held"] == 0


def test_a_failed_stage_is_said_at_the_top(run: Run):
    error = "ncclRemoteError: rank 3 on node17 is gone"
    failed = {
        "stage": "train",
        "outcome": "failed",
        "attempt": 1,
        "started": sample.at(0),
        "ended": sample.at(1),
    }
    (run.path / "stages" / "train.json").write_text(json.dumps(failed))
    with (run.path / "ledger.jsonl").open("a") as ledger:
        ledger.write(
            json.dumps(
                {
                    "time": sample.at(9),
                    "event": "ended",
                    "stage": "train",
                    "job": "4711",
                    "outcome": "failed",
                    "error": error,
                }
            )
            + "\n"
        )
    report.make(run)
    seen = " ".join(Page((run.report / "report.html").read_text(encoding="utf-8")).text)
    assert "This run is not complete" in seen and error in seen
    assert error in (run.report / "report.md").read_text(encoding="utf-8")


def test_scores_are_summed_up_only_while_their_stage_is_not_done(run: Run, monkeypatch: pytest.MonkeyPatch):
    calls: list[Run] = []
    monkeypatch.setattr(report.score, "summarise", calls.append)
    report.make(run)
    assert calls == []
    (run.path / "stages" / "score.json").unlink()
    report.make(run)
    assert calls == [run]


def test_a_wrong_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command(report.main, [str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1


def test_a_read_only_report_folder_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(report, "write_atomic", refuse)
    assert run_command(report.main, [str(run.path)]) == 2
    assert "Read-only file system" in capsys.readouterr().err


def test_renderers_take_any_document_that_content_makes(run: Run):
    """Also one without recipe and settings (an old run)."""
    from glmjobs.reporting.load import load_facts

    document = content.document(load_facts(run.path, None))
    assert "chatglm6b-7" in html.render(document)
    assert "chatglm6b-7" in markdown.render(document)
