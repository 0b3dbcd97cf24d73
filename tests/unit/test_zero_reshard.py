"""The universal checkpoint holds every parameter as consolidation reads it, for ZeRO-2 and ZeRO-3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glmjobs.errors import BadInput
from glmjobs.reshard import accumulation, reshard

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")


def test_universal_form_holds_the_same_values(tmp_path: Path, repo: Path) -> None:
    command = [
        sys.executable,
        str(repo / "tests/make_checkpoints.py"),
        str(tmp_path),
        "--cases",
        "z2-fp32,z3-fp32",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=400)
    for case in ("z2-fp32-w2", "z3-fp32-w2"):
        target = reshard(tmp_path / case, 3)
        assert (tmp_path / case / "latest_universal").read_text() == target.name == "global_step2_universal"
        with np.load(tmp_path / case / "reference.npz") as archive:
            reference = {name: archive[name] for name in archive.files}
        for name in ("embed.weight", "blocks.0.1.weight", "blocks.2.2.bias", "scale"):
            saved = torch.load(target / "zero" / name / "fp32.pt", weights_only=True)
            value = saved["param"] if isinstance(saved, dict) else saved
            assert (
                value.detach().numpy().reshape(reference[name].shape).tobytes() == reference[name].tobytes()
            ), (
                case,
                name,
            )
        assert reshard(tmp_path / case, 1) == target
    with pytest.raises(BadInput, match="world size 0"):
        reshard(tmp_path / "z2-fp32-w2", 0)


def test_the_rows_of_a_step_are_kept_or_it_is_refused() -> None:
    assert accumulation(1, 8, 4) == 2
    assert accumulation(4, 2, 8) == 1
    with pytest.raises(BadInput, match="16 micro-batches"):
        accumulation(2, 8, 3)
