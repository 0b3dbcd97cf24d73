"""Optimizer offload compiles DeepSpeed's Adam when training starts: preflight does it first, and says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmjobs.preflight import COMPILE_ADAM, compile_adam, compiles_adam
from glmjobs.recipe.schema import TrainSection


def test_only_offloading_to_deepspeed_s_own_adam_compiles(tmp_path: Path) -> None:
    assert not compiles_adam(TrainSection())
    assert compiles_adam(TrainSection(optimizer_offload=True))
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 2}, "zero_force_ds_cpu_optimizer": false}')
    assert not compiles_adam(TrainSection(optimizer_offload=True, deepspeed=str(own)))
    own.write_text('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}')
    assert compiles_adam(TrainSection(deepspeed=str(own)))


def test_what_was_wrong_is_one_line() -> None:
    assert compile_adam(("print('warning: slow')",)).ok
    for program, said in (
        (
            "print('x'); raise RuntimeError('Installed CUDA version 13.0 does not match 11.7')",
            "13.0 does not match",
        ),
        (
            "import sys; sys.exit('c++: error: unrecognized option -std=c++17')",
            "unrecognized option -std=c++17",
        ),
        ("import sys; sys.exit(1)", "it failed"),
    ):
        found = compile_adam((program,))
        assert not found.ok and said in found.found and "\n" not in found.found
        assert found.blame == "configuration" and "zero_force_ds_cpu_optimizer" in found.remedy


@pytest.mark.slow
def test_a_compiler_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed")
    old = tmp_path / "c++"
    old.write_text('#!/bin/sh\necho "c++: error: unrecognized command line option" >&2\nexit 1\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    found = compile_adam(COMPILE_ADAM)
    assert not found.ok and found.found, found
