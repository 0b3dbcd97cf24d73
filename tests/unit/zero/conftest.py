"""Checkpoints of both stages, written without DeepSpeed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_checkpoints import RANKS, SHAPES


@pytest.fixture(scope="session")
def bench(repo: Path) -> Any:
    spec = importlib.util.spec_from_file_location("bench_consolidate", repo / "benchmarks/consolidate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[2, 3], ids=["zero2", "zero3"])
def checkpoint(request: pytest.FixtureRequest, bench: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-10"
    bench.make_checkpoint(folder, SHAPES, request.param, RANKS, True)
    return folder
