"""The cluster profile: a site's names as the site writes them, and what they become in a job's directives."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hpc.batch import profile as profiles
from hpc.batch import refusals
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.batch.script import directives, render
from hpc.chain.submission import after_ok
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


def test_options_of_sbatch_in_both_forms(tmp_path: Path) -> None:
    listed = loaded(tmp_path, 'sbatch: ["--licenses=scratch:1", "--exclusive"]\n')
    named = loaded(tmp_path, 'sbatch: {licenses: "scratch:1", exclusive: true, nice: false}\n')
    assert listed.sbatch == named.sbatch == {"licenses": "scratch:1", "exclusive": ""}
    assert {"--licenses=scratch:1", "--exclusive"} < set(directives(job(), named, tmp_path))
    assert loaded(tmp_path, "name: x\n", "sbatch.mail-user=me@x").options_of("train") == {"mail-user": "me@x"}


def test_options_of_one_job(tmp_path: Path) -> None:
    profile = loaded(tmp_path, "sbatch: {nice: 5, train: {nice: 100}, score: {licenses: a}}\n")
    assert "--nice=100" in directives(job(), profile, tmp_path)
    assert profile.options_of("report") == {"nice": "5"}
    assert profile.options_of("score") == {"nice": "5", "licenses": "a"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sbatch: {output: x}", "--output: by it a chain's jobs wait for each other"),
        ("sbatch: {outp: x}", "--outp: cut short, it is --output: by it a chain's jobs wait"),
        ('sbatch: {t: "1:00"}', "--t is one letter"),
        ("sbatch: {x: node1}", "--x is one letter"),
        ('sbatch: ["--dependency=singleton"]', "--dependency: by it"),
        ("sbatch: {train: {time: 5}}", "--time: the job's own fields say it"),
        ("sbatch: {no-requeue: true}", "--no-requeue: the profile's field requeue says it"),
        ("sbatch: {qos: a}", "--qos: it is a field of the profile"),
        ("sbatch: {mem: 0}", "--mem: memory_request"),
        ("sbatch: {mail-user: a b}", "is no option of sbatch with one word as its value"),
        ("sbatch: {Nice: 1}", "is no option of sbatch"),
        ('sbatch: ["nice=5"]', "is not one option such as"),
        ("sbatch: 5", "options of sbatch by name"),
        ("sbatch: {train: {nice: {a: 1}}}", "is no option of sbatch"),
    ],
)
def test_what_is_no_option_or_the_chains_own(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)) as refused:
        loaded(tmp_path, text + "\n")
    assert "\n" not in str(refused.value)


def test_strict_sites(tmp_path: Path) -> None:
    """What each asks for, in a job with GPUs and in one without."""
    cpu = {"gpus_per_node": 0, "tasks_per_node": 1}
    strict = Profile(requeue=False, cpu_job_gpus=1, gpu_request="gpus", gpu_type="a100", mail="me@x")
    asked = directives(job(nodes=2), strict, tmp_path)
    assert {"--gpus=a100:16", "--no-requeue", "--mail-type=FAIL"} < set(asked) and "--requeue" not in asked
    assert {"--gpus=a100:1", "--mail-type=END,FAIL"} < set(
        directives(job(**cpu), strict, tmp_path, last=True)
    )
    elsewhere = directives(job(**cpu), Profile(cpu_job_gpus=1, cpu_partition="cpu"), tmp_path)
    assert "--partition=cpu" in elsewhere and not [o for o in elsewhere if "gpu" in o]
    assert "--gres=dcu:8" in directives(job(), Profile(gpu_gres="dcu"), tmp_path)
    assert not [o for o in directives(job(), Profile(memory_request="none"), tmp_path) if "mem" in o]


@pytest.mark.parametrize(
    "fields", [{"gpu_request": "gpus"}, {"gpu_request": "gpus-per-node"}, {"memory_request": "mem-per-gpu"}]
)
def test_options_that_count_gpus_by_that_name_alone(fields: dict[str, str], tmp_path: Path) -> None:
    """Slurm refuses them of GPUs under another name; whole nodes are asked for without any."""
    [(field, value)] = fields.items()
    with pytest.raises(BadInput, match=rf"gpu_gres = 'dcu': {field} = '{value}' counts GPUs") as refused:
        loaded(tmp_path, f"gpu_gres: dcu\n{field}: {value}\n")
    assert "\n" not in str(refused.value)
    assert Profile(gpu_gres="dcu", gpu_request="none").gpu_gres == "dcu"


def test_attempts_are_an_array_one_after_the_other(tmp_path: Path) -> None:
    chain = Chain(run=tmp_path, jobs=(job(attempts=3),), profile=Profile(requeue=False))
    text = render(chain.jobs[0], chain)
    assert "#SBATCH --array=0-2%1\n" in text and "%A_%a.out" in text and " --queued" in text
    with pytest.raises(ValueError, match="1 for an array"):
        job(attempts=2, array=4)
    one, two = job(attempts=2), replace(job(), stage="other")
    last = replace(job(), stage="last", after=("train", "other"))
    with pytest.raises(ValueError, match="waited for alone"):
        Chain(run=tmp_path, jobs=(one, two, last))


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        ([], ""),
        (["7"], "afterok:7"),
        (["7", "8_1"], "afterok:7:8_1"),
        (["7_0?7_1"], "afterok:7_0?afterok:7_1"),
    ],
)
def test_the_dependency_in_slurms_words(waits: list[str], said: str) -> None:
    assert after_ok(waits) == said


@pytest.mark.parametrize(
    ("said", "gpus", "mend"),
    [
        ("sbatch: error: requeue not allowed here", True, "requeue: false"),
        ("sbatch: error: requeue not allowed here", False, "requeue: false"),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            False,
            "cpu_job_gpus",
        ),
        ("please request at least one GPU", False, "cpu_partition"),
        ("Memory specification can not be satisfied", True, "memory_request"),
        ("invalid partition specified: x", True, "partition: `sinfo`"),
        ("something else entirely", True, ""),
    ],
)
def test_which_field_mends_a_refusal(said: str, gpus: bool, mend: str) -> None:
    found = refusals.hint(said, gpus=gpus)
    assert mend in found and bool(mend) == bool(found)
