"""What every attempt cost in GPU-hours, from the ledger and the training log alone, without Slurm.

An attempt holds ``gpus`` GPUs (of all its nodes together) from its ``attempt`` event to its ``ended`` event.
That time is split into four parts that sum to it:

``preflight``
    checking the nodes (an attempt of the preflight stage, also one inside a train attempt: it is not counted
    twice);
``startup``
    training: from the start to the first step (loading; estimated from the logged time per step);
``lost``
    training: everything after the newest committed checkpoint of an attempt that did not end well; whole
    attempts that committed none; a failed consolidation. Scoring loses nothing: its rows are kept as they
    come;
``useful``
    the rest.

``waiting`` stands beside them: the time between being ready to run (submitted, requeued, or the job waited
for has ended) and starting, times the GPUs asked for. Nobody is charged for it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from glmjobs.text import number, unix_time

HELD = ("useful", "startup", "lost", "preflight")
PARTS = (*HELD, "waiting")

#: Outcomes after which nothing of a training attempt is lost.
_WELL = ("done", "running")


class End(NamedTuple):
    """Until when (Unix seconds) a stage's attempts are counted whose end is not in the ledger, and what they are then:
    ``done``, ``vanished`` where nobody could write it down, ``running`` where nobody knows better."""

    outcome: str
    time: float


Step = tuple[float, float]
"""Unix seconds, and the optimizer step reached then."""


@dataclass
class Attempt:
    """One execution of a stage. Times in Unix seconds; ``ended`` may be the last sign of life.

    ``outcome`` is the ledger's (done, failed, stopped, …), or ``running``, or ``vanished`` (no end was
    recorded).
    """

    stage: str
    job: str
    number: int
    nodes: str
    gpus: int
    started: float
    queued: float | None = None
    ended: float | None = None
    outcome: str = "running"
    exit_code: int | None = None
    error: str = ""
    step: int | None = None
    last_checkpoint: int | None = None
    resumed_from: int | None = None
    task: int | None = None
    memory: int | None = None
    """Bytes of the first node's memory at most, as :mod:`hpc.runtime.job_memory` counts it; None: not measured."""


@dataclass(frozen=True)
class Cost:
    """An attempt and the seconds of each of :data:`PARTS`."""

    attempt: Attempt
    seconds: Mapping[str, float] = field(default_factory=dict)

    def gpu_hours(self, part: str) -> float:
        """GPU-hours of one part, or of ``held``: all that the attempt had allocated."""
        parts = HELD if part == "held" else (part,)
        return self.attempt.gpus * sum(self.seconds.get(p, 0.0) for p in parts) / 3600


def done(markers: Mapping[str, Mapping[str, Any]]) -> dict[str, End]:
    """The stages whose markers call them done, and since when."""
    return {
        stage: End("done", time)
        for stage, marker in markers.items()
        if marker.get("outcome") == "done" and (time := unix_time(marker.get("ended"))) is not None
    }


def totals(items: Iterable[Cost]) -> dict[str, float]:
    """GPU-hours summed over attempts: held (useful + startup + lost + preflight), its parts, and waiting."""
    items = list(items)
    return {part: sum(item.gpu_hours(part) for item in items) for part in ("held", *PARTS)}


def costs(
    ledger: Sequence[Mapping[str, Any]],
    train_log: Iterable[Mapping[str, Any]],
    now: float,
    alive: Iterable[float] = (),
    over: Mapping[str, End] | None = None,
    checkpoint: int | None = None,
) -> list[Cost]:
    """The cost of every attempt, in order of their start.

    Args:
        ledger: the events of ``ledger.jsonl``, in the order of the file.
        train_log: the rows of ``train_log.jsonl`` (``time``, ``step``), in the order of the file.
        now: Unix seconds; a running attempt is counted until then.
        alive: Unix seconds of other signs of life (GPU samples), for attempts whose end nobody recorded.
        over: the stages of which no attempt is counted until ``now``.
        checkpoint: step of the newest checkpoint there is; what the last training attempt left, where no event says it.
    """
    steps = sorted(
        (time, step)
        for row in train_log
        if (time := unix_time(row.get("time"))) is not None and (step := number(row.get("step"))) is not None
    )
    found = attempts(ledger, sorted([*(time for time, _ in steps), *alive]), over)
    checks = [a for a in found if a.stage == "preflight"]
    result, resumed = [], 0
    for index, attempt in enumerate(found):
        own: list[Step] = []
        if attempt.stage == "train":
            own = [s for s in steps if attempt.started <= s[0] <= (attempt.ended or now)]
            resumed = attempt.resumed_from if attempt.resumed_from is not None else resumed
            if attempt.last_checkpoint is None and attempt.outcome not in _WELL:
                attempt.last_checkpoint = _inferred_checkpoint(found[index + 1 :], steps, checkpoint)
            if own:
                attempt.step = max(attempt.step or 0, int(own[-1][1]))
        result.append(Cost(attempt, _split(attempt, own, resumed, checks, now)))
        if attempt.stage == "train":
            resumed = max(resumed, attempt.last_checkpoint or 0)
    return result


