"""GPU-hours from the ledger: every second an attempt held GPUs is counted once, and in the right part."""

from __future__ import annotations

import random

import pytest

import tests.support.report_sample as sample
from glmjobs.run.gpu_hours import HELD, End, attempts, costs, done, totals

NOW = sample.START + 100 * sample.HOUR


def event(
    hours: float, kind: str, stage: str = "train", job: str = "7", **fields: object
) -> dict[str, object]:
    return {"time": sample.at(hours), "event": kind, "stage": stage, "job": job, **fields}


def log(*points: tuple[float, int]) -> list[dict[str, object]]:
    return [{"time": sample.at(hours), "step": step} for hours, step in points]


def test_the_sample_adds_up():
    items = costs(sample.ledger(), sample.train_log(0), NOW)
    train = [item for item in items if item.attempt.stage == "train"]
    died, stopped, done = train
    # Steps begin at 0.25 h and take 4 s: step 1000 is reached after 4000 s, and the attempt dies at 1.72 h.
    assert died.gpu_hours("lost") == pytest.approx(8 * (1.72 - 0.25 - 4000 / 3600), abs=1e-3)
    assert died.gpu_hours("startup") == pytest.approx(8 * (0.25 - 0.212), abs=1e-3)
    assert died.gpu_hours("useful") == pytest.approx(8 * 4000 / 3600, abs=1e-3)
    assert died.attempt.step == 1300 and died.attempt.last_checkpoint == 1000
    assert stopped.gpu_hours("lost") == 0 and stopped.attempt.outcome == "stopped"
    assert done.gpu_hours("lost") == 0
    sums = totals(items)
    assert sums["preflight"] == pytest.approx(3 * 8 * 0.012, abs=1e-3)
    assert sums["waiting"] == pytest.approx(8 * (0.2 + 0.08 + 0.5) + 2 * 0.05, abs=1e-3)
    assert sums["held"] == pytest.approx(sum(sums[part] for part in HELD))
    wall = sum((end - begin) * 8 for begin, end, *_ in sample.ATTEMPTS) + 2 * 0.4
    assert sums["held"] == pytest.approx(wall, abs=1e-3)


def test_an_attempt_that_saved_nothing_is_lost_whole():
    ledger = [
        event(0, "attempt", gpus=2),
        event(1, "ended", outcome="failed", exit_code=1, last_checkpoint=None),
    ]
    (item,) = costs(ledger, log((0.5, 10), (0.75, 20)), NOW)
    assert item.gpu_hours("startup") == pytest.approx(0.5)
    assert item.gpu_hours("lost") == pytest.approx(1.5)
    assert item.gpu_hours("useful") == 0


def test_a_checkpoint_of_an_earlier_attempt_saves_nothing_of_this_one():
    ledger = [
        event(0, "attempt", gpus=1),
        event(1, "ended", outcome="stopped", last_checkpoint=100),
        event(2, "attempt", gpus=1),
        event(3, "ended", outcome="failed", last_checkpoint=100),
    ]
    first, second = costs(ledger, log((0.5, 50), (1, 100), (2.5, 110)), NOW)
    assert first.gpu_hours("lost") == 0
    assert second.gpu_hours("lost") == pytest.approx(1)


def test_a_preflight_inside_a_train_attempt_counts_once():
    ledger = [
        event(0, "attempt", gpus=4),
        event(0, "attempt", stage="preflight", gpus=4),
        event(0.25, "ended", stage="preflight", outcome="done"),
        event(1, "ended", outcome="done", last_checkpoint=5),
    ]
    sums = totals(costs(ledger, [], NOW))
    assert sums["held"] == pytest.approx(4) and sums["preflight"] == pytest.approx(1)
    assert sums["useful"] == pytest.approx(3)


def test_a_running_attempt_counts_until_now():
    (item,) = costs([event(0, "attempt", gpus=8)], [], sample.START + 2 * sample.HOUR)
    assert item.attempt.outcome == "running" and item.attempt.ended is None
    assert item.gpu_hours("useful") == pytest.approx(16)


