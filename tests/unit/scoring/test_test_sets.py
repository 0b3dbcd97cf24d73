"""Test sets: every form that people have, and one line for what is wrong with one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from glmjobs.scoring.judges import JUDGES
from glmjobs.scoring.test_sets import Question, read_set
from hpc.core.errors import BadInput
from tests.support.jsonl import write_jsonl


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    return read_set(path, limit=limit).questions


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
        ('{"text": "x"}\n', "found: text; known: messages: messages; sharegpt: conversations"),
        ('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n', ":2: column 'output' is missing"),
        ('{"instruction": "a", "output": null}\n', ":1: column 'output' is empty"),
        ('{"instruction": "a", "output": NaN}\n', ":1: column 'output' is empty"),
        ('{"instruction": "a", "output": "b"}\n{oops\n', ":2: broken JSON"),
        (
            '{"q": "a", "A": "1", "B": "2", "answer": "A"}\n',
            "with options, but no column question or Question; found: q",
        ),
        ("[1, 2]", ":1: a row is a JSON object, not a number"),
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
    with pytest.raises(
        BadInput, match=r"bad\.tsv:2: another number of cells than the first line \(1, not 2\)"
    ):
        read_questions(path)
    path.write_bytes("问一\t1\n".encode("gb18030"))
    with pytest.raises(BadInput, match="not UTF-8"):
        read_questions(path)
    with pytest.raises(BadInput, match=r"absent\.tsv: no such file"):
        read_questions(tmp_path / "absent.tsv")


OPTIONS = "\nA. 一\nB. 二\nC. 三\nD. 四\n请选出正确的选项。"
LAYOUTS: dict[str, tuple[str, str, str, str]] = {
    # its file's end, its text, the form that it is found to be, its first question's gold answer
    "Math23K": (
        "json", '{\n  "id":"1",\n  "original_text":"问",\n  "equation":"x=4",\n  "ans":"4(3/8)"\n}\n'
        '{\n  "id":"2",\n  "original_text":"问二",\n  "equation":"x=5",\n  "ans":"5"\n}\n', "math23k", "4(3/8)",
    ),
    "Ape210K": ("json", '{"original_text": "问", "ans": "((2)/(3))", "equation": "x=2/3"}', "math23k", "((2)/(3))"),
    "GSM8K": ("jsonl", '{"question": "问", "answer": "1+1=2\\n#### 1,234"}', "gsm8k", "1,234"),
    "GSM8K in two languages": (
        "json", '[{"question": "in E", "answer": "w", "question_zh": "问", "answer_zh": "答", "answer_only": 18}]',
        "gsm8k-zh", "18",
    ),
    "GSM8K in Chinese": ("jsonl", '{"question_zh-cn": "问", "question": "q", "answer": "w #### 18"}', "gsm8k-zh", "18"),
    "MATH": (
        "jsonl", '{"problem": "问", "solution": "so $\\\\boxed{\\\\frac{1}{2}}$."}', "math", "\\frac{1}{2}",
    ),
    "MGSM of the hub": ("jsonl", '{"question": "问", "answer": null, "answer_number": 18}', "mgsm", "18"),
    "CMATH": ("jsonl", '{"grade": 1, "input": "问", "golden": "9"}', "cmath", "9"),
    "CMATH of DeepSeek": ("jsonl", '{"grade": 1, "question": "问", "golden": "9"}', "cmath", "9"),
    "MGSM of DeepSeek": (
        "jsonl", '{"messages": [{"role": "user", "content": "问"}, {"role": "assistant"}], "answer": "18"}',
        "messages", "18",
    ),
    "C-Eval": ("csv", "id,question,A,B,C,D,answer,explanation\n0,问,一,二,三,四,B,因为\n", "choice", "B"),
    "CMMLU": ("csv", ",Question,A,B,C,D,Answer\n0,问,一,二,三,四,C\n", "choice", "C"),
    "MMLU": ("csv", "问,一,二,三,四,D\n", "choice", "D"),
    "MMLU of the hub": (
        "jsonl", '{"question": "问", "choices": ["一", "二", "三", "四"], "answer": 1}\n'
        '{"question": "问", "choices": ["一", "二", "三", "四"], "answer": 0}', "choice", "B",
    ),
    "options counted from 1": (
        "jsonl", '{"question": "问", "options": ["一", "二", "三", "四"], "answer": "1"}\n'
        '{"question": "问", "options": ["一", "二", "三", "四"], "answer": "4"}', "choice", "A",
    ),
    "AGIEval": (
        "jsonl", '{"question": "问", "options": ["(A)一", "(B)二", "(C)三", "(D)四"], "label": "B"}', "choice", "B",
    ),
    "CMMLU of SeaEval": (
        "jsonl", '{"question": "问", "choices": ["(A) 一", "(B) 二", "(C) 三", "(D) 四"], "answer": "(B) 二"}',
        "choice", "B",
    ),
    "an option's own text": ("csv", "question,A,B,C,D,answer\n问,一,二,三,四,二\n", "choice", "B"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_of_public_sets(name: str, tmp_path: Path) -> None:
    """Found by looking; what has options shows them, and is marked by the letter."""
    ending, text, form, gold = LAYOUTS[name]
    path = tmp_path / f"set.{ending}"
    path.write_text(text, encoding="utf-8")
    found = read_set(path)
    assert (found.form.name, found.questions[0].gold) == (form, gold)
    assert found.form.judge == ("choice" if form == "choice" else "meaning") and found.form.judge in JUDGES
    assert found.questions[0].question == ("问" + OPTIONS if form == "choice" else "问")
    assert read_set(path, form) == found
    if form != "choice":
        with pytest.raises(BadInput, match="form = choice needs question and A and answer"):
            read_set(path, "choice")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,question,A,B,C,D\n0,问,一,二,三,四\n", "questions with options, but no column of gold answers"),
        ("question,A,B,answer\n问,一,二,E\n", ":2: a gold answer that is none of the options (found 'E')"),
        ("question,A,B,answer\n问,一,,A\n", ":2: column 'A' holds no options"),
        ("question,A,B,C,answer\n问,一,二,三,1\n", "neither 0 nor the number of options occurs: write letters"),
        ("question,A,B,answer\n问,一,二,0\n问,一,二,2\n", "both 0 and the number of options occur"),
        ("question,A,B,answer\n问,一,二,1\n问,一,二,0\n问,一,二,7\n", ":4: a gold answer that is none of the options"),
    ],
)  # fmt: skip
def test_choices_that_cannot_be_marked(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as error:
        read_set(path)
    assert said in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)


def test_what_was_said_before_is_never_left_out_in_silence(tmp_path: Path) -> None:
    rows = [
        {"instruction": "问", "output": "答"},
        {"instruction": "问", "output": "答", "history": [["甲", "乙"]]},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(
        BadInput, match=r"a\.jsonl:2: 'history' would not be shown to the model; name the form alpaca"
    ):
        read_set(path)
    assert read_set(path, "alpaca").questions[1].history == (("甲", "乙"),)
    with pytest.raises(BadInput, match="form = 'belles': none of the forms here"):
        read_set(path, "belles")


def test_the_split_of_a_test_set(tmp_path: Path) -> None:
    """Of a directory in the hub's layout, ``test``; of one split, that."""
    datasets = pytest.importorskip("datasets")
    for split in ("train", "test"):
        table = datasets.Dataset.from_list([{"question": split, "answer": "#### 1"}])
        table.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert [question.question for question in read_set(tmp_path).questions] == ["test"]
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "saved")
    assert read_set(tmp_path / "saved").form.name == "gsm8k"
    table.save_to_disk(tmp_path / "one")
    assert read_set(tmp_path / "one").form.name == "gsm8k"
