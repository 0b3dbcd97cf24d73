"""A run directory as a real run leaves it, made from a seed: ChatGLM-6B on 8 GPUs in three attempts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from glmjobs.recipe import loading as recipe
from glmjobs.run.directory import Run, Shape
from glmjobs.scoring.statistics import compare, wilson
from hpc.batch.profile import Profile
from tests.support.paths import REPO

START = datetime(2026, 11, 20, 8, 0, tzinfo=timezone.utc).timestamp()
HOUR = 3600.0
PACE = 4.0
"""Seconds a step."""

#: Text that a model could write to break out of a report.
HOSTILE = [
    "</script><script>window.hacked=1</script>答案是7",
    '<img src=x onerror="window.hacked=1"> <svg onload=window.hacked=1>',
    "[点我](javascript:window.hacked=1) ![x](http://192.0.2.1/x.png) <a href='javascript:hacked=1'>x</a>",
    "\u202e反转\u2066 \u200b\x00\x1b[31m \u2028\u2029 \ud800",
    "`````\n# 不是标题\n| a | b |\n</td></table><!-- ]]> {{7*7}} ${7*7} \\u003cscript\\u003e",
    '" onmouseover="window.hacked=1" x="',
]


def make_run(folder: Path, rows: int = 120, *, seed: int = 0, hostile: bool = False) -> Run:
    """The whole run under ``folder``; with ``hostile``, the first predictions attack the report."""
    repo = REPO
    plan = recipe.load(repo / "configs" / "chatglm6b.yaml")
    run = Run.create(folder / "chatglm6b-7", plan, Profile(name="centos7-a100"), Shape(nodes=1, gpus=8))
    _lines(run.path / "ledger.jsonl", ledger())
    _lines(run.checkpoints / "train_log.jsonl", train_log(seed))
    _lines(run.path / "gpu" / "node17.jsonl", gpu_samples(seed))
    _json(run.path / "environment.json", environment(hostile))
    card = {"name": "NVIDIA A100-SXM4-80GB", "driver_version": "515.65.01"}
    _json(run.jobs("preflight") / "node-0.json", {"node": "node17", "gpus": [card] * 8})
    _json(run.data / "prepare.json", PREPARE)
    _json(
        run.model / "manifest.json",
        {"files": [{"path": "model.safetensors", "bytes": 12_345_678_901, "sha256": "0" * 64}]},
    )
    committed = {"step": 3100, "world_size": 8, "files": [{"path": "latest", "bytes": 15}]}
    _json(run.checkpoints / "checkpoint-3100" / "committed.json", committed)
    for stage, seconds in (("preflight", 41.2), ("train", 4320.0), ("consolidate", 96.5), ("score", 1380.0)):
        _json(run.path / "stages" / f"{stage}.json", marker(stage, seconds))
    _scores(run.scores, rows, seed, hostile)
    return run


def at(hours: float) -> str:
    """A time of the sample, hours after its start, as the ledger writes it."""
    moment = datetime.fromtimestamp(START + hours * HOUR, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ledger() -> list[dict[str, Any]]:
    """Attempt 1 dies at step 1300 having saved 1000; 2 is stopped and saves 2500; 3 ends at 3100."""
    train = {"stage": "train", "job": "4711"}
    held = {"nodes": "node17", "gpus": 8}
    events = [
        {"time": at(0), "event": "submitted", **train},
        {"time": at(0), "event": "submitted", "stage": "consolidate", "job": "4712", "dependency": ["4711"]},
        {"time": at(0), "event": "submitted", "stage": "score", "job": "4713", "dependency": ["4712"]},
    ]
    for number, (begin, end, outcome, code, saved) in enumerate(ATTEMPTS, 1):
        check = {"stage": "preflight", "job": "4711"}
        events += [
            {"time": at(begin), "event": "attempt", **check, "attempt": number, **held},
            {"time": at(begin + 0.012), "event": "ended", **check, "outcome": "done", "exit_code": 0},
            {"time": at(begin + 0.012), "event": "attempt", **train, "attempt": number, **held},
            {
                "time": at(end),
                "event": "ended",
                **train,
                "outcome": outcome,
                "exit_code": code,
                "step": saved,
                "last_checkpoint": saved,
                "error": "ncclRemoteError: rank 3 on node17 is gone" if code == 1 else None,
            },
        ]
        if outcome != "done":
            events.append({"time": at(end), "event": "requeued", **train})
    last = ATTEMPTS[-1][1]
    consolidate = {"stage": "consolidate", "job": "4712"}
    events += [
        {"time": at(last + 0.02), "event": "attempt", **consolidate, "attempt": 1, "nodes": "cpu3"},
        {"time": at(last + 0.05), "event": "ended", **consolidate, "outcome": "done", "exit_code": 0},
    ]
    for task in range(2):
        score = {"stage": "score", "job": f"{4713 + task}", "array_task": task}
        events += [
            {
                "time": at(last + 0.1),
                "event": "attempt",
                **score,
                "attempt": task + 1,
                "nodes": "node17",
                "gpus": 1,
            },
            {
                "time": at(last + 0.5),
                "event": "ended",
                "stage": "score",
                "job": score["job"],
                "outcome": "done",
                "exit_code": 0,
            },
        ]
    return sorted(events, key=lambda e: e["time"])


#: begin and end in hours after the start, outcome, exit code, newest committed checkpoint.
ATTEMPTS = [(0.2, 1.72, "failed", 1, 1000), (1.8, 3.6, "stopped", 85, 2500), (4.1, 4.85, "done", 0, 3100)]
_FIRST = [(0.25, 0, 1300), (1.86, 1000, 2500), (4.16, 2500, 3100)]


def train_log(seed: int) -> list[dict[str, Any]]:
    """A row every 10 steps; steps 1010 to 1300 stand twice, as where the log was not cut at the resume."""
    draw = random.Random(seed)
    rows = []
    for begin, first, last in _FIRST:
        for step in range(first + 10, last + 1, 10):
            rows.append(
                {
                    "time": at(begin + (step - first) * PACE / HOUR),
                    "step": step,
                    "epoch": step / 3100,
                    "loss": 0.55 + 1.6 * math.exp(-step / 260) + draw.gauss(0, 0.02),
                    "grad_norm": 0.8 + 2 * math.exp(-step / 150) + abs(draw.gauss(0, 0.1)),
                    "learning_rate": 1e-5 * (1 - step / 3100),
                    "tokens_per_s": 41_000 + draw.gauss(0, 500),
                    "mfu": 0.41 + draw.gauss(0, 0.005),
                    "tokens": step * 16_384,
                }
            )
    return rows


def gpu_samples(seed: int) -> Iterable[dict[str, Any]]:
    """8 GPUs once a minute while an attempt runs."""
    draw = random.Random(seed)
    for begin, end, *_ in ATTEMPTS:
        for minute in range(int((end - begin) * 60)):
            loading = minute < 3
            for gpu in range(8):
                yield {
                    "time": at(begin + minute / 60),
                    "node": "node17",
                    "gpu": gpu,
                    "utilisation": 3 if loading else min(100, round(draw.gauss(95, 2))),
                    "memory": (6 if loading else 61) * 2**30 + draw.randrange(2**28),
                    "power": draw.gauss(90 if loading else 368, 9),
                }


def marker(stage: str, seconds: float) -> dict[str, Any]:
    """A stage's marker."""
    return {
        "stage": stage,
        "outcome": "done",
        "attempt": 3 if stage == "train" else 1,
        "started": at(4.1),
        "ended": at(4.1 + seconds / HOUR),
        "seconds": seconds,
        "outputs": [],
        "figures": {},
    }


