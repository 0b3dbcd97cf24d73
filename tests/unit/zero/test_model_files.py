"""The model directory is the base model's, trained: what transformers changes by saving is not carried into it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero.consolidate import Options, consolidate

torch = pytest.importorskip("torch", reason="models are made with torch")
FAMILIES = ("chatglm", "glm", "glm4", "chatglm3", "glm4_remote")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each family a base, and a checkpoint as transformers' Trainer saves it: no cache, own tokenizer files."""
    from glmjobs.models import load_model, load_tokenizer
    from tests.support.small_families import SMALL

    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        base = SMALL[family](folder / f"{family}-base")
        (base / "modeling_old.py").write_text("# THUDM's own code\n")
        checkpoint = folder / f"{family}-checkpoint"
        model = load_model(base, dtype="float32")
        model.config.use_cache = False
        model.save_pretrained(checkpoint)
        load_tokenizer(base).save_pretrained(checkpoint)
        if not (checkpoint / "generation_config.json").exists():
            (checkpoint / "generation_config.json").write_text('{"_from_model_config": true}')
    return folder


def change(path: Path, **values: Any) -> dict[str, Any]:
    """Set keys of a JSON file, or remove those that are None; what it holds now."""
    content = {**json.loads(path.read_text()), **values}
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", [True, False, None])
@pytest.mark.parametrize(
    "generation", [{"eos_token_id": 2, "temperature": 0.8, "_from_model_config": True}, {}, None]
)
def test_all_but_the_weights_is_the_bases(
    made: Path, tmp_path: Path, family: str, cache: bool | None, generation: dict[str, Any] | None
) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(made / f"{family}-base", base)
    names: dict[str, Any] = {"dtype": None, "torch_dtype": None}
    config = change(base / "config.json", use_cache=cache, note="kept", **{**names, "torch_dtype": "float32"})
    (base / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (base / "generation_config.json").write_text(json.dumps(generation))
    consolidate(made / f"{family}-checkpoint", out, Options(dtype="float16", fsync=False), base)
    expected = {**config, "torch_dtype": "float16"}
    assert list(json.loads((out / "config.json").read_text()).items()) == list(expected.items())
    rest = {
        path.name: path.read_bytes() for path in base.iterdir() if path.suffix not in (".safetensors", ".bin")
    }
    for name, content in rest.items():
        assert name == "config.json" or (out / name).read_bytes() == content, name
    written = {path.name for path in out.iterdir() if path.suffix != ".safetensors"}
    assert written == rest.keys() | {"manifest.json"}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_loads_as_the_base_does(made: Path, tmp_path: Path, family: str) -> None:
    from glmjobs.models import load_model

    consolidate(
        made / f"{family}-checkpoint",
        tmp_path / "out",
        Options(dtype="float32", fsync=False),
        made / f"{family}-base",
    )
    base, model = (load_model(path, dtype="float32") for path in (made / f"{family}-base", tmp_path / "out"))
    assert model.config.use_cache is base.config.use_cache is True
    for name, value in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("names", [("dtype",), ("torch_dtype",), ("dtype", "torch_dtype")])
def test_the_type_stands_under_the_names_the_base_uses(
    made: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(made / "chatglm-base", base)
    change(base / "config.json", **{"dtype": None, "torch_dtype": None, **dict.fromkeys(names, "float32")})
    consolidate(made / "chatglm-checkpoint", tmp_path / "out", Options(dtype="bfloat16", fsync=False), base)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert {key: config[key] for key in ("dtype", "torch_dtype") if key in config} == dict.fromkeys(
        names, "bfloat16"
    )


def test_a_checkpoint_with_more_tokens_keeps_its_own(made: Path, tmp_path: Path) -> None:
    """Its configuration and tokenizer then go with its weights; the cache and generation stay as the base's."""
    checkpoint = tmp_path / "checkpoint-9"
    shutil.copytree(made / "glm4-checkpoint", checkpoint)
    size = json.loads((checkpoint / "config.json").read_text())["vocab_size"] + 8
    change(checkpoint / "config.json", vocab_size=size, use_cache=False)
    (checkpoint / "tokenizer_config.json").write_text('{"more": "tokens"}')
    base = tmp_path / "base"
    shutil.copytree(made / "glm4-base", base)
    change(base / "config.json", use_cache=True)
    (base / "generation_config.json").unlink(missing_ok=True)
    consolidate(checkpoint, tmp_path / "out", Options(fsync=False), base)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["vocab_size"], config["use_cache"]) == (size, True)
    assert (tmp_path / "out/tokenizer_config.json").read_text() == '{"more": "tokens"}'
    assert not (tmp_path / "out/generation_config.json").exists()


def test_without_a_base_the_checkpoints_files_are_taken(made: Path, tmp_path: Path) -> None:
    consolidate(made / "glm4-checkpoint", tmp_path / "out", Options(fsync=False))
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (made / "glm4-checkpoint" / name).read_bytes()
