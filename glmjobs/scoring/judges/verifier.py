"""The judge "verifier": a model is asked whether an answer agrees with the gold, over an OpenAI-compatible endpoint.

CompassVerifier and xVerify are trained for it; any chat model will do. Each row is one request to
``URL/chat/completions`` at temperature 0. A row is asked for again after a time-out, a lost connection, and status 408,
409, 429 or 5xx; one that still gets no reply, or a reply without a verdict, is not marked. Where no server answers at
all, or it refuses the key or the model, marking ends with one line: no other row would fare better.

The key is read from the environment variable GLMJOBS_VERIFIER_KEY, sent in the request's header, and kept nowhere.
What the model replied is kept by content in ``verifier.jsonl`` (a digest of model and prompt, and the reply), so that
marking anew, and after a kill, asks for what is missing.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmjobs.marking import Verdict
from glmjobs.scoring.judges import Endpoint, JudgeName, not_marked, shown
from hpc.core.errors import BadInput, WorkFailed, of_system

KEY = "GLMJOBS_VERIFIER_KEY"
CACHE = "verifier.jsonl"
FIELDS = ("question", "gold", "prediction")
PROMPT = """Decide whether an answer to a question agrees with the reference answer.

The reference answer is right by definition. Compare the final answers only: the way to them does not count, nor does \
their form (3/4 hour, 0.75 h and 45 minutes agree). All that is asked for must be there and agree.
Reply with one letter: A if the answer agrees, B if it does not, C if it has no final answer (cut off, refused, or \
repeating itself).

Question:
{question}

Reference answer:
{gold}

Answer to judge:
{prediction}

