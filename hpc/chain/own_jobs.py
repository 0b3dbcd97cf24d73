"""What Slurm knows of a run's jobs, and of those alone.

Everything that shows, judges, requeues, re-arms or cancels a job of a run asks here. An id of the ledger is a claim
(:mod:`hpc.slurm.identity`): what Slurm has under the number is believed where it proves to be the run's.

squeue is asked first where many jobs are looked at; some sites answer from a list that is a minute old. So a job that
squeue doesn't list, or shows otherwise than the ledger does, is asked of the controller itself, and so is every job
that something is about to be done to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import BadInput, NotFit
from hpc.core.files import Json
from hpc.slurm import client as slurm
from hpc.slurm import reasons
from hpc.slurm.client import PAUSES, TIMEOUT, SlurmRefused, SlurmUnreachable
from hpc.slurm.identity import Claim, is_ours
from hpc.slurm.records import JobInfo, summary

LATE_SECONDS = 60.0
"""A job that was accepted so short a time ago, and never started, may not be listed yet, whoever is asked."""


RECORDS = ("planned", "submitting", "submitted", "attempt")
"""The events of a ledger from which :func:`claims` tells which jobs are the run's."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What Slurm knows of one job on record.

    Attributes:
        parts: its records: one, or one for each element of an array; none where Slurm holds no such job (any more).
        over: how it ended, where only sacct remembers it. Nothing can be done to such a job, and nothing may wait for
            it: Slurm starts what waits for a job that it has forgotten.
        taken: whose the number is now, where it is another job's.
        elsewhere: the cluster that it is on, where that cannot be asked from here.
    """

    claim: Claim
    parts: tuple[JobInfo, ...] = ()
    over: tuple[JobInfo, ...] = ()
    taken: str = ""
    elsewhere: str = ""

    @property
    def info(self) -> JobInfo | None:
        """One record for all of it."""
        records = self.parts or self.over
        if not records or records[0].id == self.claim.job:
            return records[0] if records else None
        return summary(self.claim.job, records)

    @property
    def standing(self) -> tuple[JobInfo, ...]:
        """Its records that tell how it is: of queued attempts those that are not over, while there are such."""
        to_come = tuple(info for info in self.parts if not info.state.is_final)
        return to_come if self.claim.attempts > 1 and to_come else self.parts

    @property
    def late(self) -> float | None:
        """Seconds since it was accepted, where those are so few that it may not be listed yet."""
        if self.parts or self.over or self.taken or self.elsewhere or self.claim.recorded is None:
            return None
        age = (datetime.now(timezone.utc) - self.claim.recorded).total_seconds()
        return max(age, 0.0) if age < LATE_SECONDS else None

    def gone(self) -> str:
        """Why it is none of Slurm's jobs any more, for a sentence."""
        if self.taken:
            return f"Slurm has given the number of job {self.claim.job} to another ({self.taken})"
        if self.over:
            return f"Slurm no longer holds job {self.claim.job}: {reasons.ending(self.over[-1])}"
        return f"Slurm no longer knows job {self.claim.job}"


def claim(event: Json, mark: str = "") -> Claim:
    """What a ``submitted`` or ``attempt`` event has on record. ``mark``: its comment, where an older one names none."""
    when = event.get("time") if event.get("event") == "submitted" else None
    return Claim(
        job=str(event.get("array_job") or event.get("job")),
        comment=str(event.get("comment") or mark),
        name=str(event.get("name") or ""),
        output=str(event.get("output") or ""),
        submitted=_time(event.get("submit_time")),
        recorded=_time(when),
        cluster=str(event.get("cluster") or ""),
        named=bool(event.get("named")),
        attempts=int(event.get("attempts") or 1),
    )


def _time(text: Any) -> datetime | None:
    try:
        return timestamps.parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None


def every_claim(events: Sequence[Json]) -> dict[str, list[Claim]]:
    """Stage → its jobs of Slurm on record, oldest first: of each submission, and of attempts whose submission was never
    recorded."""
    found: dict[str, list[Claim]] = {}
    marks: dict[str, str] = {}
    key = next((e["key"] for e in events if e.get("event") == "planned" and e.get("key")), "")
    for event in events:
        stage, kind = str(event.get("stage") or ""), event.get("event")
        if kind == "submitting":
            marks[stage] = str(event.get("comment") or "")
        if not stage or kind not in ("submitted", "attempt"):
            continue
        name = next(iter(marks.values()), "glmjobs").partition(":")[0]
        made = claim(event, marks.get(stage) or (f"{name}:{key}:{stage}" if key else ""))
        known = {c.job for c in found.get(stage, ())}
        if made.job.isdigit() and (kind == "submitted" or made.job not in known):
            found.setdefault(stage, []).append(made)
    return found


