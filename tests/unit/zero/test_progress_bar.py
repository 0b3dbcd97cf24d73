"""The progress bar stays one line, however narrow the terminal is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from glmjobs.zero import progress_bar


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_bar_is_one_line(width: int) -> None:
    bar, task = progress_bar._bar(
        "consolidate checkpoint-1000 -> /scratch/runs/chatglm6b-3/model", 98_800_000_000
    )
    bar.update(task, completed=43_200_000_000)
    shown = io.StringIO()
    Console(file=shown, width=width).print(bar.get_renderable())
    assert shown.getvalue().count("\n") == 1 and "43.2/98.8 GB" in shown.getvalue()