def attempts(
    ledger: Sequence[Mapping[str, Any]], signs: Sequence[float] = (), over: Mapping[str, End] | None = None
) -> list[Attempt]:
    """The attempts that the ledger tells of, in order of their start.

    An attempt without an ``ended`` event is ``running`` if it is the newest of its job and its stage is not ``over``,
    else ``vanished`` (its node died): it then ends with its last ledger line, or the last of ``signs`` (sorted
    Unix seconds of training-log rows and GPU samples), before the job's next attempt.
    """
    return _Reader(signs).read(ledger, over or {})


class _Reader:
    """Follows the ledger line by line; keeps which jobs are ready since when, and which attempts are open."""

    def __init__(self, signs: Sequence[float]) -> None:
        self.signs = signs
        self.ready: dict[str, float] = {}
        self.stage_ready: dict[str, tuple[float, list[str]]] = {}
        self.waits_for: dict[str, list[str]] = {}
        self.finished: dict[str, float] = {}
        self.open: dict[tuple[str, str], Attempt] = {}
        self.last_word: dict[tuple[str, str], float] = {}
        self.found: list[Attempt] = []

    def read(self, ledger: Iterable[Mapping[str, Any]], over: Mapping[str, End]) -> list[Attempt]:
        for event in ledger:
            time = unix_time(event.get("time"))
            if time is not None:
                self._take(event, time)
        for key, attempt in self.open.items():
            end = over.get(attempt.stage)
            if end is None or (end.outcome == "done" and attempt.started > end.time):  # it is done once more
                continue
            attempt.outcome = end.outcome
            attempt.ended = max(attempt.started, self.last_word.get(key, 0.0), end.time)
        return sorted(self.found, key=lambda a: a.started)

    def _take(self, event: Mapping[str, Any], time: float) -> None:
        kind, stage, job = event.get("event"), str(event.get("stage", "")), str(event.get("job", ""))
        key = (stage, job)  # each element of an array has a job id of its own
        if (
            kind == "submitted" and event.get("executor") != "local"
        ):  # local stages follow each other, none waits
            self.ready[job] = time
            self.waits_for[job] = re.findall(r"\d+", str(event.get("dependency") or ""))
            self.stage_ready[stage] = (time, self.waits_for[job])
        elif kind in ("requeued", "healed"):
            if job:
                self.ready[job] = time
        elif kind in ("cancelled", "not_cancelled"):
            pass  # somebody else's line: no sign of its life
        elif kind == "attempt":
            self._start(event, key, time)
        elif kind == "ended":
            self.finished[job] = time
            if event.get("outcome") != "done":
                self.ready[job] = time  # where it starts again, it has waited since
            if (attempt := self.open.pop(key, None)) is not None:
                attempt.ended = max(time, attempt.started)
                attempt.outcome = str(event.get("outcome") or "unknown")
                attempt.exit_code = _integer(event.get("exit_code"))
                attempt.error = str(event.get("error") or "")
                attempt.memory = _integer(event.get("memory"))
                _progress(attempt, event)
        elif (running := self.open.get(key)) is not None:
            self.last_word[key] = time
            _progress(running, event)

    def _start(self, event: Mapping[str, Any], key: tuple[str, str], time: float) -> None:
        stage, job = key
        task = event.get("array_task")
        for other in [k for k, a in self.open.items() if k == key or (k[0] == stage and a.task == task)]:
            sign = unix_time(event.get("before_until")) if other == key else None
            before = self.open.pop(other)
            self._vanish(before, max(self.last_word.get(other, 0.0), sign or 0.0), time)
            if other == key and before.ended is not None:
                self.ready.setdefault(job, before.ended)  # Slurm put it back in the queue by itself
        attempt = Attempt(
            stage=stage,
            job=job,
            number=_integer(event.get("attempt")) or 1 + sum(a.stage == stage for a in self.found),
            nodes=str(event.get("nodes") or ""),
            gpus=max(_integer(event.get("gpus")) or 0, 0),
            started=time,
            queued=self._queued(stage, job, time),
            resumed_from=_integer(event.get("resumed_from")),
            task=task,
        )
        self.open[key] = attempt
        self.found.append(attempt)

    def _queued(self, stage: str, job: str, time: float) -> float | None:
        """Since when the attempt could have started; ``None`` where nothing waited, or nothing tells."""
        asked, awaited = self.ready.pop(job, None), self.waits_for.get(job, [])
        if asked is None:
            if job in self.waits_for or any(a.job == job for a in self.found):
                return None  # a further stage of the same job, or a restart that nobody put in a queue
            asked, awaited = self.stage_ready.get(stage, (None, []))  # an array task has a job id of its own
        if asked is None:
            return None
        return min(max([asked, *(self.finished[j] for j in awaited if j in self.finished)]), time)

    def _vanish(self, attempt: Attempt, last_word: float | None, until: float) -> None:
        attempt.outcome = "vanished"
        signs = [attempt.started, last_word or attempt.started]
        index = bisect_left(self.signs, until)
        if attempt.stage == "train" and index:
            signs.append(self.signs[index - 1])
        attempt.ended = max(attempt.started, min(max(signs), until))


