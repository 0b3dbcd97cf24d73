"""Runs watched in a headless Chromium: the page keeps itself up to date, and says when it cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.support.report_sample as sample
from glmjobs.live.server import Server
from glmjobs.live.views import Views
from glmjobs.run.directory import Run
from glmjobs.run.locate import RunPath
from tests.support.browsing import keep, show, wait_for
from tests.support.webdriver import Browser


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return sample.make_run(tmp_path, hostile=True)


@pytest.fixture
def server(run: Run) -> Iterator[Server]:
    run.jobs("train").mkdir(parents=True)
    (run.jobs("train") / "rank-0.log").write_text("".join(f"step {n}\n" for n in range(100)))
    with Server(Views([RunPath(run.path)])) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def errors(browser: Browser) -> list[str]:
    return [
        e["message"]
        for e in browser.log("browser")
        if e["level"] == "SEVERE" and "favicon" not in e["message"]
    ]


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("light", 1280, False), ("dark", 1280, True), ("phone", 360, False)]
)
def test_both_pages_render_and_fit(
    browser: Browser, server: Server, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    show(browser, server.address, width=width, dark=dark)
    assert keep(browser, f"watch-runs-{name}", tmp_path).stat().st_size > 5_000
    browser.find("main a").click()
    wait_for(browser, "document.querySelectorAll('figure svg').length > 4")
    assert keep(browser, f"watch-{name}", tmp_path).stat().st_size > 50_000
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), (
        "nothing sticks out"
    )
    assert browser.run("return window.hacked") is None and errors(browser) == []


def test_the_page_follows_the_run_and_notices_its_server_ending(
    browser: Browser, server: Server, run: Run
) -> None:
    show(browser, f"{server.address}run/{run.path.name}/")
    wait_for(browser, "document.getElementById('fresh').textContent.startsWith('Up to date')")
    browser.run(
        "document.querySelector('#cost details').open = true; window.same = document.querySelector('#gpus')"
    )
    with (run.checkpoints / "train_log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 3200, "loss": 7.625, "tokens": 10, "time": sample.at(4)}) + "\n")
    with (run.jobs("train") / "rank-0.log").open("a") as log:
        log.write("<b id=bold>step 3200</b>\n")
    wait_for(browser, "document.querySelector('#logs pre').textContent.includes('step 3200')")
    wait_for(browser, "document.getElementById('chart-data').textContent.includes('[3200,7.625]')")
    assert browser.run("return document.getElementById('bold')") is None, "a log's text is no markup"
    assert browser.run("return document.querySelector('#cost details').open"), (
        "what one has opened stays open"
    )
    assert browser.run("return window.same === document.querySelector('#gpus')"), (
        "what is the same is left alone"
    )
    server.shutdown()
    server.server_close()
    wait_for(browser, "document.getElementById('fresh').textContent.includes('does not answer')")
