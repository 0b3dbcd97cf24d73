"""An adapter's directory is a model by what lies in it and in its base, however that is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from glmjobs.scoring.predictions import model_fingerprint
from glmjobs.zero.directories import base_of, is_adapter, with_bases
from hpc.core.errors import BadInput


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": base})
    )
    (folder / "adapter_model.safetensors").write_bytes(b"factors")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_base_is_found_by_absolute_and_by_relative_path(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = adapter(base.parent / "first", str(base))
    assert is_adapter(first) and not is_adapter(base) and base_of(base) is None
    assert base_of(first) == base
    assert with_bases(adapter(base.parent / "second", str(first)))[1:] == [first, base]
    beside = adapter(base.parent / "third", "../base")
    assert (base_of(beside) or beside).samefile(base)
    monkeypatch.chdir(base.parent)
    assert base_of(adapter(base.parent / "fourth", "base")) == Path("base")


def test_a_missing_base_is_one_line(base: Path) -> None:
    path = adapter(base.parent / "first", "THUDM/chatglm-6b")
    with pytest.raises(
        BadInput, match=r"adapter_config\.json: the base model is not at THUDM/chatglm-6b; write"
    ):
        with_bases(path)
    for broken in ("{}", "[]", '{"base_model_name_or_path": null}', "{"):
        (path / "adapter_config.json").write_text(broken)
        with pytest.raises(BadInput, match="not an adapter's configuration"):
            with_bases(path)


def test_a_circle_of_adapters_is_one_line(base: Path) -> None:
    one, other = base.parent / "one", base.parent / "other"
    adapter(one, str(other)), adapter(other, str(one))
    with pytest.raises(BadInput, match="is this adapter itself"):
        with_bases(one)


def test_an_adapter_is_its_content_and_its_base_s(base: Path) -> None:
    first = adapter(base.parent / "first", str(base))
    before = model_fingerprint(first)
    moved = base.parent / "moved"
    shutil.copytree(base, moved)
    assert model_fingerprint(adapter(base.parent / "second", str(moved))) == before, (
        "the same, at another path"
    )
    (base / "model.safetensors").write_bytes(b"trained")
    assert model_fingerprint(first) != before, "its base is another model now"
    assert model_fingerprint(base.parent / "second") == before
    (first / "adapter_model.safetensors").write_bytes(b"others!")
    assert model_fingerprint(first) != model_fingerprint(adapter(base.parent / "third", str(base)))
