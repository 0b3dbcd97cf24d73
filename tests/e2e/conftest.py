"""One browser for all tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.browsing import WAIT_SECONDS
from tests.support.webdriver import Browser, BrowserError

REQUIRED = os.environ.get("HPC_REQUIRE_BROWSER") == "1"


def _absent(reason: str) -> None:
    if REQUIRED:
        pytest.fail(f"HPC_REQUIRE_BROWSER=1, but {reason}")
    pytest.skip(f"the report is not tried in a browser: {reason}")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium with a profile of its own."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        _absent("chromium or chromedriver is not installed (apt-get install chromium chromium-driver)")
    try:
        window = Browser(chromium, driver, tmp_path_factory.mktemp("profile"), WAIT_SECONDS)
    except BrowserError as error:
        _absent(f"chromium does not start: {error}")
    with window:
        yield window
