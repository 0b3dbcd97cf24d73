"""Rows of both models side by side: what changed comes first, every text safe and of bounded length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from glmjobs.reporting.load import MODELS, ModelScores
from glmjobs.text import clip, mark_answer, shown, visible

#: Outcomes in the order in which they are shown; ``right`` and ``wrong`` where only one model was scored.
OUTCOMES = {
    "lost": "right → wrong",
    "gained": "wrong → right",
    "neither": "both wrong",
    "both": "both right",
    "wrong": "wrong",
    "right": "right",
    "unmarked": "not marked",
}

#: Rows that a report embeds; beyond, it says so. Every changed row goes in first.
ROW_LIMIT = 20_000

#: Rows of which the rules that decided are embedded too; of the others `glmjobs mark` shows them.
TRACE_LIMIT = 2_000

#: Below this sureness a verdict is worth a look (glmjobs.scoring.evaluate.UNSURE).
UNSURE = 0.6


def paired(scores: Mapping[str, ModelScores]) -> dict[str, Any]:
    """``{"rows": […], "counts": {outcome: n}, "left_out": n}`` of all rows that any model answered."""
    ids = dict.fromkeys(key for model in MODELS if model in scores for key in scores[model].predictions)
    rows = []
    for key in ids:
        answers = {
            m: scores[m].predictions[key] for m in MODELS if m in scores and key in scores[m].predictions
        }
        rows.append((outcome(answers), key, answers))
    order = list(OUTCOMES)
    rows.sort(key=lambda row: (order.index(row[0]), _natural(row[1])))
    counts = Counter(row[0] for row in rows)
    return {
        "rows": [_row(*row, traced=place < TRACE_LIMIT) for place, row in enumerate(rows[:ROW_LIMIT])],
        "unsure": sum(any(map(_unsure, answers.values())) for _, _, answers in rows[:ROW_LIMIT]),
        "disagree": sum(any(map(disagree, answers.values())) for _, _, answers in rows[:ROW_LIMIT]),
        "counts": {kind: counts[kind] for kind in OUTCOMES if counts[kind]},
        "left_out": max(len(rows) - ROW_LIMIT, 0),
    }


def outcome(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """A key of :data:`OUTCOMES` for one row's answers by model."""
    if any(answer.get("status", "marked") != "marked" for answer in answers.values()):
        return "unmarked"
    verdicts = {model: answer.get("correct") is True for model, answer in answers.items()}
    if len(verdicts) < 2:
        return "right" if any(verdicts.values()) else "wrong"
    base, tuned = verdicts["base"], verdicts["finetuned"]
    if base == tuned:
        return "both" if base else "neither"
    return "lost" if base else "gained"


def _natural(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isascii() and key.isdigit() and len(key) < 19 else (1 << 62, key)


def _unsure(answer: Mapping[str, Any]) -> bool:
    sure = answer.get("sure", 1.0)
    return answer.get("status", "marked") == "marked" and isinstance(sure, (int, float)) and sure < UNSURE


def disagree(answer: Mapping[str, Any]) -> bool:
    """Whether two judges marked an answer, one right and one wrong."""
    second = answer.get("second")
    if not isinstance(second, Mapping):
        return False
    marked = answer.get("status", "marked") == second.get("status", "marked") == "marked"
    return marked and (answer.get("correct") is True) != (second.get("correct") is True)


def _row(kind: str, key: str, answers: Mapping[str, Mapping[str, Any]], *, traced: bool) -> dict[str, Any]:
    any_answer = next(iter(answers.values()))
    gold_value = _gold_value([answer.get("gold_value") for answer in answers.values()])
    return {
        "id": visible(clip(key, 80)),
        "outcome": kind,
        "question": _text(any_answer.get("question")),
        "gold": mark_answer(_text(any_answer.get("gold")), gold_value),
        "gold_value": gold_value,
        "unsure": any(map(_unsure, answers.values())),
        "disagree": any(map(disagree, answers.values())),
        "answers": {model: _answer(answer, traced) for model, answer in answers.items()},
    }


def _gold_value(found: Sequence[Any]) -> str:
    """The gold's value as the rows tell it: an empty prediction is judged before the gold is taken apart, and
    has the gold's text there, so the shortest is the value; a text of several lines is none."""
    values = sorted((shown(value, 200) for value in found if value not in (None, "")), key=len)
    return values[0] if values and "\n" not in values[0] else ""


def _trace(steps: Any) -> list[list[str]]:
    """The rules that decided, each with its side and the words it fired on."""
    told = steps if isinstance(steps, (list, tuple)) else ()
    kept = [step for step in told if isinstance(step, (list, tuple)) and len(step) == 3]
    return [[shown(part, 90) for part in step] for step in kept[:60]]


def _answer(row: Mapping[str, Any], traced: bool) -> dict[str, Any]:
    value = shown(row.get("predicted_value"), 200)
    return {
        "text": mark_answer(_text(row.get("prediction")), value),
        "value": value,
        "correct": row.get("correct") is True,
        "status": shown(row.get("status", "marked"), 20),
        "reason": shown(row.get("reason"), 300),
        "finish": shown(row.get("finish"), 20),
        "tokens": shown(row.get("tokens"), 20),
        "trace": _trace(row.get("trace")) if traced else [],
        "second": _second(row),
    }


def _second(row: Mapping[str, Any]) -> str:
    """What a second judge says, in a sentence; "" where there is none."""
    second = row.get("second")
    if not isinstance(second, Mapping):
        return ""
    status = shown(second.get("status", "marked"), 20)
    word = ("right" if second.get("correct") is True else "wrong") if status == "marked" else status
    value = shown(second.get("predicted_value"), 90)
    said = f"{shown(second.get('judge'), 20)}: {word}, {shown(second.get('reason'), 200)}"
    return f"{said}: {value}" if value else said


def _text(value: Any) -> str:
    return visible(clip(value)) if isinstance(value, str) else shown(value)
