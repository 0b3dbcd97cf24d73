"""The consolidate stage and command: damage is one line, kills leave nothing half."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmjobs import consolidate as stage
from glmjobs.cli import run_command
from glmjobs.zero import manifest, pipeline, publish, write
from glmjobs.zero.consolidate import Options, consolidate
from glmjobs.zero.safetensors_file import read_tensors
from hpc.core.errors import BadInput, NotFit, WorkFailed

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


# --- what a tester broke ------------------------------------------------------------------------------------


def resave(path: Path, change: Callable[[Any], None]) -> None:
    """Change what a file of torch.save holds."""
    saved = torch.load(path, weights_only=False)
    change(saved)
    torch.save(saved, path)


def models(checkpoint: Path) -> list[Path]:
    return sorted((checkpoint / "global_step10").glob("*model_states.pt"))


def weights(folder: Path, tensors: dict[str, Any]) -> Path:
    """A plain model directory."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, str(folder / "model.safetensors"))
    return folder


def test_replace_takes_only_model_directories(checkpoint: Path) -> None:
    here = checkpoint.parent
    other, file = here / "other", here / "file"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    file.write_text("x")
    before = sorted(here.rglob("*"))
    for target in (checkpoint, checkpoint / "global_step10", here, other, file, Path("/"), here / "other/.."):
        with pytest.raises(BadInput, match="replaced"):
            consolidate(checkpoint, target, Options(replace=True, fsync=False))
        assert sorted(here.rglob("*")) == before
    out = here / "out"
    out.mkdir()  # an empty one
    for dtype in ("float32", "bfloat16"):
        consolidate(checkpoint, out, Options(dtype=dtype, replace=True, fsync=False))
        assert manifest.verify(out)["dtype"] == dtype
    with pytest.raises(BadInput, match="replaced"):
        consolidate(checkpoint, out, Options(replace=True, fsync=False), base=out)
    assert not list(here.glob(".*"))