def test_an_end_nobody_recorded_is_the_last_sign_of_life():
    ledger = [
        event(0, "attempt", gpus=1),
        event(5, "requeued"),
        event(6, "attempt", gpus=1),
        event(7, "ended", outcome="done", last_checkpoint=40),
    ]
    rows = log((1, 10), (1.5, 20), (2, 30), (6.5, 30), (7, 40))
    died, done = costs(ledger, rows, NOW)
    assert died.attempt.outcome == "vanished"
    assert died.gpu_hours("held") == pytest.approx(2)
    # The second attempt logs step 30 first, ten steps apart: it went on from 20, reached at 1.5 h.
    assert died.attempt.last_checkpoint == 20
    assert died.gpu_hours("lost") == pytest.approx(0.5)
    assert done.gpu_hours("waiting") == pytest.approx(1)
    alive = [sample.START + 2.5 * sample.HOUR]
    assert costs(ledger, rows, NOW, alive)[0].gpu_hours("held") == pytest.approx(2.5)


def test_each_element_of_an_array_ends_by_its_own_job_id():
    ledger = [
        event(0, "submitted", stage="score", job="7"),
        event(1, "attempt", stage="score", job="7", array_job="7", array_task=1, gpus=1),
        event(1, "attempt", stage="score", job="8", array_job="7", array_task=0, gpus=1),
        event(2, "ended", stage="score", job="8", outcome="done"),
        event(3, "ended", stage="score", job="7", array_task=1, outcome="done"),
    ]
    assert totals(costs(ledger, [], NOW))["held"] == pytest.approx(3)


@pytest.mark.parametrize(("outcome", "lost"), [("vanished", 2), ("running", 0), ("done", 0)])
def test_what_no_longer_runs_is_counted_until_its_last_sign_of_life(outcome: str, lost: float):
    ledger = [event(0, "attempt", stage="consolidate", gpus=1), event(0.5, "progress", stage="consolidate")]
    over = {"consolidate": End(outcome, sample.START + 2 * sample.HOUR)}
    (item,) = costs(ledger, [], NOW, over=over)
    assert item.attempt.outcome == outcome
    assert item.gpu_hours("held") == pytest.approx(2) and item.gpu_hours("lost") == pytest.approx(lost)
    late = {"consolidate": End("vanished", 0.0)}
    assert costs(ledger, [], NOW, over=late)[0].gpu_hours("held") == pytest.approx(0.5), (
        "its last ledger line"
    )


def test_the_last_attempt_keeps_the_newest_checkpoint_there_is():
    ledger = [event(0, "attempt", gpus=1)]
    over = {"train": End("vanished", sample.START + 2 * sample.HOUR)}
    (item,) = costs(ledger, log((0.5, 10), (1, 20), (1.5, 30), (2, 40)), NOW, over=over, checkpoint=30)
    assert item.gpu_hours("lost") == pytest.approx(0.5) and item.gpu_hours("held") == pytest.approx(2)
    (item,) = costs(ledger, log((0.5, 10), (1, 20)), NOW, over=over)
    assert item.gpu_hours("useful") == 0, "none is known"


def test_a_marker_ends_no_attempt_that_began_after_it():
    marker = {"outcome": "done", "ended": sample.at(2)}
    ledger = [event(3, "attempt", stage="score", gpus=1)]
    (item,) = costs(ledger, [], sample.START + 4 * sample.HOUR, over=done({"score": marker}))
    assert item.attempt.outcome == "running" and item.gpu_hours("held") == pytest.approx(1)
    assert done({"score": {"outcome": "failed", "ended": sample.at(2)}, "train": {}}) == {}


def test_waiting_begins_when_the_job_waited_for_has_ended():
    ledger = [
        event(0, "submitted"),
        event(0, "submitted", stage="score", job="8", dependency=["7"]),
        event(1, "attempt", gpus=1),
        event(4, "ended", outcome="done"),
        event(5, "attempt", stage="score", job="9", array_task=1, gpus=1),
    ]
    train, score = attempts(ledger)
    assert train.queued == sample.START
    assert score.queued == pytest.approx(sample.START + 4 * sample.HOUR)


