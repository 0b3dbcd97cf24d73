"""What several commands are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small base model of each family, by the families' names."""
    from tests.support.small_families import SMALL  # torch, which most commands' tests do without

    folder = tmp_path_factory.mktemp("bases")
    for name, make in SMALL.items():
        make(folder / name)
    return folder
