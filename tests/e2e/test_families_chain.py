"""Every family through the same stages: train, consolidate, score; all weights, and LoRA on two ranks with a resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs import chat, consolidate, score
from glmjobs.cli import run_command
from glmjobs.data.synthetic import write_problems
from glmjobs.models import load_model, load_tokenizer
from glmjobs.recipe.loading import parse
from glmjobs.run.directory import Run, Shape
from glmjobs.zero import manifest
from hpc.batch.profile import Profile
from hpc.core.files import read_jsonl
from tests.support.small_families import SMALL

STEPS, SAVED = 6, 4
TRAIN = {
    "learning_rate": 5e-3, "max_steps": STEPS, "save_steps": SAVED, "save_total_limit": 2, "per_device_batch_size": 4,
    "precision": "fp32", "device": "cpu", "pack_length": 256, "activation_checkpointing": False, "logging_steps": 1,
}  # fmt: skip


def make_run(folder: Path, family: str, *, gpus: int, train: dict[str, Any], adapter: str = "merge") -> Run:
    """A run of a small model of the family, nothing done yet."""
    base = SMALL[family](folder / "base")
    write_problems(folder / "problems.jsonl", rows=80)
    recipe = parse(
        {
            "model": {"family": family, "path": str(base)},
            "data": {"path": str(folder / "problems.jsonl"), "dev_rows": "1-20"},
            "train": {**TRAIN, **train},
            "consolidate": {"dtype": "float32", "adapter": adapter},
            "score": {"rows": 6, "max_new_tokens": 8, "dtype": "float32"},
        }
    )
    return Run.create(folder / "run", recipe, Profile(), Shape(nodes=1, gpus=gpus))


def train(run: Run) -> str:
    """The train stage on all ranks, as the chain starts it; what it said."""
    ranks = ["--nproc", str(run.shape.world_size), "--", sys.executable, "-m", "glmjobs.train", str(run.path)]
    done = subprocess.run(
        [sys.executable, "-m", "hpc.runtime.local_launch", *ranks], capture_output=True, text=True, timeout=400,
        env={k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def marker(run: Run, stage: str) -> Any:
    return json.loads((run.path / "stages" / f"{stage}.json").read_text(encoding="utf-8"))


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in read_jsonl(run.checkpoints / "train_log.jsonl") if "loss" in row]


def evaluated(run: Run) -> dict[int, float]:
    """Dev loss by step."""
    rows = read_jsonl(run.checkpoints / "train_log.jsonl")
    return {row["step"]: row["dev_loss"] for row in rows if "dev_loss" in row}


def logits(model: Any, directory: Path) -> torch.Tensor:
    """Of a question and an answer in the family's frame."""
    from glmjobs.models.family import family_for

    tokenizer, family = load_tokenizer(directory), family_for(directory)
    plain = [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("小明有3个苹果", "答案是8个")
    ]
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=torch.tensor([family.frame(tokenizer, *plain).input_ids])).logits
    return out


