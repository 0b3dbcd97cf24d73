"""The README.md that a model directory leaves with."""

from __future__ import annotations

import json
from pathlib import Path

import tests.support.report_sample as sample
from glmjobs import report
from glmjobs.run.directory import Run
from glmjobs.zero import file_hashes, manifest
from glmjobs.zero.publish import publishing


def with_model(run: Run) -> Path:
    """A model directory with a licence and a manifest, as consolidation leaves it."""
    (run.model / "manifest.json").unlink()
    run.model.rmdir()
    with publishing(run.model) as directory:
        (directory / "config.json").write_text(json.dumps({"model_type": "chatglm"}))
        (directory / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        (directory / "MODEL_LICENSE").write_text("terms")
        names = ("config.json", "model.safetensors", "MODEL_LICENSE")
        manifest.write_manifest(
            directory, [file_hashes.describe(directory, name, "xxh128") for name in names], source="x"
        )
    return run.model / "README.md"


def test_it_says_what_the_model_is(run: Run) -> None:
    """Base, method, data, scores with intervals, recipe and licence; the manifest holds still."""
    path = with_model(run)
    document = report.make(run, mark=False)
    card = path.read_text(encoding="utf-8")
    assert card.splitlines()[2] == f"# {run.path.name}"
    assert "ChatGLM-6B: chatglm-6b after full fine-tuning." in card
    for model in document["accuracy"]["models"]:
        low, high = model["interval"]
        assert (
            f"{100 * model['accuracy']:.1f}" in card
            and f"{100 * low:.1f}" in card
            and f"{100 * high:.1f}" in card
        )
    assert "3,100 optimizer steps" in card and "learning_rate: 1.0e-05" in card
    assert "Those of chatglm-6b are in MODEL\\_LICENSE." in card
    assert str(run.path.parent) not in card
    manifest.verify(run.model)


def test_a_readme_of_somebody_else_stays(run: Run) -> None:
    path = with_model(run)
    path.write_text("mine")
    report.make(run, mark=False)
    assert path.read_text() == "mine"


def test_without_scores_and_licence_it_says_so(tmp_path: Path) -> None:
    run = sample.make_run(tmp_path)
    for file in sorted(run.scores.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    path = with_model(run)
    (run.model / "MODEL_LICENSE").unlink()
    report.make(run, mark=False)
    card = path.read_text(encoding="utf-8")
    assert (
        "It has not been scored." in card and "were not beside it: they stand where it was published" in card
    )


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    run = sample.make_run(tmp_path, hostile=True)
    path = with_model(run)
    report.make(run, mark=False)
    assert "<script" not in path.read_text(encoding="utf-8").replace("<!--", "")
