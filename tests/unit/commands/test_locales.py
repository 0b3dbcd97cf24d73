"""A Chinese path under the locales that people have: works, or one line and no run left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO

LOCALES = ("zh_CN.GB18030", "zh_CN.GBK", "en_US.ISO-8859-1", "C", "POSIX", "C.UTF-8")


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with those that this machine may not have."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("no localedef here")
    for name in LOCALES[:3]:
        language, _, charset = name.partition(".")
        made = subprocess.run(
            ["localedef", "-i", language, "-f", charset, str(folder / name)], capture_output=True
        )
        if not (folder / name).is_dir():
            pytest.skip(f"localedef has no {name}: {made.stderr[-80:]!r}")
    return folder


def command(words: list[str], locale: str, locales: Path, runs: Path) -> subprocess.CompletedProcess[bytes]:
    environ = {
        k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIOENC"))
    }
    environ |= {"LC_ALL": locale, "LOCPATH": str(locales), "PYTHONPATH": str(REPO), "GLMJOBS_RUNS": str(runs)}
    return subprocess.run(
        [sys.executable, "-m", *words], env=environ, cwd=REPO, capture_output=True, check=False
    )


SUBMIT = [
    "glmjobs.submit",
    "--recipe",
    "configs/tiny.yaml",
    "--executor",
    "slurm",
    "--gpus",
    "1",
    "--name",
    "zh",
]
HERE = ["local" if word == "slurm" else word for word in SUBMIT]


@pytest.mark.parametrize("locale", LOCALES)
def test_a_script_names_the_path_as_it_is_on_disk(locale: str, locales: Path, tmp_path: Path) -> None:
    runs = tmp_path / "组 目录"
    done = command([*SUBMIT, "--stages", "train", "--dry-run"], locale, locales, runs)
    assert done.returncode in (0, 3), done.stderr.decode("utf-8", "replace")  # 3: no Slurm here
    assert f"RUN='{runs}/zh'".encode() in done.stdout and b"PYTHONUTF8=1" in done.stdout


@pytest.mark.parametrize("locale", LOCALES)
def test_a_chinese_error_is_one_line(locale: str, locales: Path, tmp_path: Path) -> None:
    done = command(["glmjobs.status", "没有"], locale, locales, tmp_path / "运行")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert "没有: no run of this name".encode() in done.stderr


@pytest.mark.parametrize("locale", ["zh_CN.GB18030", "C.UTF-8"])
def test_a_name_that_is_no_utf8_is_refused_and_leaves_nothing(
    locale: str, locales: Path, tmp_path: Path
) -> None:
    runs = tmp_path / os.fsdecode("组".encode("gb18030"))
    done = command(HERE, locale, locales, runs)
    said = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 2 and "no UTF-8 text" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_encoding_without_chinese_is_one_line(encoding: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glmjobs.mark", "还剩几颗？", "9颗", "9颗"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPO)}, cwd=REPO, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert done.stderr.endswith(b"; set PYTHONIOENCODING=utf-8\n") and encoding[:5].encode() in done.stderr
