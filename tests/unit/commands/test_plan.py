"""What the plan says: the tables of ChatGLM-6B and GLM-10B, proposals that fit, mistakes in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmjobs import plan, prepare
from glmjobs.cli import run_command
from glmjobs.planning.estimate import ROOM, decided, gpu_memory_needed
from glmjobs.planning.estimate import plan as planning
from glmjobs.recipe.loading import load, load_both
from glmjobs.run.directory import Shape
from tests.support.jsonl import write_jsonl
from tests.support.paths import CONFIGS


def planned(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert run_command(plan.main, [*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("recipe", "weights", "checkpoint"), [("chatglm6b", 12.35, 86.4), ("glm10b", 19.76, 138.3)]
)
def test_the_two_models_on_eight_a100(
    recipe: str,
    weights: float,
    checkpoint: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # neither model nor data are here
    found = planned(capsys, "--recipe", f"configs/{recipe}.yaml", "--nodes", "1", "--gpus", "8")
    assert found["model"]["read"] is False
    assert found["data"]["rows"] == 238_481
    assert found["checkpoint_bytes"] / 1e9 == pytest.approx(checkpoint, abs=0.1)
    for row in (found["setting"], *found["settings"]):
        parts = [
            row["memory"][key] for key in ("parameters", "gradients", "optimizer", "activations", "buckets")
        ]
        assert sum(parts) == row["memory"]["total"] and row["fits"] and row["hours"] > 0
    ways = {row["name"]: row["memory"] for row in found["settings"]}
    assert ways["ZeRO-2, recomputed"]["parameters"] / 1e9 == pytest.approx(weights, abs=0.01)
    assert ways["ZeRO-3, recomputed"]["parameters"] * 8 == pytest.approx(weights * 1e9, rel=0.001)
    assert ways["ZeRO-3, recomputed"]["total"] < ways["ZeRO-2, recomputed"]["total"]
    assert ways["LoRA, ZeRO-2, recomputed"]["optimizer"] < 0.01 * ways["ZeRO-2, recomputed"]["optimizer"]
    assert found["setting"]["name"] == "ZeRO-2, activations kept" and found["proposal"]["set"] == []


def test_the_proposal_fits_and_takes_as_many_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Smaller and smaller GPUs: what is proposed has room, and planned again with its words is what was said."""
    for gigabytes in (80, 40, 32, 24):
        words = ["--gpus", "8", "--set", f"cluster.gpu_memory_gb={gigabytes}"]
        best = planned(capsys, *words)["proposal"]
        assert best["memory"]["total"] <= ROOM * gigabytes * 1e9
        assert best["per_device_batch_size"] * best["gradient_accumulation"] == 16
        again = planned(capsys, *words, *(w for item in best["set"] for w in ("--set", item)))
        assert again["setting"]["memory"] == best["memory"] and again["proposal"]["set"] == []
    assert planned(capsys, "--gpus", "1", "--set", "cluster.gpu_memory_gb=8", code=3)["proposal"] is None


