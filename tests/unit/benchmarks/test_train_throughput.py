"""The benchmark of training compares ways that do the same work, and can lose."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch

from benchmarks import train_throughput as bench


@pytest.fixture(scope="module")
def model() -> Any:
    return bench.make_model(2, 64, 300, "cpu")


def test_the_ways_give_the_same_loss_and_gradients(model: Any) -> None:
    data = bench.belle_like(bench.BATCH, model.config)
    found = []
    for steps in (
        bench.classical_steps(model, data, range(bench.BATCH), 4, "cpu"),
        bench.classical_steps(model, data, range(bench.BATCH), 1, "cpu"),
        bench.our_steps(model, data, "cpu"), bench.grouped_steps(model, data, "cpu"),
    ):  # fmt: skip
        model.zero_grad()
        for step in steps:
            for micro in step:
                (micro() / 1000).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0], rtol=0, atol=1e-5 * float(found[0].abs().max()))
    assert float(found[0].abs().max()) > 1e-3


def test_other_losses_are_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench.classical_loss
    monkeypatch.setattr(bench, "classical_loss", lambda *args: whole(*args) * 1.001)
    with pytest.raises(SystemExit, match="different losses"):
        bench.check_equal(model, "cpu")


def test_lengths_are_belle_like_and_mfu_is_palms(model: Any) -> None:
    lengths = bench.belle_like(2000, model.config).lengths
    assert lengths.mean() == pytest.approx(140, abs=3) and lengths.max() <= 1024
    data = bench.Examples([[0] * 100] * 3, [])
    parameters = sum(p.numel() for p in model.parameters())
    flops = 6 * parameters + 12 * 2 * 64 * 100
    assert bench.mfu(model, data, 1e12 / flops, 2.0) == pytest.approx(0.5)


def test_the_ratio_is_ours_against_the_classical(model: Any) -> None:
    args = argparse.Namespace(
        device="cpu",
        layers=1,
        hidden=64,
        vocabulary=300,
        examples=16,
        classical=1,
        micro=1,
        rounds=1,
        peak_tflops=None,
    )
    found = bench.measure(args)
    rates = {name: way["examples_per_s"] for name, way in found["ways"].items()}
    assert found["ratio"] == pytest.approx(rates["ours"] / rates["classical"])
    assert found["ratio_to_grouped"] == pytest.approx(rates["ours"] / rates["grouped"])
