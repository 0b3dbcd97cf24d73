"""Hostile text in a run stays text in its report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import tests.support.report_sample as sample
from glmjobs import report
from glmjobs.reporting import html
from glmjobs.run.directory import Run
from tests.support.html_page import Page


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
    style, script = (html.asset(*names) for names in (("report.css",), ("page.js", "report.js")))
    assert policies == [html.policy(style, script)]
    assert "default-src 'none'" in policies[0] and "unsafe" not in policies[0]
    assert page.scripts == [script]
    assert "http:" not in script.replace("http://www.w3.org/2000/svg", "") and "innerHTML" not in script
