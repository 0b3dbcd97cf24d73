"""docs/add-a-model.md does what it says: its one file and its recipe take a model through every stage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from glmjobs import plan
from glmjobs.chat import Chat
from glmjobs.cli import run_command
from glmjobs.models import family as registry
from glmjobs.models import load_model, load_tokenizer
from glmjobs.models.family import families, family_for
from glmjobs.recipe.loading import parse
from tests.support.pages import code_blocks
from tests.support.small_families import byte_level_tokenizer, vary

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def block(repo: Path, language: str) -> str:
    """The page's one block in a language."""
    (found,) = code_blocks(repo / "docs" / "add-a-model.md", language)
    return found


def small_qwen2(directory: Path) -> Path:
    """A small Qwen2 with a tokenizer and the ChatML template; tied embeddings, as its small releases have."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = byte_level_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], TEMPLATE, "<|im_end|>")
    tokenizer.save_pretrained(directory)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(
        vocab_size=len(tokenizer), **sizes, num_key_value_heads=2, max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    vary(Qwen2ForCausalLM(config)).save_pretrained(directory)
    return directory


@pytest.fixture
def qwen2(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's file, known to the registry."""
    module = types.ModuleType("glmjobs.models.qwen2.family")
    exec(block(repo, "python"), module.__dict__)
    known = {**families(), module.FAMILY.name: module.FAMILY}
    monkeypatch.setattr(registry, "families", lambda: known)
    return module.FAMILY


def test_the_file(qwen2: Any, tmp_path: Path) -> None:
    """Found by its directory; framed by the template; a packed row gives each example the logits that it gets alone."""
    directory = small_qwen2(tmp_path / "model")
    assert family_for(directory) is qwen2
    tokenizer, model = load_tokenizer(directory), load_model(directory, "float32")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    asked = [*turns, {"role": "user", "content": "2+2?"}]
    wanted = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(qwen2.chat_prompt(tokenizer, "2+2?", [("1+1?", "2")])) == wanted
    assert qwen2.prompt(tokenizer, plain(qwen2.prompt_text("1+1?"))) == qwen2.chat_prompt(tokenizer, "1+1?")

    framed = [
        qwen2.frame(tokenizer, plain(question), plain(answer))
        for question, answer in (("1+1?", "是2"), ("小明有3个苹果", "3"))
    ]
    assert all(len(f.input_ids) <= 30 + qwen2.frame_tokens for f in framed)
    assert framed[0].labels[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = torch.tensor([[*framed[0].input_ids, *framed[1].input_ids]])
    segments = torch.tensor([[1] * len(framed[0].input_ids) + [2] * len(framed[1].input_ids)])
    with torch.no_grad():
        packed = model(input_ids=ids, segment_ids=segments).logits
        alone = torch.cat([model(input_ids=torch.tensor([f.input_ids])).logits for f in framed], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def test_plan_and_chat(
    qwen2: Any,
    repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``plan`` counts the parameters that the model and PEFT's adapters have; ``chat`` remembers what it streams."""
    peft = pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    directory = small_qwen2(tmp_path / "models/qwen2")
    Path("qwen2.yaml").write_text(block(repo, "yaml"), encoding="utf-8")
    assert run_command(plan.main, ["--recipe", "qwen2.yaml", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    model = load_model(directory, "float32")
    assert planned["model"] == {"name": "qwen2", "parameters": parameters(model), "layers": 2, "read": True}
    rank = parse(yaml.safe_load(block(repo, "yaml"))).train.lora.rank
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=list(qwen2.lora_targets)))
    assert planned["trained_parameters"] == parameters(adapted, trained=True)

    chat, pieces = Chat.load(directory, max_length=60), []
    answer = chat.ask("1+1?", pieces.append)
    assert answer and "".join(pieces) == answer and chat.history == [("1+1?", answer)]


def parameters(model: Any, trained: bool = False) -> int:
    """How many a model has; ``trained``: that a gradient reaches."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def test_the_recipe(qwen2: Any, repo: Path) -> None:
    """It is a recipe, of the family that the file adds."""
    recipe = parse(yaml.safe_load(block(repo, "yaml")))
    assert recipe.model.family == "qwen2" and recipe.train.method == "lora"


@pytest.mark.slow
def test_every_stage_in_a_copy_of_the_project(repo: Path, tmp_path: Path) -> None:
    """The two blocks as files and nothing else: it is planned, submit runs the chain, and its model is talked to."""
    from glmjobs.data.synthetic import write_problems

    copy = tmp_path / "project"
    for name in ("glmjobs", "hpc", "configs"):
        shutil.copytree(repo / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "glmjobs/models/qwen2").mkdir()
    (copy / "glmjobs/models/qwen2/family.py").write_text(block(repo, "python"), encoding="utf-8")
    (copy / "configs/qwen2.yaml").write_text(block(repo, "yaml"), encoding="utf-8")
    small_qwen2(copy / "models/qwen2")
    (copy / "data").mkdir()
    write_problems(copy / "data/school_math_0.25M.json", rows=120)
    small = (
        "data.dev_rows=1-20", "train.max_steps=4", "train.precision=fp32", "train.device=cpu", "train.pack_length=256",
        "train.per_device_batch_size=4", "score.rows=4", "score.max_new_tokens=4", "score.dtype=float32",
    )  # fmt: skip
    words = ["--recipe", "configs/qwen2.yaml", "--gpus", "2"]
    for item in small:
        words += ["--set", item]
    environ = {**os.environ, "PYTHONPATH": str(copy), "GLMJOBS_RUNS": str(tmp_path / "runs")}

    def said(command: str, *words: str) -> str:
        """What a command of the copy prints; it succeeds."""
        typed = [sys.executable, "-m", f"glmjobs.{command}", *words]
        done = subprocess.run(typed, cwd=copy, env=environ, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    planned = json.loads(said("plan", *words, "--json"))
    assert planned["model"]["read"] and planned["setting"]["steps"] == 4
    said("submit", *words, "--executor", "local", "--follow", "--name", "q")
    run = tmp_path / "runs" / "q"
    manifest = json.loads((run / "model/manifest.json").read_text())
    assert manifest["source"]["kind"] == "merged" and manifest["dtype"] == "bfloat16"
    assert json.loads((run / "scores/finetuned/summary.json").read_text())["rows"] == 4
    assert (run / "report/report.html").is_file()
    answer = json.loads(said("chat", str(run), "--once", "1+1?", "--max-length", "60", "--json"))
    assert answer["query"] == "1+1?" and answer["answer"]