def test_replaced_directory_is_put_back(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = checkpoint.parent / "out"
    consolidate(checkpoint, out, Options(dtype="float32", fsync=False))
    rename = Path.rename

    def fails_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(WorkFailed, match="cannot be put in place"):
        consolidate(checkpoint, out, Options(dtype="bfloat16", replace=True, fsync=False))
    assert manifest.verify(out)["dtype"] == "float32"
    monkeypatch.undo()
    # Killed between the two renames: the next attempt puts it back.
    work = out.with_name(".out.partial")
    work.mkdir()
    out.rename(work / "old")
    publish.clean(out)
    assert manifest.verify(out)["dtype"] == "float32" and not work.exists()


def test_one_process_a_target(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    with publish.publishing(out) as new:
        (new / "x").write_text("x")
        with pytest.raises(WorkFailed, match="another process is writing"):
            consolidate(checkpoint, out, Options(fsync=False))
        publish.clean(out)
        with publish.publishing(out.with_name("*")):
            pass
    assert (out / "x").exists() and not list(out.parent.glob(".*"))


def test_folder_taken_away_before_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process cleans up between a folder's making and its lock: it is made again."""
    out, lock, times = tmp_path / "out", fcntl.flock, iter(range(3))

    def late(handle: int, how: int) -> None:
        if next(times) == 0:
            for made in tmp_path.glob(".out.partial*"):
                shutil.rmtree(made)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with publish.publishing(out) as new:
        (new / "x").write_text("x")
    assert (out / "x").exists() and not list(tmp_path.glob(".*"))


def test_no_locks_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with publish.publishing(tmp_path / "out") as new, publish.publishing(tmp_path / "other"):
        (new / "x").write_text("x")
    assert (tmp_path / "out/x").exists() and not list(tmp_path.glob(".*"))


def test_all_shards_of_another_step(checkpoint: Path) -> None:
    """ZeRO-3 has no copy to compare with; the optimizer's steps tell."""
    for path in shards(checkpoint):

        def older(saved: Any) -> None:
            state = saved["optimizer_state_dict"]
            inner = state.get("base_optimizer_state") or state["optimizer_state_dict"]
            inner["state"][0]["step"] = torch.tensor(7.0)

        resave(path, older)
    fails(checkpoint, shards(checkpoint)[0].name, "mixed-step", "7")
    out = checkpoint.parent / "out"
    consolidate(checkpoint, out, Options(fsync=False, cross_check=False))
    for path in models(checkpoint):  # three steps were skipped for overflow
        resave(path, lambda saved: saved.update(skipped_steps=3))
    consolidate(checkpoint, out.with_name("skipped"), Options(fsync=False))


def test_names_that_no_model_file_can_hold(checkpoint: Path) -> None:
    def rename(saved: Any) -> None:
        saved["param_shapes"] = [
            {("__metadata__" if name == "one" else name): size for name, size in group.items()}
            for group in saved["param_shapes"]
        ]

    for path in models(checkpoint):
        resave(path, rename)
    fails(checkpoint, "__metadata__")


def test_tied_to_itself(checkpoint: Path) -> None:
    for path in models(checkpoint):
        resave(path, lambda saved: saved.update(shared_params={"one": "one"}))
    fails(checkpoint, models(checkpoint)[0].name, "one")


@pytest.mark.parametrize(
    "field", ["frozen_param_shapes", "frozen_param_fragments", "shared_params", "buffer_names"]
)
@pytest.mark.parametrize("value", [3, ["x", 1]])
def test_fields_of_a_wrong_type(checkpoint: Path, field: str, value: Any) -> None:
    for path in models(checkpoint):
        resave(path, lambda saved: saved.update({field: value}))
    fails(checkpoint, models(checkpoint)[0].name, field)


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"model": {"w": torch.ones(2)}}, {"w": torch.ones(0)}])
def test_no_tensors_is_no_model(tmp_path: Path, content: Any) -> None:
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    torch.save(content, source / "pytorch_model.bin")
    fails(source, "holds no tensors")
    (source / "pytorch_model.bin").unlink()
    (source / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    fails(source, "holds no tensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        [],
    ],
)
def test_headers_that_are_no_shapes(tmp_path: Path, entry: Any) -> None:
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    header = json.dumps({"w": entry}).encode()
    (source / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    fails(source, "model.safetensors", "'w'")


def test_disk_without_fallocate(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc then writes single bytes, which a file opened past the page cache refuses."""
    called = []

    def refuses(*_: object) -> None:
        called.append(1)
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(pipeline, "is_local", lambda directory: True)
    monkeypatch.setattr(pipeline.os, "posix_fallocate", refuses)
    out, usual = checkpoint.parent / "out", checkpoint.parent / "usual"
    consolidate(checkpoint, out, Options(dtype="float32", fsync=False))
    manifest.verify(out)
    if not called:
        pytest.skip("no direct writing on this disk")
    monkeypatch.undo()
    consolidate(checkpoint, usual, Options(dtype="float32", fsync=False))
    assert (out / "model.safetensors").read_bytes() == (usual / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_float64_beyond_float32(tmp_path: Path, dtype: str) -> None:
    values = torch.tensor([1.0, 1e300, -1e300, float("inf")], dtype=torch.float64)
    source = weights(tmp_path / "checkpoint-1", {"w": values})
    fails(source, "2 values", "w (2)", dtype=dtype)


def test_strided_and_empty_buffers_are_read(checkpoint: Path) -> None:
    from safetensors.torch import load_file

    buffers = {
        "turned": torch.arange(6.0).reshape(2, 3).t(),
        "wide": torch.arange(3.0).expand(4, 3),
        "empty": torch.zeros(0),
        "complex": torch.ones(2, dtype=torch.complex64) * 1j,
    }

    def add(saved: Any) -> None:
        saved["buffer_names"] = list(buffers)
        saved["module"] = buffers

    for path in models(checkpoint):
        resave(path, add)
    consolidate(checkpoint, checkpoint.parent / "out", Options(dtype="float32", fsync=False))
    loaded = load_file(checkpoint.parent / "out/model.safetensors")
    for name, value in buffers.items():
        assert torch.equal(loaded[name], value), name


def adapter(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """LoRA weights as PEFT saves them: rank 2, of the module "l" (5 x 3), with ``tensors`` beside them."""
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 2, **config}))
    factors = {"l.lora_A.weight": torch.ones(2, 3), "l.lora_B.weight": torch.ones(5, 2)}
    named = {f"base_model.model.{name}": value for name, value in {**factors, **tensors}.items()}
    save_file(named, str(folder / "adapter_model.safetensors"))
    return folder


def test_what_cannot_be_merged_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = weights(tmp_path / "base", {"l.weight": torch.zeros(5, 3), "h.weight": torch.zeros(4, 3)})
    source = tmp_path / "checkpoint-1"

    def refused(*words: str, tensors: dict[str, Any] | None = None, **config: Any) -> None:
        adapter(source, tensors or {}, **config)
        for kind in ("merge", "keep") if tensors else ("merge",):
            with pytest.raises(WorkFailed) as failure:
                consolidate(source, tmp_path / "out", Options(fsync=False, adapter=kind), base)
            assert all(word in str(failure.value) for word in words), failure.value

    refused("lora_embedding_A", tensors={"e.lora_embedding_A": torch.ones(2, 9)})
    refused("lora_magnitude_vector", tensors={"l.lora_magnitude_vector.weight": torch.ones(5)})
    refused("l.lora_B.bias", tensors={"l.lora_B.bias": torch.ones(5)})
    refused("base_layer.bias", tensors={"l.base_layer.bias": torch.ones(5)})
    refused("other.weight", tensors={"other.weight": torch.ones(5)})
    refused("h.weight", tensors={"h.weight": torch.ones(4, 2)})
    refused("second adapter", tensors={"l.lora_A.two.weight": torch.ones(2, 3)})
    for pattern in (["l"], "l", {"l": "x"}, {"(": 1}, {"l": [1]}):
        refused("adapter_config.json", alpha_pattern=pattern)
    # Patterns are regular expressions, as in PEFT: scale 6 / 2 rather than 2 / 2.
    for pattern in ("^l$", "l", "[kl]"):
        adapter(source, {}, alpha_pattern={pattern: 6})
        out = tmp_path / f"out {pattern}"
        consolidate(source, out, Options(dtype="float32", fsync=False), base)
        assert torch.equal(load_file(out / "model.safetensors")["l.weight"], torch.full((5, 3), 6.0)), pattern


@pytest.mark.parametrize("stage", [2, 3])
def test_frozen_base_of_the_checkpoint_is_the_base_that_is_named(
    bench: Any, tmp_path: Path, stage: int
) -> None:
    """A ZeRO checkpoint that carries its own frozen base is not merged into another."""
    source, module = tmp_path / "checkpoint-10", "base_model.model.l"
    shapes = {f"{module}.lora_A.default.weight": (2, 7), f"{module}.lora_B.default.weight": (13, 2)}
    bench.make_checkpoint(source, shapes, stage, RANKS, True)
    (source / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 2}')
    frozen = torch.arange(91.0)
    pieces = torch.cat([frozen, torch.zeros(2)]).chunk(RANKS)
    for rank, path in enumerate(models(source)):

        def add(saved: Any, rank: int = rank) -> None:
            name = f"{module}.base_layer.weight"
            saved["frozen_param_shapes"] = {name: torch.Size((13, 7))}
            fragment = frozen.reshape(13, 7) if stage == 2 else pieces[rank].clone()
            saved["frozen_param_fragments"] = {name: fragment}

        resave(path, add)
    base = weights(tmp_path / "base", {"l.weight": frozen.reshape(13, 7)})
    consolidate(source, tmp_path / "right", Options(fsync=False), base)
    consolidate(source, tmp_path / "kept", Options(fsync=False, adapter="keep"), base)
    other = weights(tmp_path / "other", {"l.weight": frozen.reshape(13, 7) + 1})
    with pytest.raises(WorkFailed, match="another base model"):
        consolidate(source, tmp_path / "wrong", Options(fsync=False), other)


def test_damaged_files_that_are_not_weights(checkpoint: Path, tmp_path: Path) -> None:
    """Pipes, devices, links out, endless nesting: one line each, no waiting."""
    latest = checkpoint / "latest"
    latest.unlink()
    for target in ("/dev/zero", "/etc/passwd", "latest"):
        latest.symlink_to(target)
        fails(checkpoint, "latest")
        latest.unlink()
    os.mkfifo(latest)
    fails(checkpoint, "latest", "not a regular file")
    latest.unlink()
    latest.write_text("x" * 5000)
    fails(checkpoint)
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    index = source / "model.safetensors.index.json"
    for text in ("[" * 100_000, "[]", '{"weight_map": {"a": "a\\u0000b"}}', '{"weight_map": {"a": "\\ud800"}}',
                 '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": "model.safetensors.index.json"}}'):  # fmt: skip
        index.write_text(text)
        fails(source)
    index.unlink()
    os.mkfifo(index)
    fails(source, index.name, "not a regular file")


def test_verify_holds_all_weights_against_the_manifest(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    consolidate(checkpoint, out, Options(fsync=False))
    extra = out / "model-00002-of-00002.safetensors"
    extra.write_bytes(b"x")
    with pytest.raises(WorkFailed, match=r"00002.*not in the manifest"):
        manifest.verify(out)
    extra.unlink()
    real = out / "model.safetensors"
    real.rename(out.parent / "elsewhere")
    real.symlink_to(out.parent / "elsewhere")
    with pytest.raises(WorkFailed, match=r"model\.safetensors: a link"):
        manifest.verify(out)
    (out / "manifest.json").write_text('{"files": []}')
    with pytest.raises(WorkFailed, match="lists no weights"):
        manifest.verify(out)
    for text in ("[" * 100_000, '{"files": [{"path": "a", "bytes": "1", "sha256": ""}]}', "[]"):
        (out / "manifest.json").write_text(text)
        with pytest.raises(BadInput, match="manifest"):
            manifest.verify(out)


@pytest.mark.parametrize(
    "words",
    [
        ["{here}", "{here}/a\0b"], ["{here}", ""], ["{here}", "out", "--base", ""],
        ["{here}", "{here}/out", "--shard-size", "9" * 5000], ["{here}", "{here}/out", "--shard-size", ""],
        ["{here}", "{here}/" + "x" * 5000], ["--verify", "{here}/" + "x" * 5000],
    ],
)  # fmt: skip
def test_words_that_no_system_takes(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    weights(tmp_path / "m", {"w": torch.ones(2)})
    assert run_command(stage.main, [word.format(here=tmp_path / "m") for word in words]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1
