"""Model directories in, whole and broken ones; and families by name and by directory."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmjobs.models import load_model
from glmjobs.models.chatglm.tiny_model import make_model
from glmjobs.models.family import families, family_for
from hpc.core.errors import BadInput
from tests.support.paths import REPO
from tests.support.sparse_models import sparse_chatglm

IDS = {
    "bos_token_id": 250,
    "eos_token_id": 251,
    "mask_token_id": 252,
    "gmask_token_id": 253,
    "pad_token_id": 3,
}
SIZES = {"hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 256, "max_positions": 128}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    make_model(tmp_path / "model", seed=1, ids=IDS, **SIZES)
    return tmp_path / "model"


def to_bin_shards(directory: Path) -> None:
    """The directory as the original has it: .bin shards with an index, frequencies and lm_head in them."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"].clone()
    for layer in range(2):
        tensors[f"transformer.layers.{layer}.attention.rotary_emb.inv_freq"] = torch.ones(4).half()
    names = sorted(tensors)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in halves.items():
        torch.save({name: tensors[name] for name in part}, directory / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    index = {"metadata": {"total_size": 13744473856}, "weight_map": weight_map}  # stale, as in the release
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_made_models_are_reproducible(whole: Path, tmp_path: Path) -> None:
    torch.rand(5)  # what was drawn before doesn't matter
    make_model(tmp_path / "again", seed=1, ids=IDS, **SIZES)
    make_model(tmp_path / "other", seed=2, ids=IDS, **SIZES)
    first, again, other = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again", "other")
    )
    assert first == again != other


@torch.no_grad()
def test_original_shards_load_like_safetensors(whole: Path) -> None:
    ids = torch.tensor([[5, 6, 253, 250, 7]])
    wanted = load_model(whole)(ids).logits
    to_bin_shards(whole)
    model = load_model(whole)
    assert not model.training
    assert torch.equal(model(ids).logits, wanted)
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert load_model(whole, "float16").dtype == torch.float16


