"""hpc.doctor without a cluster: environments made of metadata, the tutorial's mistakes, the command line, drafts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import glmjobs.doctor
from glmjobs.recipe.loading import load_both
from hpc.batch import profile as cluster
from hpc.batch.profile import Environment, Profile
from hpc.core import room
from hpc.core.errors import BadInput
from hpc.doctor import draft, machine, site, stack, wheels
from hpc.doctor.__main__ import load, main
from hpc.doctor.checklist import Row
from tests.support import module_systems
from tests.support.paths import CONFIGS, REPO

CLUSTER_STACK = {
    "torch": "2.0.1+cu117", "transformers": "4.49.0", "deepspeed": "0.16.4", "numpy": "1.26.4", "setuptools": "80.9.0",
    "pydantic": "2.14.4", "PyYAML": "6.0.3", "rich": "15.0.0", "submitit": "1.5.4", "safetensors": "0.8.0",
    "xxhash": "3.6.0", "psutil": "7.2.2",
}  # fmt: skip
MISSION = Profile(
    name="mission", environment=Environment(modules=("cuda/11.7", "nccl/2.14.3-1", "cudnn/8.8.1.3"))
)


def environment(
    prefix: Path, packages: Mapping[str, str], *, python: str = "3.10", tags: Mapping[str, str] | None = None,
    cuda: str | None = "11.7",
) -> Environment:  # fmt: skip
    """A virtual environment's metadata, without its code."""
    packages_dir = prefix / f"lib/python{python}/site-packages"
    for name, version in packages.items():
        info = packages_dir / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        tag = (tags or {}).get(name, "py3-none-any")
        (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
    if "torch" in packages:
        (packages_dir / "torch").mkdir()
        text = f"__version__ = '{packages['torch']}'\ncuda = {cuda!r}\n"
        (packages_dir / "torch/version.py").write_text(text)
    return Environment(python=str(prefix))


def examined(made: Environment, profile: Profile = MISSION, *, remote_code: bool = False) -> dict[str, Row]:
    rows = stack.check(stack.look(made), profile, pins=None, remote_code=remote_code)
    return {row.what: row for row in rows}


def bad(rows: Mapping[str, Row]) -> set[str]:
    return {what for what, row in rows.items() if row.state == "bad"}


def test_the_clusters_stack_is_fit(tmp_path: Path) -> None:
    rows = examined(environment(tmp_path, CLUSTER_STACK))
    assert bad(rows) == set()
    assert rows["torch and CUDA"].state == "ok" and "CUDA 11.7" in rows["torch and CUDA"].found
    assert rows["Python"].found.startswith("3.10")


def test_cuda_11_1_wheels_on_cuda_11_7(tmp_path: Path) -> None:
    packages = {**CLUSTER_STACK, "torch": "1.10.1+cu111"}
    row = examined(environment(tmp_path, packages, cuda="11.1"))["torch and CUDA"]
    assert (row.state, row.found) == ("bad", "torch 1.10.1+cu111, built for CUDA 11.1")
    assert "CUDA 11.7" in row.needed and "centos7-cu117" in row.mend


def test_the_profiles_floor_says_the_cuda_where_no_module_does(tmp_path: Path) -> None:
    profile = Profile.model_validate({"preflight": {"cuda": "12.1"}})
    assert examined(environment(tmp_path, CLUSTER_STACK), profile)["torch and CUDA"].state == "bad"


def test_cp39_wheels_on_python_3_10(tmp_path: Path) -> None:
    tags = {"torch": "cp39-cp39-linux_x86_64", "safetensors": "cp38-abi3-manylinux_2_17_x86_64"}
    rows = examined(environment(tmp_path, CLUSTER_STACK, tags=tags))
    assert bad(rows) == {"wheels for this Python"}
    assert rows["wheels for this Python"].found == "torch (cp39-cp39-linux_x86_64)"


def test_transformers_too_new_for_remote_code(tmp_path: Path) -> None:
    made = environment(tmp_path, CLUSTER_STACK)
    asked = examined(made, remote_code=True)["transformers for remote code"]
    assert (asked.state, asked.found) == ("bad", "4.49.0")
    assert asked.needed.startswith("4.27.1") and "thudm.txt" in asked.mend
    assert examined(made)["transformers for remote code"].state == "warn"


def test_what_the_thudm_stack_pins_is_right_for_remote_code(tmp_path: Path) -> None:
    pinned = stack.read_pins(CONFIGS / "stacks" / "thudm.txt")["transformers"]
    packages = {**CLUSTER_STACK, "transformers": pinned}
    row = examined(environment(tmp_path, packages), remote_code=True)["transformers for remote code"]
    assert row.state == "ok"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"transformers": "4.50.0"}, "transformers with torch"),
        ({"deepspeed": "0.16.9"}, "DeepSpeed with torch"),
        ({"numpy": "2.0.0"}, "numpy with torch"),
        ({"setuptools": "81.0.0"}, "setuptools with torch"),
    ],
)
def test_what_installs_together_and_does_not_work_together(
    change: dict[str, str], what: str, tmp_path: Path
) -> None:
    assert bad(examined(environment(tmp_path, {**CLUSTER_STACK, **change}))) == {what}