@pytest.mark.parametrize(
    ("family", "method", "stage"),
    [
        ("glm", "full", 2), ("glm4", "lora", 2), pytest.param("chatglm2", "full", 1, marks=pytest.mark.slow),
        pytest.param("chatglm3", "full", 3, marks=pytest.mark.slow),
        pytest.param("glm4_remote", "lora", 3, marks=pytest.mark.slow),
        pytest.param("glm4_0414", "full", 2, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_chain_of_a_family(
    family: str, method: str, stage: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every architecture: the loss falls, and the model that comes out is scored and answers."""
    if family not in SMALL:
        pytest.skip(f"this stack's transformers has no {family}")
    settings = {"method": method, "zero_stage": stage, "eval_steps": "auto", "keep": "best"}
    run = make_run(tmp_path, family, gpus=1, train=settings, adapter="keep")
    train(run)
    assert losses(run)[-1] < losses(run)[0]
    dev = evaluated(run)
    assert list(dev) == [0, SAVED, STEPS] and dev[STEPS] < dev[0]
    assert run_command(consolidate.main, [str(run.path)]) == 0
    figures = marker(run, "consolidate")["figures"]
    assert figures["step"] == min((SAVED, STEPS), key=dev.get) and "of 3 evaluations" in figures["chosen"]
    manifest.verify(run.model)
    base = run.base_model
    assert (logits(load_model(run.model), base) - logits(load_model(base), base)).abs().max() > 0.01
    assert run_command(score.main, [str(run.path)]) == 0
    assert marker(run, "score")["figures"]["finetuned"]["rows"] == 6
    capsys.readouterr()
    assert run_command(chat.main, [str(run.path), "--once", "1+1=?", "--max-length", "40", "--json"]) == 0
    assert "answer" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("family", "stage"),
    [
        ("chatglm", 2),
        *(pytest.param(f, 3, marks=pytest.mark.slow) for f in ("chatglm", "chatglm2", "chatglm3")),
    ],
)
def test_lora_on_two_ranks(
    family: str, stage: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only adapters are trained and saved; a resume gives the same adapter; merged and kept equal unmerged."""
    peft = pytest.importorskip("peft")
    settings = {"method": "lora", "lora": {"rank": 4, "alpha": 16}, "zero_stage": stage, "eval_steps": "auto"}
    run = make_run(tmp_path, family, gpus=2, train=settings)
    train(run)
    figures = marker(run, "train")["figures"]
    assert 0 < figures["trained_parameters"] < 0.2 * figures["parameters"]
    last = run.checkpoints / f"checkpoint-{STEPS}"
    states = sum(path.stat().st_size for path in last.rglob("*_model_states.pt"))
    assert (
        0 < states < (run.base_model / "model.safetensors").stat().st_size / 2
    )  # the frozen base is not in it
    trained = (last / "adapter_model.safetensors").read_bytes()

    # As if the last save had been cut off: step 5 and 6 once more, from the checkpoint before.
    (last / "committed.json").unlink()
    (run.path / "stages" / "train.json").unlink()
    dev = evaluated(run)
    assert list(dev) == [0, SAVED, STEPS] and dev[STEPS] < dev[0]
    assert f"resuming from checkpoint-{SAVED}" in train(run)
    assert evaluated(run) == dev
    assert (last / "adapter_model.safetensors").read_bytes() == trained

    assert run_command(consolidate.main, [str(run.path)]) == 0
    assert json.loads((run.model / manifest.MANIFEST).read_text())["source"]["kind"] == "merged"
    base = run.base_model
    with_adapter = peft.PeftModel.from_pretrained(load_model(base, "float32"), str(last)).eval()
    unmerged, before = logits(with_adapter, base), logits(load_model(base, "float32"), base)
    assert (unmerged - before).abs().max() > 0.01
    merged = logits(load_model(run.model, "float32"), run.model)
    print(f"\nLoRA merged against unmerged: {(merged - unmerged).abs().max():.1e}")
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-4)

    kept = tmp_path / "kept"
    words = [str(last), str(kept), "--base", str(base), "--adapter", "keep", "--dtype", "float32"]
    assert run_command(consolidate.main, words) == 0
    manifest.verify(kept)
    assert not list(kept.glob("model*.safetensors"))
    torch.testing.assert_close(logits(load_model(kept), kept), unmerged, rtol=0, atol=1e-4)
    loaded = peft.PeftModel.from_pretrained(load_model(base, "float32"), str(kept)).eval()
    assert torch.equal(logits(loaded, base), unmerged)

    assert run_command(score.main, [str(run.path)]) == 0
    assert marker(run, "score")["figures"]["finetuned"]["rows"] == 6
    capsys.readouterr()
    assert not (kept / "config.json").exists(), "transformers would take it for a whole model"
    (kept / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/nowhere"}))
    assert run_command(chat.main, [str(kept), "--once", "1"]) == 2
    assert "the base model is not at /nowhere" in capsys.readouterr().err
