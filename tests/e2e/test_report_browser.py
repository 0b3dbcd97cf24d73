"""The report in a headless Chromium: renders, filters, stays quick, fits a phone, runs nothing hostile.

Needs Debian's ``chromium`` and ``chromium-driver``; skips where they are absent,
unless HPC_REQUIRE_BROWSER=1. Screenshots are kept in $HPC_SCREENSHOTS where that is set, else in the test's
own directory.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import tests.support.report_sample as sample
from glmjobs import report
from tests.support.browsing import keep, show, wait_for
from tests.support.webdriver import KEYS, Browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports to open: an ordinary run, a hostile one, one of 10,000 rows, one with hardly anything."""
    found = {}
    for name, rows, hostile in (("plain", 300, False), ("hostile", 60, True), ("large", 10_000, False)):
        run = sample.make_run(tmp_path_factory.mktemp(name), rows=rows, hostile=hostile)
        report.make(run)
        found[name] = run.report / "report.html"
    bare = sample.make_run(tmp_path_factory.mktemp("bare"), rows=2)
    for part in ("scores", "gpu", "checkpoints", "data", "model", "stages"):
        shutil.rmtree(bare.path / part)
    report.make(bare)
    found["bare"] = bare.report / "report.html"
    return found


def complaints(browser: Browser) -> list[str]:
    """Console messages above information, and requests other than for the page itself."""
    found = [entry["message"] for entry in browser.log("browser") if entry["level"] not in ("INFO", "DEBUG")]
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not (url.startswith("file:") and url.endswith("report.html")):
                found.append(f"request for {url}")
    return found


