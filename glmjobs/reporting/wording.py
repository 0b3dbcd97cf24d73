"""The report's sentences and tables, worded once for both HTML and Markdown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glmjobs.run.evaluations import METRICS
from glmjobs.text import duration, gpu_hours, p_equals, p_value, percent, points, shown, size
from hpc.core import hints

Json = dict[str, Any]

#: What an attempt's GPU-hours went into: key, name, meaning.
COST_PARTS = (
    ("useful", "useful", "everything that the run's result rests on"),
    ("startup", "start-up", "training: from the start of an attempt to its first step (loading the model)"),
    (
        "lost",
        "lost",
        "training: done after the newest committed checkpoint of an attempt that ended early, and done again",
    ),
    ("preflight", "preflight", "checking the nodes before the model loads"),
)
WAITING = ("waiting", "waiting", "ready to run but in the queue, times the GPUs asked for; no GPU was held")


class State(str):
    """An outcome, shown as a badge."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Head, rows, an optional foot; ``numeric`` are the columns set flush right. ``notes``, one a row, are long
    texts that go below their row where that is possible, else into a last column named ``note_head``."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    foot: Sequence[str] = ()
    notes: Sequence[str] = ()
    note_head: str = ""


NONE = "–"
"""Where no row is marked, and so no accuracy known."""


def unseen(doc: Json) -> bool:
    """True where it was checked that no scored row is in the training data."""
    overlap = doc["data"]["overlap"] if doc["data"] else {}
    return bool(overlap.get("checked")) and overlap.get("dev_in_train") == 0


def accuracy_sentences(doc: Json) -> list[str]:
    """The result in words, with its uncertainty and what to hold it against."""
    content = doc["accuracy"]
    each = (
        f"{m['label']}: {percent(m['accuracy'])}{_counted(m)}{_between(m['interval'])}."
        for m in content["models"]
    )
    said = [" ".join(each)] if content["models"] else []
    said += [
        f"{m['label']}: {NONE}, no accuracy: none of its answers is marked. {_counted_apart(m)}".rstrip()
        for m in content["unmarked"]
    ]
    said += [sentence for model in content["models"] if (sentence := _counted_apart(model))]
    said += [_two_judges(model) for model in content["models"] if model["second_judge"]]
    comparison = content["comparison"]
    if comparison and comparison["difference"] is not None:
        between = comparison["difference_interval"]
        within = f" (95 % interval {points(between[0])} to {points(between[1])})" if between else ""
        p = p_equals(comparison["mcnemar_p"])
        said.append(
            f"The same rows, paired: {points(comparison['difference'])} points{within}"
            + (f", McNemar's test p {p}" if p else "")
            + f"; {plain(comparison['only_finetuned'])} rows went from wrong to right and "
            f"{plain(comparison['only_base'])} from right to wrong."
        )
    noise = (doc["data"] or {}).get("gold_noise")
    if said and isinstance(noise, dict) and noise.get("rows"):
        said.append(f"The gold is not clean: {gold_noise(noise)}.")
    if anchor := content["anchor"]:
        said.append(
            f"To hold it against: the tutorial that this work follows reports {anchor['name']} at "
            f"{percent(anchor['base'])} before and {percent(anchor['finetuned'])} after (its own marking)."
        )
    return said


def _counted_apart(model: Json) -> str:
    """The rows that are in no accuracy: those the marker does not mark, and those on which it failed."""
    parts = []
    if model["not_marked"]:
        meaning = model["judge"] == "meaning"
        why = (
            "proofs, drawings, explanations, functions"
            if meaning
            else f"no verdict of the judge {model['judge']}"
        )
        parts.append(f"{model['not_marked']:,} rows are not marked ({why})")
    if model["marker_failures"]:
        parts.append(f"on {model['marker_failures']:,} rows the marker raised an error")
    if model["unsure"]:
        parts.append(f"{model['unsure']:,} verdicts are worth a look (they are in the accuracy)")
    return f"{model['label']}: {'; '.join(parts)}." if parts else ""


