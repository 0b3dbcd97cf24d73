"""Every form in which people bring their data: read, or refused by submit in one line that says what would be right."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import submit
from glmjobs.cli import run_command
from glmjobs.recipe.loading import load
from glmjobs.run.submit_checks import check_data
from hpc.core.errors import BadInput
from tests.support.paths import CONFIGS

Row = dict[str, Any]
ROWS: list[Row] = [
    {"instruction": f"小明有{i}个苹果，又买了{i}个，一共几个？", "input": "", "output": f"一共{2 * i}个。"}
    for i in range(40)
]


def lines(change: Callable[[Row], object] = lambda row: row) -> str:
    return "".join(json.dumps(change(row), ensure_ascii=False) + "\n" for row in ROWS)


TEXT = lines().encode()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, TEXT)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("rows.jsonl")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT))
    return buffer.getvalue()


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


READ = {
    "JSON lines": TEXT,
    "an array": json.dumps(ROWS, ensure_ascii=False).encode(),
    "gzip": gzip.compress(TEXT),
    "a byte order mark": b"\xef\xbb\xbf" + TEXT,
    "CSV": ("instruction,input,output\n" + "甲,,乙\n" * 20).encode(),
    "TSV": ("instruction\tinput\toutput\n" + "甲\t\t乙\n" * 20).encode(),
    "objects over several lines": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "Windows line ends": TEXT.replace(b"\n", b"\r\n"),
    "one huge line": json.dumps({**ROWS[0], "output": "好" * 1_000_000}, ensure_ascii=False).encode()
    + b"\n"
    + TEXT,
}
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the file is empty"),
    "blank lines": (b"\n\n", "only blank lines"),
    "zip": (zipped("rows.jsonl"), "a zip archive: unpack it"),
    "Excel": (zipped("[Content_Types].xml", "xl/workbook.xml"), "a workbook of Excel: save it as CSV"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a workbook of Excel"),
    "tar": (tarred(), "a tar archive: unpack it"),
    "tar.gz": (gzip.compress(tarred()), "a tar archive: unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive"),
    "a web page": (b"<!DOCTYPE html><html>404</html>\n", "a web page or XML, not the data"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "UTF-16": (lines().encode("utf-16"), "UTF-16"),
    "GBK": (lines().encode("gbk"), "not UTF-8 (looks like GB18030) in 40 of 40 rows"),
    "GBK, an array": (json.dumps(ROWS, ensure_ascii=False).encode("gbk"), "not UTF-8 (looks like GB18030)"),
    "a cut gzip": (gzip.compress(os.urandom(4000))[:-500], "damaged or cut-off gzip"),
    "CSV of other columns": ("甲,output\n甲,乙\n".encode(), "no column 'instruction'"),
    "CSV with a header alone": (b"instruction,output\n", "a header and no rows"),
    "CSV in GBK": ("instruction,input,output\n甲,,乙\n".encode("gbk"), ":2: not UTF-8 (looks like GB18030)"),
    "CSV with an open quote": (b'instruction,input,output\na,,"b\nc,,d\n', ":2: no CSV in the row that begins here"),
    "CSV that has a column twice": (b"output,input,output\na,b,c\n", "has the column 'output' twice"),
    "one row": (lines().splitlines()[0].encode(), "reaches row 5, but"),
    "no train rows": ("\n".join(lines().splitlines()[:5]).encode(), "no train row is left of its 5 rows"),
    "a dict of lists": (json.dumps(columns(ROWS)).encode(), "one object of lists, a list a column"),
    "rows inside": (json.dumps({"data": ROWS}).encode(), "one object, whose 'data' is the list of rows"),
    "over several lines": (json.dumps({"data": ROWS}, indent=1).encode(), "one object, whose 'data' is the list"),
    "turns without roles": (lines(lambda r: {"conversations": [{"text": "问"}]}).encode(), "a turn of an unknown role"),
    "tools": (
        lines(lambda r: {"messages": [{"role": "user", "content": "3"}, {"role": "tool", "content": "3"}]}).encode(),
        "tools or function calls, which are not read in 40 of 40 rows",
    ),
    "a test set": (
        lines(lambda r: {"original_text": "1+1=?", "equation": "x=1+1", "ans": "2"}).encode(),
        "looks like Math23K and Ape210K, a test set without worked answers to learn: name it in score.sets",
    ),
    "numbers as answers": (lines(lambda r: {**r, "output": 7}).encode(), "'output' is not text (found a number)"),
    "empty answers": (lines(lambda r: {**r, "output": ""}).encode(), "empty response in 40 of 40 rows"),
    "a column twice": (TEXT.replace(b'"output": ', b'"output": "x", "output": '), "the column 'output' twice"),
    "other case": (
        lines(lambda r: {k.title(): v for k, v in r.items()}).encode(),
        "did you mean 'Instruction'?: set data.prompt_column (--set data.prompt_column=Instruction)",
    ),
    "lists": (lines(lambda r: list(r.values())).encode(), "is this JSON lines of arrays?"),
    "Python's own form": ("\n".join(map(str, ROWS)).encode(), "broken JSON"),
    "text": ("你好\n再见\n".encode(), "broken JSON"),
}  # fmt: skip


def refusal(path: Path, *settings: str) -> str:
    recipe = load(CONFIGS / "tiny.yaml", ["data.make=", f"data.path={path}", "data.dev_rows=1-5", *settings])
    with pytest.raises(BadInput) as refused:
        check_data(recipe.data)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", READ)
def test_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(READ[name])
    recipe = load(CONFIGS / "tiny.yaml", ["data.make=", f"data.path={path}", "data.dev_rows=1-5"])
    assert check_data(recipe.data) == str(path)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    content, said = REFUSED[name]
    path.write_bytes(content)
    assert said in refusal(path)


def test_not_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "a directory without .parquet or .arrow files" in refusal(folder)
    (folder / "train.jsonl").write_bytes(TEXT)
    assert f"name the data file itself, for example {folder / 'train.jsonl'}" in refusal(folder)
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or device" in refusal(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "no such data (data.path)" in refusal(tmp_path / "link")


def test_a_table_that_has_a_column_twice(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = ["instruction", "output", "output"]
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=names), tmp_path / "t.parquet")
    assert "has the column 'output' twice" in refusal(tmp_path / "t.parquet")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can get to (pytest's own are closed)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_what_may_not_be_read_is_bad_input(open_folder: Path) -> None:
    """In a child that is nobody: the file, and a file in a folder that is closed."""
    (open_folder / "closed").mkdir(mode=0o700)
    for path in (open_folder / "rows.jsonl", open_folder / "closed" / "rows.jsonl"):
        path.write_bytes(TEXT)
        path.chmod(0o600)
        script = (
            "import os, sys\nfrom glmjobs import submit\nimport glmjobs.run.submit_checks, glmjobs.tracking.check\n"
            "from glmjobs.cli import run_command\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"sys.exit(run_command(submit.main, {words(path)!r}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False,
            env={**os.environ, "GLMJOBS_RUNS": str(open_folder / "runs")},
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"{path}: cannot be read: Permission denied" in done.stderr


def words(path: Path) -> list[str]:
    settings = ["data.make=", f"data.path={path}", "data.dev_rows=1-5", "train.device=auto"]
    return [
        "--recipe",
        "configs/tiny.yaml",
        "--executor",
        "local",
        *(w for s in settings for w in ("--set", s)),
    ]


TYPED = {
    "GBK": (lines().encode("gbk"), "rows.jsonl"),
    "GBK, gzip": (gzip.compress(lines().encode("gbk")), "rows.jsonl.gz"),
    "UTF-16": (lines().encode("utf-16"), "rows.jsonl"),
    "CSV in GBK": (("instruction,input,output\n" + "甲,,乙\n" * 20).encode("gbk"), "rows.csv"),
}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("name", TYPED)
def test_the_command_that_is_offered_works_as_it_stands(name: str, shell: str, tmp_path: Path) -> None:
    """Also for a path with blanks, quotes and Chinese in it; what it writes is then read."""

    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    folder = tmp_path / "it's 数据 $x"
    folder.mkdir()
    content, file = TYPED[name]
    path = folder / file
    path.write_bytes(content)
    said = refusal(path)
    command = re.search(r": ((?:iconv|gzip|python) .*)$", said)
    assert command, said
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([shell, "-c", command[1]], check=True, capture_output=True, env=environ, cwd=tmp_path)
    made = next(p for p in folder.iterdir() if p != path)
    recipe = load(CONFIGS / "tiny.yaml", ["data.make=", f"data.path={made}", "data.dev_rows=1-5"])
    assert check_data(recipe.data) == str(made)


def test_columns_that_are_numbers_can_be_named(tmp_path: Path) -> None:
    """To YAML, as ``--set`` reads it, 0 is a number."""
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(lambda r: {"0": r["instruction"], "1": r["output"]}), encoding="utf-8")
    settings = ["data.prompt_column=0", "data.response_column=1", "data.query_column="]
    recipe = load(CONFIGS / "tiny.yaml", ["data.make=", f"data.path={path}", "data.dev_rows=1-5", *settings])
    assert check_data(recipe.data) == str(path)


def test_submit_says_it_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(REFUSED["Excel"][0])
    assert run_command(submit.main, words(path)) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "runs").exists()
