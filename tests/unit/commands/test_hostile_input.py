"""Hostile names, paths and values: never executed, and either what comes out is what went in, or one line refuses it.

Scripts are made for random hostile text and run by a real bash with a ``python`` that writes down what it was given.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glmjobs import heal
from glmjobs.cli import error_line
from glmjobs.recipe import loading
from glmjobs.recipe.schema import Limits, Recipe
from glmjobs.run.directory import Run, Shape
from glmjobs.run.jobs import check_name, make_chain
from hpc.batch.profile import Environment, Profile
from hpc.batch.script import render
from hpc.core import config_files
from hpc.core.errors import BadInput, HpcError
from tests.support.paths import CONFIGS

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NASTY = (
    "$(touch canary)", "`touch canary`", "; touch canary;", "' ; touch canary ; '", '" ; touch canary ; "',
    "| touch canary",
    "&& touch canary", "> canary", "${IFS}touch${IFS}canary", "\\$(touch canary)", "--help", "-rf", "~", "*", "%j", "%",
    "a b", "tab\there", "new\nline\ntouch canary", "\r", "模型", "é\u0301", "😀", "'", '"', "\\", "!", "#", "\x1b[31m",
    "..",
)  # fmt: skip
pieces = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
)
hostile = st.lists(pieces, min_size=1, max_size=4).map("".join)
components = hostile.map(lambda t: t.replace("/", "_")).filter(
    lambda t: t not in (".", "..") and len(t.encode()) <= 150
)

PYTHON = """#!/bin/bash
printf '%s\\0' "$@" >"$OUT/args"
env -0 >"$OUT/env"
pwd >"$OUT/cwd"
"""


@pytest.fixture(scope="module")
def prefix() -> Iterator[Path]:
    """An environment whose python writes down its arguments; at a hostile path itself."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "env $(touch canary) '\" ünï"
        (path / "bin").mkdir(parents=True)
        (path / "bin" / "python").write_text(PYTHON)
        (path / "bin" / "python").chmod(0o755)
        yield path


def loaded() -> Recipe:
    return loading.load(CONFIGS / "tiny.yaml")


def run_script(text: str, prefix: Path) -> tuple[list[str], dict[str, str]]:
    """Run it; what python was given: its arguments and environment. Nothing else may have happened."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        out = work / "out"
        out.mkdir()
        script = work / "script.sh"
        script.write_text(text, encoding="utf-8")
        inside = {"PATH": os.environ["PATH"], "OUT": str(out), "HOME": str(work), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            ["bash", str(script)], cwd=work, env=inside, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert {p.name for p in work.iterdir()} == {"out", "script.sh"}, "something was executed"
        assert not list(prefix.rglob("canary")) and not (Path.cwd() / "canary").exists()
        args = (out / "args").read_bytes().decode().split("\0")[:-1]
        lines = (out / "env").read_bytes().decode(errors="surrogateescape").split("\0")
        return args, dict(line.split("=", 1) for line in lines if "=" in line)


@QUICK
@given(name=components, value=hostile, local=st.booleans())
@example(name="$(touch canary)", value="$(touch canary)", local=True)
@example(name="a'b\"c", value="line\nbreak", local=False)
def test_paths_and_values_reach_python_as_they_are(prefix: Path, name: str, value: str, local: bool) -> None:
    run = Path("/tmp/runs") / name
    try:
        profile = Profile(environment=Environment(python=str(prefix), variables={"VALUE": value}))
    except ValueError as error:
        assert "\n" in value or "\0" in value, error
        return
    try:
        chain = make_chain(run, "key", loaded(), profile, Shape(gpus=2), local=local)
        scripts = [render(job, replace(chain, project=Path("/tmp"))) for job in chain.jobs]
    except BadInput as error:
        assert not local and re.search(r'[\n\r"\\]', name) and "\n" not in str(error)
        return
    for script in scripts:
        args, environ = run_script(script, prefix)
        assert args[:3] == ["-m", "hpc.runtime.attempt", str(run)]
        assert environ["VALUE"] == value
        assert args[-1] == str(run), "the stage's own argument"
        directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
        assert len(directives) == (0 if local else len(set(directives)))


@QUICK
@given(text=hostile)
def test_names_are_plain_or_refused(text: str) -> None:
    try:
        assert check_name(text) == text
    except BadInput as error:
        assert "\n" not in error_line(error)
    else:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text)


@QUICK
@given(text=hostile)
@example(text="x\n")
def test_profile_words_are_plain_or_refused(text: str) -> None:
    """What becomes an #SBATCH directive."""
    for field in (
        "partition",
        "account",
        "qos",
        "constraint",
        "reservation",
        "exclude",
        "gpu_type",
        "cpu_partition",
    ):
        try:
            profile = Profile.model_validate({field: text})
        except ValueError:
            continue
        assert getattr(profile, field) == text and not re.search(r"[\s;&|<>$`\"'\\]", text), (field, text)