def _two_judges(model: Json) -> str:
    """How a second judge marks the same answers, and where it disagrees."""
    first, second, pairs = model["judge"], model["second_judge"], model["second_judge"]["pairs"]
    if not second["rows"]:
        why = f": {second['why']}" if second["why"] else ""
        return (
            f"{model['label']}, the accuracy is that of the judge {first}; {second['judge']} gives {NONE}, none of "
            f"{second['not_marked']:,} answers marked{why}."
        )
    apart, both = pairs["only_first"] + pairs["only_second"], sum(pairs.values())
    lacks = f", {second['not_marked']:,} not marked" if second["not_marked"] else ""
    return (
        f"{model['label']}, the accuracy is that of the judge {first}; {second['judge']} gives "
        f"{percent(second['accuracy'])} ({second['correct']:,} of {second['rows']:,}{lacks}). They disagree on "
        f"{apart:,} of the {both:,} answers that both mark: {pairs['only_first']:,} are right by {first} "
        f"alone, {pairs['only_second']:,} by {second['judge']} alone."
    )


def _counted(model: Json) -> str:
    return (
        f" ({model['correct']:,} of {model['rows']:,})"
        if model["correct"] is not None and model["rows"]
        else ""
    )


def _between(interval: list[float] | None) -> str:
    return f", 95 % interval {percent(interval[0])} to {percent(interval[1])}" if interval else ""


def metrics_table(doc: Json) -> Table | None:
    """Accuracy and the classical text metrics, one row a model."""
    models = doc["accuracy"]["models"]
    if not models:
        return None
    metrics = ("bleu4", "rouge1", "rouge2", "rougeL")
    rows = [
        [
            m["label"],
            percent(m["accuracy"]),
            _range(m["interval"]),
            plain(m["correct"]),
            plain(m["rows"]),
            plain(m["cut"]),
            *("" if m[key] is None else f"{m[key]:.1f}" for key in metrics),
            "" if m["tokens_per_s"] is None else f"{m['tokens_per_s']:,.0f}",
            duration(m["seconds"]),
        ]
        for m in models
    ]
    head = [
        "Model",
        "Accuracy",
        "95 % interval",
        "Correct",
        "Rows",
        "Cut short",
        "BLEU-4",
        "ROUGE-1",
        "ROUGE-2",
    ]
    head += ["ROUGE-L", "Tokens/s", "Time"]
    return _trimmed(Table(head, rows, frozenset(range(1, len(head)))))


def sets_table(doc: Json) -> Table | None:
    """Gain and loss side by side: the run's dev rows and every further test set, a row each."""
    if not doc["sets"]:
        return None
    head = [
        "Test set",
        "Judge",
        "Rows",
        "Base",
        "95 % interval",
        "Fine-tuned",
        "95 % interval",
        "Difference in points",
    ]
    head += ["95 % interval", "McNemar's p", ""]
    rows = []
    for one in doc["sets"]:
        cells: list[str] = [one["name"], one["judge"]]
        cells.append(plain(next((m["rows"] for m in one["models"].values()), None)))
        for model in ("base", "finetuned"):
            found = one["models"].get(model)
            if found and found["rows"] == 0:
                cells += [NONE, f"none of {plain(found['not_marked'])} marked"]
            else:
                cells += [percent(found["accuracy"]), _range(found["interval"])] if found else ["", ""]
        if one["difference"] is None or one["difference_interval"] is None:
            cells += ["", "", "", ""]
        else:
            low, high = one["difference_interval"]
            cells += [points(one["difference"]), f"{points(low)} to {points(high)}"]
            cells.append(p_value(one["mcnemar_p"]))
            cells.append("gained" if low > 0 else "lost" if high < 0 else "no clear difference")
        rows.append(cells)
    return Table(head, rows, frozenset(range(2, len(head) - 1)))


def _range(interval: list[float] | None) -> str:
    return f"{100 * interval[0]:.1f} to {percent(interval[1])}" if interval else ""


def training_sentence(doc: Json) -> str:
    """How far training went."""
    training = doc["training"]
    said = f"{training['steps']:,} optimizer steps" if training["steps"] else "No steps"
    if training.get("epochs"):
        said += f", {training['epochs']:.3g} epoch{'s' if training['epochs'] != 1 else ''}"
    if training.get("tokens"):
        said += f", {training['tokens']:,} tokens"
    said += "."
    if parts := training.get("parts"):
        said += f" In {len(parts)} parts: {', then '.join(map(_part, parts))}."
    if speed := training.get("tokens_per_s_median"):
        said += f" {speed:,.0f} tokens/s"
        if training.get("mfu_median"):
            said += f", {percent(training['mfu_median'])} of the GPUs' peak (model FLOPs utilisation)"
        said += ", the median of the log."
    if skipped := training.get("skipped_steps"):
        said += f" {skipped:,} of the steps were skipped, because float16 overflowed in them."
    if evaluated := training.get("evaluation"):
        said += f" {evaluation_sentence(evaluated)}"
    if training["replaced_rows"]:
        said += " Dashed: steps trained again, because an earlier attempt ended before it could save them."
    return said