@pytest.mark.parametrize("name", ["centos7-cu117", "current"])
def test_the_stacks_themselves_are_fit(name: str, tmp_path: Path) -> None:
    pins = stack.read_pins(CONFIGS / "stacks" / f"{name}.txt")
    python = "3.10" if name == "centos7-cu117" else "3.11"
    rows = examined(environment(tmp_path, {"setuptools": "80.0.0", **pins}, python=python), Profile())
    assert bad(rows) == set()
    assert rows[f"stack {name}"].state == "ok"


def test_other_versions_than_the_pinned_are_named(tmp_path: Path) -> None:
    rows = examined(environment(tmp_path, {**CLUSTER_STACK, "accelerate": "0.1"}))
    assert rows["stack centos7-cu117"].state == "warn"
    assert "accelerate 0.1 (pinned " in rows["stack centos7-cu117"].found


def test_an_environment_that_is_not_there_or_lacks_what_submits(tmp_path: Path) -> None:
    assert bad(examined(Environment(python=str(tmp_path / "none")))) == {"Python"}
    few = examined(environment(tmp_path / "few", {"pydantic": "2.14.4"}))
    assert "submitit" in few["to submit"].found and few["torch"].state == "warn"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("torch-1.10.1+cu111-cp310-cp310-linux_x86_64.whl", "built for CUDA 11.1, the cluster has 11.7"),
        ("torch-2.0.1+cu117-cp39-cp39-linux_x86_64.whl", "built for cp39, this Python is cp310"),
        ("pyarrow-99-cp310-cp310-manylinux_2_99_x86_64.whl", "needs a newer glibc"),
        ("whatever.whl", "no wheel's name"),
    ],
)
def test_a_folder_of_wheels(file: str, said: str, tmp_path: Path) -> None:
    for name in (
        file,
        "torch-2.0.1+cu117-cp310-cp310-linux_x86_64.whl",
        "numpy-1.26.4-cp310-cp310-manylinux2014_x86_64.whl",
    ):
        (tmp_path / name).touch()
    found = stack.Installed(prefix=tmp_path, python=(3, 10))
    (row,) = stack.check_wheels(tmp_path, found, MISSION)
    assert row.state == "bad" and said in row.found
    (tmp_path / file).unlink()
    assert [r.state for r in stack.check_wheels(tmp_path, found, MISSION)] == ["ok"]