def test_local_stages_do_not_wait():
    ledger = [event(0, "submitted", executor="local", job="local-1"), event(3, "attempt", job="local-2")]
    assert attempts(ledger)[0].queued is None


@pytest.mark.parametrize("seed", range(20))
def test_any_ledger_gives_parts_that_sum_to_the_time_held(seed: int):
    draw = random.Random(seed)
    ledger: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    for index in range(60):
        kind = draw.choice(["submitted", "attempt", "ended", "requeued", "progress", "cancelled", "nonsense"])
        stage = draw.choice(["preflight", "train", "consolidate", "score"])
        fields = {
            "gpus": draw.choice([0, 1, 8, None, "eight", float("nan")]),
            "step": draw.choice([None, 3, 90, "x"]),
            "last_checkpoint": draw.choice([None, 0, 50, 1e9]),
            "dependency": draw.choice([None, "afterok:1", ["2"]]),
            "outcome": draw.choice(["done", "failed", "stopped", None]),
        }
        ledger.append(event(draw.uniform(0, 50), kind, stage, draw.choice(["1", "2", "x y"]), **fields))
        rows.append(
            {"time": draw.choice([sample.at(index), None, "soon"]), "step": draw.choice([index, None, -1])}
        )
    ledger += [
        {},
        {"time": None},
        {"time": "x", "event": "attempt"},
        {"event": ["attempt"], "time": sample.at(1)},
    ]
    for item in costs(ledger, rows, NOW):
        a = item.attempt
        held = sum(item.seconds[part] for part in HELD)
        assert all(seconds >= -1e-6 for seconds in item.seconds.values()), item
        overlapping = a.stage != "preflight"
        total = max((a.ended if a.ended is not None else NOW) - a.started, 0)
        assert held <= total + 1e-3 and (overlapping or held == pytest.approx(total))


def test_a_new_job_ends_what_nobody_ended():
    ledger = [
        event(0, "attempt", gpus=1),
        event(5, "healed"),
        event(5, "submitted", job="8"),
        event(6, "attempt", job="8", gpus=1),
        event(7, "ended", job="8", outcome="done", last_checkpoint=30),
    ]
    over = done({"train": {"outcome": "done", "ended": sample.at(7)}})
    died, whole = costs(ledger, log((1, 10), (2, 20), (6.5, 30)), NOW, over=over)
    assert died.attempt.outcome == "vanished" and died.gpu_hours("held") == pytest.approx(2)
    assert whole.gpu_hours("held") == pytest.approx(1) and whole.gpu_hours("waiting") == pytest.approx(1)


def test_healing_under_the_same_job_is_waited_for_and_no_sign_of_life():
    ledger = [event(0, "attempt", gpus=1), event(5, "healed"), event(6, "attempt", gpus=1)]
    died, again = costs(ledger, log((2, 20)), sample.START + 7 * sample.HOUR)
    assert died.gpu_hours("held") == pytest.approx(2) and again.gpu_hours("waiting") == pytest.approx(1)


def test_a_job_that_slurm_started_again_has_waited_since_it_ended():
    ledger = [
        event(0, "attempt", gpus=1),
        event(1, "ended", outcome="stopped", taken=True, last_checkpoint=10),
        event(4, "attempt", gpus=1, before_until=None),
        event(9, "attempt", gpus=1, before_until=sample.at(7)),
        event(10, "ended", outcome="done", last_checkpoint=40),
    ]
    first, died, last = costs(ledger, log((9.5, 30), (10, 40)), NOW)
    assert first.gpu_hours("held") == pytest.approx(1)
    assert died.gpu_hours("waiting") == pytest.approx(3)
    assert died.gpu_hours("held") == pytest.approx(3), (
        "its log was cut at the resume; the next attempt looked before"
    )
    assert last.gpu_hours("waiting") == pytest.approx(2)