def hold_twice(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"].clone()


@torch.no_grad()
def test_an_output_matrix_held_twice_is_the_embedding_and_not_compared(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.tensor([[5, 6, 253, 250, 7]])
    wanted = load_model(whole)(ids).logits
    edit_weights(whole, hold_twice)

    def compared(*_: object) -> bool:
        raise AssertionError("all of both is read")

    monkeypatch.setattr("transformers.modeling_utils._tied_params_are_equal", compared, raising=False)
    model = load_model(whole)
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert torch.equal(model(ids).logits, wanted)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_an_output_matrix_of_its_own_needs_a_word_in_the_configuration(form: str, whole: Path) -> None:
    if form == "safetensors":
        edit_weights(whole, hold_twice)
        edit_weights(whole, lambda tensors: tensors["lm_head.weight"].mul_(2))
    else:
        to_bin_shards(whole)
        path = whole / "pytorch_model-00001-of-00002.bin"
        torch.save({**torch.load(path), "lm_head.weight": torch.ones(256, 32).half()}, path)
    with pytest.raises(BadInput, match=r"lm_head\.weight has other values .* \"tie_word_embeddings\": false"):
        load_model(whole)
    edit_config(whole, tie_word_embeddings=False)
    model = load_model(whole)
    assert not torch.equal(model.lm_head.weight, model.transformer.word_embeddings.weight)


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def cut(path: Path, to: float) -> None:
    os.truncate(path, int(path.stat().st_size * to))


def shard(directory: Path, act: Callable[[Path], object]) -> None:
    to_bin_shards(directory)
    act(directory / "pytorch_model-00002-of-00002.bin")


DENSE = "transformer.layers.1.attention.dense.weight"
BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), r"config\.json: missing"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), r"config\.json: no JSON"),
    "other model": (lambda d: edit_config(d, model_type="llama"), r"model_type = 'llama'"),
    "ChatGLM2": (lambda d: edit_config(d, multi_query_attention=True), "ChatGLM2"),
    "quantised": (lambda d: edit_config(d, quantization_bit=4), r"config\.json: quantization_bit = 4"),
    "unknown revision": (
        lambda d: edit_config(d, gmask_token_id=None),
        r"config\.json: gmask_token_id is missing",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no weights"),
    "truncated data": (lambda d: cut(d / "model.safetensors", 0.8), r"model\.safetensors: truncated"),
    "truncated header": (
        lambda d: cut(d / "model.safetensors", 0.01),
        r"model\.safetensors: not a safetensors",
    ),
    "empty": (lambda d: cut(d / "model.safetensors", 0), r"model\.safetensors"),
    "git lfs": (
        lambda d: (d / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        "Git LFS pointer",
    ),
    "vocabulary": (lambda d: edit_config(d, vocab_size=300), r"a vocabulary of 256, .* vocab_size = 300"),
    "wrong shape": (
        lambda d: edit_weights(d, lambda t: t.update({DENSE: torch.zeros(32, 16)})),
        r"dense\.weight has shape \[32, 16\], config\.json asks for \[32, 32\]",
    ),
    "fewer tensors": (
        lambda d: edit_weights(d, lambda t: t.pop(DENSE)),
        "lack 1 tensors, the first: " + DENSE,
    ),
    "more layers": (lambda d: edit_config(d, num_layers=3), "lack 12 tensors"),
    "fewer layers": (
        lambda d: edit_config(d, num_layers=1),
        "12 tensors that this architecture doesn't have",
    ),
    "missing shard": (
        lambda d: shard(d, Path.unlink),
        "1 of 2 weight files missing, the first: pytorch_model-00002",
    ),
    "truncated shard": (
        lambda d: shard(d, lambda p: cut(p, 0.7)),
        r"pytorch_model-00002-of-00002\.bin: truncated",
    ),
    "not a weight file": (lambda d: shard(d, lambda p: p.write_bytes(b"hello")), "not a weight file"),
    "broken index": (
        lambda d: shard(d, lambda p: (p.parent / "pytorch_model.bin.index.json").write_text("[]")),
        r"index\.json: not an index",
    ),
    "path out of the directory": (
        lambda d: shard(
            d,
            lambda p: (p.parent / "pytorch_model.bin.index.json").write_text(
                json.dumps({"weight_map": {DENSE: "../elsewhere.bin"}})
            ),
        ),
        "outside its directory",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_directories_are_one_line(name: str, whole: Path) -> None:
    breakage, words = BREAKAGES[name]
    breakage(whole)
    with pytest.raises(BadInput, match=words) as caught:
        load_model(whole)
    assert "\n" not in str(caught.value)
    assert str(whole) in str(caught.value) or name == "other model"


class Hostile:
    """Unpickles into a call; a marker file tells whether it was made."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickles_do_nothing(legacy: bool, whole: Path, tmp_path: Path) -> None:
    (whole / "model.safetensors").unlink()
    target, marker = whole / "pytorch_model.bin", tmp_path / "called"
    if legacy:
        target.write_bytes(pickle.dumps(Hostile(marker)))
    else:
        torch.save({DENSE: Hostile(marker)}, target)
    with pytest.raises(BadInput):
        load_model(whole)
    assert not marker.exists()


def test_families_without_torch(whole: Path) -> None:
    code = (
        "import sys, glmjobs.models, glmjobs.models.family as f; "
        f"print(f.family_for({str(whole)!r}).name, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["chatglm", "False", "False"]


class Words:
    """A tokenizer of ids alone."""

    unk_token_id, eos_token_id, name_or_path = 0, 99, "words"

    def __init__(self, **ids: int) -> None:
        self.ids = ids

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.ids.get(token, 0)

    def apply_chat_template(self, turns: Any, **_: Any) -> str:
        return "".join(f"U{turn['content']}" for turn in turns) + "A"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}


def test_frames() -> None:
    chat = Words(**{"[gMASK]": 91, "<sop>": 92, "<eop>": 93})
    family = families()["chatglm"]
    framed = family.frame(chat, [1, 2], [3, 4])
    assert framed == ([1, 2, 91, 92, 3, 4, 93], [-100, -100, -100, -100, 3, 4, 93])
    assert family.frame(chat, [1, 2], [3, 4], label_sop=True).labels == [-100, -100, -100, 92, 3, 4, 93]
    assert family.prompt(chat, [1, 2]) == [1, 2, 91, 92] and family.stop_id(chat) == 93

    names = {"[CLS]": 90, "[sMASK]": 91, "<|endoftext|>": 92, "<|startofpiece|>": 93, "<|endofpiece|>": 94}
    glm = Words(**names, **{"[gMASK]": 95})
    framed = families()["glm"].frame(glm, [1, 2], [3, 4])
    assert framed == ([90, 1, 2, 91, 92, 93, 3, 4], [-100, -100, -100, -100, -100, 3, 4, 94])
    assert families()["glm"].banned_ids(glm) == [95]

    framed = families()["glm4"].frame(Words(), [1, 2], [3, 4])
    assert framed == ([ord("U"), 1, 2, ord("A"), 3, 4, 99], [-100, -100, -100, -100, 3, 4, 99])
    with pytest.raises(BadInput, match=r"no \[gMASK\]"):
        family.prompt(Words(), [1])


def test_prompt_text_is_the_originals() -> None:
    family = families()["chatglm"]
    assert family.prompt_text("你好") == "你好"
    assert family.prompt_text("c", [("a", "b")]) == "[Round 0]\n问：a\n答：b\n[Round 1]\n问：c\n答："


SECOND = {"model_type": "chatglm", "multi_query_attention": True, "eos_token_id": 2}


def test_model_types_are_told_apart(tmp_path: Path) -> None:
    for config, name in (
        ({"model_type": "glm", "num_layers": 48, "block_position_encoding": True}, "glm"),
        ({"model_type": "glm", "num_key_value_heads": 2}, "glm4"),
        ({"model_type": "glm10b"}, "glm"),
        ({"model_type": "glm4"}, "glm4_0414"),
        ({"model_type": "chatglm"}, "chatglm"),
        ({**SECOND, "_name_or_path": "THUDM/chatglm2-6b-32k"}, "chatglm2"),
        ({**SECOND, "_name_or_path": "/models/ChatGLM3-6B-base/"}, "chatglm3"),
        ({**SECOND, "eos_token_id": [151329, 151336, 151338]}, "glm4_remote"),
        ({**SECOND, "_name_or_path": "mine", "chatglm_release": "chatglm3"}, "chatglm3"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert family_for(tmp_path).name == name
    with pytest.raises(BadInput, match="neither a family"):
        family_for("chatglm9")
    for config in (
        SECOND,
        {**SECOND, "_name_or_path": "chatglm2-to-3/mine"},
        {**SECOND, "chatglm_release": "x"},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(BadInput, match="and nothing says which"):
            family_for(tmp_path)


LOADS = """
import sys
import torch
from glmjobs.models import load_model
from glmjobs.models.chatglm.modeling import ChatGLMPreTrainedModel
from tests.support.memory import anonymous

def fill(self, module):
    if not all(weight.is_meta for weight in module.parameters(recurse=False)):  # on meta it costs nothing
        raise AssertionError(f"{type(module).__name__} is filled before it is read")

ChatGLMPreTrainedModel._init_weights = fill
for dtype, device in (("float16", None), ("bfloat16", "meta")):
    before = anonymous()
    model = load_model(sys.argv[1], dtype, device)
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert model.dtype == getattr(torch, dtype), model.dtype
    print(anonymous() - before)
"""


def test_weights_are_not_copied_into_the_process(tmp_path: Path) -> None:
    """Mapped from the files, with their type; another type is given where the weights go, not on the host."""
    size = sparse_chatglm(tmp_path / "model", layers=2, hidden=2048, vocab=20_000)
    assert size > 280 << 20
    words = [sys.executable, "-c", LOADS, str(tmp_path / "model")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPO)
    assert done.returncode == 0, done.stderr[-2000:]
    mapped, moved = map(int, done.stdout.split())
    assert max(mapped, moved) < size / 4
