"""Clusters where a chain may not do all that it would: nothing is lost, what is missing is said, and heal goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import submit
from glmjobs.run.read_state import read_state
from glmjobs.run.state import RunState
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core.errors import WorkFailed
from hpc.devcluster import DevCluster
from hpc.doctor import scheduler
from hpc.slurm import client as slurm
from tests.support import clusters
from tests.support.by_hand import on_nodes
from tests.support.small_chain import done, healed, ids, start, starts, tell, words
from tests.support.strict_sites import ALLOWED_BY_STRICT, NO_REQUEUE, STRICT

pytestmark = pytest.mark.slurm

REST = ("consolidate", "score", "report")
REFUSED = 'echo "scontrol: error: Access/permission denied" >&2; exit 1'
ABSENT = 'echo "scontrol: command not found" >&2; exit 127'


def warn(run: Any) -> None:
    """As Slurm does before the time limit."""
    at_work = next(i.id for i in slurm.shown(ids(run)["train"]) if i.state.is_active)
    # (Of an array's element, scancel says nothing and ends with 229 on 22.05, though it was heard.)
    subprocess.run(["scancel", "-b", "-s", "USR1", at_work], check="_" not in at_work)


def over(run: Any) -> RunState | None:
    """Its state once nothing more will happen by itself, and Slurm has let go of train."""
    state = read_state(run)
    known = slurm.jobs([ids(run)["train"]])
    return state if state.ended and all(i.state.is_final for i in known.values()) else None


def goes_on(run: Any, before: dict[str, str], capsys: Any, wait_for: Any) -> None:
    """Healed, it trains on from where it stopped, and the jobs that waited are the same ones."""
    what = healed(capsys, run)
    assert {what[stage][1] for stage in REST} == {before[stage] for stage in REST}
    assert what["train"][0] in ("replace", "requeue")
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60, "the chain to be done")
    assert [len(starts(run, stage)) for stage in REST] == [1, 2, 1]
    attempts = ledger.events(run.path, event="attempt", stage="train")
    assert [a.get("checkpoint") for a in attempts] == [None, 1]


def test_a_job_that_may_not_be_queued_again(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "norequeue", NO_REQUEUE, train="save")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60)
    warn(run)
    state = wait_for(lambda: over(run), 60, "the end")
    train = state.get("train")
    assert train.state == "stopped" and state.trouble is train
    assert "checkpoint 1 is kept; it could not be queued again from node" in train.error
    assert "`heal` goes on from there" in train.error and "\n" not in train.error
    [out] = run.jobs("train").glob("*.out")
    assert out.read_text().count("checkpoint 1 is kept") == 1
    assert all(s.state != "failed" for s in state.stages)
    goes_on(run, before, capsys, wait_for)


@pytest.mark.slow
@pytest.mark.parametrize("what", [REFUSED, ABSENT], ids=["refused", "absent"])
def test_nodes_that_may_not_call_scontrol(
    what: str, place: Path, tmp_path: Path, wait_for: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_nodes(tmp_path, "scontrol", what, monkeypatch)
    run = start(place, "noscontrol", train="save")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60)
    warn(run)
    train = wait_for(lambda: over(run), 60, "the end").get("train")
    assert train.state == "stopped" and "checkpoint 1 is kept" in train.error
    goes_on(run, before, capsys, wait_for)


def test_attempts_that_are_queued_from_the_start(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "queued", NO_REQUEUE, "jobs.train.attempts=3", train="save")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60)
    warn(run)
    wait_for(lambda: len(starts(run, "train")) == 2, 60, "the second attempt")
    lines = (run.path / "ledger.jsonl").read_text()
    assert {what for what, _ in healed(capsys, run).values()} == {"keep"}
    assert (run.path / "ledger.jsonl").read_text() == lines
    state = read_state(run)
    assert state.get("train").state == "running" and not state.get("train").elements
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60, "the chain to be done")
    assert ids(run) == before and len(starts(run, "train")) == 2
    assert [len(starts(run, stage)) for stage in REST] == [1, 2, 1]
    attempts = ledger.events(run.path, event="attempt", stage="train")
    assert [(a["job"], a.get("checkpoint")) for a in attempts] == [(before["train"], n) for n in (None, 1)]
    wait_for(lambda: not in_queue(before["train"]), 30, "the third to be cancelled")


def in_queue(job: str) -> list[str]:
    return [i.id for i in slurm.shown(job) if not i.state.is_final]


@pytest.mark.slow
def test_all_of_them_used_up(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "used", NO_REQUEUE, "jobs.train.attempts=2", train="save")
    before = ids(run)
    for number in (1, 2):
        wait_for(lambda n=number: len(starts(run, "train")) == n, 60)
        warn(run)
    train = wait_for(lambda: over(run), 60, "the end").get("train")
    assert train.state == "stopped" and "no queued attempt is left" in train.error
    what = healed(capsys, run)
    assert what["train"][0] == "replace" and {what[s][1] for s in REST} == {before[s] for s in REST}
    wait_for(lambda: len(starts(run, "train")) == 3, 60)
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60, "the chain to be done")
    assert [len(starts(run, stage)) for stage in REST] == [1, 2, 1]


@pytest.mark.slow
def test_no_further_one_where_none_can_help(
    place: Path, tmp_path: Path, wait_for: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where a node may not cancel them: each ends as it starts."""
    on_nodes(tmp_path, "scancel", REFUSED, monkeypatch)
    run = start(place, "useless", NO_REQUEUE, "jobs.train.attempts=3", train="fail 2")
    state = wait_for(lambda: over(run), 60, "the end")
    assert state.get("train").state == "failed" and "was told to fail" in state.get("train").error
    assert starts(run, "train") == ["0"]
    tell(run.path, train="ok")
    assert healed(capsys, run)["train"][0] == "replace"
    wait_for(lambda: done(run), 60, "the chain to be done")
    assert len(starts(run, "train")) == 2
    wait_for(lambda: not in_queue(ids(run)["train"]), 60, "the last ones to have ended as they started")
    assert len(starts(run, "train")) == 2


