"""Packing does not change what is learned: the benchmark says so, and can say otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import packing_loss as bench
from glmjobs.data.packing import plan_epoch


def document(packed: list[float], unpacked: list[float]) -> dict[str, object]:
    """A measurement with these losses."""
    losses = {"packed": packed, "unpacked": unpacked, "sorted": packed}
    world = {"examples_a_step": 12, "fill": 0.97, "losses": losses}
    return {"family": "chatglm", "rows": 100, "torch": "2", "worlds": {"1": world}}


def test_it_can_lose(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.show(document([2.00, 2.01, 1.99], [2.00, 2.00, 2.00]))
    assert not bench.show(document([2.10, 2.11, 2.09], [2.00, 2.00, 2.00]))
    assert "+0.100 ± 0.006" in capsys.readouterr().out


def test_the_sorted_plan_is_what_packing_must_not_become() -> None:
    """Every example once; the lengths of a row are alike, as those of ours are not."""
    lengths = np.random.default_rng(0).integers(20, 60, 1000)
    spread = []
    for plan in (bench.sorted_plan(lengths, 0), plan_epoch(lengths, bench.PACK_LENGTH)):
        assert sorted(plan.members.tolist()) == list(range(1000))
        spread.append(np.mean([lengths[plan.row(i)].std() for i in range(len(plan))]))
    assert spread[0] < 2 and spread[1] > 9


@pytest.mark.slow
@pytest.mark.parametrize("family", ["chatglm", "glm4"])
def test_packed_is_no_worse_than_unpacked(family: str, tmp_path: Path) -> None:
    """Dev loss after an epoch, five seeds, steps of one row and of eight."""
    out = tmp_path / "losses.json"
    assert bench.main(["--family", family, "--rows", "1500", "--json", str(out)]) == 0
