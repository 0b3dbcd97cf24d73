"""`python -m glmjobs.setup` on a login node: real Slurm and stages, a hub on this machine, a person who gives up."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel
from glmjobs.cli import run_command
from glmjobs.data.synthetic import make_problems
from glmjobs.run.directory import Run
from hpc.chain import ledger
from hpc.devcluster import DevCluster
from tests.support.hub import Hub, serve
from tests.support.paths import REPO
from tests.support.small_chain import with_key
from tests.support.terminal import Typed

pytestmark = pytest.mark.slurm

RECIPE = """\
name: small
model: {family: chatglm, path: models/small}
data: {path: data/school_math_0.25M.json, dev_rows: 1-8, max_source_length: 128, max_target_length: 128}
train: {epochs: 1, per_device_batch_size: 8, precision: fp32, device: auto, pack_length: 256, logging_steps: 5}
consolidate: {dtype: float32}
score: {rows: 8, max_new_tokens: 8, dtype: float32, shards: 1}
jobs: {train: {time: "00:30:00", cpus_per_task: 1}, signal_seconds: 60}
"""
SHOWN = "as it is: partition gpu"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mirror with a small ChatGLM and some of BELLE's kind of rows."""
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("torch")
    from glmjobs.models.family import family_for

    folder, rows = tmp_path_factory.mktemp("hub"), make_problems(400, 0)
    texts = [row["instruction"] + row["output"] for row in rows]
    sizes = {"hidden_size": 64, "layers": 2, "heads": 4, "vocab_size": 700, "max_positions": 256, "seed": 0}
    family_for("chatglm").make_small(folder, texts, sizes)
    belle = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    model = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serve({
        "models/THUDM/small": model, "datasets/BelleGroup/school_math_0.25M": {"school_math_0.25M.json": belle},
    }) as address:  # fmt: skip
        yield address


@pytest.fixture
def login(
    hub: str,
    slurm_env: dict[str, str],
    cluster: DevCluster,
    tmp_path: Path,
    clean_queue: Callable[[DevCluster], None],
) -> Callable[..., Typed]:
    """``login("--yes")`` types the command in an empty directory of a login node."""
    clean_queue(cluster)
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    unset = ("GLMJOBS_RUNS", "GLMJOBS_CLUSTER", "HF_HUB_OFFLINE")
    environ = {
        k: v for k, v in {**os.environ, **slurm_env}.items() if k not in unset and "proxy" not in k.lower()
    }
    environ |= {"PYTHONPATH": str(REPO), "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache")}
    return lambda *words: Typed([sys.executable, "-m", "glmjobs.setup", *words], home, environ)


def files(home: Path) -> list[str]:
    """What lies there."""
    return sorted(path.name for path in home.iterdir() if not path.name.startswith("."))


def test_a_dry_run_touches_nothing(login: Callable[..., Typed], tmp_path: Path) -> None:
    typed = login("--dry-run", "--recipe", "../small.yaml")
    assert typed.end() == 0, typed.said
    for words in (
        "would draft cluster.yaml",
        "would fetch THUDM/small into models/small",
        "would submit",
        "rehearse",
    ):
        assert words in typed.said
    assert list((tmp_path / "home").iterdir()) == []


def test_what_is_wrong_is_one_line(login: Callable[..., Typed], tmp_path: Path) -> None:
    published = ("--dry-run", "--recipe", "configs/chatglm6b.yaml", "--gpus", "1")  # its sizes are known
    for words, code, said in (
        (
            (*published, "--setting", "recipe"),
            2,
            "--setting recipe: the recipe as it is does not fit this GPU",
        ),
        ((*published, "--gpu-memory", "10"), 3, "nothing fits 10 GB: more --gpus or --nodes, or"),
        (
            ("--yes", "--recipe", "../small.yaml", "--model", "../nowhere"),
            2,
            "--model ../nowhere: neither a path",
        ),
        (("--yes", "--recipe", "../small.yaml", "--nodes", "many"), 2, "--nodes many: a whole number"),
        (("--yes", "--recipe", "no.yaml"), 2, "--recipe no.yaml: no such recipe file"),
        (
            ("--yes", "--recipe", "../small.yaml", "--hub", "http://127.0.0.1:9", "--model", "THUDM/small"),
            3,
            "again",
        ),
    ):
        typed = login(*words)
        assert typed.end() == code, typed.said
        last = typed.said.rstrip().splitlines()[-1]
        assert last.startswith("error: ") and said in last and "Traceback" not in typed.said, typed.said


