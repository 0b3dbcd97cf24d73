"""What a run's jobs asked for and what they used, as measured, and what to ask for next time.

Memory is measured by each attempt itself (:mod:`hpc.runtime.job_memory`), GPUs by the training
(:mod:`hpc.runtime.gpu_monitor`), time by the ledger: none of it needs Slurm's accounting. What was not measured is
None, and no advice is made of it. A rule is a function in :data:`RULES`: from what one job did to the advice, if any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from glmjobs.run import gpu_hours
from glmjobs.run.gpu_hours import Attempt
from glmjobs.run.progress import last_rows
from glmjobs.text import duration, number, size, unix_time
from hpc.chain import ledger
from hpc.core import hints
from hpc.core.files import Json, read_json, read_jsonl
from hpc.core.sizes import slurm_bytes, slurm_seconds

GIB = 1 << 30
SAMPLE_BYTES = 4 << 20
"""Of each node's GPU samples, the newest so many bytes are read: half a day of eight GPUs."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """One job of a run: what it asked for and what it used. None: not asked for, not measured.

    Attributes:
        nodes: of which ``used_memory`` is the first one's.
        asked_memory: bytes of a node.
        used_memory: bytes at most.
        asked_seconds: its time limit.
        used_seconds: the longest time that it was at work from one start.
        warning_seconds: so long before its limit it is told to save.
        whole: every start of it went through to the end of its work.
        waited_seconds: the longest wait in the queue.
        gpu_share: mean utilisation of its GPUs between its first and last logged step, of 1.
        gpu_memory: the fullest GPU's share of its memory, of 1.
        train: the recipe's section ``train``.
    """

    stage: str
    nodes: int = 1
    asked_memory: int | None = None
    used_memory: int | None = None
    asked_seconds: float | None = None
    used_seconds: float | None = None
    warning_seconds: float = 0.0
    whole: bool = True
    waited_seconds: float | None = None
    gpu_share: float | None = None
    gpu_memory: float | None = None
    train: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do about one job: in words, and as settings, each as it follows ``--set`` (none where none does it)."""

    stage: str
    about: str
    text: str
    settings: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """In one line."""
        words = " ".join(hints.setting(*setting.split("=", 1)) for setting in self.settings)
        return f"{self.stage}: {self.text}" + (f": {words}" if words else "")


def more_memory(use: Use) -> Advice | None:
    """More than nine tenths of its memory: the next one may be killed for it.

    >>> more_memory(Use(stage="score", asked_memory=64 << 30, used_memory=60 << 30)).settings
    ('jobs.score.memory=78G',)
    """
    if use.asked_memory is None or use.used_memory is None or use.used_memory <= 0.9 * use.asked_memory:
        return None
    text = f"memory is short, {_memory(use)}"
    return Advice(stage=use.stage, about="memory", text=text, settings=(_memory_setting(use, 1.3),))


def less_memory(use: Use) -> Advice | None:
    """At most half of its memory, and more than a few GiB to save: a job that asks for less finds room sooner.

    >>> less_memory(Use(stage="score", asked_memory=64 << 30, used_memory=8 << 30)).settings
    ('jobs.score.memory=12G',)
    """
    if use.asked_memory is None or use.used_memory is None or 2 * use.used_memory > use.asked_memory:
        return None
    if use.asked_memory - 1.5 * use.used_memory < 4 * GIB:
        return None
    text = f"less memory is enough, {_memory(use)}"
    return Advice(stage=use.stage, about="memory", text=text, settings=(_memory_setting(use, 1.5),))


def less_time(use: Use) -> Advice | None:
    """Less than half of its time, and at least a quarter of an hour to save: Slurm starts shorter jobs in gaps.

    >>> less_time(Use(stage="train", asked_seconds=24 * 3600, used_seconds=3 * 3600, warning_seconds=600)).settings
    ('jobs.train.time=04:45:00',)
    """
    if use.asked_seconds is None or use.used_seconds is None or not use.whole:
        return None
    fits = max(600.0, 1.5 * use.used_seconds + use.warning_seconds)
    step = 300 if fits < 3600 else 900 if fits < 6 * 3600 else 3600
    fits = step * math.ceil(fits / step)
    if 2 * use.used_seconds > use.asked_seconds or use.asked_seconds - fits < 900:
        return None
    text = (
        f"a shorter limit starts sooner, {duration(use.used_seconds)} of {duration(use.asked_seconds)} used"
    )
    settings = (f"jobs.{use.stage}.time={fits // 3600:02.0f}:{fits % 3600 // 60:02.0f}:00",)
    return Advice(stage=use.stage, about="time", text=text, settings=settings)