@pytest.mark.parametrize(
    ("tag", "libc", "fits"),
    [
        ("cp310-cp310-manylinux_2_17_x86_64", (2, 17), True), ("cp310-cp310-manylinux_2_28_x86_64", (2, 17), False),
        ("cp310-cp310-manylinux1_x86_64", (2, 5), True), ("cp310-cp310-manylinux2014_x86_64", (2, 12), False),
        ("py3-none-any", (2, 5), True), ("cp310-cp310-win_amd64", (2, 36), False),
    ],
)  # fmt: skip
def test_tags_and_glibc(tag: str, libc: tuple[int, int], fits: bool) -> None:
    assert wheels.fits_glibc(tag, libc) is fits


def test_command_line_json(tmp_path: Path) -> None:
    """One document on stdout, exit code 3 for what is not fit; what people type imports no torch."""
    made = environment(tmp_path / "env", {**CLUSTER_STACK, "torch": "1.10.1+cu111"}, cuda="11.1")
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        json.dumps({"name": "mine", "environment": {"python": made.python}, "preflight": {"cuda": "11.7"}})
    )
    code = (
        "import sys; from glmjobs.doctor import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--cluster", str(profile), "--json"], capture_output=True, text=True, cwd=REPO,
        env={"PATH": "/nowhere", "GLMJOBS_RUNS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 3 and done.stderr == ""
    document = json.loads(done.stdout)
    assert document["fit"] is False and document["profile"] == "mine"
    states = {row["what"]: row["state"] for row in document["checks"]}
    assert (
        states["torch and CUDA"] == "bad" and states["sbatch"] == "warn" and states["run directory"] == "ok"
    )
    assert all(
        set(row) == {"section", "what", "state", "found", "needed", "mend"} for row in document["checks"]
    )


def test_table_says_how_to_mend(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HPC_RUNS", str(tmp_path))
    made = environment(tmp_path / "env", {**CLUSTER_STACK, "numpy": "2.0.0"})
    profile = tmp_path / "mine.yaml"
    profile.write_text(json.dumps({"environment": {"python": made.python}}))
    assert main(["--cluster", str(profile)]) == 3
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if "numpy with torch" in line)
    assert line.lstrip().startswith("NO") and "pip install 'numpy<2'" in line
    assert lines[-1] == "not fit: numpy with torch"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cluster", "atlantis"], "profiles here: centos7-a100, devcluster, generic"),
        (["--stack", "none.txt"], "no such file"),
        (["--write-profile", "/none/x.yaml"], "No such file or directory"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin: gpu", "unknown field partitoin; did you mean partition?"), ("[1]", "is a YAML mapping"),
        ("a: [", "not valid YAML"),
        ("environment: {modules: ['cuda 11']}", "environment.modules = [cuda 11]: 'cuda 11' is not a module name"),
        (None, "no such cluster profile file"),
    ],
)  # fmt: skip
def test_a_bad_profile_is_one_line(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=r"\A[^\n]*\Z") as error:
        cluster.load(path)
    assert said in str(error.value)


@pytest.mark.parametrize("path", sorted((REPO / "configs/clusters").glob("*.yaml")), ids=lambda p: p.stem)
def test_our_profiles_are_valid(path: Path) -> None:
    assert cluster.load(path).name == path.stem


def test_a_profile_reads_the_same_in_doctor_and_submit(tmp_path: Path) -> None:
    """12:00:00 stays the text it is: YAML 1.1 calls it the number 43200."""
    path = tmp_path / "p.yaml"
    path.write_text("environment: {variables: {LIMIT: 12:00:00}}\n")
    submitted = load_both("configs/tiny.yaml", str(path), [], "local")[1]
    assert load(str(path)) == submitted
    assert submitted.environment.variables == {"LIMIT": "12:00:00"}
    path.write_text("environment: {variables: {LIMIT: 043200}}\n")
    submitted = load_both("configs/tiny.yaml", str(path), [], "local")[1]
    assert load(str(path)) == submitted
    assert submitted.environment.variables == {"LIMIT": "043200"}


