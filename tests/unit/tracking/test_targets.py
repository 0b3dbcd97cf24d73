"""Where trackers are and what is missing, found out without them, before anything is queued."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmjobs import submit
from glmjobs.recipe.loading import load
from glmjobs.tracking import records
from glmjobs.tracking.check import check
from glmjobs.tracking.targets import target, unreachable
from hpc.batch.profile import Container, Environment, Profile
from hpc.core.errors import BadInput
from tests.support import tracked
from tests.support.paths import CONFIGS


def home(tmp_path: Path, name: str, host: str) -> dict[str, str]:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    return {"HOME": str(tmp_path)}


def test_keys_are_the_trackers_own(tmp_path: Path) -> None:
    none = {"HOME": str(tmp_path)}
    assert "wandb has no key here: wandb login" in target("wandb", none).missing
    assert "SwanLab has no key here: swanlab login" in target("swanlab", none).missing
    assert "MLFLOW_TRACKING_URI" in target("mlflow", none).missing
    assert target("wandb", {**none, "WANDB_API_KEY": "k"}).missing == ""
    assert target("wandb", home(tmp_path, ".netrc", "api.wandb.ai")).missing == ""
    assert target("wandb", {**none, "WANDB_BASE_URL": "https://own.example"}).missing, (
        "a key for another server"
    )
    assert target("swanlab", home(tmp_path, ".swanlab/.netrc", "api.swanlab.cn")).missing == ""
    (tmp_path / ".netrc").write_text("no netrc at all")
    assert target("wandb", none).missing


def test_modes_and_places() -> None:
    for mode in ("offline", "dryrun"):
        assert target("wandb", {"WANDB_MODE": mode}).name == "offline"
    assert "disabled" in target("swanlab", {"SWANLAB_MODE": "disabled"}).missing
    named = {"WANDB_API_KEY": "k", "WANDB_ENTITY": "team", "WANDB_PROJECT": "glm"}
    assert target("wandb", named).name == "https://api.wandb.ai team/glm"
    plain = target("wandb", {"WANDB_API_KEY": "k", "WANDB_BASE_URL": "https://me:pw@own.example/"})
    assert plain.url == "https://own.example"
    assert (
        "MLFLOW_TRACKING_PASSWORD"
        in target("mlflow", {"MLFLOW_TRACKING_URI": "https://me:pw@own.example"}).missing
    )
    assert target("mlflow", {"MLFLOW_TRACKING_URI": "sqlite:////tmp/x.db"}).url == ""
    allowed = {"MLFLOW_TRACKING_URI": "/data/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
    assert target("mlflow", allowed).missing == ""


@pytest.mark.parametrize(
    ("tracker", "variables", "said"),
    [
        ("mlflow", {"MLFLOW_TRACKING_URI": "/data/mlruns"}, "is a directory (/data/mlruns)"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "file:///data/mlruns"}, "sqlite:////PATH"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "http:server"}, "MLFLOW_TRACKING_URI is http:server"),
        ("wandb", {"WANDB_BASE_URL": "nonsense", "WANDB_API_KEY": "k"}, "WANDB_BASE_URL is nonsense"),
        ("wandb", {"WANDB_MODE": "foo", "WANDB_API_KEY": "k"}, "WANDB_MODE is foo: it is online"),
        ("swanlab", {"SWANLAB_MODE": "foo", "SWANLAB_API_KEY": "k"}, "SWANLAB_MODE is foo"),
    ],
)
def test_places_that_are_none_are_said_before_anything_is_queued(
    tracker: str, variables: dict[str, str], said: str
) -> None:
    assert said in target(tracker, variables).missing


def test_a_proxy_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "to 127.0.0.1 (Connection refused)" in unreachable("https://api.wandb.ai")
    assert unreachable("") == ""


def test_a_missing_package_is_a_line_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    empty = tmp_path / "env"
    (empty / "lib/python3.11/site-packages").mkdir(parents=True)
    words = ["--recipe", "configs/tiny.yaml", "--gpus", "1", "--executor", "local", "--name", "one"]
    words += ["--set", "track=wandb", "--set", f"cluster.environment.python={empty}"]
    with pytest.raises(
        BadInput, match=r"track: wandb is not installed in .*env, where the jobs run: .*pip install wandb"
    ):
        submit.main(words)
    assert not (tmp_path / "runs").exists()


def test_a_missing_key_is_a_line(tmp_path: Path) -> None:
    place = tmp_path / "lib/python3.11/site-packages/wandb-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 1.0\n")
    recipe = load(CONFIGS / "tiny.yaml", ["track=[wandb]"])
    profile = Profile(name="x", environment=Environment(python=str(tmp_path)))
    with pytest.raises(BadInput, match="track: wandb has no key here"):
        check(recipe, profile, {"HOME": str(tmp_path)})
    check(recipe, profile, {"HOME": str(tmp_path), "WANDB_MODE": "offline"})
    mlflow = tmp_path / "lib/python3.11/site-packages/mlflow_skinny-3.0.dist-info"
    mlflow.mkdir()
    (mlflow / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow-skinny\nVersion: 3.0\n")
    with pytest.raises(BadInput, match=r"no sqlalchemy for a database beside it: .*pip install mlflow,"):
        database = {"MLFLOW_TRACKING_URI": "sqlite:////tmp/x.db"}
        check(load(CONFIGS / "tiny.yaml", ["track=[mlflow]"]), profile, database)
    inside = Environment(container=Container(runtime="apptainer", image="/x.sif"), python="/nowhere")
    check(recipe, profile.model_copy(update={"environment": inside}), {"WANDB_API_KEY": "k"})


@pytest.mark.parametrize("value", ["comet", "[wandb,comet]", "3", "{a: 1}"])
def test_a_tracker_that_is_none(value: str) -> None:
    with pytest.raises(BadInput, match=r"one or more of wandb, swanlab, mlflow, as track: \[wandb\]"):
        load(CONFIGS / "tiny.yaml", [f"track={value}"])


def test_each_step_is_whole_and_there_once(tmp_path: Path) -> None:
    run = tracked.made_run(tmp_path / "run")
    assert records.steps(run) == [] and records.summary(run) == {}
    tracked.train(run, 1, 4)
    with (run.checkpoints / "train_log.jsonl").open("a") as file:
        file.write('{"step": 5, "time": "2023-11')  # a write cut short
    assert [step.step for step in records.steps(run)] == [1, 2, 3]
    tracked.finish(run)
    steps = records.steps(run)
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert steps[3].values == {
        "train/loss": 0.25, "train/learning_rate": 1e-4, "train/grad_norm": 1.5, "train/tokens_per_s": 10.0,
        "train/tokens": 32.0, "dev/loss": 1.25, "dev/token_accuracy": 0.5,
    }  # fmt: skip
    assert records.summary(run) == {
        "cost/tokens_per_s": 10.0, "cost/peak_host_bytes": 1000.0, "score/dev/base": 0.25, "score/dev/finetuned": 0.75,
    }  # fmt: skip
    assert records.config(run)["train"]["learning_rate"] == run.recipe.train.learning_rate
