"""One rank dies while the others load, start or train: a failed attempt that counts, with its reason in status.

srun ends the others with SIGTERM; they answer with 85, "stopped, with everything saved", which hides the failure.
All cases of a test run at once.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.chain import ledger, submission
from hpc.chain import status as chain_status
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support.paths import REPO, SUPPORT

pytestmark = pytest.mark.slurm

SAID = {
    "import": "has no Python package no_such_module_of_ours", "cuda": "RuntimeError: CUDA error: device-side assert",
    "killed": "killed", "node": "GPU 3 is missing here", "term": "SIGTERM",
}  # fmt: skip
Case = tuple[str, int, str]
CASES = list(itertools.product(SAID, (0, 1), ("first", "loading", "training")))
EVERYDAY = [("import", 1, "first"), ("cuda", 1, "loading"), ("killed", 0, "loading"), ("term", 1, "training")]
LIMIT = 2
PATIENCE = 240.0


def chain_of(run: Path, kind: str, rank: int, moment: str) -> Chain:
    """Two ranks on two nodes."""
    command = (sys.executable, "-S", str(SUPPORT / "early_death.py"), "$RUN", kind, str(rank), moment)
    job = Job(
        stage="work", nodes=2, tasks_per_node=1, memory="1G", time="00:30:00", attempt_limit=LIMIT,
        steps=(Step(stage="work", command=command, tasks_per_node=1),),
    )  # fmt: skip
    return Chain(run=run, jobs=(job,), profile=Profile(name="test"), project=REPO)


@pytest.mark.parametrize(
    "cases",
    [EVERYDAY, pytest.param([c for c in CASES if c not in EVERYDAY], marks=pytest.mark.slow)],
    ids=len,
)
def test_a_ranks_early_death(
    cases: list[Case], cluster: DevCluster, slurm_env: dict[str, str], clean_queue: Any, tmp_path: Path, wait_for: Any
) -> None:  # fmt: skip
    clean_queue(cluster)
    runs = {case: tmp_path / "-".join(map(str, case)) for case in cases}
    jobs = []
    for case, run in runs.items():
        run.mkdir()
        jobs += submission.submit(chain_of(run, *case)).values()
    wait_for(lambda: all(info.state.is_final for info in slurm.jobs(jobs).values()), PATIENCE, "all are over")
    for case, run in runs.items():
        judge(case, run)


def judge(case: Case, run: Path) -> None:
    """What a case's ledger and status must say."""
    kind, rank, moment = case
    [*_, last] = events = ledger.events(run, event="ended")
    said = case, [(e["outcome"], e["exit_code"], e.get("failed_rank"), e.get("error")) for e in events]
    # A final code is not tried again; an attempt that was told to stop, and saved something, has not failed.
    saved = ["stopped"] if (kind, moment) == ("term", "training") else []
    wanted = ["failed"] if kind in ("node", "import") else [*saved, *["failed"] * LIMIT]
    assert [e["outcome"] for e in events] == wanted, said
    assert SAID[kind] in last["error"] and last["exit_code"] != 85, said
    assert (last["failed_rank"], last["failed_node"]) == (rank, f"node{rank + 1}"), said
    [stage] = chain_status.status(run, ask_slurm=False)
    assert stage.state == "failed" and stage.error == last["error"]
