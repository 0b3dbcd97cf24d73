"""Tokens a second of training the same GLM-4 on the same examples, with LLaMA-Factory and with ours, in turns.

    python benchmarks/llama_factory.py --python /path/to/its/venv/bin/python [--quick] [--rounds 5] [--json FILE] …

LLaMA-Factory (0.9.5 when this was written) wants an environment of its own (``pip install llamafactory``); ``--python``
names it. Both train all weights of one small GLM-4 (random weights, transformers' own code) for one epoch, in float32
with AdamW, one process and one thread, on rows of 1024 tokens packed from examples of BELLE-like lengths: LLaMA-Factory
by its ``neat_packing``, under the block-diagonal mask that keeps examples from seeing each other, as ours do. Each is
driven by its own command's code, DeepSpeed included in ours. Counted are the real tokens of all steps but the first,
over the time between the ends of the first and the last step: loading, tokenising and saving are outside.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LENGTH, ROWS = 1024, 2
"""Tokens of a packed row, and rows of a step."""


def main(argv: list[str] | None = None) -> int:
    """Measure in turns and print; exit 1 where ours is the slower one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", required=True, help="of an environment with llamafactory")
    parser.add_argument("--quick", action="store_true", help="one round of few examples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # LLaMA-Factory's own process
    args = parser.parse_args(argv)
    if args.inside:
        inside(args.inside)
        return 0
    if args.quick:
        args.rounds, args.examples = 1, 96
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), args)


def compare(folder: Path, args: argparse.Namespace) -> int:
    """Both in turns, in a folder with model and data."""
    make_model(folder / "model", args.layers, args.hidden)
    examples = make_data(folder, args.examples)
    found: dict[str, list[dict[str, float]]] = {"LLaMA-Factory": [], "ours": []}
    for round_ in range(args.rounds):
        found["LLaMA-Factory"].append(theirs(folder, args.python, round_))
        found["ours"].append(ours(folder, examples, round_))
    for name, rounds in found.items():
        rates = sorted(r["tokens"] / r["seconds"] for r in rounds)
        mean = sum(r["tokens"] for r in rounds) / sum(r["seconds"] for r in rounds)
        print(
            f"{name:14} {mean:7.0f} tokens/s ({rates[0]:.0f} to {rates[-1]:.0f}), {rounds[0]['tokens']:.0f} tokens "
            f"in {rounds[0]['steps']:.0f} steps, last loss {rounds[0]['loss']:.3f}"
        )
    seconds = {name: sum(r["seconds"] / r["tokens"] for r in rounds) for name, rounds in found.items()}
    ratio = seconds["LLaMA-Factory"] / seconds["ours"]
    print(f"ours: {ratio:.2f} x LLaMA-Factory")
    if args.json:
        args.json.write_text(json.dumps({"ratio": ratio, "rounds": found}, indent=1), encoding="utf-8")
    return 0 if ratio >= 1 else 1


