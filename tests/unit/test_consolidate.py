"""The consolidate stage and command: damage is one line, kills leave nothing half."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmjobs import consolidate as stage
from glmjobs.cli import run_command
from glmjobs.consolidate import Options, consolidate
from glmjobs.errors import BadInput, NotFit, WorkFailed
from glmjobs.zero import manifest, write
from glmjobs.zero.safefile import read_tensors

torch = pytest.importorskip("torch", reason="checkpoints to read are made with torch")
RANKS = 3
SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (31, 7),
    "layer.weight": (13, 5),
    "layer.bias": (13,),
    "one": (1,),
    "head": (7, 31),
}
SHARD = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"


@pytest.fixture(scope="session")
def bench(repo: Path) -> Any:
    spec = importlib.util.spec_from_file_location("bench_consolidate", repo / "benchmarks/consolidate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[2, 3], ids=["zero2", "zero3"])
def checkpoint(request: pytest.FixtureRequest, bench: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-10"
    bench.make_checkpoint(folder, SHAPES, request.param, RANKS, True)
    return folder


def shards(checkpoint: Path) -> list[Path]:
    return [checkpoint / "global_step10" / SHARD.format(rank) for rank in range(RANKS)]


def fails(checkpoint: Path, *named: str, **options: Any) -> None:
    """Consolidation stops with one line that names all of these, and leaves nothing."""
    out = checkpoint.parent / "out"
    with pytest.raises(WorkFailed) as failure:
        consolidate(checkpoint, out, Options(fsync=False, **options))
    text = str(failure.value)
    assert "\n" not in text and all(name in text for name in named), text
    assert not out.exists() and not list(out.parent.glob(".out*"))


def test_missing_shard(checkpoint: Path) -> None:
    shards(checkpoint)[1].unlink()
    fails(checkpoint, shards(checkpoint)[1].name, "missing")


def test_shard_left_over_from_more_ranks(checkpoint: Path) -> None:
    shutil.copy(shards(checkpoint)[1], shards(checkpoint)[0].with_name(SHARD.format(3)))
    fails(checkpoint, SHARD.format(3))


def test_truncated_at_every_tenth(checkpoint: Path) -> None:
    whole = shards(checkpoint)[2].read_bytes()
    for part in range(10):
        shards(checkpoint)[2].write_bytes(whole[: len(whole) * part // 10])
        fails(checkpoint, shards(checkpoint)[2].name)


def test_swapped_shards(checkpoint: Path) -> None:
    first, second = shards(checkpoint)[:2]
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    fails(checkpoint, first.name, "swapped")


def test_shard_of_another_step(checkpoint: Path) -> None:
    path = shards(checkpoint)[1]
    saved = torch.load(path, weights_only=True)
    state = saved["optimizer_state_dict"]
    inner = state.get("base_optimizer_state") or state["optimizer_state_dict"]
    inner["state"][0]["step"] = torch.tensor(9.0)
    torch.save(saved, path)
    fails(checkpoint, path.name, "mixed-step", "9")


def test_folder_of_another_step(checkpoint: Path) -> None:
    (checkpoint / "global_step10").rename(checkpoint / "global_step20")
    (checkpoint / "latest").write_text("global_step20")
    fails(checkpoint, "mixed-step")


def test_shard_with_too_few_numbers(checkpoint: Path) -> None:
    path = shards(checkpoint)[0]
    saved = torch.load(path, weights_only=True)
    groups = (
        saved["optimizer_state_dict"].get("fp32_flat_groups")
        or saved["optimizer_state_dict"]["single_partition_of_fp32_groups"]
    )
    groups[0] = groups[0][:-20].clone()
    torch.save(saved, path)
    fails(checkpoint, "elements")


@pytest.mark.parametrize("tag", ["../elsewhere", "/etc", "..", "", "global_step10\x00"])
def test_latest_leads_out(checkpoint: Path, tag: str) -> None:
    (checkpoint / "latest").write_text(tag)
    for name in shards(checkpoint):
        assert name.exists()
    fails(checkpoint, "latest")


def test_link_leads_out(checkpoint: Path) -> None:
    path = shards(checkpoint)[1]
    path.rename(checkpoint.parent / "elsewhere.pt")
    path.symlink_to(checkpoint.parent / "elsewhere.pt")
    fails(checkpoint, path.name, "outside")


def test_committed_sizes(checkpoint: Path) -> None:
    path = shards(checkpoint)[1]
    entry = {"path": str(path.relative_to(checkpoint)), "bytes": path.stat().st_size + 1}
    (checkpoint / "committed.json").write_text(
        json.dumps({"step": 10, "world_size": RANKS, "files": [entry]})
    )
    fails(checkpoint, path.name, "committed")
    entry["path"] = "../" + path.name
    (checkpoint / "committed.json").write_text(
        json.dumps({"step": 10, "world_size": RANKS, "files": [entry]})
    )
    fails(checkpoint, "outside")


def test_copy_of_another_run_is_found(checkpoint: Path) -> None:
    """A model.safetensors beside the shards that does not hold their values, rounded."""
    from safetensors.torch import save_file

    consolidate(checkpoint, checkpoint.parent / "right", Options(dtype="bfloat16", fsync=False))
    shutil.copy(checkpoint.parent / "right/model.safetensors", checkpoint / "model.safetensors")
    consolidate(checkpoint, checkpoint.parent / "again", Options(dtype="float32", fsync=False))
    save_file({"layer.weight": torch.ones(13, 5)}, str(checkpoint / "model.safetensors"))
    fails(checkpoint, "layer.weight", "model.safetensors")


def test_overflow_is_named_and_refused(checkpoint: Path) -> None:
    for path in shards(checkpoint):
        saved = torch.load(path, weights_only=True)
        state = saved["optimizer_state_dict"]
        (state.get("fp32_flat_groups") or state["single_partition_of_fp32_groups"])[0][:2] = 65520.0
        torch.save(saved, path)
    fails(checkpoint, "infinite", "embed.weight")
    out = checkpoint.parent / "allowed"
    found = consolidate(checkpoint, out, Options(allow_overflow=True, fsync=False))
    assert (
        sum(found["overflow"].values()) >= 2 and manifest.read_manifest(out)["overflow"] == found["overflow"]
    )
    assert (
        consolidate(checkpoint, checkpoint.parent / "b", Options(dtype="bfloat16", fsync=False))["overflow"]
        == {}
    )


def test_full_disk_is_said_before(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_bavail, f_frsize = 10, 10

    monkeypatch.setattr(write.os, "statvfs", lambda path: Disk)
    with pytest.raises(NotFit, match="needed here"):
        consolidate(checkpoint, checkpoint.parent / "out", Options(fsync=False))
    assert not (checkpoint.parent / "out").exists() and not list(checkpoint.parent.glob(".out*"))


def test_disk_that_fills_up(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "pwrite", full)
    fails(checkpoint, "disk is full")


def test_verify(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "out"
    consolidate(checkpoint, out, Options(shard_size="300", fsync=False))
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert run_command(stage.main, ["--verify", str(out)]) == 0
    victim = sorted(out.glob("*.safetensors"))[1]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    assert run_command(stage.main, ["--verify", str(out)]) == 1
    assert victim.name in capsys.readouterr().err
    with pytest.raises(BadInput, match="no manifest"):
        manifest.verify(checkpoint)


def test_existing_output_is_not_touched(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(BadInput, match="exists already"):
        consolidate(checkpoint, out, Options(fsync=False))
    assert (out / "mine").read_text() == "x"


@pytest.mark.parametrize("argv", [[], ["/nonexistent/x", "out"], ["{here}", "out"], ["{here}"]])
def test_bad_input_is_one_line(tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(stage.main, [word.format(here=tmp_path) for word in argv]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_plain_trainer_checkpoint_and_files_carried(tmp_path: Path) -> None:
    source, base = tmp_path / "checkpoint-3", tmp_path / "base"
    source.mkdir()
    base.mkdir()
    weights = {"a": torch.randn(5, 3), "b": torch.randn(4).half(), "n": torch.arange(3)}
    torch.save(weights, source / "pytorch_model.bin")
    (source / "config.json").write_text('{"dtype": "float32", "hidden": 5}')
    (source / "zero_to_fp32.py").write_text("")
    for name in (
        "tokenizer_config.json",
        "ice_text.model",
        "modeling_chatglm.py",
        "generation_config.json",
        "config.json",
    ):
        (base / name).write_text("{}")
    (base / "model.safetensors").write_text("not carried")
    found = consolidate(source, tmp_path / "out", Options(dtype="bfloat16", fsync=False), base)
    names = {entry["path"] for entry in found["files"]}
    assert names == {
        "model.safetensors",
        "config.json",
        "tokenizer_config.json",
        "ice_text.model",
        "modeling_chatglm.py",
        "generation_config.json",
    }
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"dtype": "bfloat16", "hidden": 5}
    from safetensors.torch import load_file

    loaded = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(loaded["a"], weights["a"].bfloat16()) and torch.equal(loaded["n"], weights["n"])


def test_rounding_equals_torch_everywhere() -> None:
    """All 65,536 halves, their neighbours in float32, ties, subnormals, overflow edges."""
    from glmjobs.zero.dtypes import round_to

    halves = np.arange(65536, dtype=np.uint32)
    bits = np.concatenate(
        [(halves << 16) + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
        + [
            halves.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32) + np.uint32(s)
            for s in (0, 1, 0x1000, 0xFFF, 0x1001)
        ]
    )
    values = bits.astype(np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    for dtype, kind in (("F16", torch.float16), ("BF16", torch.bfloat16)):
        ours, overflow = round_to(values, dtype)
        wanted = torch.from_numpy(values).to(kind)
        assert np.array_equal(ours.view(np.int16), wanted.view(torch.int16).numpy())
        assert overflow == int((torch.isinf(wanted) & ~torch.isinf(torch.from_numpy(values))).sum())


def test_files_are_about_equally_large() -> None:
    from glmjobs.zero.layout import Extent, Tensor
    from glmjobs.zero.write import plan_shards

    def sizes(elements: list[int], limit: int) -> list[int]:
        tensors = [
            Tensor(f"t{n}", (count,), (Extent(Path("x"), 0, count, "F32"),))
            for n, count in enumerate(elements)
        ]
        shards = plan_shards(tensors, "F32", limit)
        assert [t.name for shard in shards for t in shard.tensors] == [t.name for t in tensors]
        return [shard.size - len(shard.header) for shard in shards]

    assert sizes([100] * 12, 4000) == [2400, 2400]  # not 4000 and 800
    assert sizes([100] * 12, 4800) == [4800]
    assert sizes([1000, 10, 10], 400) == [4000, 80]  # a tensor beyond the limit has a file to itself
    assert max(sizes([70, 30, 60, 40, 50, 50, 90, 10], 400)) <= 400


@pytest.mark.slow
def test_killed_at_random_moments(bench: Any, tmp_path: Path, repo: Path) -> None:
    """SIGKILL at 40 moments: the output is absent or whole; a rerun finishes and cleans up."""
    source, out = tmp_path / "checkpoint-10", tmp_path / "out"
    bench.make_checkpoint(source, bench.model_shapes(0.05), 3, 4, False)
    command = [sys.executable, "-m", "glmjobs.consolidate", str(source), str(out), "--dtype", "float32"]
    whole, _ = bench.measure(command)
    shutil.rmtree(out)
    generator = random.Random(7)
    finished = 0
    for _ in range(40):
        process = subprocess.Popen(command, cwd=repo, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            process.wait(generator.uniform(0.0, whole * 1.05))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if out.exists():
            manifest.verify(out)
            finished += 1
            shutil.rmtree(out)
    assert finished < 40
    subprocess.run(command, cwd=repo, check=True, capture_output=True)
    manifest.verify(out)
    assert len(read_tensors(out / "model.safetensors")) == len(bench.model_shapes(0.05))
    assert not list(tmp_path.glob(".out*"))


def test_lora_factors_are_merged_into_the_base(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 5))
    base, source = tmp_path / "base", tmp_path / "checkpoint-5"
    base.mkdir()
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()}, str(base / "model.safetensors")
    )
    settings = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=["0"], modules_to_save=["1"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings)
    with torch.no_grad():
        adapted.base_model.model[1].modules_to_save["default"].bias.add_(1)
    adapted.save_pretrained(source)
    with pytest.raises(BadInput, match="--base"):
        consolidate(source, tmp_path / "none", Options(fsync=False))
    found = consolidate(source, tmp_path / "out", Options(dtype="float32", fsync=False), base)
    assert found["source"]["kind"] == "merged"
    merged = adapted.merge_and_unload().state_dict()
    loaded = load_file(tmp_path / "out/model.safetensors")
    assert loaded.keys() == merged.keys()
    for name, value in merged.items():
        assert torch.allclose(loaded[name], value, atol=1e-6), name