@QUICK
@given(text=hostile)
@example(text="x\n")
def test_times_and_sizes_are_plain_or_refused(text: str) -> None:
    for field in ("time", "memory"):
        try:
            made = Limits.model_validate({field: text})
        except ValueError:
            continue
        assert getattr(made, field) == text and re.fullmatch(r"[0-9:KMGT-]+", text), (field, text)


@QUICK
@given(text=hostile, field=st.sampled_from(["data.prompt_column", "train.deepspeed", "data.path"]))
@example(text="tab\there\n", field="data.prompt_column")  # libyaml takes it, PyYAML's own scanner doesn't
def test_values_of_the_command_line_are_kept_or_refused(text: str, field: str, tmp_path: Path) -> None:
    """--set's text is YAML; a string that comes through is the same in run.yaml and back."""
    import yaml

    try:
        wanted = yaml.load(text, Loader=config_files.Loader)
    except yaml.YAMLError:
        wanted = text
    if isinstance(wanted, str) and text.strip(" \t")[:1] not in ("'", '"'):
        wanted = text.strip(" \t")  # YAML would end it at a #
    raw = loaded().model_dump(mode="json")
    if field == "data.path":
        raw["data"]["make"] = None
    try:
        made = loading.parse(raw, overrides=[f"{field}={text}"])
    except BadInput as error:
        assert "\n" not in error_line(error)
        return
    section, name = field.split(".")
    got = getattr(getattr(made, section), name)
    assert got is None or isinstance(got, str)
    if isinstance(wanted, str):
        assert got == wanted
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        run = Run.create(Path(folder) / "run", made, Profile(), Shape())
        assert Run.open(run.path).recipe == made
        assert run.path.stat().st_mode & 0o777 == 0o700


@QUICK
@given(key=hostile, text=hostile)
def test_unknown_fields_are_refused_in_one_line(key: str, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        loading.parse(loaded().model_dump(mode="json"), overrides=[f"nowhere.{key}={text}"])
    assert "\n" not in error_line(caught.value) and "\x1b" not in error_line(caught.value)


@QUICK
@given(text=hostile)
def test_a_run_that_is_not_there(text: str) -> None:
    for command in (heal.main,):
        words = ["--", text] if text.startswith("-") else [text]
        try:
            command(words)
        except (BadInput, HpcError) as error:
            assert "\n" not in error_line(error)


def test_comment_is_a_word() -> None:
    chain = make_chain(Path("/runs/x"), "0123456789abcdef", loaded(), Profile(), Shape())
    assert re.fullmatch(r"glmjobs:[0-9a-f]{16}:train", chain.comment("train"))


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "DB_PASSWORD"])
def test_secrets_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="secrets never go into a profile"):
        Environment(variables={name: "x"})


@QUICK
@given(value=hostile)
def test_runs_folder_from_the_environment(value: str, prefix: Path) -> None:
    """$GLMJOBS_RUNS is a path like any other."""
    folder = Path("/tmp") / value.replace("\0", "")
    profile = Profile(environment=Environment(python=str(prefix)))
    chain = make_chain(folder / "r", "key", loaded(), profile, Shape(gpus=1), ("report",), local=True)
    args, _ = run_script(render(chain.jobs[0], replace(chain, project=Path("/tmp"))), prefix)
    assert args[2] == str(folder / "r")
