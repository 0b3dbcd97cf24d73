"""An adapter as a new base: trained further whole and by LoRA, scored, asked, merged; the result loads anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs import chat, consolidate, heal, score, submit
from glmjobs.cli import run_command
from glmjobs.models import load_model
from glmjobs.models.family import families
from glmjobs.run.directory import Run, Shape
from glmjobs.run.submit_checks import check_model
from hpc.batch.profile import Profile
from hpc.core.errors import BadInput
from tests.e2e.test_families_chain import logits, losses, make_run, marker, train

peft = pytest.importorskip("peft")


def new_adapter(base: Path, into: Path, *, seed: int = 1) -> Path:
    """What ``save_pretrained`` of PEFT leaves, with factors that change the model: no configuration, no tokenizer."""
    torch.manual_seed(seed)
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["o_proj"], init_lora_weights=False)
    peft.get_peft_model(load_model(base, "float32"), settings).save_pretrained(into)
    said = json.loads((into / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(base) and not (into / "config.json").exists()
    return into


def trained_on(run: Run, base: Path, name: str, method: str, adapter: str = "merge") -> Run:
    """A run like ``run`` on another base model, trained and consolidated."""
    recipe = run.recipe.model_copy(
        update={
            "model": run.recipe.model.model_copy(update={"path": str(check_model(base, "glm4"))}),
            "train": run.recipe.train.model_copy(update={"method": method}),
            "consolidate": run.recipe.consolidate.model_copy(update={"adapter": adapter}),
        }
    )
    new = Run.create(run.path.parent / name, recipe, Profile(), Shape(nodes=1, gpus=1))
    train(new)
    assert losses(new)[-1] < losses(new)[0]
    assert run_command(consolidate.main, [str(new.path)]) == 0
    return new


def as_peft_merges(base: Path, adapter: Path) -> torch.Tensor:
    whole = (
        peft.PeftModel.from_pretrained(load_model(base, "float32"), str(adapter)).merge_and_unload().eval()
    )
    return logits(whole, base)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-4)


def test_all_weights_on_top_of_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path, "glm4", gpus=1, train={})
    base = Path(str(first.recipe.model.path))
    adapter = new_adapter(base, tmp_path / "adapter")
    start = as_peft_merges(base, adapter)
    run = trained_on(first, adapter, "full", "full")
    assert close(logits(load_model(run.base_model), run.base_model), start)
    assert not close(start, logits(load_model(base), base))
    assert (run.model / "model.safetensors").is_file() and (run.model / "tokenizer.json").is_file()
    assert json.loads((run.model / "config.json").read_text())["model_type"] == "glm"
    assert not close(logits(load_model(run.model), run.model), start)
    assert run_command(score.main, [str(run.path)]) == 0
    assert marker(run, "score")["figures"]["base"]["rows"] == 6

    # The adapter by itself: scored, asked, and scored anew when its base is another model.
    data, words = str(tmp_path / "problems.jsonl"), ["--rows", "2", "--max-new-tokens", "2", "--out"]
    capsys.readouterr()
    assert run_command(score.main, [str(adapter), data, *words, str(tmp_path / "scores"), "--json"]) == 0
    scored = [json.loads((tmp_path / "scores" / "summary.json").read_text())["fingerprint"]]
    assert run_command(chat.main, [str(adapter), "--once", "1", "--max-length", "24"]) == 0
    other = tmp_path / "moved"
    base.rename(other)
    shutil.copytree(run.model, base)
    assert run_command(score.main, [str(adapter), data, *words, str(tmp_path / "scores"), "--json"]) == 0
    scored.append(json.loads((tmp_path / "scores" / "summary.json").read_text())["fingerprint"])
    assert scored[0] != scored[1]


@pytest.mark.parametrize("kept", ["keep", pytest.param("merge", marks=pytest.mark.slow)])
def test_lora_on_top_of_an_adapter(kept: str, tmp_path: Path) -> None:
    """What is kept names the run's base/, a whole model: PEFT, transformers and this toolkit load it as it stands."""
    from transformers import AutoModelForCausalLM

    first = make_run(tmp_path, "glm4", gpus=1, train={})
    base = Path(str(first.recipe.model.path))
    adapter = new_adapter(base, tmp_path / "adapter")
    run = trained_on(first, adapter, "lora", "lora", kept)
    last = run.checkpoints / "checkpoint-6"
    wanted = as_peft_merges(run.base_model, last)
    assert not close(wanted, as_peft_merges(base, adapter))
    assert close(logits(load_model(run.model), run.model), wanted)
    if kept == "merge":
        by_hand = tmp_path / "by hand"  # both adapters at once, without the run
        words = [str(last), str(by_hand), "--base", str(adapter), "--dtype", "float32"]
        assert run_command(consolidate.main, words) == 0
        assert close(logits(load_model(by_hand), by_hand), wanted)
        return
    assert json.loads((run.model / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        run.base_model
    )
    loaded: list[Any] = [
        AutoModelForCausalLM.from_pretrained(run.model),
        peft.AutoPeftModelForCausalLM.from_pretrained(run.model),
        load_model(run.model),
    ]
    assert all(close(logits(model.eval(), run.model), wanted) for model in loaded)
    with pytest.raises(BadInput, match=r"PEFT cannot take.*glmjobs\.consolidate"):
        consolidate.main([str(last), str(tmp_path / "no"), "--base", str(adapter), "--adapter", "keep"])
    assert run_command(consolidate.main, [str(adapter), str(tmp_path / "alone"), "--dtype", "float32"]) == 0
    assert close(logits(load_model(tmp_path / "alone"), tmp_path / "alone"), as_peft_merges(base, adapter))


def test_what_submit_says_of_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.small_families import SMALL

    base = SMALL["glm4"](tmp_path / "base")
    adapter = new_adapter(base, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    settings = json.loads((adapter / "adapter_config.json").read_text())

    def refused(words: str, **changes: Any) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        with pytest.raises(BadInput, match=words) as said:
            check_model(adapter, "glm4")
        assert "\n" not in str(said.value)

    assert check_model(adapter, "glm4") == adapter
    refused("the base model is not at /nowhere", base_model_name_or_path="/nowhere")
    refused("by a relative path, base, .*write /", base_model_name_or_path="base")
    refused("only plain LoRA", use_dora=True)
    refused("is this adapter itself", base_model_name_or_path=str(adapter))
    other = SMALL["chatglm"](tmp_path / "other")
    refused("the recipe says model.family = glm4", base_model_name_or_path=str(other))
    (adapter / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": "/nowhere"})
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "model": {"family": "glm4", "path": str(adapter)},
                "data": {"make": {}, "dev_rows": "1-100"},
                "train": {"device": "cpu"},
            }
        )
    )
    assert run_command(submit.main, ["--recipe", str(recipe), "--gpus", "1", "--executor", "local"]) == 2
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(BadInput, match="truncated"):
        check_model(adapter, "glm4")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match="without its weights"):
        check_model(adapter, "glm4")


def test_another_model_in_heal_takes_the_place_of_the_merged_one(tmp_path: Path) -> None:
    from glmjobs.run import inputs
    from glmjobs.run.read_state import read_state

    run = make_run(tmp_path, "glm4", gpus=1, train={})
    base = Path(str(run.recipe.model.path))
    adapters = [new_adapter(base, tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]

    def based_on(run: Run, adapter: Path) -> torch.Tensor:
        changed = heal.change(run, read_state(run, ask_slurm=False), [f"model.path={adapter}"], "local")
        inputs.ensure(changed)
        assert changed.base_model == run.path / "base"
        return logits(load_model(changed.base_model), changed.base_model)

    for adapter in adapters:
        assert close(based_on(run, adapter), as_peft_merges(base, adapter))
        run = Run.open(run.path)
    assert families()["glm4"].tokenizer_home(adapters[0]) == base
