"""Fixtures every test can use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPO, SHARED

# Tests share two cores with each other's subprocesses; one thread each is both faster and reproducible.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def no_rank_left_behind() -> Iterator[None]:
    """A stage that a test runs in its own process exports its rank, which the next test must not take for its own."""
    yield
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


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
