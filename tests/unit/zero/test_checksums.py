"""A flipped bit of a checkpoint is one line that names the file and the storage, and nothing is published."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero.checksums import combine
from glmjobs.zero.consolidate import Options, consolidate
from tests.support.small_checkpoints import RANKS, fails, flip, models, resave, shards, storages

torch = pytest.importorskip("torch", reason="checkpoints to read are made with torch")


def test_combined_checksums_are_those_of_the_whole() -> None:
    draw = random.Random(5)
    for first, second in ((0, 0), (0, 9), (9, 0), (1, 1), (1000, 4097), (3, 1 << 20)):
        one, other = draw.randbytes(first), draw.randbytes(second)
        assert combine(zlib.crc32(one), zlib.crc32(other), second) == zlib.crc32(one + other)


def weights_of(path: Path) -> str:
    """The storage of a shard that holds weights: the largest that is not all zeros (the moments are)."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        return max(storages(path), key=lambda name: len(archive.read(f"{root}/{name}").replace(b"\0", b"")))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("place", [0, 0.3, 0.7, 1])  # 1: the padding, which no weight has
def test_a_flipped_bit_of_any_rank(checkpoint: Path, dtype: str, place: float) -> None:
    for path in shards(checkpoint):
        whole = path.read_bytes()
        name = flip(path, weights_of(path), place)
        out = checkpoint.parent / "out"
        fails(checkpoint, str(path), name, "CRC-32", dtype=dtype)
        fails(checkpoint, str(path), name, "CRC-32", dtype=dtype, cross_check=False, workers=1)
        path.write_bytes(whole)
        consolidate(checkpoint, out, Options(dtype=dtype, fsync=False))
        shutil.rmtree(out)


def test_what_is_not_published_is_not_read(checkpoint: Path) -> None:
    """Adam's moments: half of the file, and of no interest to the model. Resuming and reshard look at them."""
    path = shards(checkpoint)[0]
    flat = weights_of(path)
    moments = [
        name for name in storages(path) if name != flat and path.stat().st_size // 8 < size(path, name)
    ]
    assert moments
    for name in moments:
        flip(path, name)
    consolidate(checkpoint, checkpoint.parent / "out", Options(fsync=False))


def size(path: Path, name: str) -> int:
    with zipfile.ZipFile(path) as archive:
        return next(info.file_size for info in archive.infolist() if info.filename.endswith(f"/{name}"))


def test_the_count_of_steps(checkpoint: Path) -> None:
    """It decides whether the shards belong together: a flipped bit there is damage, not another step."""
    path = shards(checkpoint)[1]
    step = next(name for name in storages(path) if size(path, name) == 4)
    fails(checkpoint, str(path), flip(path, step, 1, 1), "CRC-32")


def test_every_block_of_a_large_tensor(tmp_path: Path, bench: Any) -> None:
    """Blocks are read out of order, by several threads, and cut where two files meet."""
    checkpoint = tmp_path / "checkpoint-10"
    bench.make_checkpoint(checkpoint, {"a": (700, 1001), "b": (1001, 700), "c": (3,)}, 2, RANKS, False)
    path = shards(checkpoint)[1]
    whole, name = path.read_bytes(), weights_of(path)
    for tenth in range(11):
        found = flip(path, name, tenth / 10, 1)
        fails(checkpoint, str(path), found, workers=4, shard_size="1MB", dtype="bfloat16")
        path.write_bytes(whole)
    consolidate(checkpoint, tmp_path / "out", Options(fsync=False, workers=4, shard_size="1MB"))


def test_weights_of_the_trainer(tmp_path: Path) -> None:
    """pytorch_model.bin: views of one storage, a transposed one, a tensor within another, a name tied."""
    source = tmp_path / "checkpoint-3"
    source.mkdir()
    flat = torch.arange(60.0)
    saved = {
        "rows": flat[:12].reshape(3, 4),
        "turned": flat[20:32].reshape(3, 4).t(),
        "inner": flat[4:9],
        "of": flat,
    }
    path = source / "pytorch_model.bin"
    torch.save({**saved, "tied": saved["rows"], "cut": torch.arange(50.0)[7:9]}, path)
    consolidate(source, tmp_path / "whole", Options(fsync=False, dtype="float32"))
    whole = path.read_bytes()
    for name in storages(path):
        for place in (0, 0.5, 1):
            fails(source, str(path), flip(path, name, place), "CRC-32", dtype="float32")
            path.write_bytes(whole)


def test_lora_factors_and_their_base(tmp_path: Path) -> None:
    source, base = tmp_path / "checkpoint-1", tmp_path / "base"
    for folder in (source, base):
        folder.mkdir()
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 2}))
    factors = {"l.lora_A.weight": torch.ones(2, 3), "l.lora_B.weight": torch.ones(5, 2)}
    torch.save(
        {f"base_model.model.{name}": value for name, value in factors.items()}, source / "adapter_model.bin"
    )
    torch.save({"l.weight": torch.zeros(5, 3), "h.weight": torch.zeros(4, 3)}, base / "pytorch_model.bin")
    consolidate(source, tmp_path / "merged", Options(fsync=False), base)
    for path in (source / "adapter_model.bin", base / "pytorch_model.bin"):
        whole = path.read_bytes()
        for name in storages(path):
            fails(source, str(path), flip(path, name), "CRC-32", base=base)
            path.write_bytes(whole)
    path = source / "adapter_model.bin"
    name = flip(path, storages(path)[0])
    fails(source, str(path), name, "CRC-32", base=base, adapter="keep")


def test_a_copy_that_differs_by_a_flipped_bit_is_called_damaged(checkpoint: Path) -> None:
    """Not "files of different steps", where the cross-check meets it first."""
    consolidate(checkpoint, checkpoint.parent / "half", Options(dtype="bfloat16", fsync=False))
    shutil.copy(checkpoint.parent / "half/model.safetensors", checkpoint / "model.safetensors")
    path = shards(checkpoint)[0]
    fails(checkpoint, str(path), flip(path, weights_of(path), 0.002, 64), "CRC-32")


def test_frozen_parameters(bench: Any, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint-10"
    bench.make_checkpoint(source, {"w": (13, 7)}, 2, RANKS, True)
    (path,) = models(source)

    def add(saved: Any) -> None:
        saved["frozen_param_shapes"] = {"f": torch.Size((13, 7))}
        saved["frozen_param_fragments"] = {"f": torch.ones(13, 7)}

    resave(path, add)
    fails(source, str(path), flip(path, storages(path)[0]), "CRC-32")