def newest_jobs(events: Sequence[Json]) -> dict[str, str]:
    """Stage → the job that is to do it, or has done it: of its newest submission, or its newest attempt where the
    submission was never recorded."""
    found: dict[str, str] = {}
    for event in events:
        stage = event.get("stage")
        if event.get("event") == "submitted" and stage:
            found[str(stage)] = str(event.get("job"))
        elif event.get("event") == "attempt" and stage:
            found.setdefault(str(stage), str(event.get("array_job") or event.get("job")))
    return found


def claims(events: Sequence[Json]) -> dict[str, Claim]:
    """The same for jobs of Slurm, with what is on record of each."""
    every = every_claim(events)
    mine = {s: [c for c in every.get(s, ()) if c.job == job] for s, job in newest_jobs(events).items()}
    return {stage: found[-1] for stage, found in mine.items() if found}


def environment(of: Claim) -> dict[str, str] | None:
    """The environment in which all of Slurm's commands talk to the job's cluster; None: as it is (nothing is on
    record)."""
    if not of.cluster:
        return None
    plain = {name: value for name, value in os.environ.items() if name != "SLURM_CLUSTERS"}
    return {**plain, "SLURM_CLUSTERS": of.cluster} if of.named else plain


def reach(of: Claim) -> dict[str, str] | None:
    """Like :func:`environment`; of a job whose cluster was the default one where it was submitted, and is not here, the
    cluster's name is added.

    Raises:
        NotFit: the cluster cannot be asked from here.
    """
    env = environment(of)
    if env is None or of.named:
        return env
    here = slurm.cluster_name(env)
    if here in ("", of.cluster):
        return env
    there = {**env, "SLURM_CLUSTERS": of.cluster}
    if slurm.cluster_name(there) != of.cluster:
        raise NotFit(
            f"job {of.job} is on the cluster {of.cluster}, which Slurm's commands here do not reach (theirs is "
            f"{here}): do this on a login node of {of.cluster}"
        )
    return there


@contextlib.contextmanager
def on_its_cluster(run: Path) -> Iterator[None]:
    """Until the end of the block Slurm's commands, all of them, talk to the cluster that the run's jobs are on.

    Raises:
        BadInput: the run is a copy of another, whose jobs these are.
        NotFit: the cluster cannot be asked from here.
    """
    mine = of_run(run)
    not_a_copy(run, mine)
    known = [item for item in mine.values() if item.cluster]
    newest = max(known, key=lambda item: item.recorded.timestamp() if item.recorded else 0.0, default=None)
    env = reach(newest) if newest is not None else None
    before = os.environ.get("SLURM_CLUSTERS")
    try:
        if env is not None:
            _set_clusters(env.get("SLURM_CLUSTERS"))
        yield
    finally:
        _set_clusters(before)


def on_one_cluster(run: Path) -> None:
    """Refuse to repair a chain that is on two clusters: no job can wait for one of another.

    Raises:
        NotFit: jobs that are not done are on two.
    """
    found = {c.cluster for stage, c in of_run(run).items() if c.cluster and not ledger.is_done(run, stage)}
    if len(found) > 1:
        raise NotFit(
            f"{run}: its jobs are on the clusters {' and '.join(sorted(found))}: cancel it, and submit anew"
        )


def not_a_copy(run: Path, mine: Mapping[str, Claim]) -> None:
    """Refuse to act on another run's jobs: a copy of a run directory has its ledger, and its key."""
    for item in mine.values():
        first = Path(item.output).parent.parent.parent
        if (
            not item.output
            or not (first / ledger.LEDGER).is_file()
            or not run.is_dir()
            or first.samefile(run)
        ):
            continue
        raise BadInput(
            f"{run} is a copy of {first}, and the jobs on record are that run's: submit a run of its own"
        )


def _set_clusters(value: str | None) -> None:
    if value is None:
        os.environ.pop("SLURM_CLUSTERS", None)
    else:
        os.environ["SLURM_CLUSTERS"] = value


def overview(
    wanted: Iterable[Claim], doubtful: Callable[[Claim, Found], bool], *, timeout: float = TIMEOUT
) -> dict[Claim, Found]:
    """What Slurm knows of many jobs: one squeue call for each cluster, one of scontrol for each job that is doubtful,
    one of sacct for what both have forgotten.

    Raises:
        SlurmUnreachable: the controller does not answer.
    """
    return _ask(wanted, doubtful, timeout, ())


