"""One plain document of a run: what ``report.json`` holds, and the HTML and Markdown renderers lay out.

Everything in it is JSON: finite numbers, and text that is already safe to show (see
:mod:`glmjobs.text`). Times are UTC text, durations seconds, shares of 1 and GPU-hours plain
numbers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glmjobs.reporting import curves
from glmjobs.reporting.load import MODELS, RunFacts
from glmjobs.reporting.prediction_table import paired
from glmjobs.run import efficiency, evaluations, gpu_hours
from glmjobs.run.state import STAGES
from glmjobs.text import left_out_words, number, shown, unix_time, utc

Json = dict[str, Any]

SILENT_SECONDS = 600.0
"""An attempt without an end that has written nothing for so long is not called running."""

LABELS = {"base": "Base", "finetuned": "Fine-tuned"}


def document(
    facts: RunFacts, *, anchor: tuple[str, float, float] | None = None, now: float | None = None
) -> Json:
    """The whole report as plain data.

    Args:
        anchor: a published result to hold this one against: model, accuracy before, accuracy after.
        now: Unix seconds until which a running attempt is counted; default: the clock's.
    """
    now = time.time() if now is None else now
    recipe = _mapping(facts.settings.get("recipe"))
    return {
        "report": 1,
        "name": shown(facts.name, 200),
        "made": utc(now),
        "created": utc(unix_time(facts.settings.get("created"))),
        "missing": [shown(sentence, 400) for sentence in facts.missing],
        "summary": _summary(facts, recipe),
        "stages": _stages(facts),
        "accuracy": _accuracy(facts, anchor),
        "sets": _sets(facts),
        "training": _training(facts),
        "gpu": _gpu(facts),
        "cost": _cost(facts, now),
        "efficiency": _efficiency(facts, recipe),
        "data": _data(facts),
        "model": facts.model,
        "checkpoints": [
            {key: number(item[key]) for key in ("step", "world_size", "bytes")} for item in facts.checkpoints
        ],
        "environment": _environment(facts.environment),
        "nodes": _nodes(facts),
        "settings": {
            key: _tree(value) for key, value in facts.settings.items() if key in ("shape", "cluster")
        },
        "recipe": _tree(recipe),
        "predictions": paired(facts.scores),
    }


def _summary(facts: RunFacts, recipe: Json) -> Json:
    """What the report's head says: model, method, shape."""
    model, train = _mapping(recipe.get("model")), _mapping(recipe.get("train"))
    shape = _mapping(facts.settings.get("shape"))
    made = _mapping(model.get("make"))
    where = model.get("path") or (
        f"small {made.get('family', '')} made from seed {made.get('seed', 0)}" if made else ""
    )
    return {
        "model": shown(where, 200),
        "family": shown(model.get("family") or made.get("family"), 40),
        "method": {"full": "full fine-tuning", "lora": "LoRA"}.get(
            str(train.get("method")), shown(train.get("method"), 40)
        ),
        "zero_stage": number(train.get("zero_stage")),
        "precision": shown(train.get("precision"), 20),
        "nodes": number(shape.get("nodes")),
        "gpus_per_node": number(shape.get("gpus")),
        "on_cpus": facts.no_gpus,
    }


def _stages(facts: RunFacts) -> list[Json]:
    """Every stage's outcome: from its marker, else from the newest ledger line that tells one; and where."""
    told: dict[str, Json] = {}
    nodes: dict[str, dict[str, None]] = {}
    for event in facts.ledger:
        stage, kind = str(event.get("stage", "")), event.get("event")
        state = {
            "submitted": "queued",
            "attempt": "running",
            "requeued": "queued",
            "cancelled": "cancelled",
            "not_cancelled": "running" if stage in nodes else "queued",
        }.get(str(kind))
        outcome = event.get("outcome") if kind in ("ended", "not_requeued") else state
        if kind == "attempt" and event.get("nodes"):
            nodes.setdefault(stage, {})[shown(event["nodes"], 200)] = None
        if outcome:
            told[stage] = {"outcome": shown(outcome, 40), "error": shown(event.get("error"), 500)}
    found = []
    for stage in dict.fromkeys((*STAGES, *facts.markers)):
        marker = facts.markers.get(stage)
        if stage == "report":
            continue  # this one
        if marker is None:
            found.append({"stage": shown(stage, 40), **told.get(stage, {"outcome": "not run", "error": ""})})
            found[-1]["nodes"] = ", ".join(nodes.get(stage, ()))
            continue
        found.append(
            {
                "stage": shown(stage, 40),
                "outcome": shown(marker.get("outcome"), 40),
                "error": told.get(stage, {}).get("error", "") if marker.get("outcome") != "done" else "",
                "nodes": ", ".join(nodes.get(stage, ())),
                "attempt": number(marker.get("attempt")),
                "started": utc(unix_time(marker.get("started"))),
                "ended": utc(unix_time(marker.get("ended"))),
                "seconds": number(marker.get("seconds")),
                "figures": _tree(_mapping(marker.get("figures"))),
            }
        )
    return found