@pytest.mark.slow
def test_from_nothing_to_a_scored_run_given_up_at_every_step(
    login: Callable[..., Typed], tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    home = tmp_path / "home"
    again = "the same command, given again, goes on from here"

    typed = login("--follow")
    typed.until("? Recipe")
    assert typed.interrupt() == 130 and again in typed.said
    assert files(home) == []

    typed = login("--follow")
    typed.answer("Recipe", "../larger.yaml")
    typed.until("no such recipe file")
    typed.answer("Recipe", "../small.yaml")
    typed.until("? Account")
    assert typed.interrupt() == 130
    assert files(home) == ["glmjobs-setup.json"]

    typed = login("--follow")
    typed.answer("Account", "two words")
    typed.until("sacctmgr show user")
    typed.answer("Account", "")
    typed.answer("Memory of one a100", "much")
    typed.until("a whole number from 1")
    typed.answer("Memory of one a100", "")
    typed.until("fit: ")
    typed.until("? Model")
    assert typed.interrupt() == 130
    assert "Recipe, one of" not in typed.said
    profile = home / "cluster.yaml"
    profile.write_text(
        profile.read_text(encoding="utf-8") + "mail: me@example.org  # mine\n", encoding="utf-8"
    )
    mine = profile.read_text(encoding="utf-8")

    Hub.held = threading.Event()
    typed = login("--follow")
    typed.until(SHOWN)
    typed.answer("Model", "")
    assert Hub.reached.wait(60)
    typed.kill()
    Hub.held.set()
    assert not (home / "models" / "small" / "fetched.json").exists()

    typed = login("--follow")
    typed.answer("Data", "school_math")
    typed.until("neither a path that exists nor a hub id")
    typed.answer("Data", "")
    typed.answer("Nodes", "99")
    typed.until("a whole number from 1 to 2")
    typed.answer("Nodes", "1")
    typed.until("? GPUs")
    assert typed.interrupt() == 130
    assert "? Model" not in typed.said and (home / "data" / "school_math_0.25M.json").is_file()

    typed = login("--follow")
    typed.answer("GPUs", "2")
    typed.until("--ntasks-per-node=2")
    typed.answer("Rehearse", "perhaps")
    typed.until("yes or no")
    typed.answer("Rehearse", "")
    rehearsal = home / "runs" / "rehearsal-small-1"
    wait_for(lambda: rehearsal.is_dir() and ledger.events(rehearsal, event="submitted"))
    typed.kill()

    typed = login("--follow")
    typed.until("running", seconds=300)
    assert typed.interrupt() == 130 and "the run goes on" in typed.said and again in typed.said
    assert "? Rehearse" not in typed.said
    assert len(with_key(Run.open(rehearsal))) == 4
    assert run_command(cancel.main, [str(rehearsal)]) == 0

    typed = login("--follow")
    typed.until("all that was measured holds", seconds=300)
    typed.until("? Submit")
    assert typed.interrupt() == 130
    assert files(home / "runs") == ["rehearsal-small-1"]

    typed = login("--follow")
    typed.until("rehearsal-small-1: all that was measured holds")
    typed.answer("Submit", "")
    run = home / "runs" / "small-1"
    wait_for(lambda: run.is_dir() and ledger.events(run, event="submitted"))
    typed.kill()

    typed = login("--follow")
    assert typed.end(seconds=300) == 0, typed.said
    assert "fine-tuned" in typed.said and (run / "report" / "report.html").is_file()
    assert files(home / "runs") == ["rehearsal-small-1", "small-1"]
    assert len(with_key(Run.open(run))) == 4, "each job once, whenever it was given up"
    assert profile.read_text(encoding="utf-8").startswith(mine)
    assert json.loads((run / "scores" / "finetuned" / "summary.json").read_text())["rows"] == 8

    typed = login("--yes")
    assert typed.end() == 0 and "fine-tuned" in typed.said
    assert files(home / "runs") == ["rehearsal-small-1", "small-1"]
