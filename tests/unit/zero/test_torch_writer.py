"""What is written without torch: torch, Python's zipfile and this package's own reader find the same in it."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import pytest

from glmjobs.zero import stored_zip
from glmjobs.zero.layout import Extent, Tensor
from glmjobs.zero.stored_zip import StoredZip
from glmjobs.zero.torch_file import Name, Opaque, TorchFile
from glmjobs.zero.torch_writer import STORAGES, Content
from hpc.core.errors import WorkFailed


def numbers(tensor: Tensor, into: IO[bytes]) -> int:
    """Zeros and a last byte of one."""
    extent = tensor.extents[0]
    size = tensor.numel * {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(
        extent.dtype, 1
    )
    data = bytes(size - 1) + b"\x01"
    into.write(data)
    return zlib.crc32(data)


def tensor(dtype: str, *shape: int) -> Tensor:
    return Tensor("t", shape, (Extent(Path("nowhere"), 0, int(np.prod(shape)), dtype),))


def test_torch_reads_every_type(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    kinds = sorted(STORAGES)
    value = {kind: tensor(kind, 3, 2) for kind in kinds} | {"one": tensor("F32"), "more": [tensor("F32", 1)]}
    Content(value).write(tmp_path / "some.pt", numbers)
    found = torch.load(tmp_path / "some.pt", weights_only=True)
    names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
             "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
             "BOOL": torch.bool, "C64": torch.complex64}  # fmt: skip
    assert {kind: found[kind].dtype for kind in kinds} == names
    for each in (*(found[kind] for kind in kinds), found["one"], found["more"][0]):
        assert each.is_contiguous() and each.flatten()[:-1].count_nonzero() == 0 != each.flatten()[-1]
    assert found["F16"].shape == (3, 2) and found["one"].shape == ()
    with zipfile.ZipFile(tmp_path / "some.pt") as archive:
        assert archive.testzip() is None
    members = TorchFile(tmp_path / "some.pt").storages()
    assert len(members) == len(kinds) + 2 and all(member.start % 64 == 0 for member in members)


def test_values_come_back(tmp_path: Path) -> None:
    shared: list[Any] = [1.5]
    held: dict[Any, Any] = {
        "none": None, "yes": True, "no": False, "small": -7, "word": 2**31, "huge": -(3**200), "float": 0.1,
        "text": "学校", "bytes": b"\x00\xff", "tuple": (1, (2, ())), "list": [shared, shared], 5: {}, "empty": [],
        "type": Name("builtins.float"),
    }  # fmt: skip
    held["itself"] = held
    Content(held).write(tmp_path / "some.pt", numbers)
    found = unpickled(tmp_path / "some.pt")
    assert found.pop("itself") is found and found["list"][0] is found["list"][1] and found.pop("type") is float
    del held["itself"], held["type"]
    assert found == held
    assert TorchFile(tmp_path / "some.pt").value["huge"] == -(3**200)


def test_objects_of_a_checkpoint_are_made_again(tmp_path: Path) -> None:
    """As torch saved them, through this package's reader: an enumeration's member, settings, numpy's scalars."""
    torch = pytest.importorskip("torch")
    scaler = pytest.importorskip("deepspeed.runtime.fp16.loss_scaler").LossScaler(scale=8)
    from deepspeed.runtime.zero.config import ZeroStageEnum

    step = torch.tensor(3.0)
    saved = {
        "stage": ZeroStageEnum.gradients, "scaler": scaler, "rate": np.float64(0.5), "steps": [step, step],
        "options": argparse.Namespace(a=(1,)), "turned": torch.arange(6.0).view(2, 3).T,
    }  # fmt: skip
    torch.save(saved, tmp_path / "saved.pt")
    source = TorchFile(tmp_path / "saved.pt")

    def copy(tensor: Tensor, into: IO[bytes]) -> int:
        data = b"".join(
            extent.file.read_bytes()[extent.offset : extent.offset + 4 * extent.count] for extent in tensor.extents
        )
        into.write(data)
        return zlib.crc32(data)

    Content(source.value, source).write(tmp_path / "again.pt", copy)
    found = torch.load(tmp_path / "again.pt", weights_only=False)
    assert found["stage"] is ZeroStageEnum.gradients and vars(found["scaler"]) == vars(scaler)
    assert (found["rate"], found["options"]) == (0.5, argparse.Namespace(a=(1,)))
    assert found["steps"][0] is found["steps"][1] and found["steps"][0] == 3
    assert torch.equal(found["turned"], saved["turned"])


def unpickled(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return pickle.loads(archive.read(f"{path.stem}/data.pkl"))


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    refused = {
        "nested too deep": deep, "a set": {1}, "type complex128": tensor("complex128", 1),
        "which is none": Opaque("deepspeed.a\nos\nsystem"),
    }  # fmt: skip
    for words, value in refused.items():
        with pytest.raises(WorkFailed, match=words):
            Content({"value": value})


def test_a_function_is_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inert object whose name is a function's is made as of a class, which fails."""
    called: list[str] = []
    monkeypatch.setitem(__import__("sys").modules, "deepspeed.pretended", SimpleNamespace(run=called.append))
    Content(Opaque("deepspeed.pretended.run", ("it",))).write(tmp_path / "some.pt", numbers)
    with pytest.raises((TypeError, AttributeError, pickle.UnpicklingError)):
        unpickled(tmp_path / "some.pt")
    assert not called


@pytest.mark.parametrize("wide", [40, 3_000, 6_000, 0xFFFFFFFF])
def test_wide_numbers_where_they_are_needed(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 4 GiB were ``wide`` bytes: every number that fits is narrow, the others are in the wide form."""
    monkeypatch.setattr(stored_zip, "WIDE", wide)
    file = io.BytesIO()
    archive = StoredZip(file)
    content = {"some/data.pkl": b"abc", "some/data/0": bytes(range(256)) * 20, "some/data/1": b"xyz" * 20}
    for name, data in content.items():
        archive.add(name, len(data), lambda into, data=data: into.write(data) and zlib.crc32(data))  # type: ignore[misc]
    archive.close()
    raw = file.getvalue()
    assert (b"PK\x06\x06" in raw) == (wide < len(raw) - 400)
    # zipfile knows 0xFFFFFFFF alone as the stand-in.
    raw = raw.replace(struct.pack("<L", wide), struct.pack("<L", 0xFFFFFFFF)) if wide < 0xFFFFFFFF else raw
    with zipfile.ZipFile(io.BytesIO(raw)) as found:
        assert found.namelist() == list(content) and found.testzip() is None
        assert {name: found.read(name) for name in content} == content
