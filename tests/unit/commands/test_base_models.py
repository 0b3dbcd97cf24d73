"""What a base model's configuration and files rule out is said by submit, before anything is queued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")  # makes the models; submit itself needs none

from glmjobs import submit
from glmjobs.models.family import families
from hpc.core.errors import BadInput
from tests.support.small_families import SMALL

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n"
TOKENIZERS = {
    "chatglm": "ice_text.model", "glm": "cog-pretrain.model", "glm4": "tokenizer.json", "chatglm2": "tokenizer.model",
    "chatglm3": "tokenizer.model", "glm4_0414": "tokenizer.json",
    "glm4_remote": "tokenizer.model",
}  # fmt: skip


def config(**changes: Any) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def without(*names: str) -> Callable[[Path], object]:
    return lambda directory: [(directory / name).unlink() for name in names]


def pointer(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(POINTER)


def cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def renamed(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / "model.safetensors").rename(directory / name)


def beside(name: str) -> Callable[[Path], object]:
    def write(directory: Path) -> None:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"x")

    return write


def instead(name: str, content: bytes) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        (directory / name).write_bytes(content)

    return change


def configured(content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / "config.json").write_bytes(content)


def with_mark(directory: Path) -> None:
    path = directory / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def half_an_index(directory: Path) -> None:
    """Two shards are named, one is there."""
    renamed("model-00001-of-00002.safetensors")(directory)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


ROWS = dict.fromkeys(("chatglm2", "chatglm3", "glm4_remote"), "padded_vocab_size")
SECOND = {"model_type": "chatglm", "multi_query_attention": True}

EVERY_FAMILY: dict[str, tuple[Callable[[str], Callable[[Path], object]], str]] = {
    "quantised": (lambda f: config(quantization_bit=4), "config.json: quantization_bit = 4: quantised weights"),
    "gptq": (lambda f: config(quantization_config={"quant_method": "gptq"}), "quantization_config (gptq)"),
    "P-tuned": (lambda f: config(pre_seq_len=128), "config.json: pre_seq_len = 128: P-tuning prefixes"),
    "no size": (lambda f: config(hidden_size=None), "config.json: "),
    "LFS weights": (lambda f: pointer("model.safetensors"), "model.safetensors: a Git LFS pointer"),
    "LFS tokenizer": (lambda f: pointer(TOKENIZERS[f]), "a Git LFS pointer"),
    "truncated": (lambda f: cut, "model.safetensors: truncated"),
    "no weights": (lambda f: without("model.safetensors"), "no weights"),
    "no tokenizer": (lambda f: without(TOKENIZERS[f]), "tokenizer is missing"),
    "GLM-4.5": (lambda f: config(model_type="glm4_moe"), "this is GLM-4.5 (model_type glm4_moe), which is not"),
    "llama.cpp's": (lambda f: renamed("m-Q4_0.gguf"), "there is m-Q4_0.gguf: llama.cpp's form"),
    "half a shard": (lambda f: half_an_index, "1 of 2 weight files missing, the first: model-00002-of-00002"),
    "incomplete": (lambda f: renamed("model.safetensors.incomplete"), "a download that is not finished"),
    "in the hub's cache": (
        lambda f: beside(".cache/huggingface/download/a.b.incomplete"), "a download that is not finished"
    ),
    "full size already": (lambda f: beside("model.safetensors.aria2"), "a download that is not finished"),
    "a web page": (lambda f: instead("pytorch_model.bin", b"<html>"), "pytorch_model.bin: not a weight file"),
    "no shards": (lambda f: instead("model.safetensors.index.json", b'{"weight_map": {}}'), "names no weights"),
    "other sizes": (lambda f: config(hidden_size=128), "they are not of the same model"),
    "other vocabulary": (lambda f: config(**{ROWS.get(f, "vocab_size"): 100}), "they are not of the same model"),
    "cut config": (lambda f: configured(b'{"model_type": '), "config.json: no JSON in UTF-8"),
    "deep config": (lambda f: configured(b'{"a": ' + b"[" * 100_000), "config.json: no JSON in UTF-8"),
    "byte order mark": (lambda f: with_mark, "config.json: no JSON in UTF-8, without a byte order mark"),
    "UTF-16": (lambda f: configured("{}".encode("utf-16")), "config.json: no JSON in UTF-8"),
    "a list": (lambda f: configured(b"[]"), "a configuration is a JSON object"),
    "ChatGLM2 or 3": (lambda f: config(**SECOND, chatglm_release=None), "this is ChatGLM2 or ChatGLM3"),
    "unknown": (lambda f: config(model_type="llama"), "model_type = 'llama'"),
}  # fmt: skip


def said(model: Path, family: str) -> str:
    """submit's refusal of a model: exit code 2, one line."""
    words = ["--executor", "local", "--set", "train.device=auto", "--set", f"model.family={family}"]
    words += ["--set", f"model.path={model}", "--set", "data.path=", "--set", "data.make.rows=20"]
    words += ["--set", "data.dev_rows=1-5"]
    with pytest.raises(BadInput) as refused:
        submit.main(words)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_submit_refuses(
    family: str, name: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    model = shutil.copytree(bases / family, tmp_path / "model")
    change, wanted = EVERY_FAMILY[name]
    change(family)(model)
    assert wanted in said(model, family)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("family", SMALL)
def test_whole_models_pass(family: str, bases: Path) -> None:
    families()[family].check(bases / family)


def test_glm4_needs_its_template(bases: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bases / "glm4", tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    check = families()["glm4"].check
    with pytest.raises(BadInput, match="no chat template"):
        check(model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    check(model)


def test_a_missing_directory_is_bad_input_and_names_the_recipes_model(tmp_path: Path) -> None:
    text = said(tmp_path / "none", "glm")
    assert (
        "no such model directory (model.path); copy GLM-10B there, or name yours: --set model.path=" in text
    )
    (tmp_path / "empty").mkdir()
    assert "config.json: missing" in said(tmp_path / "empty", "glm")