def environment(hostile: bool) -> dict[str, Any]:
    """As preflight writes it."""
    return {
        "time": at(0.2),
        "code": "a1b2c3d4e5f6",
        "python": "3.10.14",
        "platform": HOSTILE[0] if hostile else "Linux-3.10.0-1160.el7.x86_64-x86_64-with-glibc2.17",
        "packages": {
            "torch": "2.0.1",
            "transformers": "4.46.3",
            "deepspeed": "0.16.9",
            "accelerate": "1.0.1",
        },
        "modules": ["cuda/11.7", "nccl/2.14.3-1", "cudnn/8.8.1.3"],
        "nodes": "node17",
    }


PREPARE = {
    "fingerprint": "5f1d7a0c9e3b",
    "source": "data/school_math_0.25M.json",
    "rows": 248_481,
    "train": 238_012,
    "dev": 10_000,
    "dropped": [{"line": 77, "reason": "empty output"}],
    "dropped_by_reason": {"empty output": 1},
    "overlap": {"train_rows_removed": 468, "checked": True, "dev_in_train": 0},
}

_THINGS = ["苹果", "铅笔", "图书", "鸡蛋", "邮票", "糖果"]
_PEOPLE = ["小明", "小红", "李老师", "王叔叔", "张奶奶"]


def problem(draw: random.Random) -> tuple[str, str, int, str]:
    """A question, its worked gold answer, the value and the unit."""
    a, b, c = draw.randint(12, 90), draw.randint(2, 9), draw.randint(1, 11)
    who, thing = draw.choice(_PEOPLE), draw.choice(_THINGS)
    question = f"{who}有{a}个{thing},又买了{b}盒,每盒{c + 5}个,送给朋友{c}个,现在一共有多少个{thing}?"
    value = a + b * (c + 5) - c
    gold = f"买来的{thing}:{b}×{c + 5}={b * (c + 5)}(个)。\n{a}+{b * (c + 5)}-{c}={value}(个)。\n"
    gold += f"答:现在一共有{value}个{thing}。"
    return question, gold, value, "个"


