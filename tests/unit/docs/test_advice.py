"""docs/when-things-fail.md: every symptom is tied to the test that makes the fault, sees it, and takes the advice.

New advice without a test fails here. The faults of this machine's executor are made in this file, those of Slurm in
``tests/slurm/test_advice_on_slurm.py``, the others where their subject is tested.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from glmjobs import status, submit
from glmjobs.run import jobs
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from hpc.batch.jobs import Job, Step
from hpc.chain import ledger
from hpc.chain.local import at_work
from hpc.runtime.failures import first_failure, record_failure
from tests.support.advice import advice_for, follow, rows, seen
from tests.support.paths import REPO, SUPPORT
from tests.support.small_chain import tell

HERE, SLURM = "tests/unit/docs/test_advice.py", "tests/slurm/test_advice_on_slurm.py"
BASES, DATA = "tests/unit/commands/test_base_models.py", "tests/unit/commands/test_data_forms.py"
FORMS = "tests/unit/data/test_forms.py"
SAVES = "tests/e2e/test_interrupted_saves.py"
STOPS = "tests/slurm/test_interruptions.py"
CHANGES = "tests/e2e/test_heal_changes.py"
PREFLIGHT = "tests/slurm/test_preflight.py"
ONCE = "tests/slurm/test_once.py"
STATUS = "tests/slurm/test_status.py"
STRICT = "tests/slurm/test_strict_sites.py"
SAVING = "tests/unit/training/test_saving.py"
DEMANDS = "tests/unit/planning/test_demands.py"
GENERATION = "tests/unit/generation/test_generation.py"
UNREADABLE = "tests/unit/run/test_runs_unreadable.py"
TRACKERS = "tests/unit/tracking/test_sending.py"
JUDGES, VERIFIER = "tests/unit/scoring/test_judges.py", "tests/unit/scoring/test_verifier.py"
HELD: dict[str, str] = {
    "broken … put it back as it was: nothing can be done with the run before": (
        f"{UNREADABLE}::test_a_broken_run_yaml_is_called_broken"
    ),
    "… could not be sent to (failures so far: …): …": f"{TRACKERS}::test_no_way_there_is_a_line_and_counted",
    "waits for the job before it": f"{STATUS}::test_a_run_from_queue_to_end",
    "waits for free nodes": f"{SLURM}::test_a_busy_cluster",
    "put back a moment ago; it may start again in a minute or two": f"{SLURM}::test_put_back",
    "train …: it waits for `heal`": f"{SLURM}::test_a_stage_that_failed",
    "the job it waits for did not end well: it never starts by itself": f"{SLURM}::test_a_stage_that_failed",
    "asks for more time than the partition allows: it never starts": (
        f"{SLURM}::test_more_time_than_the_partition_allows"
    ),
    "held: `scontrol release …` lets it go": f"{SLURM}::test_held_by_hand",
    "not submitted yet; heal submits it": f"{ONCE}::test_submitter_killed_between_two_jobs",
    "sbatch gave no answer: heal looks the job up": f"{ONCE}::test_accepted_but_the_answer_was_lost",
    "Slurm does not answer; …": f"{STATUS}::test_node_fails_and_controller_restarts",
    "a node failed … (Slurm: NODE_FAIL)": f"{STATUS}::test_node_fails_and_controller_restarts",
    "cancelled … (Slurm: CANCELLED)": f"{SLURM}::test_cancelled",
    "died without a word (killed; out of memory?)": f"{HERE}::test_a_rank_that_died_without_a_word",
    "rank … hung while …: no heartbeat for … s": f"{STOPS}::test_hanging_rank_is_found_and_it_starts_again",
    "Slurm no longer knows job …, and it left no end": "tests/slurm/test_heal.py::test_after_a_purge",
    "Slurm calls the job COMPLETED, but the stage left no result": f"{SLURM}::test_no_result",
    "… has no Python package …": "tests/unit/runtime/test_containers.py::test_a_package_that_is_not_in_the_image",
    "more than the model's positions": (
        "tests/unit/commands/test_lengths.py"
        "::test_examples_beyond_the_models_positions_are_counted_and_not_the_recipes_limits"
    ),
    "it could not be queued again from … (…)": (f"{STRICT}::test_a_job_that_may_not_be_queued_again"),
    "no queued attempt is left": f"{STRICT}::test_all_of_them_used_up",
    "its process is gone (killed, or the machine restarted)": f"{HERE}::test_its_process_is_gone",
    "… attempts in a row failed without a new checkpoint": f"{HERE}::test_the_same_error_each_time",
    "the loss or its gradient is not finite (NaN or infinite)": (
        f"{SAVES}::test_loss_that_is_no_number_ends_it_with_the_last_good_checkpoint"
    ),
    "float16 overflowed in … steps in a row": f"{SAVES}::test_float16_at_the_smallest_loss_scale",
    "optimizer state is made for … and cannot go on otherwise": f"{CHANGES}::test_the_way_out_trains_on",
    "checkpoint-… was not saved (…); training goes on": (
        f"{SAVES}::test_training_outlives_a_disk_that_refuses"
    ),
    "passing over …": f"{SAVING}::test_resume_passes_over_what_is_not_whole_and_says_why",
    "was saved by … ranks and this attempt has …": f"{SAVING}::test_another_number_of_ranks_is_said",
    "training has got to checkpoint-… with the rows that the old value gave it": (
        "tests/unit/commands/test_heal_refusals.py::test_the_table_is_true"
    ),
    "no such model directory (model.path)": (
        f"{BASES}::test_a_missing_directory_is_bad_input_and_names_the_recipes_model"
    ),
    "the base model is not at …": "tests/e2e/test_adapter_bases.py::test_what_submit_says_of_an_adapter",
    "quantised weights are not supported": f"{BASES}::test_submit_refuses",
    "a Git LFS pointer": f"{BASES}::test_submit_refuses",
    "no such data (data.path)": f"{DATA}::test_not_a_file",
    "data.form = … needs …, but its rows have …": f"{FORMS}::test_a_named_form_that_is_not_the_rows",
    "tools or function calls, which are not read": (
        f"{FORMS}::test_a_conversation_that_cannot_be_used_is_left_out_and_counted"
    ),
    "no column … in … of … rows": f"{DATA}::test_columns_that_are_numbers_can_be_named",
    "this is a model of the family …, the recipe says model.family = …": f"{HERE}::test_another_family",
    "sbatch refused the job: …": f"{ONCE}::test_refused_in_the_middle_leaves_no_half_chain",
    "… nodes with … or more": "tests/slurm/test_chain.py::test_more_gpus_than_any_node_has",
    "no Slurm here (srun is not on PATH)": f"{HERE}::test_no_slurm_here",
    "preflight's table says NO": f"{PREFLIGHT}::test_a_bad_configuration_ends_with_one_table_and_no_requeue",
    "no committed checkpoint here": "tests/unit/commands/test_missing_files.py::test_it_is_bad_input",
    "mixed-step checkpoint": "tests/unit/zero/test_damaged_checkpoints.py::test_shard_of_another_step",
    "checkpoint-…: waiting for room, … h at most; make some": f"{SAVING}::test_the_last_save_waits_for_room",
    "… can be written there … this training takes …": f"{DEMANDS}::test_a_6b_run",
    "… of a node besides what the libraries take": f"{DEMANDS}::test_a_6b_run",
    "a GPU of … GB (cluster.gpu_memory_gb) … this training takes …": f"{DEMANDS}::test_a_6b_run",
    "a checkpoint of … takes … s at the …/s that …": (
        f"{PREFLIGHT}::test_a_save_that_does_not_fit_before_the_time_limit_is_said"
    ),
    "Python 3.10 or later is needed; … is …": (
        "tests/unit/bootstrap/test_old_pythons.py::test_an_old_python_says_what_is_needed"
    ),
    "without a GPU its … billion parameters take … GB of memory …": (
        "tests/unit/generation/test_cpu_precision.py::test_the_type_that_fits"
    ),
    "… MB are needed here, … MB are free": "tests/unit/zero/test_publish.py::test_full_disk_is_said_before",
    "take bfloat16 or float32": "tests/unit/zero/test_consolidate.py::test_overflow_is_named_and_refused",
    "out of memory with a single row on …": f"{GENERATION}::test_a_single_row_too_many_is_one_line",
    "no server answers there: …": f"{VERIFIER}::test_offline_a_first_judge_ends_it_and_a_second_is_said",
    "the judge … marks none of the … rows": f"{JUDGES}::test_a_judge_that_marks_no_row_gives_no_accuracy",
    "another process is scoring shard …": "tests/unit/scoring/test_predictions.py::test_one_writer_a_shard",
    "accepted … s ago, not listed yet": (
        "tests/slurm/test_late_answers.py::test_neither_squeue_nor_the_controller_knows_the_jobs_yet"
    ),
    "it was accepted … s ago and Slurm does not list it yet": (
        "tests/slurm/test_late_answers.py::test_neither_squeue_nor_the_controller_knows_the_jobs_yet"
    ),
    "Slurm has given the number of job … to another (…)": (
        "tests/slurm/test_own_jobs.py::test_what_shows_a_run_shows_no_job_of_another"
    ),
    "which is left alone": "tests/slurm/test_own_jobs.py::test_cancel_ends_no_job_of_another",
    "is a copy of …, and the jobs on record are that run's": (
        "tests/slurm/test_own_jobs.py::test_a_copy_of_a_run_has_no_jobs"
    ),
    "its job is on the cluster …, which cannot be asked from here": (
        "tests/slurm/test_two_clusters.py::test_a_cluster_that_cannot_be_asked_from_here"
    ),
    "which Slurm's commands here do not reach": (
        "tests/slurm/test_two_clusters.py::test_a_cluster_that_cannot_be_asked_from_here"
    ),
    "job … is replaced: …": "tests/slurm/test_heal_elsewhere.py::test_what_changes_is_said_before_it_is_done",
    "this much was done; mend what follows, and heal again": (
        "tests/slurm/test_heal_elsewhere.py::test_refused_half_way_it_says_what_is_done_and_goes_on_later"
    ),
    "the chain is … jobs (each element of an array is one)": (
        "tests/slurm/test_heal_elsewhere.py::test_where_slurm_takes_no_more_jobs_the_first_go_on"
    ),
    "nodes it needs are reserved for maintenance …": (
        "tests/slurm/test_site_names.py::test_a_site_without_gres_and_a_maintenance"
    ),
    "note: sbatch --export=… keeps your shell's variables from this job; not set here: …": (
        "tests/slurm/test_by_hand.py::test_variables_that_did_not_arrive_are_named"
    ),
    "note: training runs, but … could not be submitted from … (…); on a login node: …": (
        "tests/slurm/test_by_hand.py::test_nodes_that_may_not_submit"
    ),
    "preempted by another job … (Slurm: PREEMPTED)": (
        "tests/slurm/test_preemption_cancels.py::test_preempted_it_starts_again"
    ),
    "stopped as if told to, but neither Slurm nor a person told the job": (
        "tests/slurm/test_early_deaths.py::test_a_ranks_early_death"
    ),
    "… the last attempt failed: …": (
        "tests/unit/run/test_how_an_attempt_ended.py::test_the_last_attempts_error_stays_in_sight"
    ),
    "started … times in a row …": (
        "tests/unit/runtime/test_retry_policy.py::test_starts_from_one_checkpoint_are_counted_however_they_ended"
    ),
    "waiting for the Slurm controller …": (
        "tests/unit/slurm/test_waiting.py::test_while_a_command_hangs_it_is_said_what_is_waited_for"
    ),
    "was trained on other rows than would follow now": (
        "tests/unit/training/test_rows_read.py::test_the_train_stage_refuses_a_seed_that_was_changed_behind_its_back"
    ),
}
"""First words of a row → the test. That each command of the page about RUN is taken at all is held by
``tests/slurm/test_docs_commands.py::test_every_remedy``."""

NOT_MADE: dict[str, str] = {
    "note: not handed on to the jobs that follow: …": "Slurm shows no value that a profile refuses",
    "after scancel Slurm still holds: …": "Slurm lets go of a job that is cancelled, here always at once",
    "asks for more than the partition has: it never starts": "Slurm says it of a partition that has shrunk",
    "your limit of GPUs is reached": "the rehearsal cluster enforces no such limits",
    "out of memory … (Slurm: OUT_OF_MEMORY)": "needs control groups; where there are, test_devcluster has it",
    "over its time limit … (Slurm: TIMEOUT)": "Slurm counts its limits in minutes",
    "… attempts in a row were stopped by the time limit before they saved a new checkpoint": (
        "takes several time limits; tests/unit/runtime/test_retry_policy.py decides it from the ledger"
    ),
}  # fmt: skip
"""What is not made, and why; its words are held by ``test_links.py``, its command by ``test_every_remedy``."""


def test_every_symptom_is_tied_to_a_test() -> None:
    first = {row.words[0] for row in rows()}
    assert first == HELD.keys() | NOT_MADE.keys()
    assert not HELD.keys() & NOT_MADE.keys()


@pytest.mark.parametrize("words", HELD)
def test_the_test_is_there(words: str) -> None:
    file, _, name = HELD[words].partition("::")
    tree = ast.parse((REPO / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def requests(recipe: Any, shape: Any, stages: tuple[str, ...] = jobs.CHAIN, **_: Any) -> list[Job]:
    """A chain of stand-ins on this machine."""
    stand_in = str(SUPPORT / "stand_in.py")
    return [
        Job(
            stage=stage, time="00:10:00", attempt_limit=1, own_markers=True,
            steps=(Step(stage=stage, command=(sys.executable, stand_in, "$RUN", stage)),),
        )
        for stage in jobs.CHAIN if stage in stages
    ]  # fmt: skip


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    """``here("fail 7")``: a run on this machine whose first stage behaves so."""
    monkeypatch.setattr(jobs, "requests", requests)
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    runs: list[Run] = []

    def make(told: str, *settings: str) -> Run:
        original = submit.create

        def told_first(*args: Any, **options: Any) -> Run:
            run = original(*args, **options)
            tell(run.path, train=told)
            return run

        monkeypatch.setattr(submit, "create", told_first)
        words = [
            "--recipe",
            "configs/tiny.yaml",
            "--executor",
            "local",
            "--gpus",
            "1",
            "--stages",
            "train,report",
        ]
        words += [word for item in settings for word in ("--set", item)]
        assert submit.main([*words, "--name", "run"]) == 0
        monkeypatch.setattr(submit, "create", original)
        runs.append(Run.open(tmp_path / "runs" / "run"))
        return runs[-1]

    yield make
    for run in runs:
        if at_work(chain(run)):
            os.kill(int(chain(run).removeprefix("local-")), signal.SIGTERM)


def chain(run: Run) -> str:
    """The chain's process, as ``local-PID``."""
    return str(ledger.events(run.path, event="submitted")[-1]["job"])


