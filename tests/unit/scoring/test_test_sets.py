"""Question files: the three forms, and one line for what is wrong with one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from glmjobs.scoring.test_sets import Question, read_questions
from hpc.core.errors import BadInput
from tests.support.jsonl import write_jsonl


def test_the_three_forms(shared: Path) -> None:
    belle = read_questions(shared / "data" / "belle_school_math_samples.jsonl")
    assert len(belle) == 4
    assert [q.id for q in belle] == [1, 2, 3, 4]
    assert belle[0].gold.startswith("\n")
    assert "糖果" in belle[0].question
    cmath = read_questions(shared / "data" / "cmath_dev.jsonl")
    assert len(cmath) == 600
    assert (cmath[0].question[:2], cmath[0].gold) == ("芳芳", "9")
    mgsm = read_questions(shared / "data" / "mgsm_zh.tsv", limit=7)
    assert len(mgsm) == 7
    assert mgsm[0].gold == "18"


def test_forms_and_ids(tmp_path: Path) -> None:
    rows = [{"id": 10001, "instruction": "计算", "input": "1+1=", "output": "2"}]
    assert read_questions(write_jsonl(tmp_path / "a.jsonl", rows)) == [Question(10001, "计算\n1+1=", "2")]
    array = tmp_path / "b.json.gz"
    array.write_bytes(gzip.compress(json.dumps([{"question": "1+1=", "answer": 2}]).encode()))
    assert read_questions(array) == [Question(1, "1+1=", "2")]
    table = tmp_path / "c.tsv"
    table.write_bytes("\ufeff问一\t1\r\n\r\n问二\t2\r\n".encode())
    assert read_questions(table) == [Question(1, "问一", "1"), Question(3, "问二", "2")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "x"}\n', "found: text; known: BELLE: instruction and output"),
        ('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n', ":2: column 'output' is missing"),
        ('{"instruction": "a", "output": null}\n', ":1: column 'output' is NoneType, not text"),
        ('{"instruction": "a", "output": "b"}\n{oops\n', ":2: broken JSON"),
        ("[1, 2]", ":1: a row is a JSON object, not int"),
        ('{"id": 3, "input": "a", "golden": "b"}\n' * 2, "two rows have the id 3"),
        ("", "the file is empty"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput) as error:
        read_questions(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_may_have_a_header(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("Question\tanswer\r\n1+1=?\t2\r\n", encoding="utf-8")
    assert read_questions(path) == [Question(2, "1+1=?", "2")]


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("问一\t1\n问二\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"bad\.tsv:2: expected question TAB answer, found 1 fields"):
        read_questions(path)
    path.write_bytes("问一\t1\n".encode("gb18030"))
    with pytest.raises(BadInput, match="not UTF-8"):
        read_questions(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_questions(tmp_path / "absent.tsv")
