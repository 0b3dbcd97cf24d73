"""The table of `status` at every width: nothing is cut into another number, no reason is left out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from glmjobs.run.state import STAGES, RunState, StageState
from glmjobs.terminal.tables import render

WHY = "node fault: a GPU fell off the bus; 3 hours of 8 are left; it waits for `heal`"


def shown(width: int) -> list[str]:
    stages = {name: StageState(stage=name) for name in STAGES}
    for number, stage in enumerate(stages.values()):
        stage.job = str(1234567 + number)
    vars(stages["train"]).update(
        state="running", attempts=31, nodes="node[17-24]", step=98765, of=234567, loss=1.23456, tokens_per_s=123456.0,
        mfu=0.4321, gpu_utilisation=97.0, time_left=87654.0,
    )  # fmt: skip
    vars(stages["score"]).update(reason=WHY, elements={"done": 1, "waiting": 7})
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(render(RunState(name="seven", path="/scratch/seven", stages=list(stages.values()))))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 40, 60, 72, 80, 100, 120, 160, 250])
def test_nothing_is_cut(width: int) -> None:
    lines = shown(width)
    assert all(len(line) <= width for line in lines), lines
    words = " ".join(" ".join(lines).split())
    head = next(line for line in lines if line.startswith("stage"))
    values = {
        "step": "98765/234567",
        "loss": "1.2346",
        "tokens/s": "123,456",
        "MFU": "43 %",
        "GPU": "97 %",
        "left": "24:20:54",
    }
    values |= {"job": "1234568", "nodes": "node[17-24]", "tries": "31"}
    for column, value in values.items():
        train = next(line for line in lines if line.startswith("train"))
        assert (f" {value} " in f"{train} ") == (column in head), (column, lines)
    assert "waiting 1/8" in words
    if "why" in head:
        assert all(word in words for word in WHY.split())
    else:
        assert f"score: {WHY}" in words


def test_columns_go_by_need() -> None:
    wide, narrow = (next(line for line in shown(w) if line.startswith("stage")) for w in (160, 40))
    assert wide.split() == [
        "stage",
        "state",
        "job",
        "tries",
        "nodes",
        "step",
        "loss",
        "tokens/s",
        "MFU",
        "GPU",
        "left",
        "why",
    ]
    assert "step" in narrow and "nodes" not in narrow