def kill_all(pid: int) -> None:
    """A process with all that it started, at once, as a machine that goes down does."""
    process = psutil.Process(pid)
    process.suspend()
    for child in process.children(recursive=True):
        child.suspend()
    for child in process.children(recursive=True):
        child.kill()
    process.kill()


def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def shown(run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert status.main([str(run.path)]) == 0
    return capsys.readouterr().out


def well(run: Run) -> bool:
    return run.done("train") and run.done("report")


def test_its_process_is_gone(here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = "its process is gone (killed, or the machine restarted)"
    run = here("wait")
    until(lambda: (run.path / "starts" / "train").exists())
    kill_all(int(chain(run).removeprefix("local-")))
    until(lambda: seen(words, f"{read_state(run).get('train').error}"))
    assert "mend it" in shown(run, capsys)
    tell(run.path, train="ok")
    follow(words, run.path)
    until(lambda: well(run))


def test_the_same_error_each_time(here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Status has the stage's own words, the log how often."""
    words = "… attempts in a row failed without a new checkpoint"
    run = here("fail 7")
    until(lambda: read_state(run).ended and not at_work(chain(run)))
    assert "train was told to fail" in shown(run, capsys)
    assert seen(words, (run.jobs("train") / "local.out").read_text())
    tell(run.path, train="ok")
    follow(words, run.path)
    until(lambda: well(run))


def test_a_script_that_ends_before_its_first_line_says_why(
    here: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here("ok", "cluster.environment.python=/nowhere")
    until(lambda: read_state(run).ended)
    assert read_state(run).get("train").state == "failed"
    said = " ".join(shown(run, capsys).split())
    assert "ended before its first line" in said and "/nowhere/bin/python" in said
    from glmjobs.terminal.follow import follow as stay

    assert stay(run, as_json=False) == 1
    assert "error: train failed: ended before its first line" in capsys.readouterr().err


def test_a_rank_that_died_without_a_word(tmp_path: Path) -> None:
    """Killed, it says nothing; the others only that they lost it, in the words of gloo and of NCCL."""
    words = "died without a word (killed; out of memory?)"
    for said in (
        "[../gloo/transport/tcp/pair.cc:525] Connection closed by peer [10.0.0.2]:1234",
        "NCCL error: unhandled system error, NCCL version 2.14.3\nncclSystemError: System call (e.g. socket, malloc) "
        "or external library call failed. It can be also caused by unexpected exit of a remote peer",
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    ):
        record_failure(tmp_path, 0, RuntimeError(said))
        known = [{"rank": rank, "host": f"node{rank}"} for rank in (0, 1)]
        found = first_failure(tmp_path, known=known)
        assert found is not None and found["rank"] == 1 and found["host"] == "node1"
        assert seen(words, found["error"])
    assert "dmesg" in advice_for(words)


def test_another_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from glmjobs.run.submit_checks import check_model
    from hpc.core.errors import BadInput
    from tests.support.small_families import small_glm

    words = "this is a model of the family …, the recipe says model.family = …"
    model = small_glm(tmp_path / "glm")
    with pytest.raises(BadInput) as refused:
        check_model(model, "chatglm")
    assert seen(words, str(refused.value)) and advice_for(words) == "another recipe"
    assert check_model(model, "glm") == model


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpc.core.errors import NotFit
    from hpc.slurm import executor

    words = "no Slurm here (srun is not on PATH)"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFit) as refused:
        executor.to_slurm("", [], tmp_path)
    assert seen(words, str(refused.value)) and "--executor local" in advice_for(words)
