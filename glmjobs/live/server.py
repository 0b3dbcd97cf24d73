"""The pages for this machine's browsers alone: on 127.0.0.1, under an address that nobody can guess.

Other users of a login node reach 127.0.0.1 as well, so every address begins with a token; and a page of another site
that has found out the port is turned away by the Host header (DNS rebinding). Nothing but GET is answered.
"""

from __future__ import annotations

import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from glmjobs.live.views import View, Views
from hpc.core.errors import HpcError

HOST = "127.0.0.1"


class Server(ThreadingHTTPServer):
    """Serves the pages of some runs until it is shut down. ``address``: what to open, token included."""

    daemon_threads = True
    allow_reuse_address = False  # of two on one port, the second is told

    def __init__(self, views: Views, port: int = 0) -> None:
        self.views = views
        self.token = secrets.token_urlsafe(16)
        super().__init__((HOST, port), Handler)
        self.address = f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; what else happens is one line."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            print(f"warning: a page could not be made: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: BaseServer
    server_version = "glmjobs"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """``/TOKEN/``, ``/TOKEN/run/NAME/``; ``?seen=VERSION``: 204 where that is still the newest."""
        server = self.server
        assert isinstance(server, Server)
        parts = urlsplit(self.path)
        first, *words = [unquote(word) for word in parts.path.split("/")[1:]]
        # A tunnel may begin at another port of the browser's machine; the name is one of these two all the same.
        named = (self.headers.get("Host") or "").rpartition(":")[0] in (HOST, "localhost")
        if not named or not secrets.compare_digest(first.encode(), server.token.encode()):
            return self._answer(404, "There is nothing here. Open the whole address that watch printed.\n")
        if not parts.path.endswith("/"):
            return self._answer(301, "", location=f"{parts.path}/")  # the links on a page are relative
        try:
            view = self._find(server.views, words)
        except HpcError as error:
            return self._answer(500, f"{error}\n")
        if view is None:
            return self._answer(404, "There is no such run here (any more).\n")
        if parse_qs(parts.query).get("seen") == [view.version]:
            return self._answer(204, "")
        return self._answer(200, view.html, view.version)

    @staticmethod
    def _find(views: Views, words: list[str]) -> View | None:
        if words == [""]:
            return views.overview()
        if len(words) == 3 and words[0] == "run" and words[2] == "":
            return views.run(words[1])
        return None

    def do_HEAD(self) -> None:
        """As GET, without the page."""
        self.do_GET()

    def _answer(self, code: int, text: str, version: str = "", location: str = "") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(code)
        kind = "text/html" if version else "text/plain"
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        if version:
            self.send_header("X-Version", version)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address has the token in it."""
