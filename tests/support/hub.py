"""A hub on this machine, as much of it as a download uses: a real HTTP server that serves a few repositories."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The only revision of each repository, besides main."""


class Hub(BaseHTTPRequestHandler):
    """The hub's interface.

    Attributes:
        repositories: "models/OWNER/NAME" or "datasets/OWNER/NAME" → file → content.
        wrong: large files have other content than the hub says.
        asked: paths and ranges that were downloaded.
        held: large files stop in their middle until it is set, and :attr:`reached` says that one did.
    """

    repositories: Mapping[str, Mapping[str, bytes]] = {}
    wrong = False
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012 (reset by serve)
    held: threading.Event | None = None
    reached = threading.Event()

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = urlparse(self.path).path
        if body:
            self.asked.append((path, self.headers.get("Range")))
        for name, files in self.repositories.items():
            if path == f"/api/{name}" or path.startswith(f"/api/{name}/"):
                return self.describe(path, name, files, body)
            prefix = f"/{name.removeprefix('models/')}/resolve/{COMMIT}/"
            if path.startswith(prefix) and path[len(prefix) :] in files:
                return self.hand_out(files[path[len(prefix) :]], body)
        return self.send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def describe(self, path: str, name: str, files: Mapping[str, bytes], body: bool) -> None:
        if "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", COMMIT):
            return self.send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path:
            listing = [
                {"type": "file", "path": n, "size": len(c), "oid": sha1(c), "lfs": lfs(c)}
                for n, c in files.items()
            ]
            return self.send(200, json.dumps(listing).encode(), body)
        siblings = [
            {"rfilename": n, "size": len(c), "blobId": sha1(c), "lfs": lfs(c)} for n, c in files.items()
        ]
        found = {"id": name.partition("/")[2], "sha": COMMIT, "siblings": siblings, "tags": []}
        return self.send(200, json.dumps(found | {"modelId": found["id"]}).encode(), body)

    def hand_out(self, content: bytes, body: bool) -> None:
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        sent = content[start:]
        if self.wrong and len(content) > 1000:
            sent = b"\0" * len(sent)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206 if start else 200, sent, body, headers)

    def send(self, code: int, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.held is not None and len(content) > 100_000:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.reached.set()
            self.held.wait(60)
            content = content[len(content) // 2 :]
        if body:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def lfs(content: bytes) -> dict[str, object] | None:
    if len(content) < 1000:
        return None
    digest = hashlib.sha256(content).hexdigest()
    return {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 130}


@contextmanager
def serve(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """A hub with these repositories; its address."""
    Hub.repositories, Hub.wrong, Hub.asked, Hub.held = repositories, False, [], None
    Hub.reached.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
