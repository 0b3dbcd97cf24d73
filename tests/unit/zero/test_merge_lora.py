"""LoRA weights merged into their base, or kept; what cannot be merged is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero.consolidate import Options, consolidate
from hpc.core.errors import BadInput, WorkFailed
from tests.support.small_checkpoints import RANKS, models, resave, weights

torch = pytest.importorskip("torch", reason="checkpoints to read are made with torch")


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
