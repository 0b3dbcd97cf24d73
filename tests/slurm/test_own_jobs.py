"""A job's number is no proof: every command against another's job under the number that is on record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel, heal, logs, report, runs, status
from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from glmjobs.run.jobs import CHAIN, chain_of
from glmjobs.run.read_state import read_state
from glmjobs.run.state import CANCELLED, LOST, RUNNING, WAITING
from glmjobs.terminal.follow import follow
from hpc.chain import ledger, own_jobs, submission
from hpc.chain.status import status as chain_status
from hpc.core.errors import WorkFailed
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support import clusters
from tests.support.small_chain import done, healed, ids, start, starts, tell, with_key

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module", params=[False, True], ids=["no slurmdbd", "slurmdbd"])
def forgetful(request: pytest.FixtureRequest, make_cluster: Callable[..., Any]) -> Iterator[DevCluster]:
    with make_cluster(nodes=1, gpus=2, accounting=request.param) as made:
        yield made


@pytest.fixture
def here(
    small: Path,
    forgetful: DevCluster,
    monkeypatch: pytest.MonkeyPatch,
    clean_queue: Callable[[DevCluster], None],
) -> Path:
    """A folder for runs; this process is on the cluster."""
    clusters.enter(forgetful, monkeypatch)
    clean_queue(forgetful)
    return small


def number(script: Path) -> int:
    """Use a number up; it."""
    job = slurm.submit(script, extra=["--hold", "--output=/dev/null"])
    slurm.cancel([job])
    return int(job)


@pytest.fixture
def both(here: Path, forgetful: DevCluster, wait_for: Any) -> tuple[Run, Run]:
    """Two runs of one recipe whose jobs have the same numbers: the controller has lost the first's, and given them to
    the second, which trains."""
    slurm.update_node("node1", "drain", reason="busy")
    script = here.parent / "number.sh"
    script.write_text("#!/bin/bash\n")
    number(script)
    lost = start(here, "lost", train="wait")
    forgetful.lose_state()
    while number(script) + 1 < int(ids(lost)["train"]):
        pass
    other = start(here, "other", train="wait")
    assert ids(lost) == ids(other)
    wait_for(lambda: starts(other, "train"), 60, "the other run to train")
    return lost, other


def untouched(other: Run) -> bool:
    """Whether a run trains, and its other jobs wait for that, as they did."""
    known = slurm.jobs(list(ids(other).values()))
    train, *rest = (known[job] for job in ids(other).values())
    waits = [info.dependency.partition("(")[0] for info in rest]
    before = [f"afterok:{job}" for job in list(ids(other).values())[:-1]]
    return (
        train.state.is_active and train.restarts == 0 and [w.rstrip("_*") for w in waits] == before
        and all(info.comment.startswith(f"glmjobs:{other.file.key}:") for info in known.values())
    )  # fmt: skip


def test_what_shows_a_run_shows_no_job_of_another(both: tuple[Run, Run], capsys: Any) -> None:
    lost, other = both
    state = read_state(lost)
    assert [s.state for s in state.submitted if s.stage != "preflight"] == [LOST] * 4 and state.ended
    for stage, name in zip(
        CHAIN, ("small-train", "small-consolidate", "small-score", "small-report"), strict=True
    ):
        shown = state.get(stage)
        assert shown.error == (
            f"Slurm has given the number of job {shown.job} to another ({name}), and it never started"
        )
        assert not shown.elements and not shown.nodes
    assert [s.state for s in chain_status(lost.path)] == [LOST] * 4
    assert read_state(other).get("train").state == RUNNING
    assert status.main([str(lost.path)]) == 0 and runs.main([]) == 0
    assert "lost" in capsys.readouterr().out
    assert logs.main([str(lost.path), "--stage", "train", "--follow"]) == 0, "it ends: nothing more will come"
    assert follow(lost) == 1
    assert f"error: train {state.get('train').state}: " in capsys.readouterr().err
    assert report.main([str(lost.path)]) == 0
    assert not read_state(lost).gpu_hours, "nobody pays for another's job"
    assert untouched(other)


def test_cancel_ends_no_job_of_another(both: tuple[Run, Run], capsys: Any) -> None:
    lost, other = both
    capsys.readouterr()
    assert cancel.main([str(lost.path)]) == 0
    said = capsys.readouterr().err
    assert said.count("which is left alone") == 4 and said.endswith("nothing to cancel\n")
    assert not ledger.events(lost.path, event="cancelled")
    assert untouched(other)


def test_heal_queues_releases_and_waits_for_no_job_of_another(
    both: tuple[Run, Run], wait_for: Any, capsys: Any
) -> None:
    lost, other = both
    with pytest.raises(WorkFailed, match=r"given the number of job .* nothing may wait for it"):
        submission.waits_for(chain_of(lost), chain_of(lost).jobs[1], ids(lost))
    what = healed(capsys, lost)
    assert {how for how, _ in what.values()} == {"submit"}
    assert not set(ids(lost).values()) & set(ids(other).values())
    assert untouched(other)
    dependency = slurm.jobs([ids(lost)["consolidate"]])[ids(lost)["consolidate"]].dependency
    assert dependency.startswith(f"afterok:{ids(lost)['train']}(")
    assert {how for how, _ in healed(capsys, lost).values()} == {"keep"}, "twice is as once"
    for run in both:
        (run.path / "go").touch()
    wait_for(lambda: done(lost) and done(other), 90)
    assert starts(lost, "train") == starts(other, "train") == ["0"]


def test_the_run_itself_can_get_the_number_of_another_of_its_stages(
    here: Path, forgetful: DevCluster, wait_for: Any, capsys: Any
) -> None:
    """A number counts for the stage it is on record for: heal submits train anew, and that gets consolidate's."""
    slurm.update_node("node1", "drain", reason="busy")
    script = here.parent / "first.sh"
    script.write_text("#!/bin/bash\nsleep 600\n")
    number(script)
    run = start(here, "shifted", train="wait")
    before = ids(run)
    forgetful.lose_state()
    while number(script) + 1 < int(before["train"]):
        pass
    assert slurm.submit(script, extra=["--output=/dev/null", "--job-name=small-train"]) == before["train"]
    healed(capsys, run)
    assert ids(run)["train"] == before["consolidate"]
    assert with_key(run) == sorted(ids(run).values(), key=int) and len(set(ids(run).values())) == 4
    (run.path / "go").touch()
    wait_for(lambda: done(run), 90)
    assert starts(run, "train") == ["0"]