Your letter:"""
"""The prompt for a model that was not trained on one of its own."""

REFUSED = {401, 403, 404, 405}
"""Statuses that tell of the key, the path or the model: every row would get them."""

AGAIN = {408, 409, 429, *range(500, 600)}
"""Statuses after which the same request may do better."""

LONGEST_WAIT_S = 60.0
REPLY_BYTES = 1 << 20
RIGHT, WRONG, NONE = "agrees", "does not agree", "has no final answer"
WORDS = {
    "a": RIGHT, "correct": RIGHT, "right": RIGHT, "true": RIGHT, "yes": RIGHT, "正确": RIGHT, "一致": RIGHT,
    "b": WRONG, "incorrect": WRONG, "wrong": WRONG, "false": WRONG, "no": WRONG, "错误": WRONG, "不正确": WRONG,
    "不一致": WRONG,
    "c": NONE, "invalid": NONE, "incomplete": NONE, "无效": NONE,
}  # fmt: skip
_WORD = "|".join(sorted(WORDS, key=len, reverse=True))
VERDICT = re.compile(rf"(?<![a-z])(?:{_WORD})(?![a-z])")


class NoServer(Exception):
    """No connection: refused, no such host, no route."""


class Verifier:
    """Asks a model; see the module's text.

    Args:
        endpoint: which model, where.
        cache: the file of its replies; None: kept nowhere.
        wait: called with the seconds between two attempts.
    """

    name: JudgeName = "verifier"

    def __init__(
        self, endpoint: Endpoint, cache: Path | None = None, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self.endpoint, self.at_once, self._wait = endpoint, endpoint.at_once, wait
        self._key = os.environ.get(KEY, "").strip()
        self._cache = _Cache(cache)
        self._heard = False  # whether the server has answered anything yet

    @classmethod
    def of(cls, endpoint: Endpoint | None, folder: Path | None) -> Verifier:
        """The verifier at an endpoint, with its replies in ``folder``.

        Raises:
            BadInput: no endpoint is given.
        """
        if endpoint is None:
            raise BadInput("the judge verifier asks a model: give its url and model (recipe: score.verifier)")
        return cls(endpoint, folder / CACHE if folder is not None else None)

    def mark(self, question: str, gold: str, prediction: str) -> Verdict:
        """What the model says of one answer.

        Raises:
            WorkFailed: no server answers, or it refuses the key or the model.
        """
        texts = dict(zip(FIELDS, (question, gold, prediction), strict=True))
        asked = re.sub(
            r"\{(question|gold|prediction)\}", lambda m: texts[m[1]], self.endpoint.prompt or PROMPT
        )
        digest = hashlib.sha256(
            json.dumps([self.endpoint.model, asked]).encode("utf-8", "surrogatepass")
        ).hexdigest()
        reply = self._cache.get(digest)
        if reply is None:
            reply, why = self._ask(asked)
            if reply is None:
                return not_marked(f"the verifier gave no reply: {why}", shown(gold))
            self._cache.keep(digest, reply)
        said = read_verdict(reply)
        if said is None:
            return not_marked(f"the verifier's reply holds no verdict: {shown(reply)}", shown(gold))
        return Verdict(said == RIGHT, shown(gold), "", f"{self.endpoint.model}: {said}")

    def _ask(self, prompt: str) -> tuple[str | None, str]:
        """The model's reply, or None and why there is none."""
        why = ""
        for attempt in range(1, self.endpoint.attempts + 1):
            pause = min(LONGEST_WAIT_S, 2.0 ** (attempt - 1))
            try:
                reply = self._request(prompt)
                self._heard = True
                return reply, ""
            except urllib.error.HTTPError as error:
                self._heard = True
                why = f"status {error.code}{self._detail(error)}"
                if error.code in REFUSED:
                    raise WorkFailed(f"{self._place}: {why}{self._key_hint(error.code)}") from None
                if error.code not in AGAIN:
                    return None, why
                pause = _retry_after(error) or pause
            except TimeoutError:
                why = f"none within {self.endpoint.timeout_seconds:g} s"
            except NoServer as error:
                why = str(error)
                if not self._heard and attempt == self.endpoint.attempts:
                    raise WorkFailed(f"{self._place}: no server answers there: {why}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = str(error) or type(error).__name__
            if attempt < self.endpoint.attempts:
                self._wait(pause)
        return None, why

    @property
    def _place(self) -> str:
        return f"the judge verifier, {self.endpoint.model} at {self.endpoint.url}"

    def _request(self, prompt: str) -> str:
        body = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
        }
        request = urllib.request.Request(
            self.endpoint.url.rstrip("/") + "/chat/completions",
            json.dumps(body).encode(),
            {
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=self.endpoint.timeout_seconds) as answer:
                raw = answer.read(REPLY_BYTES)
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise TimeoutError from None
            raise NoServer(str(error.reason)) from None
        return _content(raw)

    def _detail(self, error: urllib.error.HTTPError) -> str:
        """What the server says of it, without the key, should it repeat that."""
        try:
            raw = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""
        found = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)', raw)
        text = shown(found.group(1) if found else raw)
        return f" ({text.replace(self._key, '…') if self._key else text})" if text else ""

    def _key_hint(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        return (
            f"; the key in ${KEY} is refused" if self._key else f"; put its key in the environment as {KEY}"
        )


def read_verdict(reply: str) -> str | None:
    """:data:`RIGHT`, :data:`WRONG` or :data:`NONE`, off a model's reply; None where it holds no verdict or two.

    A letter or word alone, in brackets, in \\boxed{}, as JSON, or as the end of an explanation; what a model thought
    aloud before (<think>…</think>) does not count.

    >>> read_verdict("[Correct]"), read_verdict("Both are 9.\\n\\\\boxed{B}"), read_verdict("perhaps")
    ('agrees', 'does not agree', None)
    """
    text = reply.rpartition("</think>")[2].strip().lower()
    if boxed := re.findall(r"\\boxed\{\W*(?:\\text\{)?(\w+)", text):
        return WORDS.get(boxed[-1])
    if first := re.match(r"\W*([abc])\s*(?:[.):：,，*\n]|$)", text):
        return WORDS[first.group(1)]
    lines = [line for line in text.splitlines() if VERDICT.search(line)]
    last = re.sub(r"\bnot (?:correct|right)\b", "incorrect", lines[-1]) if lines else ""
    # A letter in a sentence is mostly no verdict ("a", "option b"): words count anywhere in it, a letter at its end.
    found = {WORDS[m.group()] for m in VERDICT.finditer(last) if len(m.group()) > 1}
    if not found:
        found = {
            WORDS[m.group(1)]
            for m in re.finditer(r"(?:^|[:：\s\"'(\[*])(?<! or )([abc])[\s\"')\].。*}]*$", last)
        }
    return found.pop() if len(found) == 1 else None


def _content(raw: bytes) -> str:
    """The text of a reply.

    Raises:
        ValueError: it is no chat completion.
    """
    try:
        said: Any = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"no chat completion: {shown(raw[:200].decode('utf-8', 'replace'))}") from None
    if not isinstance(said, str):
        raise ValueError("no chat completion: its content is no text")
    return said


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """The seconds that a server asks to wait, within bounds."""
    said = error.headers.get("Retry-After", "") if error.headers else ""
    return min(LONGEST_WAIT_S, float(said)) if re.fullmatch(r"\d{1,6}(\.\d+)?", said) else None


class _Cache:
    """Replies by digest, in a file of JSON lines that several processes may append to."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._replies: dict[str, str] = {}
        self._before = b""
        if path is None or not path.is_file():
            return
        kept = path.read_bytes()
        if kept and not kept.endswith(b"\n"):
            self._before = b"\n"  # the next reply has a line of its own
        for line in kept.splitlines():
            try:
                record = json.loads(line)
                self._replies[str(record["digest"])] = str(record["reply"])
            except (ValueError, LookupError, TypeError):
                continue  # torn by a kill: asked for again

    def get(self, digest: str) -> str | None:
        return self._replies.get(digest)

    def keep(self, digest: str, reply: str) -> None:
        self._replies[digest] = reply
        if self._path is None:
            return
        line = (json.dumps({"digest": digest, "reply": reply}) + "\n").encode()
        try:
            with self._lock, self._path.open("ab") as file:
                file.write(self._before + line)
                self._before = b""
        except OSError as error:
            raise of_system(error, f"{self._path}: cannot write: {error.strerror}") from None
