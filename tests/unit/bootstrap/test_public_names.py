"""`from hpc import …`: every name is there, and none is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hpc
from tests.support.paths import REPO

BARE = """
import sys
sys.path.insert(0, {repo!r})
import hpc, hpc.bootstrap
from hpc import EXIT_REQUEUE, StopFlag
heavy = {{"psutil", "pydantic", "yaml", "submitit", "rich"}} & sys.modules.keys()
assert not heavy, heavy
"""


def test_importing_hpc_and_its_bootstrap_needs_nothing_but_python() -> None:
    # -I -S: no site-packages at all
    words = [sys.executable, "-I", "-S", "-c", BARE.format(repo=str(REPO))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", hpc.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(hpc, name)
    assert name in dir(hpc) and (isinstance(value, int) or value.__doc__)
    assert name in (REPO / "hpc" / "README.md").read_text(encoding="utf-8")


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hpc.nothing  # noqa: B018
