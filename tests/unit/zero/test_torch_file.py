"""The restricted reader: what is hostile or broken is one line, and nothing runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import io
import os
import pickle
import random
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pytest

from glmjobs.zero.torch_file import Refused, TensorRef, TorchFile, run_pickle
from hpc.core.errors import WorkFailed
from tests.support.hostile_pickle import Runs


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
    generator, refused = random.Random(5), 0
    for _ in range(3000):
        changed = bytearray(program)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        try:
            run_pickle(bytes(changed[: generator.randint(1, len(changed))]))
        except Refused as refusal:
            assert str(refusal)
            refused += 1
    assert 0 < refused < 3000, "the changes are to reach both ends"


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
    from glmjobs.zero.torch_file import Storage

    file = TorchFile(archive(tmp_path / "a.pt", pickle.dumps({}, 2), {"0": b"\0" * 32}))
    with pytest.raises(WorkFailed, match="outside its storage"):
        file.byte_range(TensorRef(Storage("0", "F32", 8), offset, (size,), (1,), "F32"))
    with pytest.raises(WorkFailed, match="not the 4000"):
        file.byte_range(TensorRef(Storage("0", "F32", 1000), 0, (1,), (1,), "F32"))
    with pytest.raises(WorkFailed, match="missing"):
        file.byte_range(TensorRef(Storage("../0", "F32", 8), 0, (1,), (1,), "F32"))


def test_two_contents_in_one_file(tmp_path: Path) -> None:
    """torch reads a file from its start and takes the first of two entries; a zip's reader the last."""
    marker = tmp_path / "ran"
    evil = pickle.dumps(Runs(os.system, f"touch {marker}"), 2)
    good = archive(tmp_path / "a.pt", pickle.dumps({}, 2))
    good.write_bytes(evil + good.read_bytes())
    with pytest.raises(WorkFailed, match="old format"):
        TorchFile(good)
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file, pytest.warns(UserWarning):
        file.writestr("x/data.pkl", evil)
        file.writestr("x/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(WorkFailed, match="two entries"):
        TorchFile(tmp_path / "b.pt")
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_objects_of_a_client_state(tmp_path: Path, protocol: int) -> None:
    state = {
        "plain": [
            collections.deque([1], 3),
            collections.Counter("aab"),
            uuid.uuid4(),
            decimal.Decimal("1.5"),
        ],
        "more": [complex(1, 2), bytearray(b"ab"), range(3), slice(1, 2), ..., datetime.timedelta(1)],
        "args": [argparse.Namespace(a=1), np.arange(3), np.float64(2), Path("/x")],
    }
    file = TorchFile(archive(tmp_path / "a.pt", pickle.dumps(state, protocol)))
    assert [len(value) for value in file.value.values()] == [4, 6, 4]


def test_runs_of_a_tensor_that_is_not_contiguous(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2)
    saved = {
        "turned": base[0, 0].t(),
        "last": base.contiguous(memory_format=torch.channels_last),
        "wide": torch.arange(3.0).expand(4, 3),
        "part": torch.arange(24.0).reshape(4, 6)[1:, 2:4],
        "huge": torch.zeros(1).expand(1 << 9, 1 << 9),
        "double": torch.zeros(2, dtype=torch.complex128),
    }
    torch.save(saved, tmp_path / "a.pt")
    file = TorchFile(tmp_path / "a.pt")
    raw = (tmp_path / "a.pt").read_bytes()
    for name in ("turned", "last", "wide", "part"):
        data = b"".join(raw[at : at + 4 * count] for at, count in file.runs(file.value[name], name))
        assert data == saved[name].contiguous().numpy().tobytes(), name
    for name in ("huge", "double"):
        with pytest.raises(WorkFailed, match=name):
            file.runs(file.value[name], name)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    (tmp_path / "folder.pt").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(WorkFailed, match=path.name):
            TorchFile(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="missing"):
        TorchFile(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(WorkFailed, match=r"not a file that torch\.save wrote"):
        TorchFile(tmp_path / "text.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(WorkFailed, match="old format"):
        TorchFile(tmp_path / "old.pt")
