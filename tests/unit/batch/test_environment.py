"""The prologue of a job under real module systems: what loads, and what is said when something doesn't."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.batch import environment
from hpc.batch.profile import Container, Environment, Nccl
from hpc.core.errors import BadInput
from tests.support import module_systems

KINDS = ("modules32", "modules5", "lmod", *filter(None, os.environ.get("HPC_MODULE_INITS", "").split(":")))
"""HPC_MODULE_INITS: init scripts of further module systems to run these tests under, by colons."""

MISSION = ("cuda/11.7", "nccl/2.14.3-1", "cudnn/8.8.1.3")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return module_systems.modulefiles(tmp_path_factory.mktemp("modulefiles"))


@pytest.fixture(scope="session", params=KINDS)
def init(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param
    if kind.startswith("/"):
        return Path(kind)
    folder = tmp_path_factory.mktemp("system")
    if kind == "modules32":
        return module_systems.stand_in_for_3_2(folder)
    found = module_systems.unpack(kind, folder)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def run(
    files: Path, init: Path | None, names: tuple[str, ...], *, then: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """A job's script up to where Python would start."""
    prologue = environment.prologue(
        Environment(module_init=str(init) if init else None, modules=names, python=sys.prefix)
    )
    script = f'set -euo pipefail\n{prologue}\necho "$- $LOADEDMODULES"\n{then}\n'
    clean = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/",
        "MODULEPATH": str(files),
        "LMOD_ALLOW_ROOT_USE": "yes",
        **env,
    }
    return subprocess.run(["bash", "-c", script], env=clean, capture_output=True, text=True, timeout=60)


def test_the_missions_modules_load(files: Path, init: Path) -> None:
    done = run(files, init, MISSION, then='echo "$CUDA_HOME $LD_LIBRARY_PATH"; command -v python')
    assert done.returncode == 0, done.stderr
    flags, loaded = done.stdout.splitlines()[0].split()
    assert "e" in flags and "u" in flags
    assert loaded.split(":") == list(MISSION)
    opt = files.parent / "opt"
    assert done.stdout.splitlines()[1].startswith(
        f"{opt}/cuda-11.7 {opt}/cudnn-8.8.1/lib:{opt}/nccl-2.14.3/lib:"
    )
    assert done.stdout.splitlines()[2] == f"{sys.prefix}/bin/python"


@pytest.mark.parametrize(
    ("names", "named", "also"),
    [
        (("cuda/11.9",), "module cuda/11.9 did not load", "available: cuda/11.7 cuda/12.1"),
        (("cuda/11.7", "cudnm/8.8.1.3"), "module cudnm/8.8.1.3 did not load", "available: no cudnm; all: "),
        (("cuda/11.7", "cudnn/8.5.0"), "module cudnn/8.5.0 did not load", "cuda/11.7"),
        (("broken/1.0",), "module broken/1.0 did not load", "licence_server_away"),
        (
            ("cuda/11.7", "unmounted/1.0"),
            "module unmounted/1.0 loaded, but",
            "not on this node: /nowhere/unmounted/lib",
        ),
    ],
)
def test_what_goes_wrong_ends_the_job_by_name(
    files: Path, init: Path, names: tuple[str, ...], named: str, also: str
) -> None:
    done = run(files, init, names)
    assert done.returncode == 3 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and named in last and also in last


def test_what_sbatch_brought_along_is_no_proof(files: Path, init: Path) -> None:
    """LOADEDMODULES of the login shell, of a module that this node doesn't have."""
    done = run(files, init, ("cuda/9.9",), LOADEDMODULES="cuda/9.9", _LMFILES_="/gone/cuda/9.9")
    assert done.returncode == 3 and "module cuda/9.9 did not load" in done.stderr


def test_a_module_without_version_takes_the_default(files: Path, init: Path) -> None:
    assert run(files, init, ("cuda",)).stdout.split()[1] == "cuda/12.1"


def test_a_node_without_modules(tmp_path: Path) -> None:
    done = run(tmp_path, tmp_path / "none.sh", ("cuda/11.7",))
    assert (
        done.returncode == 3 and done.stderr.count("\n") == 1 and "has no environment modules" in done.stderr
    )
    empty = tmp_path / "empty.sh"
    empty.write_text("")
    done = run(tmp_path, empty, ("cuda/11.7",))
    assert done.returncode == 3 and "does not define the command module" in done.stderr


