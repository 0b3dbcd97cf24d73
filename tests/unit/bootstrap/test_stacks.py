"""The stacks: exact pins, wheels for CentOS 7's glibc, and an installer that is resumable and says what is wrong."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from hpc import bootstrap
from hpc.core.errors import BadInput, NotFit
from tests.support.paths import REPO

STACKS = ("centos7-cu117", "current", "thudm")
LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
"""PEP 600: the glibc that the older names stand for."""


def glibc(platform: str) -> tuple[int, int] | None:
    """The glibc that a wheel's platform tag asks for; (0, 0) for "any", None for another system."""
    if platform == "any":
        return (0, 0)
    if match := re.fullmatch(r"manylinux_(\d+)_(\d+)_x86_64", platform):
        return int(match[1]), int(match[2])
    return LEGACY.get(platform.removesuffix("_x86_64"))


@pytest.mark.parametrize("name", STACKS)
def test_every_line_is_an_exact_pin_and_each_package_stands_once(name: str) -> None:
    stack = bootstrap.read_stack(name)
    names = [re.sub(r"[-_.]+", "-", pin.name).lower() for pin in stack.pins]
    assert len(names) == len(set(names)) and "torch" in names and "transformers" in names
    assert set(stack.source) <= set(names)


def test_every_wheel_of_the_clusters_stack_is_for_its_glibc_and_python() -> None:
    stack = bootstrap.read_stack("centos7-cu117")
    assert stack.hashed and stack.python == ((3, 10), (3, 10))
    for pin in stack.pins:
        assert pin.file, pin
        if pin.name in stack.source:
            assert pin.file.endswith(".tar.gz")
            continue
        pythons, abis, platforms = pin.file.removesuffix(".whl").split("-")[-3:]
        found = [version for tag in platforms.split(".") if (version := glibc(tag)) is not None]
        assert found and min(found) <= (2, 17), pin.file
        assert abis in ("cp310", "abi3", "none"), pin.file
        assert any(re.fullmatch(r"py3|py310|py2\.py3|cp3[0-9]|cp310", tag) for tag in pythons.split(".")), (
            pin.file
        )


def test_the_clusters_stack_brings_the_missions_versions() -> None:
    pins = {pin.name: pin.version for pin in bootstrap.read_stack("centos7-cu117").pins}
    assert pins["torch"] == "2.0.1"
    assert pins["nvidia-nccl-cu11"] == "2.14.3"
    assert pins["nvidia-cuda-runtime-cu11"].startswith("11.7.")
    assert pins["numpy"].startswith("1.") and int(pins["setuptools"].split(".")[0]) < 81


def test_this_environment_is_one_of_the_stacks() -> None:
    name = "centos7-cu117" if sys.version_info < (3, 11) else "current"
    for pin in bootstrap.read_stack(name).pins:
        try:
            found = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            continue  # build tools need not stay
        assert found.split("+")[0] == pin.version, pin.name


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--stack", "nope", "--into", "x"], 2, "there are centos7-cu117, current, thudm"),
        (["--stack", "current"], 2, "give --into DIR"),
        (["--stack", "current", "--into", "x", "--offline"], 2, "give --wheelhouse DIR"),
        (["--stack", "current", "--into", "x", "--wheelhouse", "y"], 2, "say --offline"),
        (["--stack", "current", "--into", "x", "--python", "/nowhere/python"], 3, "cannot be run"),
        (
            ["--stack", "centos7-cu117" if sys.version_info >= (3, 11) else "current", "--into", "x"],
            3,
            "is for 3.",
        ),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpc.bootstrap", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_line_that_is_no_pin_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# python: 3.11\ntorch>=2\n")
    with pytest.raises(BadInput, match="line 2: 'torch>=2' is no exact pin"):
        bootstrap.read_stack(str(path))


@pytest.fixture
def wheelhouse(tmp_path: Path) -> tuple[bootstrap.Stack, Path]:
    """A stack of one small package, its wheel made here, collected."""
    house = tmp_path / "wheels"
    house.mkdir()
    wheel = house / "smallest-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("smallest.py", "ANSWER = 42\n")
        file.writestr(
            "smallest-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: smallest\nVersion: 1.0\n"
        )
        file.writestr(
            "smallest-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr("smallest-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (house / bootstrap.SUMS).write_text(f"{digest}  {wheel.name}\n")
    stack = tmp_path / "small.txt"
    stack.write_text(f"# python: 3.10-3.14\nsmallest==1.0 --hash=sha256:{digest}  # {wheel.name}\n")
    return bootstrap.read_stack(str(stack)), house


def test_offline_install_is_whole_repeatable_and_resumable(
    wheelhouse: tuple[bootstrap.Stack, Path], tmp_path: Path
) -> None:
    stack, house = wheelhouse
    into = tmp_path / "env"
    bootstrap.verify(house)
    assert bootstrap.make(stack, into, sys.executable, house) is True
    answer = subprocess.run(
        [str(into / "bin" / "python"), "-c", "import smallest; print(smallest.ANSWER)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout == "42\n"
    assert bootstrap.make(stack, into, sys.executable, house) is False, "run again, it returns at once"
    (into / bootstrap.STATE).unlink()  # broken off before the end
    assert bootstrap.make(stack, into, sys.executable, house) is True


def test_a_wheelhouse_that_was_changed_is_refused(wheelhouse: tuple[bootstrap.Stack, Path]) -> None:
    _, house = wheelhouse
    wheel = next(house.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(NotFit, match="not the file that was collected"):
        bootstrap.verify(house)
    wheel.unlink()
    with pytest.raises(NotFit, match="missing"):
        bootstrap.verify(house)
    (house / bootstrap.SUMS).unlink()
    with pytest.raises(NotFit, match="not a whole wheelhouse"):
        bootstrap.verify(house)
