"""The comparison of attention's ways: it checks that they are one function, and it can lose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import attention_ways as bench


def result(pieces: list[float], whole: list[float]) -> dict[str, object]:
    seconds = {"pieces": pieces, "whole": whole}
    return {"family": "glm4", "tokens": 1000, "examples": 8, "loss_spread": 0.0, "seconds": seconds}


def test_ratio_of_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.show(result([1.0, 1.0], [2.0, 1.0])) == {"pieces": 1.5, "whole": 1.0}
    assert bench.show(result([2.0], [1.0]))["pieces"] == 0.5
    assert "500 tokens/s (500 to 500)  0.50 x whole" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["chatglm", "glm4"])
def test_short_run(family: str, tmp_path: Path) -> None:
    out = tmp_path / "ways.json"
    small = ["--rows", "1", "--rounds", "1", "--layers", "1", "--hidden", "64", "--device", "cpu"]
    assert bench.main(["--family", family, *small, "--json", str(out)]) in (0, 1)
    (document,) = json.loads(out.read_text(encoding="utf-8"))
    assert document["loss_spread"] < 1e-3 and document["examples"] > 4
    assert {way: len(seconds) for way, seconds in document["seconds"].items()} == {"pieces": 1, "whole": 1}
