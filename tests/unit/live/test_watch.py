"""Runs as live pages: who may see them, what they say, and how little looking costs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import tests.support.report_sample as sample
from glmjobs import watch
from glmjobs.cli import run_command
from glmjobs.live import views as live_views
from glmjobs.live.server import Server
from glmjobs.live.views import Views
from glmjobs.run.directory import Run
from glmjobs.run.locate import RunPath
from tests.support.html_page import Page
from tests.support.jsonl import write_jsonl
from tests.support.paths import REPO

Answer = tuple[int, dict[str, str], str]


@contextlib.contextmanager
def serving(views: Views) -> Iterator[Server]:
    """A server at work."""
    with Server(views) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: Server, path: str, *, host: str | None = None, method: str = "GET") -> Answer:
    """One request, under the token unless the path begins with a slash."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    full = path if path.startswith("/") else urlsplit(server.address).path + path
    connection.request(method, full, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    text = answer.read().decode("utf-8")
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text


@pytest.fixture
def server(run: Run) -> Iterator[Server]:
    with serving(Views([RunPath(run.path)])) as made:
        yield made


def test_both_pages_tell_of_the_run(server: Server, run: Run) -> None:
    status, headers, text = ask(server, "")
    assert status == 200 and headers["cache-control"] == "no-store"
    page = Page(text)
    links = [a["href"] for name, a in page.elements if name == "a"]
    assert links == [f"run/{run.path.name}/"]
    status, _, text = ask(server, links[0])
    seen = " ".join(Page(text).text)
    assert status == 200
    for word in ("train", "4711", "Loss", "GPU utilisation", "Fine-tuned", "Attempts and cost"):
        assert word in seen, word


def test_only_the_whole_address_opens_anything(server: Server, run: Run) -> None:
    name = run.path.name
    for path in (
        "/",
        "/favicon.ico",
        f"/run/{name}/",
        f"/{'x' * 22}/",
        f"/{server.token[:-1]}/",
    ):
        assert ask(server, path)[0] == 404, path
    assert ask(server, "", host="evil.example:80")[0] == 404
    assert ask(server, "", host=f"localhost:{server.server_port}")[0] == 200
    for path in (
        "run/other/",
        "run/../",
        f"run/{name}/../../",
        "run/%2e%2e/",
        f"run/{name}/run.yaml/",
    ):
        assert ask(server, path)[0] == 404, path
    status, headers, _ = ask(server, f"/{server.token}")
    assert (status, headers["location"]) == (301, f"/{server.token}/")
    assert ask(server, f"run/{name}")[0] == 301 and ask(server, "", method="HEAD")[::2] == (200, "")
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "", method=method)[0] == 501, method


def test_an_unchanged_page_is_not_sent_again(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_views, "SHARE", 1.0)
    path = f"run/{run.path.name}/"
    _, headers, _ = ask(server, path)
    version = headers["x-version"]
    assert ask(server, f"{path}?seen={version}")[0] == 204
    with (run.checkpoints / "train_log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 3101, "loss": 9.875, "tokens": 10, "time": sample.at(4)}) + "\n")
    status, headers, text = ask(server, f"{path}?seen={version}")
    assert status == 200 and headers["x-version"] != version
    assert [3101, 9.875] in json.loads(Page(text).data["chart-data"])["loss"]["points"]


def test_what_a_model_wrote_stays_text(tmp_path: Path) -> None:
    run = sample.make_run(tmp_path, hostile=True)
    rows = [
        {"key": str(n), "id": text, "question": text, "gold_value": text, "prediction": text, "predicted_value": text,
         "correct": False, "status": text}
        for n, text in enumerate(sample.HOSTILE[:3])
    ]  # fmt: skip
    write_jsonl(run.scores / "base" / "predictions.shard-0-of-1.jsonl", rows)
    log = run.jobs("train") / "rank-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(sample.HOSTILE).replace("\ud800", ""), encoding="utf-8")
    with serving(Views([RunPath(run.path)])) as server:
        _, _, text = ask(server, f"run/{run.path.name}/")
    page = Page(text)
    seen = " ".join(page.text)
    assert "window.hacked=1" in seen, "it is shown"
    assert not {name for name, _ in page.elements} & {"img", "iframe", "object"}
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert len(page.scripts) == 1
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy


def test_looking_changes_nothing(run: Run) -> None:
    def everything() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in run.path.parent.rglob("*")}

    before = everything()
    with serving(Views([RunPath(run.path)])) as server:
        for path in ("", f"run/{run.path.name}/"):
            assert ask(server, path)[0] == 200
    assert everything() == before


def test_a_hundred_runs_that_stand_still_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sample.make_run(tmp_path / "0", rows=2).path
    paths = []
    for number in range(100):
        copy = tmp_path / "runs" / f"run-{number}"
        (copy / "stages").mkdir(parents=True)
        for name in ("run.yaml", "ledger.jsonl", *(f"stages/{p.name}" for p in (first / "stages").iterdir())):
            (copy / name).write_bytes((first / name).read_bytes())
            os.utime(copy / name, (1, 1))
        os.utime(copy / "stages", (1, 1))
        paths.append(RunPath(copy))
    monkeypatch.setattr(live_views, "SHARE", 1.0)
    views = Views(paths)
    first_page = views.overview()
    version = first_page.version
    assert first_page.html.count('href="run/') == 100
    reads: list[Path] = []
    read = live_views.read_states
    monkeypatch.setattr(
        live_views, "read_states", lambda *a, **k: reads.append(paths[0].path) or read(*a, **k)
    )
    for _ in range(20):
        assert views.overview().version == version
    assert not reads
    with (paths[7].path / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps({"time": sample.at(9), "event": "cancelled", "stage": "report"}) + "\n")
    from glmjobs.run import read_state

    opened: list[Path] = []
    of_disk = read_state.ledger.read
    monkeypatch.setattr(read_state.ledger, "read", lambda path: opened.append(path) or of_disk(path))
    views.overview()
    assert set(opened) == {paths[7].path}, "of a hundred, only the one that changed"


def test_a_page_takes_no_more_than_its_share_of_a_core(run: Run) -> None:
    view = live_views.View()
    made = []

    def make() -> str:
        made.append(sum(i * i for i in range(200_000)))
        return str(len(made))

    changes = iter(range(10**9))
    for _ in range(50):
        view.current(lambda: (("file", next(changes), 0),), make)
    assert len(made) == 1, "it changed at each look, but there was no time for more"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing-there"], "no run of this name or path"),
        (["--port", "70000"], "a number from 1 to 65535"),
        (["--port", "x"], "invalid int value"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    try:
        code = run_command(watch.main, words)
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_port_in_use_is_said(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    assert run_command(watch.main, ["--port", str(server.server_port)]) == 2
    assert "Address already in use; leave --port out" in capsys.readouterr().err


def test_the_command_prints_an_address_that_works_and_ends_on_ctrl_c(run: Run) -> None:
    command = [sys.executable, "-m", "glmjobs.watch", str(run.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        address = urlsplit(process.stdout.readline().strip())
        assert re.fullmatch(r"/[\w-]{20,}/", address.path)
        connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=30)
        connection.request("GET", address.path)
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 0
    assert f"ssh -N -L {address.port}:127.0.0.1:{address.port}" in said and "the runs go on" in said
