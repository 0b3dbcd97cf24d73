"""Fixtures every test can use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.paths import REPO, SHARED

# Tests share two cores with each other's subprocesses; one thread each is both faster and reproducible.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout's root."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the checkout; tests that need it skip where it is absent."""
    path = SHARED
    if not (path / "data").is_dir():
        pytest.skip("../shared (reference data) is not there: parity with the originals is not checked")
    return path