def test_counted_from_what_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A data file's rows, a model directory's sizes."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "1+1", "output": "2"}\n' * 500)
    (tmp_path / "model").mkdir()
    config = {"model_type": "chatglm", "vocab_size": 1000, "hidden_size": 64, "num_layers": 2}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    sets = [f"data.path={tmp_path / 'rows.jsonl'}", "data.dev_rows=1-100", f"model.path={tmp_path / 'model'}"]
    found = planned(capsys, "--gpus", "2", "--tokens", "128", *(w for item in sets for w in ("--set", item)))
    assert found["data"] == {
        "rows": 400,
        "tokens_per_example": 128,
        "tokens_from": "given",
        "counted": True,
        "sources": {},
    }
    assert found["model"]["parameters"] == 1000 * 64 + 2 * (12 * 64 * 64 + 13 * 64) + 2 * 64
    assert found["setting"]["steps"] == 13  # two rows of eight examples on two ranks: 32 a step
    other = {"model_type": "glm", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 99,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    for broken, named in (({"model_type": "chatglm"}, "hidden_size"), (other, "a model of the family glm4")):
        (tmp_path / "model" / "config.json").write_text(json.dumps(broken))
        assert run_command(plan.main, [w for item in sets for w in ("--set", item)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and named in error and error.count("\n") == 1


def test_examples_by_source_are_those_that_prepare_makes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of rows that can be used, by weight or number, without dev rows' questions of any source."""
    plain = [{"instruction": f"{n}+1=?", "output": str(n + 1)} for n in range(20)]
    talks: list[dict[str, Any]] = [{"messages": []} for _ in range(21)]
    for n in range(4):
        turns = [("user", f"{n}"), ("assistant", "ja"), ("user", "und?"), ("assistant", "nein")]
        talks.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    again = [{"instruction": row["instruction"], "output": "x"} for row in plain[3:9]]
    for name, rows in {"plain": plain, "talks": talks, "again": again}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    recipe = load(CONFIGS / "tiny.yaml", ["data.make=", f"data.path={tmp_path / 'plain.jsonl'}"])
    sources = [
        {"name": "plain", "path": str(tmp_path / "plain.jsonl"), "dev_rows": "1-5"},
        {"name": "talks", "path": str(tmp_path / "talks.jsonl"), "weight": 2},
        {"name": "again", "path": str(tmp_path / "again.jsonl")},
    ]
    document = recipe.model_dump(exclude_unset=True)
    document["data"] = {"sources": sources, "query_column": None, "allow_dropped": 0.9}
    made = tmp_path / "r.yaml"
    made.write_text(yaml.safe_dump(json.loads(json.dumps(document))), encoding="utf-8")
    out = tmp_path / "prepared"
    assert run_command(prepare.main, ["--recipe", str(made), "--out", str(out)]) == 0
    capsys.readouterr()
    read = {s["name"]: s["read"] for s in json.loads((out / "prepare.json").read_text())["sources"]}
    assert read == {"plain": 15, "talks": 8, "again": 4}
    found = planned(capsys, "--recipe", str(made), "--gpus", "1")["data"]
    assert found["sources"] == {**read, "talks": 16}, "both answers of a conversation are learned"
    assert (found["rows"], found["tokens_from"]) == (35, "assumed")
    assert plan.main(["--recipe", str(made), "--gpus", "1"]) == 0
    said = capsys.readouterr().out
    assert "of 140 tokens on average (assumed" in said and "fullest at" in said


def test_a_recipe_for_any_machine_says_nothing_of_a_gpus_memory() -> None:
    recipe, profile = load_both(
        str(CONFIGS / "tiny.yaml"), None, ["train.activation_checkpointing=auto"], "local"
    )
    made, words = decided(recipe, profile, Shape(nodes=1, gpus=1))
    assert (made.train.activation_checkpointing, words) == (False, "")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--gpus", "0"], "--gpus 0"), (["--utilisation", "2"], "--utilisation 2"), (["--tokens", "0"], "--tokens 0"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml"), (["--set", "train.zero=3"], "train.zero_stage"),
        (["--set", "train.deepspeed=nowhere.json"], "nowhere.json"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(plan.main, words) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_tables_and_no_torch() -> None:
    """Every recipe of the project gets its tables, in a process that imports no torch."""
    code = (
        "import sys; from glmjobs import plan\n"
        "assert all(plan.main(['--recipe', r]) == 0 for r in sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'numpy', 'deepspeed'} & set(sys.modules)"
    )
    recipes = sorted(map(str, CONFIGS.glob("*.yaml")))
    assert len(recipes) >= 5
    done = subprocess.run([sys.executable, "-c", code, *recipes], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("proposal") == len(recipes) and "…" not in done.stdout


@pytest.mark.parametrize(
    ("recipe", "gigabytes", "recomputed"),
    [("glm10b", 40, True), ("glm10b", 80, False), ("chatglm6b_lora", 40, False)],
)
def test_auto_keeps_activations_where_plan_finds_room(recipe: str, gigabytes: int, recomputed: bool) -> None:
    """Decided when a run is made, from what stays the same for all ranks and attempts; preflight asks for that much."""
    shape, size = Shape(nodes=1, gpus=8), [f"cluster.gpu_memory_gb={gigabytes}"]
    auto, profile = load_both(str(CONFIGS / f"{recipe}.yaml"), None, size, "slurm")
    made, words = decided(auto, profile, shape)
    assert made.train.activation_checkpointing is recomputed
    assert (
        words.startswith(f"activations are {'recomputed' if recomputed else 'kept'}")
        and f"{gigabytes} GB" in words
    )
    assert decided(made, profile, shape) == (made, "")
    needed = gpu_memory_needed(made, profile, shape)
    assert needed == gpu_memory_needed(auto, profile, shape)
    assert needed * ROOM == pytest.approx(planning(made, profile, shape)["setting"]["memory"]["total"])
    assert needed < 60e9, "whatever the profile says of its GPUs"
