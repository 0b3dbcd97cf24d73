"""Each step stands once at a tracker, however often its training was killed and resumed: the real packages, offline."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from glmjobs import track
from glmjobs.run.directory import Run, rewrite
from glmjobs.run.read_state import read_state
from glmjobs.terminal.tables import render
from glmjobs.tracking import sending, state
from glmjobs.tracking.sending import sync
from hpc.chain import ledger
from hpc.core.errors import BadInput, NotFit
from tests.support import tracked
from tests.support.advice import follow, seen

SECRET = "0123456789abcdef0123456789abcdef01234567"
LAST = 14


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tracked.made_run(tmp_path / "a run", "track=[wandb,swanlab,mlflow]")


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "SWANLAB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("SWANLAB_API_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)


def there(run: Run, tracker: str) -> tracked.Steps:
    """What the tracker has, without figures of the whole."""
    if tracker == "mlflow":
        found = tracked.mlflow_steps(run.file.key)
    else:
        found = getattr(tracked, f"{tracker}_steps")(state.folder(run.path) / tracker)
    of_steps = [
        (step, {n: v for n, v in values.items() if n.startswith(("train/", "dev/"))})
        for step, values in found
    ]
    return [(step, values) for step, values in of_steps if values]


@pytest.fixture(params=["wandb", "swanlab", "mlflow"])
def tracker(request: pytest.FixtureRequest) -> str:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install -r configs/stacks/track.txt")
    return str(request.param)


def test_killed_and_resumed_twice_each_step_is_there_once(run: Run, tracker: str) -> None:
    tracked.train(run, 1, 7)  # the checkpoint it is killed after is of step 4
    assert sync(run, tracker).up_to == 6, "step 7 may still be evaluated"
    tracked.train(run, 5, 9)
    assert sync(run, tracker)[:3] == (2, 0, 8)
    assert sync(run, tracker).steps == 0
    tracked.train(run, 7, LAST)
    tracked.finish(run)
    assert sync(run, tracker)[:3] == (6, 4, LAST)
    before = sorted(state.folder(run.path).rglob("*.wandb")) + sorted(
        state.folder(run.path).rglob("*.swanlab")
    )
    assert sync(run, tracker)[:3] == (0, 0, LAST), "given twice"
    after = sorted(state.folder(run.path).rglob("*.wandb")) + sorted(
        state.folder(run.path).rglob("*.swanlab")
    )
    assert before == after
    found = there(run, tracker)
    assert [step for step, _ in found] == list(range(1, LAST + 1))
    for step, values in found:
        assert values["train/loss"] == pytest.approx(1 / step) and values["train/learning_rate"] == 1e-4
        assert ("train/grad_norm" in values) == (step != 2), "what is no number is left out"
        assert ("dev/loss" in values) == (step % 4 == 0)
        assert values.get("dev/loss") == (pytest.approx(1 / step + 1) if step % 4 == 0 else None)


def test_of_a_run_that_was_cancelled_the_last_step_goes_along(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    tracked.train(run, 1, 7)
    ledger.append(run.path, "submitted", stage="train", job="1")
    words = ["sync", str(run.path), "--to", "wandb"]
    assert track.main(words) == 0 and "6 steps, up to step 6 sent" in capsys.readouterr().out
    ledger.append(run.path, "cancelled", stage="train", job="1")
    assert track.main(words) == 0 and "1 steps, up to step 7 sent" in capsys.readouterr().out
    assert track.main(words) == 0 and "nothing new" in capsys.readouterr().out


def test_killed_while_it_sends(run: Run, tracker: str) -> None:
    """What was handed over and not closed does not count offline; a server is asked what it has."""
    tracked.train(run, 1, 6)
    program = (
        "import os, sys; from glmjobs.run.directory import Run; from glmjobs.tracking.sending import Outbox; "
    )
    program += "Outbox(Run.open(sys.argv[1]), sys.argv[2]).send(); os.kill(os.getpid(), 9)"
    with pytest.raises(subprocess.CalledProcessError, match="SIGKILL"):
        subprocess.run([sys.executable, "-c", program, run.path, tracker], check=True, capture_output=True)
    tracked.train(run, 4, LAST)
    tracked.finish(run)
    assert sync(run, tracker).up_to == LAST
    assert [step for step, _ in there(run, tracker)] == list(range(1, LAST + 1))


def test_scores_and_settings_go_along_and_no_key(run: Run, tracker: str) -> None:
    tracked.train(run, 1, 5)
    tracked.finish(run)
    sync(run, tracker)
    files = [p for p in run.path.rglob("*") if p.is_file()]
    assert not [p for p in files if SECRET.encode() in p.read_bytes()]
    if tracker == "mlflow":
        from mlflow import MlflowClient

        (found,) = MlflowClient().search_runs(
            ["0", *(e.experiment_id for e in MlflowClient().search_experiments())]
        )
        assert (
            found.data.metrics["score/dev/finetuned"] == 0.75
            and found.data.metrics["cost/peak_host_bytes"] == 1000
        )
        assert found.data.params["train.learning_rate"] == str(run.recipe.train.learning_rate)
        assert found.info.status == "FINISHED" and found.info.run_name == run.name
        return
    kept = b"".join(p.read_bytes() for p in state.folder(run.path).rglob(f"*.{tracker}"))
    assert b"score/dev/finetuned" in kept and b"cost/peak_host_bytes" in kept and b"learning_rate" in kept


def test_a_setting_that_heal_changed_is_beside_the_old_one(run: Run) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    tracked.train(run, 1, 5)
    sync(run, "mlflow")
    slower = run.recipe.train.model_copy(update={"learning_rate": 5e-7})
    run = rewrite(run, run.recipe.model_copy(update={"train": slower}), run.cluster)
    tracked.train(run, 5, 9)
    assert sync(run, "mlflow").up_to == 8
    (found,) = MlflowClient().search_runs([e.experiment_id for e in MlflowClient().search_experiments()])
    assert found.data.tags["changed.train.learning_rate"] == "5e-07"
    assert found.data.params["train.learning_rate"] != "5e-07"


def test_no_way_there_is_a_line_and_counted(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    only = run.recipe.model_copy(update={"track": ("wandb",)})
    run = rewrite(run, only, run.cluster)
    monkeypatch.setenv("WANDB_MODE", "online")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    tracked.train(run, 1, 5)
    for times in (1, 2):
        assert track.main(["sync", str(run.path), "--to", "wandb"]) == NotFit.exit_code
        said = capsys.readouterr()
        assert (
            said.out == "" and said.err.count("\n") == 1 and "to 127.0.0.1 (Connection refused)" in said.err
        )
        assert state.load(run.path, "wandb").failures == times
    words = "… could not be sent to (failures so far: …): …"
    with Console(width=500, record=True, file=io.StringIO()) as console:
        console.print(render(read_state(run, ask_slurm=False)))
    shown = console.export_text()
    assert seen(words, shown) and "so far: 2): no way from" in shown
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(words, run.path)
    assert "4 steps, up to step 4 sent" in capsys.readouterr().out and state.troubles(run.path) == []


def test_two_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.0)
    with sending.held(run, "wandb") as alone:
        assert alone
        with pytest.raises(BadInput, match="another process is sending"):
            sync(run, "wandb")


def test_runs_may_stand_after_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a package that is not here is said before a key is asked for, which its own command would make."""
    monkeypatch.setattr(sending, "find_spec", lambda name: None)
    monkeypatch.delenv("SWANLAB_API_KEY")
    monkeypatch.delenv("SWANLAB_MODE")
    paths = []
    for name in ("one", "two"):
        run = tracked.made_run(tmp_path / name)
        tracked.train(run, 1, 4)
        paths.append(str(run.path))
    assert track.main(["sync", paths[0], "--to", "swanlab", paths[1]]) == NotFit.exit_code
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("swanlab is not installed here: " in line for line in said)


def test_words_of_a_tracker_are_cut_between_words() -> None:
    said = sending._words(ValueError("see https://example.org/a/long/address " * 20))
    assert len(said) <= 300 and said.endswith("/address see …")


def test_a_run_that_names_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tracked.made_run(tmp_path / "plain")
    with pytest.raises(BadInput, match=r"names no tracker.*--to wandb"):
        track.main(["sync", str(plain.path)])