def idle_gpus(use: Use) -> Advice | None:
    """GPUs at less than 70 % while it trains: what feeds them, then how much they are given at a time.

    >>> idle_gpus(Use(stage="train", gpu_share=0.4, gpu_memory=0.3, train={"packing": True,
    ...     "per_device_batch_size": 4, "gradient_accumulation": 2})).settings
    ('train.per_device_batch_size=8', 'train.gradient_accumulation=1')
    """
    if use.gpu_share is None or use.gpu_share >= 0.7:
        return None
    train, text = use.train or {}, f"GPUs worked {use.gpu_share:.0%} of the time"
    settings: tuple[str, ...] = ()
    batch, parts = train.get("per_device_batch_size"), train.get("gradient_accumulation")
    if train.get("packing") is False:
        text, settings = f"{text}; rows packed together fill them", ("train.packing=true",)
    elif use.gpu_memory is not None and use.gpu_memory < 0.6 and isinstance(batch, int):
        text = f"{text} and {use.gpu_memory:.0%} of their memory was used; a larger batch may fit (plan says)"
        settings = (f"train.per_device_batch_size={2 * batch}",)
        if isinstance(parts, int) and parts % 2 == 0:
            settings = (*settings, f"train.gradient_accumulation={parts // 2}")  # the steps are the same
        else:
            text += ", which is another batch to learn from"
    else:
        text += "; look at the report's GPU curve: gaps are saves and evaluations, an even low is reading or waiting"
    return Advice(stage=use.stage, about="GPU", text=text, settings=settings)


def long_wait(use: Use) -> Advice | None:
    """Longer in the queue than at work, and more than half an hour.

    >>> long_wait(Use(stage="train", waited_seconds=7200, used_seconds=3600)).text
    'waited 2 h 00 min in the queue for 1 h 00 min of work; less time, fewer nodes or another partition start sooner'
    """
    if use.waited_seconds is None or use.used_seconds is None:
        return None
    if use.waited_seconds < max(1800.0, use.used_seconds):
        return None
    text = f"waited {duration(use.waited_seconds)} in the queue for {duration(use.used_seconds)} of work; "
    text += "less time, fewer nodes or another partition start sooner"
    return Advice(stage=use.stage, about="queue", text=text)


RULES: tuple[Callable[[Use], Advice | None], ...] = (
    more_memory,
    idle_gpus,
    less_memory,
    less_time,
    long_wait,
)
"""The most urgent first."""


def advice(uses: Iterable[Use]) -> list[Advice]:
    """All that there is to advise, the most urgent first."""
    uses = list(uses)
    return [found for rule in RULES for use in uses if (found := rule(use)) is not None]


def of_run(path: Path) -> list[Use]:
    """What the jobs of a run asked for and used so far, by its directory alone; jobs that never began are left out."""
    events = ledger.read(path)
    if not any(event.get("event") == "attempt" for event in events):
        return []
    nodes = [
        found
        for file in (path / "jobs" / "preflight").glob("node-*.json")
        if isinstance(found := read_json(file), dict)
    ]
    samples = (row for file in (path / "gpu").glob("*.jsonl") for row in last_rows(file, SAMPLE_BYTES))
    log = read_jsonl(path / "checkpoints" / "train_log.jsonl")
    stages = {str(event.get("stage")) for event in events}
    over = gpu_hours.done({stage: ledger.marker(path, stage) or {} for stage in stages})
    attempts = gpu_hours.attempts(events, over=over)
    return uses(attempts, events, log, samples, nodes, _train_section(path))


