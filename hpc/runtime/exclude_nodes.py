"""A job whose node check found a bad node starts again without it: requeued under its id, the node excluded.

Not for ever (``preflight.requeues`` of the profile), not where the nodes left would be too few, and not where the
configuration is to blame: then one table says what is wrong, and the job ends.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from hpc.chain import ledger
from hpc.core.errors import HpcError
from hpc.core.files import Json, read_json
from hpc.health.exchange import VERDICT
from hpc.runtime.this_job import ThisJob
from hpc.slurm import client as slurm

EXCLUDE_SECONDS = 20.0
"""For a requeued job to count as pending; it starts no earlier, since its end is cleaned up first."""


def start_again(run: Path, stage: str, this: ThisJob) -> bool:
    """After a failed stage: whether its verdict on the nodes had the job requeued without some. Says what it did."""
    told = read_json(run / "jobs" / stage / VERDICT)
    start = f"{this.number}-{os.environ.get('SLURM_RESTART_COUNT', '0')}-"
    if told is None or not str(told.get("tag", "")).startswith(start):
        return False
    print(told["table"], file=sys.stderr)
    bad = sorted(told["bad"])
    if not bad or told["configuration"]:
        return False
    try:
        return _requeue(run, stage, this, bad, limit=int(told["requeues"]), wanted=len(told["nodes"]))
    except HpcError as error:
        print(f"error: cannot start again without {', '.join(bad)}: {error}", file=sys.stderr)
        return False


def _requeue(run: Path, stage: str, this: ThisJob, bad: list[str], *, limit: int, wanted: int) -> bool:
    before = earlier(run, this.name)
    if len(before) >= limit:
        print(
            f"error: started again {len(before)} times without bad nodes already (preflight.requeues)",
            file=sys.stderr,
        )
        return False
    if this.queued and not this.later:
        return False
    shown = slurm.show(this.slurm_id) or {}
    excluded = [n for n in slurm.expand_hosts(_value(shown.get("ExcNodeList"))) if n not in bad] + bad
    left = slurm.usable_nodes(shown.get("Partition") or None) - set(excluded)
    if len(left) < wanted:
        without = ", ".join(excluded)
        print(
            f"error: the job needs {wanted} nodes; without {without} there are {len(left)}", file=sys.stderr
        )
        return False
    print(f"starting again without {', '.join(bad)} ({len(before) + 1} of {limit})", file=sys.stderr)
    if this.queued:
        slurm.update_excluded(this.later, excluded)
        ledger.append(run, "requeued", stage=stage, job=this.name, excluded=bad)
        return True
    ledger.append(run, "requeued", stage=stage, job=this.name, excluded=bad)
    # On the record first, and the exclusion before anything else: Slurm ends this very process after KillWait.
    if why := this.again():
        ledger.append(run, "not_requeued", stage=stage, job=this.name, outcome="failed", error=why)
        print(f"error: cannot start again without {', '.join(bad)}: {why}", file=sys.stderr)
        return False
    end = time.monotonic() + EXCLUDE_SECONDS
    while True:
        try:
            slurm.update_excluded(this.slurm_id, excluded)
            return True
        except HpcError as error:
            if time.monotonic() > end:
                print(
                    f"error: requeued, but {', '.join(bad)} could not be excluded: {error}", file=sys.stderr
                )
                return True
            time.sleep(0.1)


def earlier(run: Path, job: str) -> list[Json]:
    """The times this job started again without bad nodes, since it was last healed."""
    events = ledger.read(run)
    healed = max((i for i, e in enumerate(events) if e["event"] == "healed"), default=-1)
    return [
        e
        for e in events[healed + 1 :]
        if e["event"] == "requeued" and e.get("excluded") and e.get("job") == job
    ]


def _value(text: str | None) -> str:
    return "" if text in (None, "(null)") else str(text)
