"""``python -m glmjobs.models``: the families, and what a directory is."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from glmjobs.cli import run_command
from glmjobs.models import main  # type: ignore[attr-defined]
from glmjobs.models.family import families
from tests.support.paths import CONFIGS, REPO
from tests.support.small_families import SMALL


def test_all_families_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["family", "models", "train", "LoRA", "packed", "chat", "vLLM"]
    assert [line.split()[0] for line in lines if line[:1].strip()][1:] == list(families())
    (line,) = (line for line in lines if line.startswith("glm4 "))
    assert line.split() == ["glm4", "glm-4-9b-hf", *["yes"] * 5]
    assert run_command(main, ["--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["family"] for one in listed] == list(families())
    assert all(one["models"] and one["train"] is (one["unavailable"] is None) for one in listed)


def test_every_family_has_a_recipe() -> None:
    named = [
        line for path in CONFIGS.glob("*.yaml") for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert {f"  family: {name}" for name in families()} <= set(named)


@pytest.mark.parametrize("name", SMALL)
def test_a_directory(name: str, bases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its family and sizes; and what makes it unusable, with exit code 2."""
    assert run_command(main, [str(bases / name)]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith(f"{bases / name}: {families()[name].title}, ")
        and f"(model.family: {name}); usable" in said
    )
    assert run_command(main, [str(bases / name), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problem"] is None


def test_what_is_no_model_of_ours_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "num_key_value_heads": 8, "head_dim": 64})
    )
    assert run_command(main, [str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "model_type = 'llama'" in said and "the nearest is GLM-4" in said and said.count("\n") == 1
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chatglm", "vocab_size": 130528}))
    assert run_command(main, [str(tmp_path)]) == 2
    assert "hidden_size is missing" in capsys.readouterr().err
    for missing in (tmp_path / "none", tmp_path / "config.json"):
        assert run_command(main, [str(missing)]) == 2
        assert f"{missing}: no" in capsys.readouterr().err


def test_what_this_environment_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "4.49.0")
    family = families()["glm4_0414"]
    said = "GLM-4-0414 is not in transformers 4.49.0, it came with 4.52: the stack current has it"
    assert (family.unavailable() or "").startswith(said)


def test_it_needs_no_torch() -> None:
    code = "import sys; from glmjobs.models.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, check=False).returncode
        == 0
    )
