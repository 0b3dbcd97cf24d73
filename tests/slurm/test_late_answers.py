"""Slurm's answers are late, old, partial or lost: nothing is called lost or submitted again before the controller
itself has been asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel
from glmjobs.run.directory import Run
from glmjobs.run.jobs import CHAIN
from glmjobs.run.read_state import read_state
from glmjobs.run.state import CANCELLED, FAILED, RUNNING, WAITING
from hpc.chain import own_jobs, submission
from hpc.chain.status import status as chain_status
from hpc.slurm import client as slurm
from tests.support.small_chain import ended, healed, ids, start, starts, with_key

pytestmark = pytest.mark.slurm

SQUEUE = """#!/bin/bash
# a site's squeue that answers from a list; $LATE says which: old (the file "list", whatever is asked), fails
case $LATE in
  old) cat "$LATE_DIR/list"; exit 0 ;;
  fails) echo "slurm_load_jobs error: Socket timed out on send/recv operation" >&2; exit 1 ;;
esac
exec "$REAL_SQUEUE" "$@"
"""

SCONTROL = """#!/bin/bash
# a controller that does not know of a job yet
[ "$LATE_SHOW$1$2" = yesshowjob ] && { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
exec "$REAL_SCONTROL" "$@"
"""

SBATCH = """#!/bin/bash
# as sites wrap it; $SBATCH_SAYS: banner, lost (accepted, but the answer is), wrong (another job's number)
case $SBATCH_SAYS in
  lost) "$REAL_SBATCH" "$@" >/dev/null
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1 ;;
  wrong) "$REAL_SBATCH" "$@" >/dev/null; echo "$WRONG" ;;
  banner) echo "Reminder: your job 4 used 12% of its GPUs"; "$REAL_SBATCH" "$@"; echo "See job 5 too." ;;
  words) out=$("$REAL_SBATCH" "$@") || exit; echo "Submitted batch job $out" ;;
  *) exec "$REAL_SBATCH" "$@" ;;
esac
"""


@pytest.fixture
def late(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``late("old")``: from now on squeue answers so (real: ""); ``show=True``: scontrol does not know jobs yet;
    ``sbatch=``: how sbatch answers."""
    folder = tmp_path / "late"
    folder.mkdir()
    (folder / "list").touch()
    monkeypatch.setenv("LATE_DIR", str(folder))
    for name, text in (("squeue", SQUEUE), ("scontrol", SCONTROL), ("sbatch", SBATCH)):
        monkeypatch.setenv(f"REAL_{name.upper()}", str(shutil.which(name)))
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(submission, "LOOK_UP_PAUSES", (0.0, 0.1))

    def install(squeue: str = "", *, show: bool = False, sbatch: str = "") -> None:
        monkeypatch.setenv("LATE", squeue)
        monkeypatch.setenv("LATE_SHOW", "yes" if show else "")
        monkeypatch.setenv("SBATCH_SAYS", sbatch)

    install()
    yield install
    install()


def keep_list(text: str) -> None:
    """What squeue answers from now on where it is old."""
    Path(os.environ["LATE_DIR"], "list").write_text(text)


def full_list() -> str:
    return slurm.run(["squeue", "-h", "-r", "-t", "all", "-O", slurm.SQUEUE_FORMAT])


def states(run: Run) -> dict[str, str]:
    return {s.stage: s.state for s in read_state(run).stages if s.stage in CHAIN}


def test_a_list_that_does_not_hold_the_jobs_yet(place: Path, late: Any, capsys: Any, wait_for: Any) -> None:
    late("old")
    run = start(place, "young", train="wait")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60)
    assert states(run) == {"train": RUNNING, "consolidate": WAITING, "score": WAITING, "report": WAITING}
    assert [s.state for s in chain_status(run.path)] == [RUNNING, WAITING, WAITING, WAITING]
    assert read_state(run).get("report").reason == "waits for the job before it"
    assert {how for how, _ in healed(capsys, run).values()} == {"keep"}
    assert cancel.main([str(run.path)]) == 0
    assert "cancelled: " + ", ".join(f"job {job}" for job in before.values()) in capsys.readouterr().err
    late()
    assert with_key(run) == sorted(before.values(), key=int), "no second chain"
    assert not any(i.state.is_pending for i in slurm.jobs(list(before.values())).values())