def _accuracy(facts: RunFacts, anchor: tuple[str, float, float] | None) -> Json:
    models = [
        {"model": m, "label": LABELS[m], **_scored(facts.scores[m].summary)}
        for m in MODELS
        if m in facts.scores
    ]
    unmarked = [m for m in models if m["rows"] == 0]
    models = [m for m in models if m["accuracy"] is not None]
    comparison = {
        k: number(facts.comparison.get(k)) for k in ("both", "only_base", "only_finetuned", "neither")
    }
    return {
        "models": models,
        "unmarked": unmarked,
        "comparison": {
            **comparison,
            "difference": number(facts.comparison.get("difference")),
            "difference_interval": _interval(facts.comparison.get("difference_interval")),
            "mcnemar_p": number(facts.comparison.get("mcnemar_p")),
        }
        if facts.comparison
        else None,
        "by_source": _breakdown(facts, "by_source"),
        "by_length": _breakdown(facts, "by_length"),
        "by_answer_type": _breakdown(facts, "by_answer_type"),
        "anchor": {"name": anchor[0], "base": anchor[1], "finetuned": anchor[2]} if anchor else None,
    }


def _sets(facts: RunFacts) -> list[Json]:
    """Further test sets, the run's own dev rows first: both models side by side, and the paired difference."""
    if not facts.sets:
        return []
    own = {model: scores.summary for model, scores in facts.scores.items()}
    found = []
    for name, parts in {"dev rows": {**own, "comparison": facts.comparison}, **facts.sets}.items():
        compared = _mapping(parts.get("comparison"))
        models = {m: _scored(_mapping(parts[m])) for m in MODELS if parts.get(m)}
        last = list(models.values())[-1] if models else {}
        found.append(
            {
                "name": shown(name, 64),
                "judge": last.get("judge", ""),
                "models": {
                    m: {key: scored[key] for key in ("rows", "correct", "accuracy", "interval", "not_marked")}
                    for m, scored in models.items()
                },
                "difference": number(compared.get("difference")),
                "difference_interval": _interval(compared.get("difference_interval")),
                "mcnemar_p": number(compared.get("mcnemar_p")),
            }
        )
    return found


def _scored(summary: Mapping[str, Any]) -> Json:
    keys = ("rows", "correct", "accuracy", "bleu4", "rouge1", "rouge2", "rougeL", "tokens_per_s", "seconds")
    known = {key: number(summary.get(key)) for key in keys}
    if known["rows"] == 0:  # of no marked row there is no accuracy
        summary = {**summary, "interval": None}
        known["accuracy"] = None
    apart: Json = {
        "not_marked": number(summary.get("not_marked")),
        "unsure": number(summary.get("unsure")),
        "marker_failures": number(_mapping(summary.get("marker_failures")).get("rows")),
    }
    apart["judge"] = shown(summary.get("judge") or "meaning", 20)
    apart["second_judge"] = _second_judge(_mapping(summary.get("second_judge")))
    skip = {*keys, *apart, "model", "interval", "by_source", "by_length", "by_answer_type"}
    other = {shown(k, 60): _tree(v) for k, v in summary.items() if k not in skip and v is not None}
    cut = _mapping(summary.get("finish")).get("length")
    return {
        **known,
        **apart,
        "interval": _interval(summary.get("interval")),
        "cut": number(cut),
        "other": other,
    }