def _progress(attempt: Attempt, event: Mapping[str, Any]) -> None:
    """Keep the newest step and committed checkpoint that any event of the attempt tells."""
    for name in ("step", "last_checkpoint", "resumed_from"):
        if (value := _integer(event.get(name))) is not None:
            setattr(attempt, name, value)


def _inferred_checkpoint(later: Sequence[Attempt], steps: Sequence[Step], newest: int | None) -> int | None:
    """Where no event named it: the step from which the next training attempt went on, by its log; without a next one
    the newest checkpoint there is."""
    following = next((a for a in later if a.stage == "train"), None)
    if following is None:
        return newest
    if following.resumed_from is not None:
        return following.resumed_from
    rows = [step for time, step in steps if time >= following.started][:2]
    return max(int(2 * rows[0] - rows[1]), 0) if len(rows) == 2 else None


def _split(
    attempt: Attempt, own: Sequence[Step], resumed: int, checks: Sequence[Attempt], now: float
) -> dict[str, float]:
    """Seconds of each part; ``own``: the attempt's log rows, ``resumed``: the step it started from."""
    end = attempt.ended if attempt.ended is not None else max(now, attempt.started)
    total = end - attempt.started
    waiting = max(attempt.started - attempt.queued, 0.0) if attempt.queued is not None else 0.0
    if attempt.stage == "preflight":
        return {"useful": 0.0, "startup": 0.0, "lost": 0.0, "preflight": total, "waiting": waiting}
    inside = [c for c in checks if c.job == attempt.job and attempt.started <= c.started < end]
    checking = min(sum(min(c.ended if c.ended is not None else now, end) - c.started for c in inside), total)
    body = total - checking
    startup = lost = 0.0
    if attempt.stage == "train":
        begin = attempt.started + checking
        startup = min(_startup(own, resumed, begin), body)
        if attempt.outcome not in _WELL:
            lost = min(_lost(attempt, own, resumed, begin + startup, end), body - startup)
    elif attempt.stage != "score" and attempt.outcome not in _WELL:
        lost = body
    return {
        "useful": body - startup - lost,
        "startup": startup,
        "lost": lost,
        "preflight": 0.0,
        "waiting": waiting,
    }


def _startup(own: Sequence[Step], resumed: int, begin: float) -> float:
    """Seconds before the first step; 0 where the log is too short to tell."""
    pace = [(t2 - t1) / (s2 - s1) for (t1, s1), (t2, s2) in pairwise(own) if s2 > s1]
    if not pace:
        return 0.0
    first_time, first_step = own[0]
    return max(first_time - max(first_step - resumed, 0) * median(pace) - begin, 0.0)


def _lost(attempt: Attempt, own: Sequence[Step], resumed: int, begin: float, end: float) -> float:
    """Seconds since the newest committed checkpoint's step, by interpolation between logged steps.

    An attempt that was stopped and saved its last step lost nothing: what follows that step is the saving
    itself.
    """
    saved = attempt.last_checkpoint
    if saved is None or saved <= resumed:
        return end - begin
    if attempt.outcome == "stopped" and saved >= (own[-1][1] if own else attempt.step or 0):
        return 0.0
    line = [(begin, float(resumed)), *own]
    for (t1, s1), (t2, s2) in pairwise(line):
        if s1 <= saved <= s2 and s2 > s1:
            return end - (t1 + (t2 - t1) * (saved - s1) / (s2 - s1))
    return end - line[-1][0] if own else 0.0  # without a log, when that step was reached is not known


def _integer(value: Any) -> int | None:
    value = number(value)
    return None if value is None else int(value)