def evaluation_sentence(evaluated: Json) -> str:
    """What the evaluations while training found, which checkpoint became the model, and why training ended."""
    last, top, metric = evaluated["last"], evaluated["best"], evaluated["metric"]
    rows = f"{last['dev_examples']:,.0f} dev examples" if last["dev_examples"] else "dev examples"
    loss = "no number" if last["dev_loss"] is None else f"{last['dev_loss']:.4g}"
    accuracy = last["dev_token_accuracy"]
    right = f", {percent(accuracy)} of their tokens right" if accuracy is not None else ""
    said = f"Loss on {rows} at the last of {evaluated['count']:,} evaluations: {loss}{right}"
    if last["dev_answers"] is not None and last["dev_answers_marked"]:
        low, high = last["dev_answers_interval"] or (0.0, 1.0)
        said += f"; {percent(last['dev_answers'])} of {last['dev_answers_marked']:,.0f} answers right"
        said += f" (95 %: {percent(low)} to {percent(high)})"
    if top is not None and top["step"] != last["step"]:
        said += f"; best by {METRICS[metric][0]} at step {top['step']:,.0f}: {top[metric]:.4g}"
    said += "."
    if evaluated["model_step"] and evaluated["chosen"]:
        said += f" The model is checkpoint-{evaluated['model_step']:.0f}: {evaluated['chosen']}."
    if evaluated["ended_early"]:
        said += f" Training was ended early: {evaluated['ended_early']}."
    return said


def _part(part: Json) -> str:
    """How far training had got when it was made longer, and what scoring then found."""
    epoch = f"{part['epoch']:.3g} epoch{'s' if part['epoch'] != 1 else ''}" if part["epoch"] else ""
    accuracy = f"fine-tuned {percent(part['accuracy'])}" if part["accuracy"] is not None else ""
    found = ", ".join(filter(None, (epoch, accuracy)))
    return f"to step {part['step']:,}" + (f" ({found})" if found else "")


def gpu_table(doc: Json) -> Table | None:
    """Means and peaks by node."""
    if not doc["gpu"]:
        return None
    rows = [
        [
            n["node"], plain(n["gpus"]), "" if n["utilisation"] is None else f"{n['utilisation']:.0f} %",
            size(n["memory_peak"]), "" if n["power"] is None else f"{n['power']:.0f} W", plain(n["samples"]),
        ]
        for n in doc["gpu"]["nodes"]
    ]  # fmt: skip
    head = ["Node", "GPUs", "Mean utilisation", "Peak memory of a GPU", "Mean power of a GPU", "Samples"]
    return Table(head, rows, frozenset(range(1, len(head))))


def cost_sentence(doc: Json) -> str:
    """The sum of all attempts in words."""
    cost = doc["cost"]
    hours, seconds, tries = cost["gpu_hours"], cost["seconds"], len(cost["attempts"])
    attempts = f"{tries} attempt{'s' if tries != 1 else ''}"
    if hours["held"] > 0:
        return (
            f"{attempts} held GPUs for {gpu_hours(hours['held'])} GPU-hours: "
            f"{gpu_hours(hours['useful'])} useful, {gpu_hours(hours['startup'])} starting up, "
            f"{gpu_hours(hours['lost'])} lost since the last checkpoint, "
            f"{gpu_hours(hours['preflight'])} in preflight. Beside them, jobs waited in the queue for "
            f"{gpu_hours(hours['waiting'])} GPU-hours' worth."
        )
    held = sum(value for part, value in seconds.items() if part != "waiting")
    lost = duration(seconds["lost"]) if seconds["lost"] > 0 else "none"
    return f"{attempts} took {duration(held)}, {lost} of it lost. No GPUs were held: 0 GPU-hours."


