"""Every real checkpoint is read as DeepSpeed itself reads it, bit for bit.

The checkpoints are made here, by the DeepSpeed of this environment; GLMJOBS_CHECKPOINTS names a directory
with more of them, made by other releases (tests/support/make_checkpoints.py says how).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from glmjobs.zero.consolidate import Options, consolidate
from glmjobs.zero.safetensors_file import read_tensors

CASES = {
    2: "z1-fp32-frozen,z2-fp32-plain,z3-fp32,z2-bf16-frozen,z3-bf16-frozen,z1-bf16,z2-fp16-rr,z3-fp16",
    3: "z2-fp32,z3-bf16-frozen",
}
MORE = sorted(Path(os.environ.get("GLMJOBS_CHECKPOINTS", "/nonexistent")).glob("**/case.json"))
NO_MORE = pytest.param(
    Path("other/releases/case.json"),
    marks=pytest.mark.skip(
        reason="GLMJOBS_CHECKPOINTS names no directory with checkpoints of other releases"
    ),
)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    pytest.importorskip("deepspeed", reason="real checkpoints need DeepSpeed")
    out = tmp_path_factory.mktemp("checkpoints")
    for world, cases in CASES.items():
        command = [
            sys.executable,
            str(repo / "tests/support/make_checkpoints.py"),
            str(out),
            "--world",
            str(world),
            "--cases",
            cases,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


def names() -> list[str]:
    return [f"{case}-w{world}" for world, cases in CASES.items() for case in cases.split(",")]


def expected(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "reference.npz") as archive:
        return {name: archive[name] for name in archive.files}


def check_equal(folder: Path, out: Path) -> None:
    consolidate(folder, out, Options(dtype="float32", shard_size="3KB", workers=2, fsync=False))
    found = {}
    for file in sorted(out.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 (not a dict)
    wanted = expected(folder)
    assert wanted.keys() <= found.keys()
    for name, value in wanted.items():
        ours = found[name]
        if ours.dtype.kind in "iub":  # releases before 0.19 turn whole-number buffers into floats
            ours = ours.astype(value.dtype)
        assert ours.dtype == value.dtype and ours.shape == value.shape, name
        assert ours.tobytes() == value.tobytes(), name
    case = json.loads((folder / "case.json").read_text())["case"]
    extra = found.keys() - wanted.keys()
    if (
        "head.weight" in extra
    ):  # DeepSpeed 0.9 loses tied names under ZeRO-2; they share the embedding's storage
        extra -= {"head.weight"}
        assert found["head.weight"].tobytes() == found["embed.weight"].tobytes()
    # DeepSpeed leaves frozen parameters out of ZeRO-1's float32 weights; they are in the model state.
    frozen = {name for name in found if name.startswith("blocks.1.")} if case.startswith("z1") else set()
    assert extra <= frozen


@pytest.mark.parametrize("name", names())
def test_equals_deepspeed(made: Path, tmp_path: Path, name: str) -> None:
    check_equal(made / name, tmp_path / "out")


@pytest.mark.parametrize("case", MORE or [NO_MORE], ids=lambda path: "/".join(path.parts[-3:-1]))
def test_equals_other_releases(case: Path, tmp_path: Path) -> None:
    check_equal(case.parent, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["z2-bf16-frozen-w2", "z3-fp32-w2"])
def test_halves_round_as_torch(made: Path, tmp_path: Path, name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    consolidate(made / name, tmp_path / "out", Options(dtype=dtype, fsync=False))
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as opened:
        for key, value in expected(made / name).items():
            whole = torch.from_numpy(value)
            wanted = whole.to(getattr(torch, dtype)) if whole.is_floating_point() else whole
            assert torch.equal(opened.get_tensor(key), wanted), key


def test_tied_name_left_out_where_the_configuration_ties(made: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"tie_word_embeddings": true, "torch_dtype": "float32"}')
    manifest = consolidate(
        made / "z3-fp32-w2", tmp_path / "out", Options(dtype="bfloat16", fsync=False), base
    )
    assert manifest["tied"] == {"head.weight": "embed.weight"}
    assert "head.weight" not in read_tensors(tmp_path / "out/model.safetensors")
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"
