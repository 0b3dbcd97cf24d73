"""The restricted reader: what is hostile or broken is one line, and nothing runs."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest

from glmjobs.errors import WorkFailed
from glmjobs.zero.torchfile import Refused, TensorRef, TorchFile, run_pickle


class Runs:
    """An object whose unpickling calls something."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def archive(path: Path, program: bytes, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", program)
        for name, data in (members or {}).items():
            file.writestr(f"x/data/{name}", data)
    return path


def hostile(marker: Path) -> dict[str, bytes]:
    """Programs that would leave ``marker`` behind, or worse, in Python's own unpickler."""
    write = f"open({str(marker)!r}, 'w').close()"
    deep = b"\x80\x02)" + b"\x85" * 50_000 + b"}q\x00h\x00\x86."
    return {
        "os.system": pickle.dumps(Runs(os.system, f"touch {marker}"), 2),
        "eval": pickle.dumps(Runs(eval, write), 2),
        "exec": pickle.dumps(Runs(exec, write), 4),
        "getattr": pickle.dumps(Runs(getattr, collections.OrderedDict(), "clear"), 2),
        "in a list": pickle.dumps([1, {"a": Runs(os.system, f"touch {marker}")}], 2),
        "inst": b"(S'touch'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'touch'\no.",
        "dotted": b"\x80\x04\x8c\x08builtins\x8c\x0aeval.__call\x93.",
        "from a known package": b"\x80\x04\x8c\x0edeepspeed.comm\x8c\x09os.system\x93)R.",
        "load from bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x01a\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "next buffer": b"\x80\x05\x97.",
        "call of a value": b"\x80\x02]q\x00)R.",
        "state of a list": b"\x80\x02]}b.",
        "deep key": b"\x80\x02}" + b")" + b"\x85" * 50_000 + b"K\x01s.",
        "deep value": deep,
        "long text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        "stack underflow": b"\x80\x02\x87.",
        "pop past mark": b"\x80\x02(\x85.",
        "no mark": b"\x80\x02]u.",
        "memo": b"\x80\x02h\x07.",
        "no end": b"\x80\x02]",
        "empty": b"",
        "bad size": b"\x80\x02ctorch\nSize\n(J\xff\xff\xff\xfft\x85R.",
        "other storage": b"\x80\x02(X\x04\x00\x00\x00filectorch\nFloatStorage\nX\x06\x00\x00\x00../../aX\x03\x00\x00\x00cpuK\x04tQ.",  # noqa: E501
    }


def test_hostile_pickles_do_nothing_but_fail(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name, program in hostile(marker).items():
        file = archive(tmp_path / "a.pt", program)
        if name == "deep value":  # harmless: it is only data
            TorchFile(file)
            continue
        with pytest.raises(WorkFailed) as failure:
            TorchFile(file)
        assert str(file) in str(failure.value) and "\n" not in str(failure.value), name
    assert not marker.exists()


def test_mutated_pickles_never_raise_anything_else(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save(
        {
            "a": torch.ones(3, 2),
            "b": collections.OrderedDict(c=torch.Size((2, 3))),
            "s": {1, 2},
            "n": [1, 2.5, None],
        },
        buffer,
    )
    with zipfile.ZipFile(buffer) as file:
        program = bytearray(file.read("archive/data.pkl"))
    generator = random.Random(5)
    for _ in range(3000):
        changed = bytearray(program)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        with contextlib.suppress(Refused):
            run_pickle(bytes(changed[: generator.randint(1, len(changed))]))


def test_reads_what_torch_wrote(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    saved = {
        "all": base,
        "rows": base[1:3],
        "turned": base.t(),
        "half": base.half(),
        "brain": base.bfloat16(),
        "flag": torch.tensor(True),
        "parameter": torch.nn.Parameter(base.clone()),
        "size": torch.Size((2, 3)),
        "sparse names": {"x", "y"},
        "none": torch.zeros(0, 3),
        "type": torch.float16,
    }
    torch.save(saved, tmp_path / "a.pt")
    file = TorchFile(tmp_path / "a.pt")
    rows = file.value["rows"]
    assert (
        isinstance(rows, TensorRef)
        and rows.shape == (2, 6)
        and rows.contiguous
        and not file.value["turned"].contiguous
    )
    offset, length = file.byte_range(rows)
    raw = (tmp_path / "a.pt").read_bytes()[offset : offset + length]
    assert raw == base[1:3].numpy().tobytes()
    assert file.value["size"] == (2, 3) and file.value["sparse names"] == {"x", "y"}
    assert file.value["brain"].dtype == "BF16" and file.value["flag"].dtype == "BOOL"
    with pytest.raises(WorkFailed, match="strides"):
        file.byte_range(file.value["turned"])


@pytest.mark.parametrize("offset,size", [(0, 9), (7, 4), (-1, 2), (1 << 62, 1)])
def test_tensor_outside_its_storage(tmp_path: Path, offset: int, size: int) -> None:
    from glmjobs.zero.torchfile import Storage

    file = TorchFile(archive(tmp_path / "a.pt", pickle.dumps({}, 2), {"0": b"\0" * 32}))
    with pytest.raises(WorkFailed, match="outside its storage"):
        file.byte_range(TensorRef(Storage("0", "F32", 8), offset, (size,), (1,), "F32"))
    with pytest.raises(WorkFailed, match="not the 4000"):
        file.byte_range(TensorRef(Storage("0", "F32", 1000), 0, (1,), (1,), "F32"))
    with pytest.raises(WorkFailed, match="missing"):
        file.byte_range(TensorRef(Storage("../0", "F32", 8), 0, (1,), (1,), "F32"))


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="missing"):
        TorchFile(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(WorkFailed, match=r"not a file that torch\.save wrote"):
        TorchFile(tmp_path / "text.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(WorkFailed, match="old format"):
        TorchFile(tmp_path / "old.pt")