def cost_table(doc: Json) -> Table | None:
    """Every attempt with what it cost: in GPU-hours, or in time where no GPUs were held."""
    cost = doc["cost"]
    if not cost["attempts"]:
        return None
    on_gpus = cost["gpu_hours"]["held"] > 0
    parts = [part for part, _, _ in COST_PARTS]

    def amounts(hours: Json, seconds: Json) -> list[str]:
        held = hours["held"] if on_gpus else sum(seconds[part] for part in parts)
        values = [held, *((hours if on_gpus else seconds)[part] for part in (*parts, "waiting"))]
        return [(gpu_hours(value) if on_gpus else duration(value)) if value > 0 else "–" for value in values]

    rows = []
    for a in cost["attempts"]:
        outcome = a["outcome"] + (f" (exit {a['exit_code']})" if a["exit_code"] else "")
        nodes = f"{a['nodes']} × {a['gpus']}" if a["gpus"] else a["nodes"]
        begun = a["started"][5:16]  # month, day, hour, minute
        step = ""
        if a["stage"] == "train" and a["step"] is not None:
            step = plain(a["step"]) + (
                "" if a["last_checkpoint"] is None else f" ({plain(a['last_checkpoint'])})"
            )
        amount = amounts(a["gpu_hours"], a["seconds"])
        rows.append([f"{a['stage']} {a['attempt']}", State(outcome), begun, step, *amount, nodes, a["job"]])
    unit = "GPU-h" if on_gpus else "time"
    names = [words(name) for _, name, _ in (*COST_PARTS, WAITING)]
    head = ["Attempt", "Outcome", "Started (UTC)", "Step (saved)", f"Held ({unit})", *names]
    foot = ["All", "", "", "", *amounts(cost["gpu_hours"], cost["seconds"]), "", ""]
    numeric = frozenset(range(3, len(head)))
    notes = [a["error"] for a in cost["attempts"]]
    return _trimmed(Table([*head, "Nodes × GPUs", "Job"], rows, numeric, foot, notes, "Error"))


UNMEASURED = "not measured"


def efficiency_table(doc: Json) -> Table | None:
    """What each job asked for and used."""
    if not doc["efficiency"]["jobs"]:
        return None
    rows = []
    for job in doc["efficiency"]["jobs"]:
        on_gpus = percent(job["gpu_share"], 0) or (UNMEASURED if job["stage"] == "train" else NONE)
        rows.append(
            [
                job["stage"],
                size(job["asked_memory"]) or NONE, size(job["used_memory"]) or UNMEASURED,
                duration(job["asked_seconds"]) or NONE, duration(job["used_seconds"]) or UNMEASURED,
                duration(job["waited_seconds"]) or NONE, on_gpus,
            ]
        )  # fmt: skip
    head = ["Job", "Memory asked", "Used", "Time asked", "Used", "Waited", "GPUs at work"]
    return Table(head, rows, frozenset(range(1, len(head))))


EFFICIENCY_NOTE = (
    "Memory: of one node (the first), sampled once a second, without the pages of files that the kernel can drop. "
    "Time: the longest start. Waited: the longest wait in the queue. GPUs: the mean while steps were made."
)


def advice(doc: Json) -> list[str]:
    """What to ask for next time, a sentence a piece."""
    return [a["line"] for a in doc["efficiency"]["advice"]]


def _trimmed(table: Table) -> Table:
    """Without the columns in which no row says anything."""
    kept = [i for i in range(len(table.head)) if any(row[i] not in ("", "–") for row in table.rows)]
    return Table(
        [table.head[i] for i in kept],
        [[row[i] for i in kept] for row in table.rows],
        frozenset(new for new, old in enumerate(kept) if old in table.numeric),
        [table.foot[i] for i in kept] if table.foot else [],
        table.notes,
        table.note_head,
    )


def data_pairs(doc: Json) -> list[tuple[str, str]]:
    """Rows, what was dropped, whether dev rows were kept out of training, and the gold's own noise."""
    content = doc["data"]
    if not content:
        return []
    pairs = [(name, plain(content[name.lower()])) for name in ("Source", "Rows", "Train", "Dev")]
    by_reason = "; ".join(
        f"{reason}: {plain(count)}" for reason, count in content["dropped_by_reason"].items()
    )
    pairs.append(("Dropped", plain(content["dropped"]) + (f" ({by_reason})" if by_reason else "")))
    pairs += [
        (
            f"Source {one['name']}",
            f"{plain(one['read'])} of {plain(one['train'])} train rows an epoch, {plain(one['dev'])} dev rows",
        )
        for one in content["sources"]
    ]
    pairs.append(("Left out of training", content["left_out"]))
    pairs.append(("Files not read", "; ".join(content["files_left_out"])))
    overlap = content["overlap"]
    if overlap["checked"]:
        said = f"checked: {plain(overlap['dev_in_train'])} dev rows are in the training data"
        if overlap["train_rows_removed"]:
            removed = plain(overlap["train_rows_removed"])
            said += f"; {removed} training rows with a dev row's question were left out"
    else:
        said = "not checked"
    pairs.append(("Overlap of dev and train", said))
    pairs.append(("Gold noise", gold_noise(content["gold_noise"])))
    pairs.append(("Fingerprint", content["fingerprint"]))
    return [(name, value) for name, value in pairs if value]


