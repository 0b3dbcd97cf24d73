"""Healing on a real Slurm: same job ids where Slurm holds the jobs, new ones where it has forgotten them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal
from glmjobs.run.directory import Run
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import BadInput
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support.small_chain import done, ended, healed, ids, start, starts, tell, with_key

pytestmark = pytest.mark.slurm


def test_failed_stage_runs_again_under_its_id_and_the_rest_keep_theirs(
    place: Path, wait_for: Any, capsys: Any
) -> None:
    run = start(place, "again", consolidate="fail 7")
    before = ids(run)
    wait_for(lambda: ended(run, "consolidate", "failed"), 60)
    first = healed(capsys, run)
    assert first["train"] == ("done", before["train"])
    assert first["consolidate"] == ("requeue", before["consolidate"])
    assert {first[s][1] for s in ("score", "report")} == {before["score"], before["report"]}
    wait_for(
        lambda: len(starts(run, "consolidate")) == 2 and ended(run, "consolidate", "failed"),
        60,
        "a second failure",
    )
    tell(run.path, consolidate="ok")
    assert healed(capsys, run)["consolidate"] == ("requeue", before["consolidate"]), "works twice"
    wait_for(lambda: done(run), 60)
    assert ids(run) == before
    assert starts(run, "train") == ["0"] and sorted(starts(run, "score")) == ["0", "1"], "done once is enough"
    assert with_key(run) == sorted(before.values(), key=int)
    assert {what for what, _ in healed(capsys, run).values()} == {"done"}


def test_a_finished_chain_that_is_opened_again(place: Path, wait_for: Any, capsys: Any) -> None:
    """As when its training is made longer: every stage runs once more, in order, and why is said."""
    run = start(place, "longer")
    wait_for(lambda: done(run), 60)
    wait_for(lambda: ended(run, "report", "done"), 30)
    for stage in ("report", "score", "consolidate", "train"):
        ledger.reopen(run.path, stage, "training was made longer")
    assert heal.main([str(run.path)]) == 0
    said = capsys.readouterr().err
    assert said.count("training was made longer") == 4, said
    wait_for(lambda: done(run), 60)
    assert [len(starts(run, stage)) for stage in ("train", "consolidate", "score", "report")] == [2, 2, 4, 2]
    assert {what for what, _ in healed(capsys, run).values()} == {"done"}


def test_healing_a_run_in_order_changes_nothing(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "order", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    lines = (run.path / "ledger.jsonl").read_text()
    assert {what for what, _ in healed(capsys, run).values()} == {"keep"}
    assert (run.path / "ledger.jsonl").read_text() == lines
    assert heal.main([str(run.path)]) == 0
    assert "nothing to heal: train: it runs" in capsys.readouterr().err
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60)


def test_when_half_of_it_was_scancelled(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "half", train="wait")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60)
    slurm.cancel([before["consolidate"], before["report"]])
    wait_for(lambda: slurm.jobs([before["report"]])[before["report"]].state.is_final, 30)
    what = healed(capsys, run)
    assert what["train"] == ("keep", before["train"])
    assert what["consolidate"][0] in ("requeue", "replace") and what["report"][0] in ("requeue", "replace")
    assert not starts(run, "consolidate"), "it still waits for train"
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60)
    assert starts(run, "train") == ["0"] and starts(run, "report") == ["0"]


def test_when_all_of_it_was_scancelled(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "all", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.cancel(list(ids(run).values()))
    wait_for(lambda: all(i.state.is_final for i in slurm.jobs(list(ids(run).values())).values()), 60)
    (run.path / "go").touch()
    healed(capsys, run)
    wait_for(lambda: done(run), 60)
    assert starts(run, "consolidate") == ["0"]


def test_what_was_made_by_hand_of_a_training_that_goes_on_is_made_again(
    place: Path, wait_for: Any, capsys: Any
) -> None:
    run = start(place, "by-hand", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.cancel(list(ids(run).values()))
    wait_for(lambda: all(i.state.is_final for i in slurm.jobs(list(ids(run).values())).values()), 60)
    for stage in ("consolidate", "score", "report"):
        run.mark(stage, started=timestamps.now(), figures={"step": 1})
    (run.path / "go").touch()
    assert heal.main([str(run.path)]) == 0
    assert not run.done("consolidate") and "consolidate  done" not in capsys.readouterr().err
    wait_for(lambda: done(run), 60)
    assert [len(starts(run, stage)) for stage in ("train", "consolidate", "score", "report")] == [2, 1, 2, 1]


def test_only_the_failed_element_of_an_array_runs_again(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "element", score_1="fail 7")
    before = ids(run)
    wait_for(lambda: len(starts(run, "score")) == 2 and ended(run, "score", "failed"), 60)
    tell(run.path, score_1="ok")
    assert healed(capsys, run)["score"] == ("requeue", before["score"])
    wait_for(lambda: done(run), 60)
    assert sorted(starts(run, "score")) == ["0", "1", "1"]


def test_a_changed_recipe_replaces_what_it_changes(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "changed", train="fail 7")
    before = ids(run)
    wait_for(lambda: ended(run, "train", "failed"), 60)
    tell(run.path, train="ok")
    what = healed(capsys, run, "--set", "jobs.train.time=00:20:00")
    assert what["train"][0] == "replace" and what["train"][1] != before["train"]
    assert {what[s][1] for s in ("consolidate", "score", "report")} == {
        before[s] for s in ("consolidate", "score", "report")
    }
    assert Run.open(run.path).recipe.jobs.train.time == "00:20:00"
    assert "--time=00:20:00" in (run.jobs("train") / "script.sh").read_text()
    changed = ledger.events(run.path, event="changed")[-1]
    assert changed["differences"] == {"jobs.train.time": ["00:10:00", "00:20:00"]}
    wait_for(lambda: done(run), 60)


def test_changes_that_come_too_late_are_refused(place: Path, wait_for: Any) -> None:
    run = start(place, "late", score="wait")
    wait_for(lambda: starts(run, "score"), 60)
    before = (run.path / "run.yaml").read_text()
    with pytest.raises(BadInput, match="score is running"):
        heal.main([str(run.path), "--set", "score.rows=5"])
    slurm.cancel([ids(run)["score"]])
    wait_for(lambda: all(i.state.is_final for i in slurm.jobs([ids(run)["score"]]).values()), 60)
    with pytest.raises(BadInput, match="train is done"):
        heal.main([str(run.path), "--set", "train.learning_rate=1e-3"])
    with pytest.raises(BadInput, match="make a new run"):
        heal.main([str(run.path), "--set", "data.dev_rows=1-9"])
    with pytest.raises(BadInput, match="did you mean"):
        heal.main([str(run.path), "--set", "score.row=5"])
    assert (run.path / "run.yaml").read_text() == before


def test_after_a_purge(
    small: Path,
    accounting_cluster: DevCluster,
    monkeypatch: pytest.MonkeyPatch,
    wait_for: Any,
    capsys: Any,
    clean_queue: Any,
) -> None:
    for name, value in accounting_cluster.environ().items():
        monkeypatch.setenv(name, value)
    clean_queue(accounting_cluster)
    run = start(small, "purged", train="fail 7")
    before = ids(run)
    wait_for(lambda: before["train"] in purged(before["train"]), 60, "slurmctld to forget the job")
    tell(run.path, train="ok")
    what = healed(capsys, run)
    assert what["train"][0] in ("submit", "replace") and what["train"][1] != before["train"]
    assert {what[s][1] for s in ("consolidate", "score", "report")} == {
        before[s] for s in ("consolidate", "score", "report")
    }, "those still in the queue keep their ids"
    assert not starts(run, "consolidate")
    wait_for(lambda: done(run), 60)
    assert starts(run, "train") == ["0", "0"] and starts(run, "consolidate") == ["0"]


def purged(job: str) -> list[str]:
    return [] if slurm.show(job) else [job]
