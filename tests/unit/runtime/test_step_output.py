"""Which rank ended badly first, by its launcher's words and its own last line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hpc.runtime import step_output
from hpc.runtime.step_output import StepOutput

TAIL = [
    b"srun: launch/slurm: _step_signal: Terminating StepId=9.0",
    b"srun: error: n1: tasks 0,2-3: Exited with exit code 85",
]


@pytest.mark.parametrize(
    ("line", "rank", "code", "said"),
    [
        (b"srun: error: n2: task 1: Exited with exit code 1", 1, 1, "exit code 1"),
        (b"srun: error: n2: tasks 4-7: Exited with exit code 127", 4, 127, "exit code 127"),
        (b"srun: error: n2: task 1: Killed", 1, 137, "killed; out of memory?"),
        (b"srun: error: n2: task 1: Segmentation fault (core dumped)", 1, 139, "segmentation fault"),
        (b"srun: error: n2: task 1: Out Of Memory", 1, 137, "out of memory"),
        (b"srun: error: n2: task 3: Terminated", 3, 143, "terminated; was SIGTERM sent to it alone?"),
    ],
)
def test_first_bad_end(line: bytes, rank: int, code: int, said: str, tmp_path: Path) -> None:
    output = StepOutput(tmp_path)
    for each in (b"srun: job 9 queued", line, *TAIL, b"srun: error: n1: task 0: Killed"):
        output.take(each)
    first = output.first()
    assert first is not None
    assert (first["rank"], first["host"], first["exit_code"]) == (rank, "n2", code)
    assert first["error"] == f"ended without a word: {said}"


def test_a_stop_that_nobody_asked_for(tmp_path: Path) -> None:
    output = StepOutput(tmp_path)
    for line in (
        b"srun: error: n1: task 2: Exited with exit code 85",
        b"srun: error: n1: task 0: Terminated",
    ):
        output.take(line)
    assert output.first() is None
    unasked = output.unasked()
    assert unasked is not None and (unasked["rank"], unasked["host"]) == (2, "n1")


@pytest.mark.parametrize(
    ("lines", "end", "error"),
    [
        (["Traceback:", "RuntimeError: CUDA out of memory", "bye"], "Exited with exit code 1",
         "RuntimeError: CUDA out of memory (exit code 1)"),
        (["cannot go on"], "Exited with exit code 4", "cannot go on (exit code 4)"),
        (["step 3 loss 1.2"], "Killed", "ended without a word: killed; out of memory?"),
        (["slurmstepd: error: Detected 1 oom-kill event(s)", "slurmstepd: error: *** STEP CANCELLED ***"], "Killed",
         "slurmstepd: error: Detected 1 oom-kill event(s) (killed; out of memory?)"),
    ],
)  # fmt: skip
def test_a_ranks_last_line_is_of_this_attempt(lines: list[str], end: str, error: str, tmp_path: Path) -> None:
    log = tmp_path / "rank-1.log"
    log.write_text("ValueError: of the attempt before\n")
    output = StepOutput(tmp_path)
    with log.open("a") as file:
        file.write("\n".join(lines) + "\n")
    output.take(f"srun: error: n1: task 1: {end}".encode())
    assert (output.first() or {})["error"] == error


def test_the_local_launchs_words_are_read_and_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = StepOutput(tmp_path)
    output.follow(io.BytesIO(f"shown\n{step_output.tell(1, -9)}\n".encode()))
    first = output.first()
    assert first is not None and (first["rank"], first["exit_code"]) == (1, 137)
    assert capfd.readouterr().err == "shown\n"