def _second_judge(second: Mapping[str, Any]) -> Json | None:
    """A second judge's figures; None where there is none, or they are not whole."""
    figures = {key: number(second.get(key)) for key in ("rows", "correct", "accuracy", "not_marked")}
    pairs = _mapping(second.get("pairs"))
    counts = {key: number(pairs.get(key)) for key in ("both", "only_first", "only_second", "neither")}
    if figures["rows"] == 0:  # it marked none
        figures["accuracy"] = 0
    if None in (*figures.values(), *counts.values()):
        return None
    if figures["rows"] == 0:
        figures["accuracy"] = None
    return {
        "judge": shown(second.get("judge"), 20),
        **figures,
        "pairs": counts,
        "why": shown(second.get("why") or "", 200),
    }


def _breakdown(facts: RunFacts, key: str) -> list[Json]:
    """``[{"group", "bars": [{"model", "accuracy", "interval", "rows"}]}]`` in the order of the summaries."""
    groups: dict[str, list[Json]] = {}
    for model in MODELS:
        if model in facts.scores:
            for name, part in _parts(facts.scores[model].summary.get(key)):
                accuracy = number(part.get("accuracy"))
                rows = number(part.get("rows"))
                if accuracy is not None:
                    bar = {
                        "model": model,
                        "accuracy": accuracy,
                        "interval": _interval(part.get("interval")),
                        "rows": rows,
                    }
                    groups.setdefault(name, []).append(bar)
    return [{"group": name, "bars": bars} for name, bars in groups.items()]


def _parts(value: Any) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Named parts of a breakdown: a mapping by name, or a list of objects that carry their name."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if isinstance(part, Mapping):
                yield shown(name, 60), part
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, Mapping):
                name = next(
                    (part[k] for k in ("name", "group", "bucket", "length", "type", "label") if k in part), ""
                )
                yield shown(name, 60), part


