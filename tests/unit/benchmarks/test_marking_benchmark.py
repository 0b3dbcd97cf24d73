"""benchmarks/marking.py: its ways, and the table that docs/scoring.md shows."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from tests.support.paths import REPO


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("marking_benchmark", REPO / "benchmarks" / "marking.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ways(bench: ModuleType) -> None:
    row = {
        "question": "还剩几颗？",
        "gold": "所以还剩9颗。",
        "prediction": "还剩9颗。验算：9+6=15",
        "correct": True,
    }
    assert [way(row) for way in (bench.of_judge("meaning"), bench.last_number, bench.flexible)] == [
        True,
        False,
        False,
    ]
    money = {"question": "多少元？", "gold": "#### 1234", "prediction": "It costs $1,234.", "correct": True}
    assert bench.last_number(money) and bench.flexible(money)
    assert bench.counts([row, money], [False, True]) == {
        "rows": 2, "agree": 1, "false accepts": 0, "false rejects": 1,
    }  # fmt: skip


def test_the_page_shows_what_it_prints(bench: ModuleType) -> None:
    rows = bench.read(sorted(bench.LABELLED.glob("*.jsonl")))
    ways = {"judge": bench.of_judge("meaning"), "last number": bench.last_number, "flexible": bench.flexible}
    verdicts = {name: bench.measure(rows, way)[0] for name, way in ways.items()}
    page = (REPO / "docs" / "scoring.md").read_text(encoding="utf-8")
    for line in bench.table(rows, verdicts, "file")[2:]:
        assert re.search(re.escape(line.rstrip("| ")) + r"(?: \| [^|]*)? \|", page), line
