"""The example of hpc/README.md on the rehearsal Slurm: submitted, preempted, resumed, failed, repaired, done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc import BadInput, Chain, DevCluster, Job, ledger, status, submit
from hpc.slurm import client as slurm
from tests.support import clusters
from tests.support.paths import REPO

pytestmark = pytest.mark.slurm

PATIENCE = 180.0
STEPS = 1000


@pytest.fixture(scope="module")
def lent(make_cluster: Callable[..., Any]) -> Iterator[DevCluster]:
    """One node, a partition ``high`` that preempts, with half a minute's grace."""
    with make_cluster(nodes=1, gpus=2, preemption=True, grace_time=30) as made:
        yield made


@pytest.fixture
def project(lent: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_queue: Any) -> Path:
    """The README's three files in a directory of their own; this process is on the cluster."""
    clean_queue(lent)
    clusters.enter(lent, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    text = (REPO / "hpc" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    folder = tmp_path / "project"
    folder.mkdir()
    for name, block in zip(("chain.py", "fit.py", "check.py"), blocks, strict=True):
        (folder / name).write_text(block, encoding="utf-8")
    return folder


def chain(project: Path, verb: str, run: Path) -> str:
    """`python chain.py VERB RUN`: what it printed."""
    words = [sys.executable, "chain.py", verb, str(run)]
    return subprocess.run(words, cwd=project, check=True, capture_output=True, text=True).stdout


def slope(rank: int) -> float:
    """The example's arithmetic without an interruption."""
    value = 0.0
    for step in range(STEPS):
        x = 1 + (step + rank) % 7
        value -= 0.01 * (value * x - 3 * x) * x
    return value


def test_the_readmes_chain(project: Path, tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    said = chain(project, "submit", run)
    ids = {str(e["stage"]): str(e["job"]) for e in ledger.events(run, event="submitted")}
    assert list(ids) == ["fit", "check"] and str(ids) in said
    with pytest.raises(BadInput, match=r"fit was submitted before .* hpc\.repair\(chain\) goes on with it"):
        submit(Chain(run=run, jobs=(Job(stage="fit", steps=()),)))
    assert slurm.jobs([ids["check"]])[ids["check"]].dependency.startswith(f"afterok:{ids['fit']}")

    # Preempted while it works: it saves, and goes back into the queue under its id.
    wait_for(lambda: ledger.progress(run, "fit").get("checkpoint"), PATIENCE, "a first checkpoint")
    assert "fit running" in chain(project, "status", run)
    high = project / "high.sh"
    high.write_text("#!/bin/bash\ntrue\n")
    slurm.submit(high, extra=["--partition=high", "--exclusive", f"--output={project}/high.out"])
    wait_for(lambda: ledger.is_done(run, "fit"), PATIENCE, "fit's marker")
    first, last = ledger.events(run, event="ended", stage="fit")
    assert (first["outcome"], first["exit_code"], last["outcome"]) == ("stopped", 85, "done")
    assert 0 < first["last_checkpoint"] < STEPS == last["last_checkpoint"]
    attempts = ledger.events(run, event="attempt", stage="fit")
    assert [(e["job"], e.get("restart", 0)) for e in attempts] == [(ids["fit"], 0), (ids["fit"], 1)]
    log = (run / "jobs" / "fit" / "rank-0.log").read_text()
    begun = [int(step) for step in re.findall(r"rank 0 of 2 goes on from step (\d+)", log)]
    assert begun == [0, first["last_checkpoint"]], "resumed where it saved"

    # The second job fails: slope.txt is not there. Once it is, the job runs again under its id.
    wait_for(lambda: [s.state for s in status(run)] == ["done", "failed"], PATIENCE, "check's failure")
    assert "No such file or directory" in chain(project, "status", run)
    (run / "slope.txt").write_text("3.0\n")
    before = slurm.jobs([ids["check"]])[ids["check"]].restarts
    assert f"stage='check', what='requeue', job='{ids['check']}'" in chain(project, "repair", run)
    wait_for(lambda: [s.state for s in status(run)] == ["done", "done"], PATIENCE, "the end")
    assert slurm.jobs([ids["check"]])[ids["check"]].restarts == before + 1
    assert json.loads((run / "result.json").read_text()) == [slope(0), slope(1)]
    assert {str(e["stage"]): str(e["job"]) for e in ledger.events(run, event="submitted")} == ids

    # Repairing what is in order changes nothing, and both jobs carry the run's key.
    events = ledger.read(run)
    assert chain(project, "repair", run).count("what='done'") == 2 and ledger.read(run) == events
    [key] = [e["key"] for e in ledger.events(run, event="planned")]
    comments = {j.comment for j in slurm.jobs(list(ids.values())).values()}
    assert comments == {f"line:{key}:fit", f"line:{key}:check"}


def test_the_readmes_chain_is_short() -> None:
    text = (REPO / "hpc" / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)[0]
    chain_only = block[: block.index("if sys.argv")]
    assert len([line for line in chain_only.splitlines() if line.strip()]) <= 20
    assert not re.search(r"glm|recipe", text, re.I)
