"""THUDM's own code, run in its own stack, and weights on which a difference would show."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from tests.support.paths import SUPPORT

NEW_TOKENS = 24


def run_driver(name: str, python: str, directory: Path, work: Path, **variables: str) -> dict[str, Any]:
    """What a driver beside this file wrote for ``directory`` and ``work``'s prompts, in THUDM's stack."""
    driver = SUPPORT.joinpath(name)
    command = [python, str(driver), str(directory), str(work / "prompts.json"), str(work / "out.pt")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(work / "modules"), "PYTHONPATH": "", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    out: dict[str, Any] = torch.load(work / "out.pt", weights_only=True)
    return out


def spread(model: Any, seed: int, gain: float) -> None:
    """Biases and norms away from 0 and 1, so that all of them are compared; layers' outputs by ``gain``."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            norm = name.endswith("layernorm.weight")
            parameter.data = torch.randn(parameter.shape, generator=generator) * (
                0.2 if norm else 0.05
            ) + float(norm)
        elif name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            parameter.data *= gain