def test_half_a_list(place: Path, late: Any, capsys: Any) -> None:
    run = start(place, "half", train="wait")
    first = slurm.listed([ids(run)["train"]])[0].id
    keep_list("".join(line for line in full_list().splitlines(True) if line.split()[0] == first))
    late("old")
    assert set(states(run).values()) <= {RUNNING, WAITING}
    assert {how for how, _ in healed(capsys, run).values()} == {"keep"}


def test_neither_squeue_nor_the_controller_knows_the_jobs_yet(
    place: Path, late: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(place, "unheard", train="wait")
    (run.path / "ledger.jsonl").write_text(
        "".join(s for s in (run.path / "ledger.jsonl").read_text().splitlines(True) if '"attempt"' not in s)
    )
    late("old", show=True)
    for stage in read_state(run).stages:
        if stage.stage in CHAIN and not stage.attempts:
            assert stage.state == WAITING and stage.reason.endswith("s ago, not listed yet"), stage
    what = healed(capsys, run)
    assert {how for how, _ in what.values()} == {"keep"}
    late()
    assert with_key(run) == sorted(ids(run).values(), key=int)
    late("old", show=True)
    monkeypatch.setattr(own_jobs, "LATE_SECONDS", 0.0)
    assert {s.state for s in chain_status(run.path) if s.stage != "train"} == {"lost"}, (
        "a minute later it is gone"
    )


def test_squeue_that_fails_is_not_an_empty_queue(place: Path, late: Any, capsys: Any) -> None:
    run = start(place, "fails", train="wait")
    late("fails")
    state = read_state(run)
    assert "Socket timed out" in state.slurm
    assert {s.reason for s in state.stages if s.stage in CHAIN and s.state == WAITING} == {
        "Slurm does not answer"
    }
    assert {how for how, _ in healed(capsys, run).values()} == {"keep"}
    late()
    assert with_key(run) == sorted(ids(run).values(), key=int)


def test_an_old_list_still_holds_a_job_that_has_ended(
    place: Path, late: Any, capsys: Any, wait_for: Any
) -> None:
    run = start(place, "ended", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    keep_list(full_list())
    (run.path / "behaviour" / "train").write_text("fail 7")
    slurm.requeue(ids(run)["train"])
    wait_for(lambda: ended(run, "train", "failed"), 60)
    late("old")
    assert read_state(run).get("train").state == FAILED
    (run.path / "behaviour" / "train").write_text("wait")
    assert healed(capsys, run)["train"] == ("requeue", ids(run)["train"])
    assert cancel.main([str(run.path)]) == 0
    assert read_state(run).get("report").state == CANCELLED


def test_an_answer_of_sbatch_that_is_lost_while_the_list_is_old(place: Path, late: Any) -> None:
    late("old", sbatch="lost")
    run = start(place, "unanswered", train="wait")
    late()
    assert with_key(run) == sorted(ids(run).values(), key=int) and len(ids(run)) == 4


@pytest.mark.parametrize("says", ["banner", "words", "wrong"])
def test_what_a_site_makes_of_sbatchs_answer(
    place: Path, late: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = place.parent / "other.sh"
    script.write_text("#!/bin/bash\nsleep 600\n")
    monkeypatch.setenv("WRONG", slurm.submit(script, extra=["--output=/dev/null"]))
    late(sbatch=says)
    run = start(place, says, train="wait")
    late()
    assert with_key(run) == sorted(ids(run).values(), key=int) and len(ids(run)) == 4
    waits = [slurm.jobs([job])[job].dependency for job in list(ids(run).values())[1:]]
    assert [w.startswith(f"afterok:{job}") for w, job in zip(waits, ids(run).values(), strict=False)] == [
        True
    ] * 3