def strip(run: Run) -> None:
    """Take the comments off, as a site's job_submit plugin does."""
    for job in ids(run).values():
        slurm.run(["scontrol", "update", f"JobId={job}", "Comment=PROJECT-7"])


def test_where_the_site_replaces_comments(here: Path, wait_for: Any, capsys: Any) -> None:
    run = start(here, "stripped", train="wait")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60)
    strip(run)
    assert read_state(run).get("train").state == RUNNING
    assert read_state(run).get("report").state == WAITING
    assert {how for how, _ in healed(capsys, run).values()} == {"keep"}
    slurm.requeue(before["train"])
    wait_for(
        lambda: read_state(run).get("train").reason.startswith("requeued"), 30, "its new submit time is taken"
    )
    assert {how for how, _ in healed(capsys, run).values()} == {"keep"}
    assert cancel.main([str(run.path)]) == 0
    known = own_jobs.certain(own_jobs.of_run(run.path).values())
    assert all(not i.state.is_pending for found in known.values() for i in found.parts)
    assert ids(run) == before


def test_a_namesake_without_a_comment_is_another(both: tuple[Run, Run], capsys: Any) -> None:
    """Same number, same name, no comment: output and time of submission tell them apart."""
    lost, other = both
    strip(other)
    assert {s.state for s in chain_status(lost.path)} <= {LOST, CANCELLED}
    assert cancel.main([str(lost.path)]) == 0
    assert "nothing to cancel" in capsys.readouterr().err
    assert {s.state for s in chain_status(other.path)} == {RUNNING, WAITING}


def test_cancel_ends_every_submission_of_a_run(here: Path, wait_for: Any, capsys: Any) -> None:
    run = start(here, "twice", train="wait")
    first = ids(run)
    tell(run.path, train="wait")
    for job in chain_of(run).jobs:  # as if somebody had submitted a second chain
        submission.send(chain_of(run), job, {**first, **ids(run)}, fresh=list(ids(run).values()))
    assert len(with_key(run)) == 8
    assert cancel.main([str(run.path)]) == 0
    assert capsys.readouterr().err.endswith(
        f"cancelled: {', '.join(f'job {job}' for job in with_key(run))}\n"
    )
    assert not any(info.state.is_pending for info in slurm.jobs(with_key(run)).values())


def test_a_copy_of_a_run_has_no_jobs(here: Path, wait_for: Any, capsys: Any) -> None:
    run = start(here, "original", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    copy = here / "copy"
    shutil.copytree(run.path, copy)
    for command in (cancel.main, heal.main):
        capsys.readouterr()
        assert run_command(command, [str(copy)]) == 2
        assert f"{copy} is a copy of {run.path}" in capsys.readouterr().err
    assert untouched(run)
