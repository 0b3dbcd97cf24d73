"""One attempt at a job, as the batch process of a local one: what follows each way in which its ranks can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc.chain import ledger
from hpc.runtime import heartbeat
from hpc.runtime.heartbeat import Heartbeat
from tests.support.paths import SUPPORT

RANK = SUPPORT.joinpath("attempt_rank.py")
PATIENCE = 60.0


class Batch:
    """``python -m hpc.runtime.attempt`` with two stand-in ranks."""

    def __init__(self, run: Path, repo: Path, *told: str, limit: int = 2, silence: float = 60) -> None:
        self.run = run
        command = [sys.executable, "-m", "hpc.runtime.attempt", str(run), "--limit", str(limit)]
        for stage, what in zip(("work", "after"), told, strict=False):
            command += ["--stage", stage, sys.executable, "-m", "hpc.runtime.local_launch", "--nproc", "2"]
            command += ["--log", str(run / "jobs" / stage), "--", sys.executable, str(RANK), str(run), what]
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        env |= {"PYTHONPATH": str(repo), "LIMIT": str(silence)}
        self.process = subprocess.Popen(
            command, cwd=repo, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def until(self, what: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := what()):
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.01)
        return value

    def pids(self) -> list[int]:
        """Ranks that have started, dead or alive."""
        return [int(p.name.split("-")[2]) for p in self.run.glob("started-*")]

    def ready(self) -> None:
        self.until(lambda: len(self.pids()) >= 2)

    def end(self) -> tuple[int, str]:
        """Exit code and what was said."""
        said = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, said

    def ended(self) -> list[dict[str, Any]]:
        return ledger.events(self.run, event="ended")


@pytest.fixture
def batch(tmp_path: Path, repo: Path) -> Iterator[Callable[..., Batch]]:
    made: list[Batch] = []

    def make(*told: str, **options: Any) -> Batch:
        made.append(Batch(tmp_path, repo, *told, **options))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_stages_in_order(batch: Any) -> None:
    one = batch("*:done", "*:done")
    assert one.end() == (0, "")
    assert [(e["stage"], e["outcome"]) for e in one.ended()] == [("work", "done"), ("after", "done")]


def test_failures_are_counted_and_the_first_rank_named(batch: Any) -> None:
    one = batch("1:fail 1")
    code, said = one.end()
    assert code == 1
    assert [(e["outcome"], e["failed_rank"]) for e in one.ended()] == [("failed", 1)] * 2
    assert said.count("\n") == 1 and "rank 1 on" in said and "told to fail with 1" in said
    assert "2 attempts in a row failed without a new checkpoint" in said


@pytest.mark.parametrize(("code", "exit_code"), [(2, 2), (3, 3), (86, 1)])
def test_what_would_only_repeat_is_not_tried_again(batch: Any, code: int, exit_code: int) -> None:
    one = batch(f"0:fail {code}")
    ended, said = one.end()
    assert ended == exit_code
    assert len(one.ended()) == 1 and "trying again cannot help" in said


def test_killed_rank_takes_the_others_down_and_is_named(batch: Any) -> None:
    one = batch("1:killed", limit=1)
    one.ready()
    began = time.monotonic()
    code, _ = one.end()
    assert code == 128 + signal.SIGKILL
    assert time.monotonic() - began < 20, "the other rank only waits: it is not given a minute"
    assert all(gone(pid) for pid in one.pids())


def test_hanging_rank_is_found_with_its_stack(batch: Any) -> None:
    one = batch("1:hang", limit=1, silence=2)
    code, said = one.end()
    assert code != 0
    hung = ledger.events(one.run, event="hung")
    assert [h["ranks"] for h in hung] == [[1]] and hung[0]["step"] == 3
    assert "rank 1 on" in said and "hung while training at step 3" in said
    log = (one.run / "jobs" / "work" / "rank-1.log").read_text()
    assert "stuck_here" in log and "attempt_rank.py" in log
    assert one.ended()[-1]["failed_rank"] == 1 and "hung" in one.ended()[-1]["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_told_to_stop_it_saves_and_ends(batch: Any, number: int) -> None:
    one = batch("*:wait", "*:done")
    one.ready()
    one.process.send_signal(number)
    code, said = one.end()
    assert code == 85
    [ended] = one.ended()
    assert ended["outcome"] == "stopped" and ended["last_checkpoint"] >= 1
    assert ended["signal"] == signal.Signals(number).name
    assert said.count("\n") == 1 and "stopped at checkpoint" in said and "run it again" in said


def test_second_interrupt_waits_for_nothing(batch: Any) -> None:
    one = batch("*:hang")
    one.ready()
    one.until(lambda: one.process.send_signal(signal.SIGINT) or one.process.poll() is not None)
    assert one.process.returncode != 0
    one.until(lambda: all(gone(pid) for pid in one.pids()))


def test_ranks_die_with_a_killed_batch_process(batch: Any) -> None:
    one = batch("*:wait")
    one.ready()
    one.process.kill()
    one.until(lambda: all(gone(pid) for pid in one.pids()))
    assert one.ended() == [], "nobody was left to write it, and it does not count"


def test_command_that_is_not_there(tmp_path: Path, repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpc.runtime.attempt", str(tmp_path), "--limit", "1", "--stage", "a",
         "/no/such/program"],
        cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 127 and "cannot start /no/such/program" in done.stderr


def attempt(run: Path, repo: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The batch process of a job that has only one short command."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return subprocess.run(
        [sys.executable, "-m", "hpc.runtime.attempt", str(run), *words], cwd=repo, env=clean | env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_who_says_that_a_stage_is_done(tmp_path: Path, repo: Path) -> None:
    """Its command, or with --mark the batch process; of an array, once every element has ended well."""
    assert attempt(tmp_path, repo, "--stage", "own", "true").returncode == 0
    assert not ledger.is_done(tmp_path, "own")
    assert attempt(tmp_path, repo, "--limit", "1", "--mark", "--stage", "bad", "false").returncode == 1
    assert not ledger.is_done(tmp_path, "bad")
    assert (
        attempt(tmp_path, repo, "--mark", "--stage", "one", "true", "--stage", "two", "true").returncode == 0
    )
    assert ledger.is_done(tmp_path, "one") and ledger.is_done(tmp_path, "two")
    for task in ("0", "1"):
        assert not ledger.is_done(tmp_path, "many")
        of_two = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
        assert attempt(tmp_path, repo, "--mark", "--stage", "many", "true", **of_two).returncode == 0
    assert ledger.is_done(tmp_path, "many")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "few", "--stage", "a", "true"], "--limit few: a number of attempts"),
        (["--mark", "--advice", "more time", "true"], "true: expected --stage"),
        (["--stage", "a"], "usage: "),
    ],
)
def test_bad_words_are_one_line(words: list[str], said: str, tmp_path: Path, repo: Path) -> None:
    done = attempt(tmp_path, repo, *words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    gone = attempt(tmp_path / "gone", repo, "--stage", "a", "true")
    assert gone.returncode == 2 and "no such run directory" in gone.stderr


def test_only_steps_are_held_to_a_short_limit(tmp_path: Path) -> None:
    """Imports from a busy file server took over half a minute where a limit of that was set for steps."""
    rank = Heartbeat(tmp_path, 0, 1, 30.0)
    for phase, limit in (("importing", heartbeat.SLOW_SECONDS), ("training", 30.0), ("saving", 900.0)):
        rank.report(phase)
        rank.write()
        assert heartbeat.read(tmp_path)[0]["limit"] == limit