def test_init_is_found_where_none_is_named(files: Path, init: Path, tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init/bash").write_text(f"source {init}\n")
    done = run(files, None, ("cuda/11.7",), MODULESHOME=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_without_modules_nothing_of_them_is_in_the_script() -> None:
    text = environment.prologue(Environment(python=sys.prefix))
    assert "module load" not in text and "load_modules" not in text


def test_a_plain_prefix_and_a_conda_environment(tmp_path: Path) -> None:
    def prologue(prefix: Path) -> subprocess.CompletedProcess[str]:
        text = environment.prologue(Environment(python=str(prefix), variables={"A": "it's $HOME"}))
        script = f'set -euo pipefail\n{text}\necho "$A|${{CONDA_PREFIX-}}|${{FROM_PACKAGE-}}|$-"; command -v python'
        return subprocess.run(
            ["bash", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )

    absent = prologue(tmp_path / "env")
    assert absent.returncode == 3 and absent.stderr.endswith(
        f"has no {tmp_path}/env/bin/python (environment.python of the profile)\n"
    )
    python = tmp_path / "my env/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    plain = prologue(tmp_path / "my env")
    assert plain.stdout.splitlines()[0].startswith("it's $HOME|||") and plain.stdout.splitlines()[1] == str(
        python
    )
    (tmp_path / "my env/conda-meta").mkdir()
    activate = tmp_path / "my env/etc/conda/activate.d"
    activate.mkdir(parents=True)
    (activate / "x.sh").write_text("false; export FROM_PACKAGE=yes$UNSET_IS_FINE\n")
    conda = prologue(tmp_path / "my env").stdout.splitlines()[0].split("|")
    assert conda[1:3] == [str(tmp_path / "my env"), "yes"] and "e" in conda[3] and "u" in conda[3]


def test_network_settings_become_variables() -> None:
    assert Nccl(interface="=ib0", hca="mlx5_0,mlx5_1", infiniband=True, debug="WARN").variables() == {
        "NCCL_SOCKET_IFNAME": "=ib0", "GLOO_SOCKET_IFNAME": "ib0", "NCCL_IB_HCA": "mlx5_0,mlx5_1",
        "NCCL_IB_DISABLE": "0", "NCCL_DEBUG": "WARN",
    }  # fmt: skip
    text = environment.prologue(
        Environment(nccl=Nccl(interface="ib0"), variables={"NCCL_SOCKET_IFNAME": "ib1"})
    )
    assert "export NCCL_SOCKET_IFNAME=ib1" in text, "what the profile says literally wins"


def test_a_task_in_a_container_gets_its_words(tmp_path: Path) -> None:
    """A stand-in for apptainer and srun that prints its arguments, one a line."""
    for name in ("apptainer", "srun"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf \'%s\\n\' "${0##*/}" "$@"\n')
        (tmp_path / name).chmod(0o755)

    def words(container: Container, srun: str, *, local: bool = False, gpus: bool = True) -> list[str]:
        line = environment.contained(
            container, ["python", "-m", "x", '"$RUN"'], srun=srun, gpus=gpus, binds=[Path("/a b"), Path("/run")],
            local=local,
        )  # fmt: skip
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUN": "/run"}
        return subprocess.run(
            ["bash", "-c", line], env=env, capture_output=True, text=True, check=True
        ).stdout.split("\n")[:-1]

    sif = Container(runtime="apptainer", image="/images/my glm.sif", mounts=("/data",), python="python3")
    inside = ["apptainer", "exec", "--nv", "--bind", "/a b:/a b", "--bind", "/run:/run", "--bind", "/data", "--pwd",
              "/a b", "/images/my glm.sif", "python3", "-m", "x", "/run"]  # fmt: skip
    assert words(sif, "") == inside
    assert words(sif, "srun --ntasks=2 ") == ["srun", "--ntasks=2", *inside]
    assert "--nv" not in words(sif, "", gpus=False)
    sqsh = Container(
        runtime="pyxis",
        image="docker://org/glm:1",
        mounts=("/data:/d:ro",),
        options=("--no-container-remap-root",),
    )
    assert words(sqsh, "srun --ntasks=2 ") == [
        "srun", "--ntasks=2", "--container-image=docker://org/glm:1",
        "--container-mounts=/a b:/a b,/run:/run,/data:/d:ro", "--container-workdir=/a b",
        "--no-container-remap-root", "python", "-m", "x", "/run",
    ]  # fmt: skip
    assert words(sqsh, "")[:2] == ["srun", "--ntasks=1"]
    with pytest.raises(BadInput, match="pyxis is part of srun"):
        words(sqsh, "", local=True)
