"""Pages looked at as a person does: a window's size, its colour scheme, waiting, a picture of all of it."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from tests.support.webdriver import Browser

WAIT_SECONDS = 30


def show(
    browser: Browser, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False
) -> None:
    """Open a page in a window of this size and colour scheme; a width below 500 is a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.devtools("Emulation.setDeviceMetricsOverride", **metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.devtools("Emulation.setEmulatedMedia", features=[scheme])
    for kind in ("browser", "performance"):
        browser.log(kind)
    browser.get(page if isinstance(page, str) else page.as_uri())


def wait_for(browser: Browser, condition: str) -> Any:
    """Wait until a JavaScript expression is true; returns its value."""
    script = """
        const holds = () => CONDITION, end = performance.now() + 1000 * arguments[0];
        return new Promise((done, fail) => {
          const look = () => {
            const value = holds();
            if (value) done(value);
            else if (performance.now() > end) fail(new Error("never true: " + holds));
            else setTimeout(look, 20);
          };
          look();
        });
    """
    return browser.run(script.replace("CONDITION", condition), WAIT_SECONDS - 1)


def keep(browser: Browser, name: str, tmp_path: Path) -> Path:
    """A screenshot of the whole page."""
    folder = Path(os.environ.get("HPC_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    size = browser.devtools("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12_000), "scale": 1}
    shot = browser.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    path = folder / f"{name}.png"
    path.write_bytes(base64.b64decode(shot["data"]))
    return path
