"""`python -m glmjobs.mark`: the rules that decided, for three texts and for the rows of a file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from glmjobs import mark, plan, score
from hpc.core.command import run_command

ROWS = [
    {"id": 1, "question": "还剩几颗？", "gold": "9颗", "prediction": "15-6=9（颗）\n答：还剩九颗。"},
    {"id": 2, "question": "还剩几颗？", "gold": "9颗", "prediction": "还剩8颗。"},
    {"id": 3, "question": "证明：偶数加偶数是偶数。", "gold": "2m+2n=2(m+n)。", "prediction": "略"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_three_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert mark.main(["还剩几颗？", "所以还剩9颗。", "不是8颗。\n答：还剩九颗。"]) == 0
    said = capsys.readouterr().out
    assert "right: same value" in said
    assert "marked_answer" in said and "答:还剩九颗。" in said
    assert "9颗" in said


def test_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mark.main([str(file), "--wrong", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["status"], row["reason"]) for row in rows] == [
        (2, "marked", "other value"),
        (3, "not marked", "not marked: a proof, a drawing or an explanation is asked"),
    ]
    assert rows[0]["trace"][-1] == {"side": "verdict", "rule": "wrong", "span": "other value"}
    assert mark.main([str(file), "--row", "1"]) == 0
    out = capsys.readouterr()
    assert "right: same value" in out.out and "1 rows shown" in out.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: no such file; give three texts"),
        (["a", "b"], "2 texts; give three texts"),
        (["FILE", "--row", "9"], "no row with the id 9"),
        (["a", "1", "1", "--row", "3"], "--row chooses rows of a file; three texts are one row"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(mark.main, [str(file) if w == "FILE" else w for w in words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("mark", "F"), ("score", "F"), ("score", "D", "F"), ("plan", "--set", "model.path=F")]
)
def test_what_may_not_be_read_is_bad_input(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file in a folder that is closed to this user: to root, as whom tests may run, none is."""
    closed, real = tmp_path / "closed", Path.stat

    def stat(path: Path, **more: bool) -> os.stat_result:
        if closed in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    command: Any = {"mark": mark, "score": score, "plan": plan}[words[0]]
    (tmp_path / "rows.jsonl").write_text("")
    places = {"F": str(closed / "f"), "D": str(tmp_path)}
    given = [places.get(word, word).replace("path=F", f"path={closed / 'f'}") for word in words[1:]]
    assert run_command(command.main, given) == 2
    err = capsys.readouterr().err
    assert "cannot be read: Permission denied" in err and str(closed) in err and err.count("\n") == 1


def test_a_broken_line_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with file.open("a", encoding="utf-8") as more:
        more.write('{"question": 1}\n')
    assert run_command(mark.main, [str(file)]) == 2
    assert "predictions.jsonl:4: question, gold and prediction" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[" * 100_000, "broken JSON in the array element that begins here (nested too deeply)"),
        (b'{"a": ' + b"[" * 100_000, "f:1: broken JSON (nested too deeply); one object a line is wanted"),
        (b'{"id": ' + b"9" * 10_000 + b"}", "f:1: broken JSON (an integer of more digits than are read); one object"),
        (b'{"id": 1', "f:1: broken JSON (Expecting ',' delimiter at column 9); one object a line"),
        ("还".encode("gb18030"), "f:1: not UTF-8 (looks like GB18030)"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_named(
    line: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").write_bytes(line + b"\n")
    assert run_command(mark.main, [str(tmp_path / "f")]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err


def test_a_byte_order_mark_and_blank_lines_are_no_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.dumps(ROWS[0], ensure_ascii=False).encode()
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbf" + row + b"\n\n" + row + b"\n")
    assert run_command(mark.main, [str(tmp_path / "f")]) == 0
    assert "2 of 2 rows shown (meaning: right 2)" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux's")
def test_a_file_that_fails_when_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(mark.main, ["/proc/self/mem"]) == 2
    assert capsys.readouterr().err == "error: /proc/self/mem: cannot be read: Input/output error\n"


def test_no_text_of_a_row_drives_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "question": "还剩几颗？\x1b[2J\x9b1m", "gold": "9\x1b[31m颗", "prediction": "答：9颗\x1b]0;hi\x07。\ud83d",
    }  # fmt: skip
    (tmp_path / "f").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for judge, said in (("meaning", "⟨U+001B⟩[2J⟨U+009B⟩1m"), ("exact", "⟨U+001B⟩]0;hi⟨U+0007⟩。⟨U+D83D⟩")):
        assert run_command(mark.main, [str(tmp_path / "f"), "--judge", judge]) == 0
        out = capsys.readouterr().out
        assert not set("\x1b\x9b\x07\ud83d") & set(out) and said in out
    assert run_command(mark.main, [str(tmp_path / "f"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name: shown[name] for name in row} == row, "to a program all of it"


def test_what_is_no_file_of_rows_is_told_apart(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    scores = tmp_path / "runs/first/scores/finetuned"
    scores.mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    rows = file.rename(scores / file.name)
    for word, said in {
        "empty.jsonl": "empty.jsonl: the file holds only blank lines; expected JSON lines or a JSON array",
        "runs/first": "runs/first: a directory; its rows are in runs/first/scores/finetuned/predictions.jsonl",
        "first": f"first: a directory; its rows are in {rows}",
        "bare": "bare: a directory, without predictions.jsonl",
    }.items():
        assert run_command(mark.main, [word]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1, err
