"""Answers of base models kept for other runs: the same model, settings and question give the same answer again.

A prediction's key (:mod:`glmjobs.scoring.predictions`) is a digest of all of that, so an answer is taken where its key
is known, and never another. Kept are answers; verdicts are given anew. The cache helps where it can: where it cannot be
read or written, nothing is lost but time.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from glmjobs.scoring import predictions as store
from glmjobs.scoring.evaluate import Work
from hpc.core.errors import WorkFailed

TAKEN = "predictions.shard-0-of-0.jsonl"
"""Rows that were taken from the cache, among the files of a folder of predictions."""


def take(work: Work, cache: Path) -> int:
    """Put answers that are known into the work's folder; the number of rows that have one from the cache.

    Several processes may call it at once: all write the same.
    """
    found = store.collect(cache / work.fingerprint, work.keys) if work.missing() else {}
    if not found:
        return 0
    kept = [{**found[key], "seconds": 0.0, "taken": True} for key in work.keys if key in found]
    with suppress(WorkFailed, OSError):
        work.folder.mkdir(parents=True, exist_ok=True)
        store.write_text(work.folder / TAKEN, _lines(kept))
        return len(kept)
    return 0


def keep(work: Work, cache: Path) -> None:
    """Keep the answers of a work that has all of them; those that the cache had, too, are not kept twice."""
    known = store.collect(cache / work.fingerprint, work.keys)
    found = store.collect(work.folder, work.keys)
    new = [found[key] for key in work.keys if key in found and key not in known]
    if not new:
        return
    name = hashlib.sha256("".join(row["key"] for row in new).encode()).hexdigest()[:16]
    with suppress(WorkFailed, OSError):
        there = cache / work.fingerprint
        for folder in (cache, there):  # answers to a run's own rows: as private as the run
            folder.mkdir(mode=0o700, exist_ok=True)
        store.write_text(there / f"predictions.shard-{name}-of-base.jsonl", _lines(new))


def _lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