def certain(wanted: Iterable[Claim]) -> dict[Claim, Found]:
    """What Slurm knows of a few jobs now: scontrol is asked for each, and sacct for what it has forgotten.

    Raises:
        SlurmUnreachable: the controller does not answer.
        NotFit: they are on a cluster that cannot be asked from here.
    """
    found = _ask(wanted, None, TIMEOUT, PAUSES)
    for far in (f for f in found.values() if f.elsewhere):
        reach(far.claim)
        raise NotFit(f"job {far.claim.job} is on the cluster {far.elsewhere}, which does not answer here")
    return found


def _ask(
    wanted: Iterable[Claim],
    doubtful: Callable[[Claim, Found], bool] | None,
    timeout: float,
    pauses: Sequence[float],
) -> dict[Claim, Found]:
    ask = partial(_proven, doubtful=doubtful, timeout=timeout, pauses=pauses)
    found: dict[Claim, Found] = {}
    for group in _by_cluster(dict.fromkeys(wanted)):
        found |= _ask_cluster(group, environment(group[0]), ask)
    return found


def _by_cluster(wanted: Iterable[Claim]) -> list[list[Claim]]:
    groups: dict[tuple[str, bool], list[Claim]] = {}
    for item in wanted:
        groups.setdefault((item.cluster, item.named), []).append(item)
    return list(groups.values())


def _ask_cluster(
    group: Sequence[Claim],
    env: Mapping[str, str] | None,
    ask: Callable[[Sequence[Claim], Mapping[str, str] | None], dict[Claim, Found]],
) -> dict[Claim, Found]:
    """The jobs of one cluster. One that was the default cluster, but is not here, is asked by its name."""
    try:
        found = ask(group, env)
    except (SlurmRefused, SlurmUnreachable):
        if not group[0].named or slurm.cluster_name(env):
            raise
        return {item: Found(claim=item, elsewhere=item.cluster) for item in group}
    missing = [item for item, f in found.items() if not f.parts]
    if not missing or not group[0].cluster:
        return found
    try:
        there = reach(group[0])
        return found if there == env else found | ask(missing, there)
    except NotFit:
        return found | {item: Found(claim=item, elsewhere=item.cluster) for item in missing}


def _proven(
    group: Sequence[Claim],
    env: Mapping[str, str] | None,
    doubtful: Callable[[Claim, Found], bool] | None,
    timeout: float,
    pauses: Sequence[float],
) -> dict[Claim, Found]:
    found = {item: Found(claim=item) for item in group}
    if doubtful is not None:
        ids = list(dict.fromkeys(item.job for item in group))
        rows = slurm.listed(ids, env=env, timeout=timeout, pauses=pauses)
        found = {item: _judge(item, rows) for item in group}
    for item in group:
        if doubtful is None or doubtful(item, found[item]):
            found[item] = _judge(item, slurm.shown(item.job, env=env, timeout=timeout, pauses=pauses))
    forgotten = [item for item, f in found.items() if not f.parts]
    records = slurm.accounted(list(dict.fromkeys(item.job for item in forgotten)), env=env)
    for item in forgotten:
        # sacct goes on showing a job as waiting or running that the controller has lost.
        last = {r.id: r for r in _own(item, records)}.values()
        over = tuple(r for r in last if r.state.is_final)
        if over:
            found[item] = replace(found[item], over=over)
    return found


def _own(item: Claim, rows: Iterable[JobInfo]) -> list[JobInfo]:
    return [r for r in rows if r.id.partition("_")[0] == item.job and is_ours(r, item)]


def _judge(item: Claim, rows: Sequence[JobInfo]) -> Found:
    """Which of Slurm's records are the job's own, and whose the number is if none is."""
    under = [r for r in rows if r.id.partition("_")[0] == item.job]
    own = _own(item, under)
    taken = under[0].name or "without a name" if under and not own else ""
    return Found(claim=item, parts=tuple(own), taken=taken)


def cancel(found: Iterable[Found]) -> None:
    """Cancel jobs that have proved to be ours, each on its cluster."""
    for group in _by_cluster(item.claim for item in found):
        slurm.cancel([item.job for item in group], env=reach(group[0]))


def of_run(run: Path) -> dict[str, Claim]:
    """Stage → its job on record, of a run directory."""
    return claims(ledger.read(run))
