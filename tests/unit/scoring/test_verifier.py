"""The judge "verifier" against a real server: what it asks, what it reads, and what it does when that fails."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glmjobs import mark
from glmjobs.scoring import evaluate
from glmjobs.scoring.evaluate import Settings, Work, answer, finish, refuse_unreliable
from glmjobs.scoring.judges import Endpoint, Judging, mark_all
from glmjobs.scoring.judges.verifier import CACHE, KEY, Verifier, read_verdict
from glmjobs.scoring.predictions import Shard
from glmjobs.scoring.test_sets import Question
from glmjobs.terminal.score_tables import show
from hpc.core.command import run_command
from hpc.core.errors import BadInput, WorkFailed

SECRET = "sk-do-not-write-me"
ROW = ("还剩几颗？", "9颗", "还剩九颗。")


class Server:
    """Answers each request with the next of ``replies`` (the last for ever), and keeps what it was asked.

    A reply is a text (what the model says), a status with its headers, raw bytes, "hang" (nothing until the test ends)
    or "cut" (the connection is closed).
    """

    def __init__(self) -> None:
        self.replies: list[Any] = ["A"]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.over = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.asked.append({"path": self.path, **body})
                    server.keys.append(self.headers.get("Authorization"))
                    reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
                self.give(reply(body) if callable(reply) else reply)

            def give(self, reply: Any) -> None:
                if reply == "hang":
                    server.over.wait(30)
                    return
                if reply == "cut":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, raw = 200, {}, b""
                if isinstance(reply, tuple):
                    status, headers = reply
                    key = self.headers.get("Authorization") or ""
                    raw = json.dumps({"error": {"message": f"no: {key}"}}).encode()
                elif isinstance(reply, bytes):
                    raw = reply
                else:
                    raw = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(KEY, raising=False)
    made = Server()
    yield made
    made.close()


def verifier(
    server: Server, waits: list[float] | None = None, cache: Path | None = None, **more: Any
) -> Verifier:
    waited = [] if waits is None else waits
    return Verifier(Endpoint(server.url, "m", **more), cache, waited.append)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("A", "agrees"), ("B.", "does not agree"), ("C", "has no final answer"), ("[Correct]", "agrees"),
        ("Incorrect", "does not agree"),
        ("**Judgement: A**", "agrees"), ('{"judgement": "B"}', "does not agree"),
        ("<think>A or B?</think>\nA", "agrees"),
        ("Both are 9.\n\\boxed{A}", "agrees"), ("The answer is not correct.", "does not agree"),
        ("正确", "agrees"), ("不正确", "does not agree"),
        ("A. They agree.", "agrees"), ("It says 5.\nVerdict: B", "does not agree"),
        ("perhaps", None), ("A or B", None), ("It is correct that it is wrong.", None), ("", None), ("D", None),
    ],
)  # fmt: skip
def test_replies_of_verifiers_and_chat_models(reply: str, said: str | None) -> None:
    assert read_verdict(reply) == said


def test_it_asks_once_and_says_who_said_so(server: Server) -> None:
    found = verifier(server).mark(*ROW)
    assert (found.status, found.correct, found.reason) == ("marked", True, "m: agrees")
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions" and asked["temperature"] == 0 and asked["model"] == "m"
    assert all(text in asked["messages"][0]["content"] for text in ROW)
    assert server.keys == [None]
    server.replies = ["B"]
    found = verifier(server).mark(*ROW)
    assert (found.status, found.correct) == ("marked", False)


def test_a_prompt_of_its_own_and_texts_with_braces(server: Server) -> None:
    judge = verifier(server, prompt="Q {question} | G {gold} | P {prediction} | {other}")
    judge.mark("f(x)=\\frac{1}{2}{gold}", "{prediction}", "\\text{x}")
    text = server.asked[0]["messages"][0]["content"]
    assert text == "Q f(x)=\\frac{1}{2}{gold} | G {prediction} | P \\text{x} | {other}"


def test_busy_and_broken_servers_are_asked_again(server: Server) -> None:
    server.replies = [(429, {"Retry-After": "7"}), (500, {}), (503, {}), "cut", b"<html>busy</html>", "A"]
    waits: list[float] = []
    found = verifier(server, waits, attempts=6).mark(*ROW)
    assert (found.status, found.correct) == ("marked", True)
    assert waits == [7, 2, 4, 8, 16] and len(server.asked) == 6


def test_what_never_comes_is_not_marked(server: Server) -> None:
    judge = verifier(server, attempts=2, timeout_seconds=0.2)
    for reply, said in (
        ("hang", "none within 0.2 s"), ((500, {}), "status 500 (no:)"), (b"{}", "no chat completion"),
        (b"\xff\x00", "no chat"),
        ((400, {}), "status 400"), ("cut", "gave no reply"),
    ):  # fmt: skip
        server.replies, server.asked = [reply], []
        found = judge.mark(*ROW)
        assert found.status == "not marked" and not found.correct and said in found.reason, reply
        assert len(server.asked) == (1 if reply == (400, {}) else 2)
    server.replies = ["I would rather talk of something else."]
    assert "holds no verdict: I would rather" in judge.mark(*ROW).reason


def test_no_server_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        judge = Verifier(
            Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m", attempts=3), None, lambda _: None
        )
        with pytest.raises(
            WorkFailed, match=r"m at http://127.*/v1: no server answers there: .*refused"
        ) as caught:
            judge.mark(*ROW)
    assert "\n" not in str(caught.value)


def test_a_refused_key_is_one_line_without_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.replies = [(401, {})]
    with pytest.raises(WorkFailed, match=f"status 401.*put its key in the environment as {KEY}"):
        verifier(server).mark(*ROW)
    monkeypatch.setenv(KEY, SECRET)
    with pytest.raises(WorkFailed, match="is refused") as caught:
        verifier(server).mark(*ROW)
    assert server.keys[-1] == f"Bearer {SECRET}" and SECRET not in str(caught.value)
    server.replies = [(404, {})]
    with pytest.raises(WorkFailed, match="status 404"):
        verifier(server).mark(*ROW)


def test_replies_are_kept_by_content(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    cache = tmp_path / CACHE
    server.replies = ["A", "B"]
    assert verifier(server, cache=cache).mark(*ROW).correct
    assert not verifier(server, cache=cache).mark("还剩几颗？", "9颗", "8颗").correct
    with cache.open("ab") as file:
        file.write(b'{"digest": "torn')
    server.replies = [(500, {})]
    again = verifier(server, cache=cache)
    assert again.mark(*ROW).correct and len(server.asked) == 2
    other = Verifier(Endpoint(server.url, "another", attempts=1), cache, lambda _: None)
    assert other.mark(*ROW).status == "not marked", "another model is asked itself"
    server.replies = ["A"]
    assert verifier(server, cache=cache).mark("一共几颗？", "9颗", "九颗").correct
    asked = len(server.asked)
    assert verifier(server, cache=cache).mark("一共几颗？", "9颗", "九颗").correct
    assert len(server.asked) == asked, "a line cut off before it does not take the next one along"
    assert SECRET.encode() not in cache.read_bytes()


def test_replies_that_may_not_be_kept_are_bad_input_and_a_full_disk_is_not(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path.open
    for number, kind in ((errno.EACCES, BadInput), (errno.ENOSPC, WorkFailed)):

        def refuses(path: Path, mode: str = "r", number: int = number) -> Any:
            if mode == "ab":
                raise OSError(number, os.strerror(number), str(path))
            return usual(path, mode)

        server.replies = ["A"]
        monkeypatch.setattr(Path, "open", refuses)
        with pytest.raises(kind, match=rf"verifier\.jsonl: cannot write: {os.strerror(number)}"):
            Verifier(Endpoint(server.url, "m"), tmp_path / "verifier.jsonl").mark("q", "1", "1")


def test_rows_are_asked_side_by_side_and_come_in_order(server: Server) -> None:
    together = threading.Barrier(4, timeout=10)

    def reply(body: Any) -> str:
        together.wait()
        return "A" if "答3" in body["messages"][0]["content"] else "B"

    server.replies = [reply]
    rows = [("q", "g", f"答{n}") for n in range(8)]
    assert [v.correct for v in mark_all(verifier(server, at_once=4), rows)] == [n == 3 for n in range(8)]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Work]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "chatglm"}')
    (model / "model.safetensors").write_bytes(random.Random(0).randbytes(500))

    def answers(work: Work, todo: list[int], stop: Callable[[], bool]) -> Any:
        return evaluate._Answers(iter([(p, f"一共有{p}个。", 5, "stop") for p in todo]), "test", frozenset())

    monkeypatch.setattr(evaluate, "_answers", answers)

    def make(names: Any, endpoint: Endpoint) -> Work:
        questions = [Question(i, "一共有几个？", f"{i}") for i in range(6)]
        return Work.of(model, questions, tmp_path / "scores", Settings(), Judging(names, endpoint))

    return make


def test_it_decides_an_accuracy_and_leaves_no_key(
    server: Server, work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    server.replies = ["A", "B", "who knows", "A", "A", "C"]
    made = work(("verifier", "meaning"), Endpoint(server.url, "m", at_once=1))
    answer(made, Shard())
    summary = finish(made)
    assert summary is not None
    assert (summary["judge"], summary["rows"], summary["correct"], summary["not_marked"]) == (
        "verifier",
        5,
        3,
        1,
    )
    assert summary["second_judge"]["pairs"] == {"both": 3, "only_first": 0, "only_second": 2, "neither": 0}
    assert finish(made) == summary and len(server.asked) == 6, "asked once in all"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_offline_a_first_judge_ends_it_and_a_second_is_said(
    work: Callable[..., Work], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m", attempts=1)
        first = work(("verifier",), endpoint)
        answer(first, Shard())
        with pytest.raises(WorkFailed, match="no server answers there"):
            finish(first)
        assert not (first.folder / "summary.json").exists() and not first.missing()
        summary = finish(work(("meaning", "verifier"), endpoint))
    assert summary is not None and (summary["rows"], summary["correct"]) == (6, 6)
    assert (summary["second_judge"]["rows"], summary["second_judge"]["not_marked"]) == (0, 6)
    refuse_unreliable(summary)
    show({"model": summary}, None, None, as_json=False)
    said = capsys.readouterr()
    lines = " ".join(said.out.split())
    assert "judge verifier: –, none of 6 rows marked:" in lines and "no server answers there" in lines
    err = said.err
    assert (
        err.count("\n") == 1
        and "no server answers there" in err
        and "the accuracy is that of the judge meaning" in err
    )


def test_mark_asks_it_too(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*ROW, "--judge", "verifier", "--verifier-url", server.url, "--verifier-model", "m"]
    assert mark.main(words) == 0
    assert "right: m: agrees" in capsys.readouterr().out
    server.replies = [(401, {})]
    assert run_command(mark.main, words) == 1
    err = capsys.readouterr().err
    assert "status 401" in err and err.count("\n") == 1
    # As a second judge it is said, and the first one's verdict stands.
    server.replies = [(401, {})]
    assert run_command(mark.main, [*ROW, "--judge", "meaning", *words[3:]]) == 0
    both = capsys.readouterr()
    assert "meaning: right" in both.out and "verifier: not marked" in both.out
    assert "status 401" in both.err and both.err.count("\n") == 1