@pytest.mark.slow
def test_an_attempt_that_slurm_takes_away(place: Path, wait_for: Any, capsys: Any) -> None:
    """Queued again by Slurm, its place is taken by the next, and then it is that one's next."""
    run = start(place, "taken", "jobs.train.attempts=2", train="save")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.requeue(f"{ids(run)['train']}_0")
    wait_for(lambda: len(starts(run, "train")) == 2, 60, "the second attempt")
    assert {what for what, _ in healed(capsys, run).values()} == {"keep"}
    warn(run)
    wait_for(lambda: len(starts(run, "train")) == 3, 150, "the first once more")
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60, "the chain to be done")
    assert [len(starts(run, stage)) for stage in REST] == [1, 2, 1]


@pytest.mark.slow
def test_the_attempts_before_are_forgotten(
    small: Path, accounting_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch, wait_for: Any, capsys: Any,
    clean_queue: Any,
) -> None:  # fmt: skip
    """Slurm starts at once what waits for a job that it has forgotten: such an attempt is never waited for."""
    clean_queue(accounting_cluster)
    clusters.enter(accounting_cluster, monkeypatch)
    run = start(small, "forgotten", NO_REQUEUE, "jobs.train.attempts=3", train="save")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60)
    warn(run)
    wait_for(lambda: len(starts(run, "train")) == 2, 60, "the second attempt")
    first = f"{before['train']}_0"
    wait_for(lambda: first not in [i.id for i in slurm.shown(before["train"])], 60, "it is forgotten")
    slurm.cancel([before["consolidate"]])
    wait_for(lambda: slurm.jobs([before["consolidate"]])[before["consolidate"]].state.is_final, 30)
    assert healed(capsys, run)["consolidate"][0] in ("replace", "submit")
    shown = slurm.show(ids(run)["consolidate"])
    assert shown is not None and first not in shown["Dependency"] and "unfulfilled" in shown["Dependency"]
    assert not starts(run, "consolidate")
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60, "the chain to be done")
    assert [len(starts(run, stage)) for stage in REST] == [1, 2, 1]


@pytest.fixture(scope="module")
def strict(
    make_cluster: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevCluster]:
    """A site whose job_submit.lua refuses and replaces what it likes; what it mails is in the file ``mails``."""
    folder = tmp_path_factory.mktemp("mail")
    program = folder / "mail"
    program.write_text(f'#!/bin/bash\necho "$@" >>{folder}/mails\n')
    program.chmod(0o755)
    with make_cluster(
        nodes=1, gpus=4, job_submit=STRICT, extra=(f"MailProg={program}", "JobRequeue=0")
    ) as made:
        made.mails = folder / "mails"
        yield made


@pytest.fixture
def there(
    small: Path,
    strict: DevCluster,
    monkeypatch: pytest.MonkeyPatch,
    clean_queue: Callable[[DevCluster], None],
) -> Path:
    clean_queue(strict)
    clusters.enter(strict, monkeypatch)
    return small


@pytest.mark.slow
def test_what_it_refuses_and_which_field_mends_it(there: Path) -> None:
    found = {"score.shards=2": "requeue: false", NO_REQUEUE: "cpu_job_gpus: 1"}
    settings: list[str] = []
    for number, (setting, mend) in enumerate(found.items()):
        settings.append(setting)
        with pytest.raises(WorkFailed, match=f"in the cluster profile, .*{mend}") as refused:
            submit.main(words(f"refused{number}", *settings))
        assert "\n" not in str(refused.value)
        assert not slurm.run(["squeue", "-h", "-o", "%i"]).strip(), "no half chain is left"
    rows = {row.what: row for row in scheduler.check(Profile())}
    assert (
        rows["a job of this profile"].state == "bad"
        and "requeue: false" in rows["a job of this profile"].mend
    )
    fit = scheduler.check(Profile(requeue=False, cpu_job_gpus=1, memory_request="none"))
    assert [row.state for row in fit if row.what.startswith("a job")] == ["ok", "ok"]
    assert "JobRequeue" in rows


@pytest.mark.slow
def test_a_whole_chain_there(there: Path, strict: Any, wait_for: Any, capsys: Any) -> None:
    run = start(
        there, "strict", *ALLOWED_BY_STRICT, "jobs.train.attempts=3", "cluster.mail=me@site", train="save"
    )
    before = ids(run)
    assert all("billing=physics" in str(slurm.show(job)) for job in before.values())
    for number in (1, 2):
        wait_for(lambda n=number: len(starts(run, "train")) == n, 60)
        assert {what for what, _ in healed(capsys, run).values()} == {"keep"}
        if number == 1:
            warn(run)
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60, "the chain to be done")
    assert ids(run) == before and [len(starts(run, stage)) for stage in REST] == [1, 2, 1]
    wait_for(lambda: strict.mails.exists() and "small-report" in strict.mails.read_text(), 30, "a mail")
    assert "me@site" in strict.mails.read_text()