def gold_noise(noise: Any) -> str:
    """Rows whose gold answer contradicts itself: what no model can be blamed for."""
    if not isinstance(noise, dict) or noise.get("rows") is None:
        return ""
    share = f" ({percent(noise.get('share'))})" if noise.get("share") is not None else ""
    return f"{plain(noise['rows'])} scored rows{share} whose gold answer contains a false equation"


def unfinished(doc: Json) -> list[Json]:
    """Stages that ended otherwise than done."""
    return [
        s for s in doc["stages"] if s["outcome"] in ("failed", "killed", "vanished", "stopped", "cancelled")
    ]


def stage_table(doc: Json) -> Table:
    """Every stage's outcome and time."""
    rows = [
        [
            s["stage"], State(s["outcome"]), s.get("nodes") or "", plain(s.get("attempt")),
            s.get("started") or "", duration(s.get("seconds")), s.get("error") or "",
        ]
        for s in doc["stages"]
    ]  # fmt: skip
    head = ["Stage", "Outcome", "Nodes", "Attempts", "Started", "Time", "Last error"]
    return _trimmed(Table(head, rows, frozenset({3, 5})))


def node_table(doc: Json) -> Table | None:
    """The nodes as preflight found them."""
    if not doc["nodes"]:
        return None
    return _trimmed(
        Table(["Node", "GPUs", "Driver"], [[n["node"], n["gpus"], n["driver"]] for n in doc["nodes"]])
    )


def reproduce(doc: Json) -> list[tuple[str, str]]:
    """``(what, command)``: the steps that lead to this run again."""
    environment, summary = doc["environment"], doc["summary"]
    steps = []
    revision = _first(environment, ("revision", "commit", "code", "git"))
    if isinstance(revision, str) and revision:
        commit = revision.removesuffix("-dirty")
        what = "Take the code at this run's revision" + (
            " (it had uncommitted changes)." if revision.endswith("-dirty") else "."
        )
        steps.append((what, f"git checkout {shlex.quote(commit)}"))
    stack = _first(environment, ("stack",)) or _first(doc["settings"].get("cluster") or {}, ("stack",))
    if isinstance(stack, str) and stack:
        command = hints.command("hpc.bootstrap", "--stack", stack, "--into", ".venv")
        steps.append(("Install the same packages.", command))
    shape = ("--nodes", summary["nodes"] or 1, "--gpus", summary["gpus_per_node"] or 1)
    what = "Save this run's recipe (below) as recipe.yaml and run the whole chain again, from data to report."
    steps.append((what, hints.command("glmjobs.submit", "--recipe", "recipe.yaml", *shape)))
    fingerprint = (doc["data"] or {}).get("fingerprint")
    if fingerprint:
        steps.append(
            (f"The data is the same where data/prepare.json shows the fingerprint {fingerprint}.", "")
        )
    return steps


def recipe_text(doc: Json) -> str:
    """The recipe as YAML that submit reads (scalars are written as JSON, which YAML contains)."""
    lines: list[str] = []

    def write(mapping: Json, indent: str) -> None:
        for key, value in mapping.items():
            if isinstance(value, dict) and value:
                lines.append(f"{indent}{key}:")
                write(value, indent + "  ")
            else:
                lines.append(f"{indent}{key}: {_scalar(value)}")

    write(doc["recipe"], "")
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        mantissa, _, exponent = repr(value).partition("e")
        return f"{mantissa}.0e{exponent}"  # YAML 1.1 reads 1e-05 as text, 1.0e-05 as a number
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    """A value in a table: whole numbers with separators, everything else as :func:`shown` writes it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return shown(value)


def words(name: str) -> str:
    """A key as a heading: ``torch_version`` becomes ``Torch version``."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _first(mapping: Any, keys: Sequence[str]) -> Any:
    return next((mapping[key] for key in keys if isinstance(mapping, dict) and mapping.get(key)), None)