def _scores(folder: Path, rows: int, seed: int, hostile: bool) -> None:
    draw = random.Random(seed)
    lines: dict[str, list[dict[str, Any]]] = {"base": [], "finetuned": []}
    for number in range(1, rows + 1):
        question, gold, value, unit = problem(draw)
        for model, skill in (("base", 0.06), ("finetuned", 0.34)):
            said = value if draw.random() < skill else value + draw.choice([-10, -2, 1, 3, 20])
            text = f"我们先算买来的,再加上原有的。\n所以一共有{said}个。"
            finish = "stop"
            if model == "base" and draw.random() < 0.2:
                text, said, finish = "好的," * 60, None, "length"
            if hostile and number <= len(HOSTILE):
                text += HOSTILE[number - 1]
            if hostile and number == len(HOSTILE) + 1:
                text += "一" * 1_000_000
            lines[model].append(
                {
                    "id": number,
                    "question": question,
                    "gold": gold,
                    "prediction": text,
                    "tokens": len(text) % 512,
                    "finish": finish,
                    "correct": said == value,
                    "gold_value": f"{value} {unit}",
                    "predicted_value": None if said is None else f"{said} {unit}",
                    "reason": "equal"
                    if said == value
                    else "no conclusion"
                    if said is None
                    else "another number",
                }
            )
    for model, made in lines.items():
        _lines(folder / model / "predictions.jsonl", made)
        _json(folder / model / "summary.json", summary(model, made))
    verdicts = zip(
        (r["correct"] for r in lines["base"]), (r["correct"] for r in lines["finetuned"]), strict=True
    )
    _json(folder / "comparison.json", compare(verdicts).as_dict())


def summary(model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """As scoring writes it."""

    def part(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        correct = sum(r["correct"] for r in chosen)
        share = correct / len(chosen) if chosen else 0.0
        return {
            "rows": len(chosen),
            "correct": correct,
            "accuracy": share,
            "interval": list(wilson(correct, len(chosen))),
        }

    third = max(len(rows) // 3, 1)
    ordered = sorted(rows, key=lambda r: len(r["question"]))
    better = model == "finetuned"
    return {
        "model": model,
        **part(rows),
        "by_length": {
            "short": part(ordered[:third]),
            "medium": part(ordered[third : 2 * third]),
            "long": part(ordered[2 * third :]),
        },
        "by_answer_type": {
            "integer with unit": part(rows[::2]),
            "decimal": part(rows[1::4]),
            "ratio": part(rows[3::4]),
        },
        "bleu4": 31.2 if better else 12.9,
        "rouge1": 52.0 if better else 33.1,
        "rouge2": 30.4 if better else 14.0,
        "rougeL": 47.7 if better else 27.3,
        "tokens_per_s": 5210.0,
        "seconds": 690.0,
        "finish": {"stop": len(rows), "length": 0},
        "gold_false_equations": {"rows": 5, "share": 5 / len(rows)},
    }


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True), encoding="utf-8")


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True) + "\n")
