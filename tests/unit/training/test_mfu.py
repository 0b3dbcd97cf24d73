"""Model FLOPs utilisation is PaLM's, of real tokens, and shown only where the GPU's peak is known."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from glmjobs.data.packing import plan_epochs  # noqa: E402
from glmjobs.models.family import family_for, read_config  # noqa: E402
from glmjobs.recipe.schema import TrainSection  # noqa: E402
from glmjobs.training.mfu import peak  # noqa: E402
from glmjobs.training.train_data import Reading  # noqa: E402
from hpc.health.gpu_peaks import peak_tflops  # noqa: E402
from tests.support.small_families import HIDDEN, LAYERS, small  # noqa: E402

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA A100 80GB PCIe", 312.0), ("NVIDIA A800-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H800", 989.4), ("NVIDIA H200", 989.4), ("Tesla V100-SXM2-32GB", 125.0),
        ("Tesla V100-PCIE-16GB", 112.0), ("Tesla V100S-PCIE-32GB", 130.0), ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA L40S", 362.1), ("NVIDIA A40", 149.7),
        # parts of a card, other cards of a like name, cards that aren't listed
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None), ("GRID A100-10C", None), ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("Tesla T4", None), ("NVIDIA A1000", None), ("", None),
    ],
)  # fmt: skip
def test_peaks_by_the_drivers_names(name: str, tflops: float | None) -> None:
    assert peak_tflops(name) == tflops


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "NVIDIA A100-SXM4-80GB") -> Reading:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    small("chatglm").save_pretrained(tmp_path)
    lengths = [10, 30]
    return Reading(plan_epochs(lengths, 64, epochs=3, seed=0), lengths, 1)


def test_it_is_palms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 N + 12 L H Q T, T the length that a token attends over: of 40 tokens, 10 over 10 and 30 over 30."""
    reading = made(tmp_path, monkeypatch)
    assert reading.attended == pytest.approx((10 * 10 + 30 * 30) / 40)
    parameters = family_for(tmp_path).architecture(read_config(tmp_path)).parameters
    flops = 6 * parameters + 12 * LAYERS * HIDDEN * 25
    found = peak(TrainSection(precision="fp16"), tmp_path, reading, 8, GPU)
    assert found is not None
    assert found.tokens_per_s == pytest.approx(8 * 312e12 / flops)
    assert found.mfu(found.tokens_per_s / 4) == pytest.approx(0.25)
    frozen = peak(TrainSection(precision="bf16", method="lora"), tmp_path, reading, 8, GPU)
    assert frozen is not None and frozen.tokens_per_s == pytest.approx(8 * 312e12 / (flops - 2 * parameters))


def test_nothing_is_said_where_it_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = made(tmp_path, monkeypatch)
    assert peak(TrainSection(precision="fp16"), tmp_path, reading, 8, torch.device("cpu")) is None
    assert peak(TrainSection(precision="fp32"), tmp_path, reading, 8, GPU) is None
    made(tmp_path, monkeypatch, name="Tesla T4")
    assert peak(TrainSection(precision="fp16"), tmp_path, reading, 8, GPU) is None
