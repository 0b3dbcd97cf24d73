"""The report of a run: complete, incomplete, broken and hostile runs, in all three forms."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import tests.support.report_sample as sample
from glmjobs import report
from glmjobs.cli import run_command
from glmjobs.recipe import loading
from glmjobs.reporting import document as content
from glmjobs.reporting import html, markdown
from glmjobs.reporting.wording import recipe_text
from glmjobs.run.directory import Run


class Page(HTMLParser):
    """A page's elements, attributes, text, and the JSON it embeds."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.data: dict[str, str] = {}
        self.scripts: list[str] = []
        self._inside: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = (tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.text.append(data)
        elif self._inside[1].get("type") == "application/json":
            self.data[str(self._inside[1]["id"])] = data
        elif self._inside[0] == "script":
            self.scripts.append(data)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return sample.make_run(tmp_path)


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


def test_gpu_readings_stand_by_the_node_they_name(run: Run):
    """As hpc's watcher writes them: several nodes, some readings that a driver refused, one hostile name."""
    readings = [
        {"time": sample.at(t / 3600), "node": node, "gpu": gpu, "utilisation": use, "memory": 2**30 * 40,
         "power": None if node == "a100-2" else 300.0}
        for node, use in (("a100-1", 80), ("a100-2", 40), ("<script>x", 10)) for gpu in range(2)
        for t in range(20)
    ]  # fmt: skip
    (run.path / "gpu" / "node17.jsonl").write_text("".join(json.dumps(r) + "\n" for r in readings))
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
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
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


def test_hostile_text_stays_text(tmp_path: Path):
    run = sample.make_run(tmp_path, hostile=True)
    document = report.make(run)
    text = (run.report / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    names = {name for name, _ in page.elements}
    assert names.isdisjoint({"img", "iframe", "object", "embed", "base", "form", "link"})
    scripts = [attributes for name, attributes in page.elements if name == "script"]
    assert [s.get("type") for s in scripts] == ["application/json", "application/json", None]
    assert text.count("<script") == text.count("</script") == 3
    for name, attributes in page.elements:
        assert not any(key.startswith("on") or key in ("style", "src", "srcset") for key in attributes), (
            name,
            attributes,
        )
        href = attributes.get("href")
        assert href is None or href.startswith("#"), (name, href)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\u2028\u2029\x00\x1b]", text)
    assert not re.search("[<>&]", page.data["prediction-data"])
    rows = {row["id"]: row for row in json.loads(page.data["prediction-data"])["rows"]}
    said = "".join(rows["1"]["answers"]["finetuned"]["text"])
    assert sample.HOSTILE[0] in said, "the text is shown as it was written"
    assert "⟨U+202E⟩" in "".join(rows["4"]["answers"]["base"]["text"])
    assert "⟨U+D800⟩" in "".join(rows["4"]["answers"]["base"]["text"])
    assert "left out" in "".join(rows["7"]["answers"]["base"]["text"])
    assert len(text) < 1_000_000, "a line of a million characters is clipped"
    assert document["environment"]["platform"] == sample.HOSTILE[0]


def test_hostile_text_stays_text_in_markdown(tmp_path: Path):
    run = sample.make_run(tmp_path, hostile=True)
    report.make(run)
    inside: str | None = None
    for line in (run.report / "report.md").read_text(encoding="utf-8").splitlines():
        fence = re.fullmatch(r"(`{3,})(\w*)", line)
        if fence and inside is None:
            inside = fence[1]
        elif fence and fence[1] == inside and not fence[2]:
            inside = None
        elif inside is None:
            assert "<" not in line and "](" not in line, line
    assert inside is None


def test_the_policy_allows_this_script_and_style_only(run: Run):
    report.make(run)
    page = Page((run.report / "report.html").read_text(encoding="utf-8"))
    policies = [a["content"] for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    style, script = (html._asset(name) for name in ("report.css", "report.js"))
    assert policies == [html.policy(style, script)]
    assert "default-src 'none'" in policies[0] and "unsafe" not in policies[0]
    assert page.scripts == [script]
    assert "http:" not in script.replace("http://www.w3.org/2000/svg", "") and "innerHTML" not in script


def test_the_shown_recipe_is_the_runs_recipe(run: Run):
    document = report.make(run)
    again = yaml.safe_load(recipe_text(document))
    assert loading.parse(again) == run.recipe


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
    assert run_command(report.main, [str(run.path)]) == 1
    assert "Read-only file system" in capsys.readouterr().err


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


def test_renderers_take_any_document_that_content_makes(run: Run):
    """Also one without recipe and settings (an old run)."""
    from glmjobs.reporting.load import load_facts

    document = content.document(load_facts(run.path, None))
    assert "chatglm6b-7" in html.render(document)
    assert "chatglm6b-7" in markdown.render(document)
