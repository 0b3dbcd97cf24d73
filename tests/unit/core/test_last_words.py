"""What went wrong is said whole, from exceptions, exit codes and logs of every kind; its last line alone never."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from hpc.core.errors import BadInput, WorkFailed
from hpc.core.last_words import LIMIT, exit_words, message_of, said_in


def chained() -> None:
    try:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    except RuntimeError as error:
        raise ValueError("the worker failed") from error


def in_handling() -> None:
    try:
        raise RuntimeError("NCCL error: unhandled system error")
    except RuntimeError:
        {}["handle"]


def ours_from_theirs() -> None:
    try:
        json.loads("{")
    except ValueError as error:
        raise BadInput("ds.json: not valid JSON (train.deepspeed)") from error


def noted() -> None:
    error = ValueError("shape mismatch")
    error.__notes__ = ["while loading layer 3"]
    raise error


def raising(error: BaseException) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


EXCEPTIONS: list[tuple[Callable[[], object], str]] = [
    (raising(BadInput("a.yaml: no such recipe")), "a.yaml: no such recipe"),
    (raising(WorkFailed("two\nlines")), "two lines"),
    (chained, "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB; then ValueError: the worker failed"),
    (in_handling, "RuntimeError: NCCL error: unhandled system error; then KeyError: 'handle' (test_last_words.py:"),
    (ours_from_theirs, "ds.json: not valid JSON (train.deepspeed)"),
    (noted, "ValueError: shape mismatch (while loading layer 3)"),
    (raising(AssertionError()), "AssertionError: (test_last_words.py:"),
    (raising(MemoryError()), "MemoryError: out of host memory"),
    (Path("/nowhere/at all").read_text, "/nowhere/at all: No such file or directory"),
    (raising(OSError(28, "No space left on device")), "No space left on device"),
    (lambda: b"\xff".decode(), "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0"),
    (lambda: json.loads(""), "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (decoder.py:"),
    (raising(KeyboardInterrupt()), "interrupted from the keyboard"),
    (raising(SystemExit("error: 3 rows are wrong")), "error: 3 rows are wrong"),
    (raising(SystemExit(2)), "exit code 2"),
    (raising(BrokenProcessPool("A process was terminated abruptly")), "BrokenProcessPool: A process was terminated"),
    (
        raising(RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")),
        "RuntimeError: CUDA error: device-side assert triggered Compile with `TORCH_USE_CUDA_DSA`",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fails", "said"), EXCEPTIONS, ids=range(len(EXCEPTIONS)))
def test_an_exception_in_words(fails: Callable[[], object], said: str) -> None:
    with pytest.raises(BaseException) as caught:
        fails()
    found = message_of(caught.value)
    assert found.startswith(said) and "\n" not in found


def test_a_long_message_keeps_its_beginning_and_its_end_and_says_so() -> None:
    found = message_of(ValueError("first " + "x" * 2 * LIMIT + " last"))
    assert found.startswith("ValueError: first") and found.endswith("last") and " … " in found
    assert len(found) == LIMIT


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (2, "exit code 2"),
        (137, "ended by SIGKILL (killed; out of memory?)"), (143, "ended by SIGTERM (exit code 143)"),
        (139, "ended by SIGSEGV (a crash in compiled code)"), (135, "ended by SIGBUS (/dev/shm full?)"),
        (127, "exit code 127"), (255, "exit code 255"),
    ],
)  # fmt: skip
def test_an_exit_code_in_words(code: int, said: str) -> None:
    assert exit_words(code) == said


TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    main()\n'
LOGS = {
    "plain": (f"{TRACE}ValueError: bad row\n", "ValueError: bad row"),
    "module in front": (
        f"{TRACE}torch.cuda.OutOfMemoryError: CUDA out of memory.\n", "OutOfMemoryError: CUDA out of memory."
    ),
    "ours": (f"{TRACE}hpc.core.errors.BadInput: a.yaml: no such recipe\n", "a.yaml: no such recipe"),
    "error line": ("loading\nerror: x.json: the file is empty\nbye\n", "x.json: the file is empty"),
    "several lines": (
        f"{TRACE}RuntimeError: CUDA error: an illegal memory access\nCUDA kernel errors might be asynchronous.\n",
        "RuntimeError: CUDA error: an illegal memory access CUDA kernel errors might be asynchronous.",
    ),
    "NCCL": (
        f"{TRACE}torch.distributed.DistBackendError: NCCL error in: ../x.cpp:1191, unhandled system error\n"
        "Last error:\nConnect to 10.0.0.2 failed : Connection refused\n",
        "DistBackendError: NCCL error in: ../x.cpp:1191, unhandled system error Last error: Connect to 10.0.0.2 failed",
    ),
    "warning after it": (
        f"{TRACE}ValueError: bad row\n/usr/lib/python3/resource_tracker.py:254: UserWarning: leaked semaphore\n"
        "  warnings.warn('Error: not this')\n",
        "ValueError: bad row",
    ),
    "srun after it": (
        f"{TRACE}ValueError: bad row\nsrun: error: node1: task 0: Exited with exit code 1\n"
        "slurmstepd: error: *** STEP 5.0 ON node1 CANCELLED AT 2026-01-01T00:00:00 ***\n",
        "ValueError: bad row",
    ),
    "srun alone": (
        "srun: error: Unable to create step for job 5: Requested node configuration is not available\n",
        "srun: error: Unable to create step for job 5: Requested node configuration is not available",
    ),
    "killed for memory": (
        f"{TRACE}ConnectionError: reset by peer\nslurmstepd: error: Detected 1 oom_kill event in StepId=5.0.\n",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=5.0.",
    ),
    "a task out of memory": (
        "srun: error: node1: task 3: Out Of Memory\n", "srun: error: node1: task 3: Out Of Memory"
    ),
    "chained": (
        f"{TRACE}OSError: [Errno 28] No space left on device\n\n"
        f"The above exception was the direct cause of the following exception:\n\n{TRACE}RuntimeError: save failed\n",
        "OSError: [Errno 28] No space left on device; then RuntimeError: save failed",
    ),
    "of a rank": (f"[rank1]: {TRACE.replace(chr(10), chr(10) + '[rank1]: ')}KeyError: 'x'\n", "KeyError: 'x'"),
    "C++": (
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  [Rank 1] watchdog timeout\n",
        "[Rank 1] watchdog timeout",
    ),
    "shell": ("/tmp/script.sh: line 9: 1234 Segmentation fault      python x\n", "/tmp/script.sh: line 9: 1234 Segm"),
    "module system": (
        "ERROR: Unable to locate a modulefile for 'cuda/99'\n", "ERROR: Unable to locate a modulefile for 'cuda/99'"
    ),
    "no words": ("step 5 loss 1.2\nIt went well, no error in sight\n", None),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_a_log_in_words(name: str) -> None:
    text, said = LOGS[name]
    found = said_in(text)
    assert found is None if said is None else str(found).startswith(said), found


def test_a_message_of_last_words_is_one_line(tmp_path: Path) -> None:
    assert all("\n" not in (said_in(text) or "") for text, _ in LOGS.values())
