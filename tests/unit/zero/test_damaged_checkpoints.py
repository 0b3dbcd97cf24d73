"""Consolidation of what is damaged, mixed or hostile: one line that names it, and nothing left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero.consolidate import Options, consolidate
from tests.support.small_checkpoints import RANKS, SHARD, fails, models, resave, shards

torch = pytest.importorskip("torch", reason="checkpoints to read are made with torch")


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