def _train_section(path: Path) -> Json:
    import yaml

    try:
        raw = yaml.safe_load((path / "run.yaml").read_text(encoding="utf-8"))
        return dict(raw["recipe"]["train"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return {}


def uses(
    attempts: Sequence[Attempt],
    events: Sequence[Mapping[str, Any]],
    train_log: Iterable[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    train: Mapping[str, Any],
) -> list[Use]:
    """What every job that began asked for and used.

    Args:
        attempts: all of the run's, in order of their start.
        events: the ledger.
        train_log: rows with ``time``.
        samples: of GPUs: ``time``, ``utilisation`` in percent, ``memory`` in bytes.
        nodes: preflight's reports, with each GPU's ``memory.total`` in MiB.
        train: the recipe's section.
    """
    found = []
    for stage in dict.fromkeys(a.stage for a in attempts if a.stage != "preflight"):
        submitted = [e for e in events if e.get("event") == "submitted" and e.get("stage") == stage]
        asks = submitted[-1].get("asks") if submitted else None
        asks = asks if isinstance(asks, Mapping) else {}
        since = (unix_time(submitted[-1].get("time")) or 0.0) if submitted else 0.0
        starts = list(_starts(attempts, stage, since))
        if not starts:
            continue
        ended = [s for s in starts if all(a.ended is not None and a.outcome != "running" for a in s)]
        waits = [a.started - a.queued for s in starts if (a := s[0]).queued is not None]
        on_gpus = _on_gpus(starts, train_log, samples, nodes) if stage == "train" else (None, None)
        found.append(
            Use(
                stage=stage,
                nodes=int(number(_whole(asks.get("nodes"))) or 1),
                asked_memory=_asked_memory(asks),
                used_memory=max((a.memory for s in starts for a in s if a.memory), default=None),
                asked_seconds=_asked_seconds(asks),
                used_seconds=max((_end(s) - s[0].started for s in ended), default=None),
                warning_seconds=float(_whole(str(asks.get("signal", "")).rpartition("@")[2]) or 0),
                whole=len(ended) == len(starts) and all(s[-1].outcome == "done" for s in starts),
                waited_seconds=max(waits, default=None),
                gpu_share=on_gpus[0],
                gpu_memory=on_gpus[1],
                train=train if stage == "train" else None,
            )
        )
    return found


def _starts(attempts: Sequence[Attempt], stage: str, since: float) -> Iterator[list[Attempt]]:
    """Of each start of a stage's job, the attempts at its stages: preflight stands before train in the same one."""
    jobs = dict.fromkeys(a.job for a in attempts if a.stage == stage and a.started >= since)
    for job in jobs:
        start: list[Attempt] = []
        for attempt in attempts:
            if attempt.job != job or attempt.started < since:
                continue
            if attempt.stage in [a.stage for a in start]:
                yield start
                start = []
            start.append(attempt)
        yield start


def _end(start: Sequence[Attempt]) -> float:
    return max(a.ended or a.started for a in start)


def _on_gpus(
    starts: Sequence[Sequence[Attempt]], train_log: Iterable[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]],
) -> tuple[float | None, float | None]:  # fmt: skip
    """Mean utilisation while steps were made, and the fullest GPU's share of its memory; None: not measured."""
    times = sorted(t for row in train_log if (t := unix_time(row.get("time"))) is not None)
    spans = []
    for start in starts:
        inside = [t for t in times if start[0].started <= t <= (start[-1].ended or math.inf)]
        if len(inside) > 1:
            spans.append((inside[0], inside[-1]))
    rows = [
        row
        for row in samples
        if (t := unix_time(row.get("time"))) is not None and any(a <= t <= b for a, b in spans)
    ]
    shares = [v for row in rows if (v := number(row.get("utilisation"))) is not None]
    used = max((v for row in rows if (v := number(row.get("memory"))) is not None), default=None)
    room = min(
        (
            float(total)
            for node in nodes
            for gpu in node.get("gpus") or ()
            if isinstance(gpu, Mapping) and (total := _whole(gpu.get("memory.total")))
        ),
        default=None,
    )
    memory = used / (room * 1024 * 1024) if used is not None and room else None
    return (fmean(shares) / 100 if shares else None), memory


def _asked_memory(asks: Mapping[str, Any]) -> int | None:
    """Bytes of a node that a job asked for in any of Slurm's ways; None: it named none, or all that a node has."""
    gpus = _whole(str(asks.get("gres") or asks.get("gpus-per-node") or "").rpartition(":")[2])
    if gpus is None and (all_of_them := _whole(str(asks.get("gpus", "")).rpartition(":")[2])):
        gpus = all_of_them // max(1, _whole(asks.get("nodes")) or 1)
    tasks = (_whole(asks.get("ntasks-per-node")) or 1) * (_whole(asks.get("cpus-per-task")) or 1)
    for name, parts in (("mem", 1), ("mem-per-cpu", tasks), ("mem-per-gpu", gpus)):
        if parts and (one := slurm_bytes(str(asks.get(name) or ""))):
            return one * parts
    return None


def _asked_seconds(asks: Mapping[str, Any]) -> float | None:
    try:
        return float(slurm_seconds(str(asks["time"])))
    except (KeyError, ValueError):
        return None


def _whole(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _memory(use: Use) -> str:
    first = f" on the first of {use.nodes} nodes" if use.nodes > 1 else ""
    return f"{size(use.used_memory)} of {size(use.asked_memory)} used{first}"


def _memory_setting(use: Use, room: float) -> str:
    assert use.used_memory is not None
    return f"jobs.{use.stage}.memory={max(2, math.ceil(room * use.used_memory / GIB))}G"


def document(found: Sequence[Use]) -> Json:
    """As plain data, for ``--json`` and the report: a row a job, and the advice."""
    jobs = [{k: v for k, v in asdict(use).items() if k != "train"} for use in found]
    return {"jobs": jobs, "advice": [{**asdict(a), "line": a.line} for a in advice(found)]}