def _training(facts: RunFacts) -> Json:
    evaluated = [row for row in facts.train_log if evaluations.is_evaluation(row)]
    kept, replaced = curves.training_rows([r for r in facts.train_log if not evaluations.is_evaluation(r)])
    result: Json = {"rows": len(kept), "replaced_rows": len(replaced), "curves": {}, "steps": None}
    if not kept:
        return result
    # The last step may lie between two log rows; the ledger then knows its checkpoint.
    ends = (number(e.get("last_checkpoint")) for e in facts.ledger if e.get("stage") == "train")
    result["steps"] = max(filter(None, [number(kept[-1].get("step")), *ends]), default=None)
    result["tokens"] = number(kept[-1].get("tokens"))
    result["epochs"] = number(kept[-1].get("epoch"))
    result["skipped_steps"] = number(kept[-1].get("skipped_steps"))
    result["parts"] = _parts_of_training(facts, result)
    for key in ("loss", "learning_rate", "tokens_per_s", "mfu", "grad_norm"):
        main = curves.curve(kept, key)
        if main:
            redone = curves.thin(curves.curve(replaced, key))
            result["curves"][key] = {"points": curves.thin(main), "replaced": redone}
    if loss := result["curves"].get("loss"):
        result["loss_first"], result["loss_last"] = loss["points"][0][1], loss["points"][-1][1]
        loss["dev"] = curves.thin(curves.curve(curves.training_rows(evaluated)[0], "dev_loss"))
    result["evaluation"] = _evaluation(facts, evaluated)
    answered = [
        row for row in curves.training_rows(evaluated)[0] if number(row.get("dev_answers")) is not None
    ]
    if answered:
        result["curves"]["dev_answers"] = {
            "points": [(step, 100 * share) for step, share in curves.curve(answered, "dev_answers")],
            "replaced": [],
            "band": [
                (number(row["step"]), 100 * interval[0], 100 * interval[1])
                for row in answered
                if (interval := _interval(row.get("dev_answers_interval"))) is not None
            ],
        }
    for key in ("tokens_per_s", "mfu"):
        values = sorted(value for _, value in curves.curve(kept, key))
        result[f"{key}_median"] = values[len(values) // 2] if values else None
    return result


def _evaluation(facts: RunFacts, rows: Sequence[Json]) -> Json | None:
    """The best and the last evaluation while training, and which checkpoint became the model; None without any."""
    numbers = ("step", *evaluations.METRICS, "dev_examples", "dev_tokens", "dev_answers_marked")
    found = evaluations.comparable(
        {
            **{key: number(row.get(key)) for key in numbers},
            "dev_set": shown(row.get("dev_set"), 80),
            "dev_answers_interval": _interval(row.get("dev_answers_interval")),
        }
        for row in curves.training_rows(rows)[0]
    )
    if not found:
        return None
    metric = _mapping(_mapping(facts.settings.get("recipe")).get("train")).get("metric")
    metric = metric if isinstance(metric, str) and metric in evaluations.METRICS else "dev_loss"
    made, trained = (_mapping(facts.markers.get(s, {}).get("figures")) for s in ("consolidate", "train"))
    return {
        "metric": metric,
        "best": evaluations.best(found, metric),
        "last": found[-1],
        "count": len(found),
        "model_step": number(made.get("step")),
        "chosen": shown(made.get("chosen"), 400),
        "ended_early": shown(trained.get("ended_early"), 400),
    }


def _parts_of_training(facts: RunFacts, now: Json) -> list[Json]:
    """What the training had come to each time that it was made longer, and now; [] where it never was."""
    before = [e for e in facts.ledger if e.get("event") == "reopened" and e.get("stage") == "train"]
    if not before:
        return []
    parts = [
        {
            "step": number(event.get("step")),
            "epoch": number(event.get("epoch")),
            "accuracy": number(_mapping(event.get("accuracy")).get("finetuned")),
        }
        for event in before
    ]
    scored = facts.scores.get("finetuned")
    accuracy = number(scored.summary.get("accuracy")) if scored and "score" in facts.markers else None
    return [*parts, {"step": now["steps"], "epoch": now["epochs"], "accuracy": accuracy}]


def _gpu(facts: RunFacts) -> Json | None:
    """Utilisation, memory and power over time, folded over all GPUs; and the means by node."""
    samples = [sample for node in facts.gpu.values() for sample in node]
    if not samples:
        return None
    start = min(sample.time for sample in samples)
    nodes = []
    for node, own in facts.gpu.items():
        nodes.append(
            {
                "node": shown(node, 100),
                "gpus": len({s.gpu for s in own}),
                "samples": len(own),
                "utilisation": _mean([s.utilisation for s in own]),
                "memory_peak": max((s.memory for s in own if s.memory is not None), default=None),
                "power": _mean([s.power for s in own]),
            }
        )
    starts = [
        t for e in facts.ledger if e.get("event") == "attempt" and (t := unix_time(e.get("time"))) is not None
    ]
    return {
        "start": utc(start),
        "nodes": nodes,
        "utilisation_mean": _mean([s.utilisation for s in samples]),
        "attempts": [t - start for t in starts],
        "curves": {
            "utilisation": curves.gpu_curve(samples, lambda s: s.utilisation, start),
            "memory": curves.gpu_curve(samples, lambda s: s.memory, start),
            "power": curves.gpu_curve(samples, lambda s: s.power, start),
        },
    }


def _nodes(facts: RunFacts) -> list[Json]:
    """What preflight found on every node: its GPUs by model, and their driver."""
    found = []
    for report in facts.nodes:
        gpus = [gpu for gpu in report["gpus"] if isinstance(gpu, dict)]
        models = Counter(shown(gpu.get("name"), 80) for gpu in gpus)
        drivers = dict.fromkeys(shown(gpu.get("driver_version"), 40) for gpu in gpus)
        found.append(
            {
                "node": shown(report.get("node"), 100),
                "gpus": ", ".join(f"{count} × {model}" for model, count in models.items()) or "none (CPU)",
                "driver": ", ".join(filter(None, drivers)),
            }
        )
    return found


def _cost(facts: RunFacts, now: float) -> Json:
    """Attempts with seconds and GPU-hours of each part, and the sums."""
    alive = {sample.time for node in facts.gpu.values() for sample in node}
    ledger = [_without_gpus(event) for event in facts.ledger] if facts.no_gpus else facts.ledger
    # Whether it still runs, only Slurm could tell; that it ran until it last wrote something is sure.
    over = {
        stage: gpu_hours.End("running" if now - time < SILENT_SECONDS else "vanished", time)
        for stage, time in facts.last_signs.items()
    }
    newest = max(
        (step for c in facts.checkpoints if (step := number(c.get("step"))) is not None), default=None
    )
    items = gpu_hours.costs(
        ledger,
        facts.train_log,
        now,
        alive,
        over | gpu_hours.done(facts.markers),
        None if newest is None else int(newest),
    )
    rows = []
    for item in items:
        a = item.attempt
        if a.stage == "report" and a.outcome == "running":
            continue  # this one
        rows.append(
            {
                "stage": shown(a.stage, 40),
                "job": shown(a.job, 60),
                "attempt": a.number,
                "nodes": shown(a.nodes, 200),
                "gpus": a.gpus,
                "started": utc(a.started),
                "ended": utc(a.ended if a.outcome != "running" else None),
                "outcome": shown(a.outcome, 40),
                "exit_code": a.exit_code,
                "error": shown(a.error, 500),
                "step": a.step,
                "last_checkpoint": a.last_checkpoint,
                "seconds": {part: item.seconds.get(part, 0.0) for part in gpu_hours.PARTS},
                "gpu_hours": {part: item.gpu_hours(part) for part in ("held", *gpu_hours.PARTS)},
            }
        )
    wall = {part: sum(item.seconds.get(part, 0.0) for item in items) for part in gpu_hours.PARTS}
    return {"attempts": rows, "gpu_hours": gpu_hours.totals(items), "seconds": wall}


def _efficiency(facts: RunFacts, recipe: Json) -> Json:
    """What each job asked for and used, and what to ask for next time."""
    found = gpu_hours.attempts(facts.ledger, over=gpu_hours.done(facts.markers))
    samples = (sample._asdict() for node in facts.gpu.values() for sample in node)
    over = [a for a in found if a.stage != "report" or a.outcome != "running"]  # this one
    train = _mapping(recipe.get("train"))
    return _tree(  # type: ignore[no-any-return]
        efficiency.document(efficiency.uses(over, facts.ledger, facts.train_log, samples, facts.nodes, train))
    )


def _without_gpus(event: Json) -> Json:
    """A local attempt's ``gpus`` are ranks where there are no GPUs. (Slurm's are held even if unused.)"""
    return {**event, "gpus": 0} if str(event.get("job", "")).startswith("local-") else event


def _data(facts: RunFacts) -> Json | None:
    if not facts.prepare:
        return None
    prepare, overlap = facts.prepare, _mapping(facts.prepare.get("overlap"))
    dropped = prepare.get("dropped")
    trained: Json = next((e for e in reversed(facts.ledger) if e.get("event") == "data"), {})
    noise = next((n for x in facts.scores.values() if (n := x.summary.get("gold_false_equations"))), None)
    return {
        "source": shown(prepare.get("source"), 300),
        "fingerprint": shown(prepare.get("fingerprint"), 100),
        "form": shown(_mapping(prepare.get("form")).get("title"), 100),
        "sources": [
            {
                "name": shown(one.get("name"), 64),
                **{key: number(one.get(key)) for key in ("train", "read", "dev")},
            }
            for one in prepare.get("sources") or ()
            if isinstance(one, dict)
        ],
        "rows": number(prepare.get("rows")),
        "train": number(prepare.get("train")),
        "dev": number(prepare.get("dev")),
        "dropped": len(dropped) if isinstance(dropped, list) else number(dropped),
        "dropped_by_reason": {
            shown(k, 200): number(v) for k, v in _mapping(prepare.get("dropped_by_reason")).items()
        },
        "overlap": {
            "checked": overlap.get("checked") is True,
            "train_rows_removed": number(overlap.get("train_rows_removed")),
            "dev_in_train": number(overlap.get("dev_in_train")),
        },
        "left_out": left_out_words(trained).removeprefix("; "),
        "files_left_out": [shown(line, 300) for line in prepare.get("files_left_out") or ()],
        "gold_noise": _tree(noise),
    }


def _environment(environment: Mapping[str, Any]) -> Json:
    """As recorded, with the time of recording as people read it."""
    rest = {key: value for key, value in environment.items() if key != "time"}
    recorded = utc(unix_time(environment.get("time")))
    return _tree({**rest, **({"recorded": recorded} if recorded else {})})  # type: ignore[no-any-return]


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _interval(value: Any) -> list[float] | None:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else [low, high]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _tree(value: Any, depth: int = 0) -> Any:
    """Any JSON value with safe text and finite numbers; what is nested very deep becomes text."""
    if isinstance(value, Mapping) and depth < 8:
        return {shown(k, 200): _tree(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and depth < 8:
        return [_tree(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool) or number(value) is not None:
        return value
    return shown(value)
