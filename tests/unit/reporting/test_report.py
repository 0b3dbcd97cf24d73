"""The report of a whole run: three forms that agree, and what stands where."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tests.support.report_sample as sample
from glmjobs import report
from glmjobs.recipe import loading
from glmjobs.reporting.wording import recipe_text
from glmjobs.run.directory import Run
from tests.support.html_page import Page
from tests.support.jsonl import write_jsonl


def read(run: Run) -> dict[str, object]:
    return json.loads((run.report / "report.json").read_text(encoding="utf-8"))


def test_the_stage_writes_three_files_and_its_marker(run: Run, capsys: pytest.CaptureFixture[str]):
    assert report.main([str(run.path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(run.report / "report.html")
    assert printed.err == "", "nothing is missing in the sample"
    marker = json.loads((run.path / "stages" / "report.json").read_text())
    assert [Path(o["path"]).name for o in marker["outputs"]] == ["report.html", "report.md", "report.json"]
    assert marker["figures"]["accuracy_finetuned"] > marker["figures"]["accuracy_base"]
    assert run.done("report")
    assert sorted(p.name for p in run.report.iterdir()) == ["report.html", "report.json", "report.md"]


def test_the_forms_agree(run: Run):
    document = report.make(run)
    stored = read(run)
    assert stored == json.loads(json.dumps(document))
    page = Page((run.report / "report.html").read_text(encoding="utf-8"))
    seen = " ".join(page.text)
    for model in document["accuracy"]["models"]:
        share = f"{100 * model['accuracy']:.1f}\u00a0%"
        assert share in seen
        assert share.replace("\u00a0", " ") in (run.report / "report.md").read_text(encoding="utf-8")
    rows = json.loads(page.data["prediction-data"])["rows"]
    assert rows == document["predictions"]["rows"] and len(rows) == 120
    for heading in (
        "Accuracy",
        "Predictions",
        "Training",
        "GPUs",
        "Attempts and cost",
        "Data",
        "What ran where",
        "Reproduce it",
    ):
        assert heading in page.text
    for fact in (
        "2.0.1",
        "cuda/11.7",
        "248,481",
        "468",
        "a1b2c3d4e5f6",
        "8 × NVIDIA A100-SXM4-80GB",
        "515.65.01",
        "node17",
        "python -m glmjobs.submit",
    ):
        assert fact in seen, fact


def test_json_prints_one_document(run: Run, capsys: pytest.CaptureFixture[str]):
    assert report.main([str(run.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == "chatglm6b-7" and "predictions" not in document
    assert all(Path(name).is_file() for name in document["files"])


def test_gpu_readings_stand_by_the_node_they_name(run: Run):
    """As hpc's watcher writes them: several nodes, some readings that a driver refused, one hostile name."""
    readings = [
        {"time": sample.at(t / 3600), "node": node, "gpu": gpu, "utilisation": use, "memory": 2**30 * 40,
         "power": None if node == "a100-2" else 300.0}
        for node, use in (("a100-1", 80), ("a100-2", 40), ("<script>x", 10)) for gpu in range(2)
        for t in range(20)
    ]  # fmt: skip
    write_jsonl(run.path / "gpu" / "node17.jsonl", readings)
    document = report.make(run)
    nodes = {node["node"]: node for node in document["gpu"]["nodes"]}
    assert {n["gpus"] for n in nodes.values()} == {2} and nodes["a100-1"]["utilisation"] == 80
    assert nodes["a100-2"]["power"] is None and nodes["a100-1"]["memory_peak"] == 2**30 * 40
    mean, low, high = document["gpu"]["curves"]["utilisation"][0][1:]
    assert mean == pytest.approx(130 / 3) and (low, high) == (10, 80)
    page = Page((run.report / "report.html").read_text(encoding="utf-8"))
    assert "<script>x" in "".join(page.text) and len(page.scripts) == 1


def test_the_tutorials_result_stands_beside(run: Run):
    report.make(run)
    page = (run.report / "report.html").read_text(encoding="utf-8")
    assert page.count('class="beside"') == 2 and "ChatGLM-6B in the tutorial&#x27;s own table" in page
    text = (run.report / "report.md").read_text(encoding="utf-8")
    assert "4.8 % before and 20.0 % after" in text.replace("\u00a0", " ")


def test_an_attempts_error_stands_below_it(run: Run):
    report.make(run)
    page = (run.report / "report.html").read_text(encoding="utf-8")
    assert re.search(r'train 1</th>.*?<tr class="below"><td colspan="\d+">ncclRemoteError: rank 3', page)
    assert re.search(
        r"\| train 1 .*\| ncclRemoteError: rank 3 .*\|\n", (run.report / "report.md").read_text()
    )


def test_a_golds_value_is_not_its_text(run: Run):
    """Where a prediction is empty, its verdict has the gold's whole text in place of the value."""
    path = run.scores / "base" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.update(prediction="", predicted_value="", gold_value=row["gold"].strip(), correct=False)
    write_jsonl(path, rows)
    shown = report.make(run)["predictions"]["rows"]
    assert all(re.fullmatch(r"\d+ 个", row["gold_value"]) for row in shown)
    assert all(row["gold"][1] for row in shown), "the gold's answer is marked in its text"
    shutil.rmtree(run.scores / "finetuned")
    assert {row["gold_value"] for row in report.make(run)["predictions"]["rows"]} == {""}


def test_changed_answers_come_first_and_every_row_once(run: Run):
    rows = report.make(run)["predictions"]
    order = [row["outcome"] for row in rows["rows"]]
    assert order == sorted(order, key=["lost", "gained", "neither", "both"].index)
    comparison = json.loads((run.scores / "comparison.json").read_text())
    assert rows["counts"].get("lost", 0) == comparison["only_base"]
    assert rows["counts"].get("gained", 0) == comparison["only_finetuned"]
    assert len({row["id"] for row in rows["rows"]}) == 120


def test_the_shown_recipe_is_the_runs_recipe(run: Run):
    document = report.make(run)
    again = yaml.safe_load(recipe_text(document))
    assert loading.parse(again) == run.recipe


def test_the_report_imports_no_torch():
    code = "import sys, glmjobs.report; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ten_thousand_rows_stay_small(tmp_path: Path):
    run = sample.make_run(tmp_path, rows=10_000)
    document = report.make(run)
    assert len(document["predictions"]["rows"]) == 10_000
    page = Page((run.report / "report.html").read_text(encoding="utf-8"))
    assert len(page.elements) < 3000, "rows are data, not elements"
