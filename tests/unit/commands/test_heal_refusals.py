"""What heal changes in a training that has got to a checkpoint: as the table in docs/changing-a-run.md says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal
from glmjobs.recipe.loading import load
from glmjobs.recipe.schema import Recipe
from glmjobs.run.directory import Run, Shape
from glmjobs.run.read_state import read_state
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core.config_files import field_names
from hpc.core.errors import BadInput, HpcError, NotFit
from tests.support.paths import CONFIGS, REPO

PAGE = (REPO / "docs" / "changing-a-run.md").read_text()
SAYS = {
    name: verdict.partition(":")[0].partition(",")[0].strip()
    for names, verdict in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", PAGE, re.M)
    for name in re.findall(r"`([^`]+)`", names)
}
NEW: dict[str, Any] = {
    "train.learning_rate": "1e-6", "train.scheduler": "constant", "train.warmup_ratio": "0.25", "train.epochs": "7",
    "train.max_steps": "99", "train.max_grad_norm": "0.5", "train.activation_checkpointing": "true",
    "train.lora.dropout": "0.25", "train.save_steps": "77", "train.save_total_limit": "9", "train.logging_steps": "7",
    "train.attention": "whole", "train.compile": "true",
    "model": "seed=5", "data": "dev_rows=1-7", "train.method": "lora", "train.init_from": "other",
    "train.per_device_batch_size": "3",
    "train.gradient_accumulation": "5", "train.packing": "false", "train.pack_length": "333", "train.seed": "7",
    "train.eval_steps": "5", "train.eval_rows": "7", "train.eval_answers": "3", "train.keep": "best",
    "train.metric": "dev_token_accuracy",
    "train.early_stop": "3", "train.label_smoothing": "0.1", "train.neftune_alpha": "5", "train.label_sop": "true",
    "train.precision": "bf16", "train.zero_stage": "3", "train.optimizer_offload": "true",
    "train.deepspeed": "configs/deepspeed/zero3.json", "train.device": "cpu", "train.weight_decay": "0.25",
    "train.freeze": "[embeddings]",
    "train.lora.rank": "3", "train.lora.alpha": "3", "train.lora.targets": "[dense]", "jobs": "train.time=00:07:00",
    "consolidate": "dtype=bfloat16", "score": "max_new_tokens=7", "cluster": "account=other", "track": "[]",
}  # fmt: skip


def setting(name: str) -> str:
    value = NEW[name].replace("seed", "make.seed") if name == "model" else NEW[name]
    whole = "." in name or name == "track"
    return f"{name}={value}" if whole else f"{name}.{value}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    small = ["data.make.rows=120", "data.dev_rows=1-20", "train.precision=fp32", "train.device=auto"]
    small += ["train.eval_steps=auto", "track=[wandb]"]
    return Run.create(
        tmp_path / "a run", load(CONFIGS / "tiny.yaml", small), Profile(name="x"), Shape(nodes=1, gpus=1)
    )


def change(run: Run, item: str) -> Run:
    return heal.change(run, read_state(run, ask_slurm=False), [item], "local")


def test_the_table_names_every_setting_of_a_training() -> None:
    of_training = {name for name in field_names(Recipe) if name.startswith("train.")} - {"train.lora"}
    assert of_training == {name for name in SAYS if name.startswith("train.")}
    assert set(SAYS) - of_training == {"model", "data", "jobs", "consolidate", "score", "track", "cluster"}
    sections = {name.partition(".")[0] for name in field_names(Recipe)}
    assert sections == {"name", "train"} | set(SAYS) - of_training - {"cluster"}, (
        "and every section of a recipe"
    )
    assert set(SAYS.values()) == {"goes on with it", "refused"} and set(NEW) == set(SAYS)


@pytest.mark.parametrize("name", NEW)
def test_the_table_is_true(name: str, run: Run) -> None:
    ledger.write_progress(run.path, "train", step=30, of=60, checkpoint=24)
    before = (run.path / "run.yaml").read_text()
    if SAYS[name] == "refused":
        with pytest.raises(BadInput, match=r"checkpoint-24.*new run") as refused:
            change(run, setting(name))
        assert "\n" not in str(refused.value) and (run.path / "run.yaml").read_text() == before
        assert not ledger.events(run.path, event="changed")
    else:
        change(run, setting(name))
        assert (run.path / "run.yaml").read_text() != before


@pytest.mark.parametrize("name", [name for name in NEW if name not in ("data", "model", "train.init_from")])
def test_before_the_first_checkpoint_all_is_taken(name: str, run: Run) -> None:
    before = (run.path / "run.yaml").read_text()
    change(run, setting(name))
    assert (run.path / "run.yaml").read_text() != before


@pytest.mark.parametrize(
    ("item", "kind", "said"),
    [
        ("train.freeze=[dense_h_to_5h]", BadInput, "train.freeze: dense_h_to_5h: this model has embeddings, "),
        ("jobs.train.memory=1M", NotFit, "jobs.train.memory = 1M, and this training takes "),
    ],
)
def test_what_a_training_takes_is_demanded_as_by_submit(
    item: str, kind: type[HpcError], said: str, run: Run
) -> None:
    before = (run.path / "run.yaml").read_text()
    with pytest.raises(kind) as caught:
        change(run, item)
    assert str(caught.value).startswith(said) and (run.path / "run.yaml").read_text() == before
    assert not ledger.events(run.path, event="changed")


def test_the_same_value_is_no_change(run: Run) -> None:
    ledger.write_progress(run.path, "train", step=30, of=60, checkpoint=24)
    assert change(run, "train.precision=fp32").recipe == run.recipe