def make_model(folder: Path, layers: int, hidden: int) -> None:
    """A GLM-4 of the published model's proportions with a small vocabulary, and a tokenizer with its chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

    special = [
        "<|endoftext|>",
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([f"{q}\n{a}" for q, a in problems(400)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", padding_side="left"
    )
    fast.chat_template = (
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = GlmConfig(
        vocab_size=len(fast), hidden_size=hidden, num_hidden_layers=layers, intermediate_size=hidden * 13696 // 4096,
        num_attention_heads=hidden // 32, num_key_value_heads=2, head_dim=32, max_position_embeddings=LENGTH,
        pad_token_id=fast.pad_token_id, eos_token_id=[fast.eos_token_id], attention_dropout=0.0,
    )  # fmt: skip
    GlmForCausalLM(config).save_pretrained(folder)


def problems(count: int) -> list[tuple[str, str]]:
    """Questions and answers of the made-up problems."""
    from glmjobs.data.synthetic import make_problems

    return [(str(row["instruction"]), str(row["output"])) for row in make_problems(count, seed=0)]


def make_data(folder: Path, count: int) -> int:
    """Examples of about 140 tokens, log-normal as BELLE's are, each of several problems; as both tools read them.

    Returns:
        How many of them fill a step's rows.
    """
    from tokenizers import Tokenizer

    rng, made = random.Random(0), problems(20 * count)
    data = folder / "data"
    data.mkdir()
    rows = []
    for _ in range(count):
        several = min(20, max(1, round(rng.lognormvariate(1.2, 0.6))))
        parts = [made.pop() for _ in range(several)]
        rows.append(
            {
                "instruction": " ".join(q for q, _ in parts),
                "input": "",
                "output": " ".join(a for _, a in parts),
            }
        )
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    tokens = sum(len(tokenizer.encode(row["instruction"] + row["output"]).ids) + 6 for row in rows)
    (data / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    info = {"rows": {"file_name": "rows.json"}}
    (data / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return round(ROWS * LENGTH * count / tokens)


def theirs(folder: Path, python: str, round_: int) -> dict[str, float]:
    """One epoch with LLaMA-Factory, by its own trainer."""
    out = folder / f"theirs-{round_}"
    settings = {
        "model_name_or_path": str(folder / "model"), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "dataset": "rows", "dataset_dir": str(folder / "data"), "template": "glm4", "cutoff_len": LENGTH,
        "packing": True, "neat_packing": True, "output_dir": str(out), "overwrite_output_dir": True,
        "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "learning_rate": 1e-4,
        "num_train_epochs": 1.0, "lr_scheduler_type": "cosine", "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_gradient_checkpointing": True, "flash_attn": "sdpa",
        "overwrite_cache": True, "preprocessing_num_workers": 1, "seed": 0,
    }  # fmt: skip
    asked = folder / f"theirs-{round_}.json"
    asked.write_text(json.dumps(settings), encoding="utf-8")
    run([python, __file__, "--python", python, "--inside", str(asked)], out.with_suffix(".log"))
    document: dict[str, float] = json.loads((out / "measured.json").read_text(encoding="utf-8"))
    return document


def inside(asked: Path) -> None:
    """In LLaMA-Factory's environment: train, and count the tokens that the model is given after the first step."""
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found]
    from transformers import TrainerCallback

    settings = json.loads(asked.read_text(encoding="utf-8"))
    measured = {"tokens": 0.0, "seconds": 0.0, "steps": 0.0, "loss": 0.0}
    begun: list[float] = []

    class Count(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            def note(_model: Any, _args: Any, given: dict[str, Any]) -> None:
                if begun:
                    measured["tokens"] += int((given["input_ids"] != model.config.pad_token_id).sum())

            model.register_forward_pre_hook(note, with_kwargs=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if begun:
                measured["seconds"] = time.monotonic() - begun[0]
                measured["steps"] += 1
            else:
                begun.append(time.monotonic())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            measured["loss"] = float((logs or {}).get("loss", measured["loss"]))

    run_exp(settings, callbacks=[Count()])
    Path(settings["output_dir"], "measured.json").write_text(json.dumps(measured), encoding="utf-8")


def ours(folder: Path, examples: int, round_: int) -> dict[str, float]:
    """One epoch with the train stage, on this machine; ``examples`` a step fill its rows."""
    recipe = {
        "name": "ours", "model": {"family": "glm4", "path": str(folder / "model")},
        "data": {"path": str(folder / "data" / "rows.json"), "dev_rows": "1-2", "train_rows": "rest",
                 "max_source_length": 512, "max_target_length": 511},
        "train": {"epochs": 1, "per_device_batch_size": examples, "learning_rate": 1e-4,
                  "precision": "fp32", "device": "cpu",
                  "packing": True, "pack_length": LENGTH, "activation_checkpointing": False, "logging_steps": 1,
                  "save_steps": 100000},
    }  # fmt: skip
    asked = folder / f"ours-{round_}.yaml"
    asked.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    words = [sys.executable, "-m", "glmjobs.submit", "--executor", "local", "--nodes", "1", "--gpus", "1"]
    words += ["--recipe", str(asked), "--follow", "--stages", "train", "--name", f"ours-{round_}"]
    run(words, folder / f"ours-{round_}.log", {"GLMJOBS_RUNS": str(folder / "runs")})
    at = folder / "runs" / f"ours-{round_}"
    figures = json.loads((at / "stages" / "train.json").read_text(encoding="utf-8"))["figures"]
    log = [
        json.loads(line)
        for line in next(at.rglob("train_log.jsonl")).read_text(encoding="utf-8").splitlines()
    ]
    losses = [line for line in log if "loss" in line]
    steps = len(losses) - 1
    seconds = figures["step_seconds"] * steps
    return {
        "tokens": figures["tokens_per_s"] * seconds,
        "seconds": seconds,
        "steps": steps,
        "loss": losses[-1]["loss"],
    }


def run(words: list[str], log: Path, more: dict[str, str] | None = None) -> None:
    """A process with one thread; where it fails, the end of what it said.

    Raises:
        SystemExit: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(more or {})}
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(
            words, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    if code:
        raise SystemExit(f"error: {' '.join(words)}: exit {code}\n" + log.read_text(encoding="utf-8")[-3000:])


if __name__ == "__main__":
    sys.exit(main())
