"""The cluster profile: a site's names as the site writes them, and what they become in a job's directives."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.batch import profile as profiles
from hpc.batch.jobs import Job, Step
from hpc.batch.profile import Profile
from hpc.batch.script import directives
from hpc.core.errors import BadInput


def loaded(tmp_path: Path, text: str, *overrides: str) -> Profile:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return profiles.load(path, overrides)


def job(**fields: object) -> Job:
    shape = {
        "nodes": 1,
        "tasks_per_node": 8,
        "gpus_per_node": 8,
        "cpus_per_task": 4,
        "memory": "64G",
        **fields,
    }
    return Job(stage="train", steps=(Step(stage="train", command=("true",)),), **shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        "a100", "gpu&hbm80g", "a100|h100", "[rack1|rack2]", "(a100|h100)&ib", "[rack1*2&rack2*4]", "gpu*2", "a,b",
        "[(a100&ib)|(h100&roce)]",
    ],
)  # fmt: skip
def test_constraints_as_sbatch_takes_them(tmp_path: Path, value: str) -> None:
    profile = loaded(tmp_path, f'constraint: "{value}"\n')
    assert profile.constraint == value
    assert f"--constraint={value}" in directives(job(), profile, tmp_path)
    assert loaded(tmp_path, "name: x\n", f"constraint={value}").constraint == value
    if value[0] in "[(" and not value.startswith("[("):
        assert (
            loaded(tmp_path, f"name: 编号\nconstraint: {value}\nqos: a\n".replace("编号", "x")).constraint
            == value
        )


@pytest.mark.parametrize("value", ["a b", "a;b", "a$(b)", "(a", "a]", "--x", "a`b`", "a#b", "a'b", "a\\nb"])
def test_what_is_no_constraint(tmp_path: Path, value: str) -> None:
    with pytest.raises(BadInput, match="is not a constraint such as"):
        loaded(tmp_path, f'constraint: "{value}"\n')


@pytest.mark.parametrize(
    "text", ["123", "007", "0o17", "1_000", "1e3", "0.5", "on", "no", "Yes", "12:00:00", "2024-01-01"]
)
@pytest.mark.parametrize("field", ["partition", "account", "qos", "reservation"])
def test_names_that_yaml_reads_as_something_else_stay_as_written(
    tmp_path: Path, field: str, text: str
) -> None:
    assert getattr(loaded(tmp_path, f"{field}: {text}\n"), field) == text
    assert getattr(loaded(tmp_path, "name: x\n", f"{field}={text}"), field) == text


@pytest.mark.parametrize("nothing", ["null", "~", ""])
def test_nothing_stays_nothing(tmp_path: Path, nothing: str) -> None:
    assert loaded(tmp_path, f"account: {nothing}\n").account is None
    assert loaded(tmp_path, "account: x\n", f"account={nothing}").account is None


def test_variables_and_lists_are_text_too(tmp_path: Path) -> None:
    text = "environment:\n  modules: [cuda/11.7, 2023]\n"
    text += "  variables: {OMP_NUM_THREADS: 08, NCCL_IB_DISABLE: on, A: 1e-3}\n"
    environment = loaded(tmp_path, text, "environment.variables.B=007").environment
    assert environment.modules == ("cuda/11.7", "2023")
    assert environment.variables == {
        "OMP_NUM_THREADS": "08",
        "NCCL_IB_DISABLE": "on",
        "A": "1e-3",
        "B": "007",
    }


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    profile = loaded(tmp_path, "gpu_memory_gb: 40\npreflight: {scratch_gb: 1e2}\n", "preflight.requeues=2")
    assert (profile.gpu_memory_gb, profile.preflight.scratch_gb, profile.preflight.requeues) == (40, 100.0, 2)


def test_secrets_are_told_from_names_that_look_like_them(tmp_path: Path) -> None:
    text = "environment:\n  variables: {TOKENIZERS_PARALLELISM: false, MAX_NEW_TOKENS: 512}\n"
    assert loaded(tmp_path, text).environment.variables["TOKENIZERS_PARALLELISM"] == "false"
    for name, value in (("HF_TOKEN", "x"), ("wandb_api_key", "x"), ("EXTRA", "hf_abcdefGHIJKLmnop1234")):
        with pytest.raises(BadInput, match=f"{name}: secrets never go into a profile"):
            loaded(tmp_path, f"environment:\n  variables: {{{name}: {value}}}\n")


def test_a_site_whose_slurm_knows_no_gpus(tmp_path: Path) -> None:
    profile = loaded(tmp_path, "gpu_request: none\ngpu_type: a100\n")
    words = directives(job(), profile, tmp_path)
    assert "--exclusive" in words and not any("gres" in w or "gpus" in w for w in words)
    assert "--exclusive" not in directives(job(gpus_per_node=0), profile, tmp_path)


@pytest.mark.parametrize(
    ("request_by", "fields", "expected"),
    [
        ("mem", {}, "--mem=64G"), ("mem-per-cpu", {}, "--mem-per-cpu=2048M"),
        ("mem-per-gpu", {}, "--mem-per-gpu=8192M"),
        ("mem-per-gpu", {"gpus_per_node": 0}, "--mem=64G"),
        ("mem-per-cpu", {"memory": "100000"}, "--mem-per-cpu=3125M"),
        ("mem-per-cpu", {"memory": "1T"}, "--mem-per-cpu=32768M"), ("mem-per-cpu", {"memory": "0"}, "--mem=0"),
        ("none", {}, ""), ("mem-per-cpu", {"memory": None}, ""),
    ],
)  # fmt: skip
def test_memory_as_the_site_wants_it_asked_for(
    tmp_path: Path, request_by: str, fields: dict[str, object], expected: str
) -> None:
    profile = loaded(tmp_path, f"memory_request: {request_by}\n")
    words = [w for w in directives(job(**fields), profile, tmp_path) if w.startswith("--mem")]
    assert words == [w for w in [expected] if w]