def test_the_toolkits_doctor_has_its_own_variables_and_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        json.dumps({"name": "mine", "environment": {"python": environment(tmp_path / "env", {}).python}})
    )
    mends = []
    for doctor, prefix in ((main, "HPC"), (glmjobs.doctor.main, "GLMJOBS")):
        with monkeypatch.context() as patch:
            patch.setenv(f"{prefix}_CLUSTER", str(profile))
            patch.setenv(f"{prefix}_RUNS", str(tmp_path))
            doctor(["--json"])
        document = json.loads(capsys.readouterr().out)
        assert document["profile"] == "mine"
        mends.append({row["what"]: row["mend"] for row in document["checks"]})
    assert mends[0]["host memory"] == "ask for more memory, or find what else runs on this node"
    assert "--set jobs.train.memory" in mends[1]["host memory"] and "GLMJOBS_RUNS" in mends[1]["free disk"]


def test_modules_are_loaded_as_a_job_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOADEDMODULES", raising=False)
    monkeypatch.setenv("MODULEPATH", str(module_systems.modulefiles(tmp_path)))
    init = module_systems.stand_in_for_3_2(tmp_path)

    def rows(*names: str) -> list[Row]:
        made = Environment(module_init=str(init), modules=names, python=sys.prefix)
        return site.check_modules(Profile(environment=made))

    (good,) = rows("cuda/11.7", "nccl/2.14.3-1")
    assert good.state == "ok" and good.found == "loaded: cuda/11.7 nccl/2.14.3-1"
    (missing,) = rows("cuda/99")
    assert missing.state == "bad" and "cuda/99" in missing.found and "cuda/11.7" in missing.found


def test_a_draft_takes_the_modules_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From `module avail`, whose listing 3.2.10 writes to stderr; CUDA 11.7 is preferred to a newer one."""
    monkeypatch.setenv("MODULEPATH", str(module_systems.modulefiles(tmp_path)))
    init = module_systems.stand_in_for_3_2(tmp_path)
    home = tmp_path / "home"
    (home / "init").mkdir(parents=True)
    (home / "init/bash").write_text(init.read_text())
    monkeypatch.setenv("MODULESHOME", str(home))
    path = tmp_path / "drafted.yaml"
    path.write_text(draft.draft())
    drafted = cluster.load(path)
    assert drafted.environment.modules == ("cuda/11.7", "nccl/2.14.3-1", "cudnn/8.8.1.3")


@pytest.mark.parametrize(
    ("gib", "state", "found"),
    [
        ((10, 20, 20), "ok", "10.0 GiB left of 20.0 GiB"),
        ((21, 20, 30), "bad", "9.0 GiB left of 30.0 GiB, over the 20.0 GiB that it may exceed for a while"),
        ((19.5, 0, 20), "bad", "0.5 GiB left of 20.0 GiB"),
    ],
)
def test_a_quota(gib: tuple[float, float, float], state: str, found: str) -> None:
    row = site.quota_row(room.Quota("project 7", *(int(size * 2**30) for size in gib)))
    assert (row.what, row.state, row.found) == ("quota, project 7", state, found)


def test_a_quota_that_cannot_be_asked_is_worth_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "quotas", lambda place: room.Quotas(unasked="quotas of gpfs: no mmlsquota here"))
    (row,) = site.check_quota(tmp_path)
    assert row.state == "warn" and row.found == "quotas of gpfs: no mmlsquota here"


def test_a_login_node_with_gpus_is_judged_like_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "nvidia-smi").write_text(
        "#!/bin/bash\n[[ $1 == --query-gpu=* ]] && echo '0, Tesla T4, 15360, 470.82.01, GPU-0, 0, 3'\n"
    )
    (bin_ / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    wanted: dict[str, Any] = {"gpu_type": "a100", "preflight": {"driver": "515.65.01", "libraries": False}}
    rows = {row.what: row for row in machine.check(Profile.model_validate(wanted), tmp_path)}
    assert {what for what, row in rows.items() if row.state == "bad"} == {"GPU memory", "driver"}
    assert rows["driver"].found == "470.82.01" and rows["run directory"].state == "ok"