def rows_shown(browser: Browser) -> int:
    return browser.run("return document.querySelectorAll('#rows > details').length")


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` as WCAG 2.2 defines it."""
    channels = [int(float(part)) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2): 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("light", 1280, False), ("dark", 1280, True), ("phone", 360, False)]
)
def test_it_renders_without_a_complaint(browser, pages, tmp_path, name, width, dark):
    show(browser, pages["plain"], width=width, dark=dark)
    assert rows_shown(browser) > 0
    assert keep(browser, f"report-{name}", tmp_path).stat().st_size > 50_000
    charts = browser.run(
        "return [...document.querySelectorAll('svg.chart')].filter(s => s.getBoundingClientRect().width).map("
        "s => [s.getAttribute('aria-label'), s.getBoundingClientRect().height])"
    )
    assert len(charts) >= 11 and all(label and height > 10 for label, height in charts)
    assert complaints(browser) == []


def test_a_phone_needs_no_sideways_scrolling(browser, pages):
    for page in ("plain", "hostile", "bare"):
        show(browser, pages[page], width=360, height=740)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        width = browser.run("return document.documentElement.scrollWidth")
        assert width <= 360, page
        small = browser.run(
            "return [...document.querySelectorAll('button, input')].filter(e => e.offsetParent)"
            ".filter(e => e.getBoundingClientRect().height < 36).map(e => e.id || e.textContent)"
        )
        assert small == [], "targets too small for a thumb"


def test_filters_and_search(browser, pages):
    show(browser, pages["plain"])
    document = json.loads((pages["plain"].parent / "report.json").read_text(encoding="utf-8"))
    counts = document["predictions"]["counts"]
    assert browser.find("#rows details").attribute("class") == "lost"
    gained = browser.find("button[data-outcome=gained]")
    gained.type(KEYS["ENTER"])
    assert gained.attribute("aria-pressed") == "true"
    assert browser.find("#shown").text == f"{counts['gained']} of 300 rows"
    kinds = browser.run("return [...document.querySelectorAll('#rows details')].map(d => d.className)")
    assert set(kinds) == {"gained"}
    question = next(r for r in document["predictions"]["rows"] if r["outcome"] == "gained")["question"]
    search = browser.find("#search")
    search.type(question[:24])
    wait_for(browser, "document.getElementById('shown').textContent === '1 of 300 rows'")
    assert question in browser.find("#rows").text
    search.type(" 没有这样的题")
    wait_for(browser, "document.getElementById('shown').textContent.startsWith('No row')")
    assert rows_shown(browser) == 0
    assert complaints(browser) == []


def test_a_row_opens_by_keyboard_with_its_answers_marked(browser, pages):
    show(browser, pages["plain"])
    browser.find("#rows summary").type(KEYS["ENTER"])
    wait_for(browser, "document.querySelector('#rows .panel') !== null")
    marked = browser.run("return [...document.querySelectorAll('#rows .panel mark')].map(m => m.textContent)")
    assert len(marked) == 3 and all(text.endswith("个") for text in marked)
    heads = browser.run("return [...document.querySelectorAll('#rows .panel h3')].map(h => h.textContent)")
    assert heads[0] == "Question" and heads[1].startswith("Gold answer") and heads[3].startswith("Fine-tuned")


def test_charts_read_out_their_values(browser, pages):
    show(browser, pages["plain"])
    chart = browser.find("figure[data-chart=loss] svg")
    output = browser.find("figure[data-chart=loss] output")
    idle = output.text
    chart.type(KEYS["HOME"])
    assert output.text.endswith("step 10")
    chart.type(KEYS["END"])
    assert output.text.endswith("step 3,100")
    chart.type(KEYS["ESCAPE"])
    assert output.text == idle
    assert complaints(browser) == []


def test_the_theme_follows_the_system_and_can_be_switched(browser, pages):
    background = "return getComputedStyle(document.body).backgroundColor"
    show(browser, pages["plain"])
    browser.run("try { localStorage.clear() } catch {}")
    light = browser.run(background)
    show(browser, pages["plain"], dark=True)
    dark = browser.run(background)
    assert luminance(light) > 0.8 and luminance(dark) < 0.05
    toggle = browser.find("#theme")
    assert toggle.text == "Light"
    toggle.click()
    assert browser.run(background) == light and toggle.text == "Dark"
    browser.run("try { localStorage.clear() } catch {}")


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(browser, pages, dark):
    """WCAG AA: 4.5 for every text, each against the nearest background behind it."""
    show(browser, pages["plain"], dark=dark)
    browser.run("document.querySelectorAll('#rows details').forEach((d, i) => { d.open = i < 3 })")
    wait_for(browser, "document.querySelectorAll('#rows .panel').length === 3")
    pairs = browser.run(
        """
        const found = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          const node = walker.currentNode.parentElement; if (!walker.currentNode.data.trim() ||
          !node.getClientRects().length || node.closest("script, .skip")) continue; let behind = node; while
          (behind && getComputedStyle(behind).backgroundColor.endsWith(", 0)")) behind = behind.parentElement;
          const style = getComputedStyle(node); const ink = node.namespaceURI.endsWith("svg") ? style.fill :
          style.color; found.push([ink, getComputedStyle(behind).backgroundColor,
          walker.currentNode.data.slice(0, 40), style.opacity]);
        }
        return found;
        """
    )
    assert len(pairs) > 300
    poor = {
        (text, round(contrast(ink, paper), 2)) for ink, paper, text, _ in pairs if contrast(ink, paper) < 4.5
    }
    assert poor == set()
    assert {opacity for *_, opacity in pairs} == {"1"}, "faded text escapes this check"


def test_everything_a_person_operates_has_a_name(browser, pages):
    show(browser, pages["plain"])
    tree = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    unnamed = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored")
        and node["role"]["value"]
        in ("button", "searchbox", "link", "image", "navigation", "region", "DisclosureTriangle")
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []
    headings = browser.run("return [...document.querySelectorAll('h1,h2')].map(h => h.tagName)")
    assert headings.count("H1") == 1 and len(headings) > 8


def test_hostile_output_stays_text(browser, pages):
    show(browser, pages["hostile"])
    browser.run("document.querySelectorAll('#rows details').forEach(d => { d.open = true })")
    wait_for(browser, "document.querySelectorAll('#rows .panel').length === 40")
    browser.run("document.getElementById('box').scrollTop = 1e9")
    wait_for(browser, "document.querySelectorAll('#rows > details').length === 60")
    browser.run("document.querySelectorAll('#rows details').forEach(d => { d.open = true })")
    wait_for(browser, "document.querySelectorAll('#rows .panel').length === 60")
    text = browser.run("return document.getElementById('rows').textContent")
    for attack in (sample.HOSTILE[0], sample.HOSTILE[1], sample.HOSTILE[2], sample.HOSTILE[5]):
        assert attack in text
    assert browser.run("return window.hacked") is None
    assert (
        browser.run("return document.querySelectorAll('#rows :is(a, img, svg, script, [onload])').length")
        == 0
    )
    assert browser.run("return document.scripts.length") == 3
    assert complaints(browser) == []


def test_the_policy_stops_what_is_injected(browser, pages):
    """Should markup ever get in, nothing in it runs: the browser refuses script, handler, style and image."""
    show(browser, pages["plain"])
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">');"
        "const s = document.createElement('script'); s.textContent = 'window.hacked=2';"
        "document.body.append(s);"
    )
    wait_for(browser, "document.querySelector('img').complete")
    assert browser.run("return window.hacked") is None
    assert any("Content Security Policy" in said for said in complaints(browser))


def test_ten_thousand_rows_render_a_screenful_at_a_time(browser, pages):
    show(browser, pages["large"])
    assert 40 <= rows_shown(browser) <= 200
    browser.run("document.getElementById('box').scrollTop = 1e9")
    wait_for(browser, "document.querySelectorAll('#rows > details').length >= 80")
    assert rows_shown(browser) < 1000
    first = browser.run("return document.querySelector('#rows .id').textContent")
    browser.find("button[data-outcome=neither]").click()
    assert rows_shown(browser) <= 200
    assert browser.run("return document.querySelector('#rows .id').textContent") != first
    assert complaints(browser) == []


def test_a_run_with_hardly_anything_says_what_is_missing(browser, pages, tmp_path):
    show(browser, pages["bare"])
    text = browser.find("body").text
    assert (
        "Not in this report" in text
        and "No GPU samples" in text
        and "No model of this run has been scored yet" in text
    )
    assert browser.run("return document.getElementById('rows')") is None
    keep(browser, "report-bare", tmp_path)
    assert complaints(browser) == []


def test_it_opens_from_a_web_server_too(browser, pages):
    """Some read reports through a proxy: the policy must hold there too, with nothing else asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(pages["plain"].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/report.html")
        assert rows_shown(browser) > 0
        server.shutdown()
    assert set(asked) <= {"/report.html", "/favicon.ico"}
