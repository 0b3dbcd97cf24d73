"""The GPU acceptance run: its parts work in small on a CPU, and none can take the others' figures with it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from benchmarks import gpu_acceptance as acceptance
from benchmarks.gpu import Findings, Missing, Place


def test_figures_of_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        acceptance.main(["--quick", "--out", str(tmp_path), "--part", "machine", "numerics", "attention"])
        == 0
    )
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {name: r["state"] for name, r in results.items()} == dict.fromkeys(
        ("machine", "numerics", "attention"), "held"
    )
    figures = results["numerics"]["figures"]
    assert figures["chatglm float32 whole: loss"] < 1e-4
    assert 0 < figures["glm4 bfloat16 pieces: gradients"] < 0.2
    assert "numerics: held" in capsys.readouterr().out
    assert "## attention: held" in (tmp_path / "summary.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_training_and_the_chain_in_small(tmp_path: Path) -> None:
    assert acceptance.main(["--quick", "--out", str(tmp_path), "--part", "steps", "answering", "chain"]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["chain"]["figures"]["stages"]["report"] == "done"


@pytest.mark.parametrize(
    ("raised", "state", "line"),
    [(Missing("no deepspeed"), "left out", "no deepspeed"), (OSError("gone"), "failed", "OSError: gone")],
)
def test_a_part_that_cannot_run(
    raised: Exception, state: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(place: Place) -> Findings:
        raise raised

    monkeypatch.setitem(sys.modules, "benchmarks.gpu.broken", types.SimpleNamespace(run=run))
    assert acceptance.inside("broken", Place("cpu", True, tmp_path)) == 0
    assert json.loads((tmp_path / "broken.json").read_text()) == {
        "state": state,
        "figures": {},
        "missed": [line],
    }


def test_a_part_that_hangs_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(acceptance.PARTS, "numerics", 0.1)
    assert acceptance.main(["--quick", "--out", str(tmp_path), "--part", "numerics", "machine"]) == 1
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [results[name]["state"] for name in ("numerics", "machine")] == ["cut off", "held"]


def test_a_bound_that_is_missed_is_said() -> None:
    found = Findings()
    found.bound("error", 0.5, 0.1)
    found.bound("share", float("nan"), 1.0)
    found.bound("fine", 0.1, 0.1)
    assert found.missed == ["error: 0.5, at most 0.1", "share: nan, at most 1"]


def test_without_a_gpu_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "card_name", lambda: None)
    assert acceptance.main([]) == 3
    assert "torch sees no GPU here" in capsys.readouterr().err
