"""`python -m glmjobs.prepare`, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glmjobs.cli import run_command
from glmjobs.prepare import main


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = run_command(main, [str(value) for value in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [{"instruction": f"问题{i}", "input": "", "output": f"答{i}"} for i in range(1, 101)]
    rows[59]["instruction"] = "问题3"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[41], lines[77], lines[78] = "{", '{"instruction": "", "input": "", "output": "a"}', "{"
    path = tmp_path / "belle.json"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_summary(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, source, "--out", tmp_path / "o", "--set", "data.dev_rows=1-10", "--set", "data.train_rows=31-"
    )
    assert (code, err) == (0, "")
    for line in (
        "rows read │ 100",
        "train │ 66 │ data.train_rows = 31-", "dev │ 10 │ data.dev_rows = 1-10", "in neither │ 20 │",
        "train rows left out │ 1 │ their question is a dev row's",
        "dropped: broken JSON │ 2 │ line 42, 79", "dropped: empty prompt │ 1 │ line 78",
        "dev questions in train: 0 (checked)",
    ):  # fmt: skip
        assert line in " ".join(out.split()), out
    assert len((tmp_path / "o" / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 66


def test_json_is_one_document(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, source, "--out", tmp_path / "o", "--set", "data.dev_rows=1-10", "--json")
    document = json.loads(out)
    assert code == 0 and document["directory"] == str(tmp_path / "o")
    assert {k: v for k, v in document.items() if k not in ("directory", "lengths")} == json.loads(
        (tmp_path / "o" / "prepare.json").read_text(encoding="utf-8")
    )
    assert document["dropped_by_reason"] == {"broken JSON": 2, "empty prompt": 1}


def test_recipe_gives_the_settings_and_the_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: small\nmodel: {make: {}}\ndata: {make: {rows: 60}, dev_rows: 1-5}\n")
    assert run(capsys, "--recipe", recipe)[0] == 0
    assert json.loads((tmp_path / "prepared/small/prepare.json").read_text(encoding="utf-8"))["train"] == 55
    assert run(capsys, source, "--recipe", recipe)[0] == 0
    assert json.loads((tmp_path / "prepared/belle/prepare.json").read_text(encoding="utf-8"))["dev"] == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name the data file, or --recipe FILE"),
        (["none.json"], "none.json: no such file"),
        (["belle.json"], "data.dev_rows = '1-10000' reaches row 10000, but belle.json has 100 rows"),
        (
            ["belle.json", "--set", "data.dev_row=1-10"],
            "unknown field data.dev_row; did you mean data.dev_rows?",
        ),
        (
            ["belle.json", "--set", "data.dev_rows=1-10", "--set", "data.response_column=outputs"],
            "did you mean 'output'?",
        ),
        (["belle.json", "--recipe", "none.yaml"], "none.yaml: no such recipe file"),
        (["empty.json"], "empty.json: the file is empty"),
        (["gbk.json"], "gbk.json:1: not UTF-8 (looks like GB18030)"),
        (["broken.json"], "broken.json:2: no column 'instruction'"),
        (["belle.json", "--out", ""], "--out: name a directory"),
        (["belle.json", "--out", "gbk.json/o"], "gbk.json: not a directory; name another directory"),
        (["belle.json", "--out", "mine"], "mine/dev.jsonl: would be overwritten, and was not prepared there"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    argv: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty.json").touch()
    Path("mine").mkdir()
    Path("mine/dev.jsonl").touch()
    Path("gbk.json").write_bytes(source.read_bytes().decode().encode("gb18030"))
    Path("broken.json").write_text("a,b\n1,2\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_real_samples_with_token_lengths(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="transformers isn't installed")
    argv = [
        shared / "data" / "belle_school_math_samples.jsonl",
        "--out",
        tmp_path / "o",
        "--set",
        "data.dev_rows=1-1",
    ]
    argv += ["--tokenizer", shared / "chatglm-6b"]
    code, out, _ = run(capsys, *argv, "--json")
    lengths = json.loads(out)["lengths"]
    assert code == 0 and lengths["rows"] == 3
    assert 20 < lengths["question"]["mean"] < 60 and 50 < lengths["answer"]["mean"] < 150
    assert (lengths["question"]["limit"], lengths["answer"]["limit"]) == (511, 510)
    assert lengths["train_tokens"] == pytest.approx(
        3 * (lengths["question"]["mean"] + lengths["answer"]["mean"]), abs=1
    )
    code, out, _ = run(capsys, *argv)
    assert code == 0 and "longest" in out


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, glmjobs.prepare as p\n"
        "try: p.main(['--help'])\n"
        "except SystemExit: print('loaded:', {'torch', 'numpy', 'datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("loaded: set()")


@pytest.mark.slow
def test_belles_size(tmp_path: Path) -> None:
    """BELLE's 248,481 rows and 130 MB: all rows arrive, and the split is exact. (No timing here.)"""
    from glmjobs.data import prepare

    path = tmp_path / "belle.json"
    answer = "\n根据题意，可以列出算式并且逐步计算。" * 8
    with path.open("w", encoding="utf-8") as file:
        for i in range(1, 248_482):
            file.write(
                json.dumps(
                    {"instruction": f"第{i}题：小明有几个苹果？", "input": "", "output": answer},
                    ensure_ascii=False,
                )
                + "\n"
            )
    assert path.stat().st_size > 120_000_000
    done = prepare(path, tmp_path / "o")
    assert (done.train, done.dev, done.record["rows"]) == (238_481, 10_000, 248_481)


def test_data_prepared_before_there_were_forms(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They stay valid, and are shown."""
    words = (source, "--out", tmp_path / "out", "--set", "data.dev_rows=1-5")
    assert run(capsys, *words)[0] == 0
    marker = tmp_path / "out" / "prepare.json"
    record = json.loads(marker.read_text(encoding="utf-8"))
    del record["form"], record["conversations"]
    marker.write_text(json.dumps(record), encoding="utf-8")
    status, shown, _ = run(capsys, *words)
    assert status == 0 and "form belle" in shown and json.loads(marker.read_text(encoding="utf-8")) == record
