"""A headless Chromium driven over the WebDriver protocol, with the standard library only.

Source of the commands: W3C, WebDriver (https://www.w3.org/TR/webdriver2/); ``goog/`` and ``se/`` are chromedriver's.
The tests need a dozen of its commands, each one HTTP request with JSON; so nothing has to be installed beside
Debian's ``chromium`` and ``chromium-driver``.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key by which the protocol names an element."""
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync",
)  # fmt: skip
KEYS = {"ENTER": "\ue007", "ESCAPE": "\ue00c", "END": "\ue010", "HOME": "\ue011"}


class BrowserError(Exception):
    """The browser does not start, or refuses a command."""


class Element:
    """One element of the page."""

    def __init__(self, browser: Browser, name: str) -> None:
        self._browser, self._path = browser, f"/element/{name}"

    @property
    def text(self) -> str:
        """The text one sees of it."""
        return str(self._browser.call("GET", f"{self._path}/text"))

    def attribute(self, name: str) -> str | None:
        """An attribute's value."""
        value = self._browser.call("GET", f"{self._path}/attribute/{name}")
        return None if value is None else str(value)

    def click(self) -> None:
        """As with a mouse: scrolled into view, refused where something else lies above it."""
        self._browser.call("POST", f"{self._path}/click", {})

    def type(self, text: str) -> None:
        """Key by key; :data:`KEYS` has those that are not characters."""
        self._browser.call("POST", f"{self._path}/value", {"text": text})


class Browser:
    """One window. Use as a context manager.

    Raises:
        BrowserError: chromedriver or Chromium does not start.
    """

    def __init__(self, chromium: str, driver: str, profile: Path, wait_seconds: float = 30) -> None:
        self.wait_seconds = wait_seconds
        self._process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            self._root = f"http://127.0.0.1:{self._port()}/session"
            options = {
                "binary": chromium,
                "args": [f"--{flag}" for flag in (*FLAGS, f"user-data-dir={profile}")],
            }
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "timeouts": {"script": 1000 * wait_seconds},
            }
            made = _request("POST", self._root, {"capabilities": {"alwaysMatch": wanted}}, wait_seconds)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self._root += f"/{made['sessionId']}"

    def _port(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # ends when the driver does
            if found := re.search(r"started successfully on port (\d+)", line):
                return int(found[1])
        raise BrowserError("chromedriver did not start")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("DELETE", "")
        finally:
            self._process.terminate()
            self._process.wait(self.wait_seconds)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One command of this session; its value."""
        return _request(method, self._root + path, body, 2 * self.wait_seconds)

    def get(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        """Run JavaScript in the page; what it returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, selector: str) -> Element:
        """The first element that a CSS selector names."""
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return Element(self, found[ELEMENT])

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol, which chromedriver hands on."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What has been logged since the last call: ``browser`` (the console) or ``performance``."""
        entries: list[dict[str, Any]] = self.call("POST", "/se/log", {"type": kind})
        return entries


def _request(method: str, url: str, body: Any, seconds: float) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json; charset=utf-8"}, method=method
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    try:
        with direct.open(request, timeout=seconds) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        said = json.load(error)["value"]
        raise BrowserError(f"{said['error']}: {said['message'].splitlines()[0]}") from None
