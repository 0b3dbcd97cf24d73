"""The forms of training data: each found by looking or named, and turned into rows; what doesn't fit is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmjobs.data import conversations, prepare
from glmjobs.data.prepared import Prepared
from glmjobs.data.reading import Problem
from glmjobs.data.rows import Columns, Row, answers
from glmjobs.data.sources import open_source
from glmjobs.data.validating import Validator
from hpc.core.errors import BadInput
from tests.support.jsonl import write_jsonl

SYSTEM = "你是一位数学老师。"
HISTORY = (("我叫小明。", "好的，小明。"),)
QUESTION, ANSWER = "1+1=？", "等于2。"
TALK = [
    ("system", SYSTEM),
    ("user", HISTORY[0][0]),
    ("assistant", HISTORY[0][1]),
    ("user", QUESTION),
    ("assistant", ANSWER),
]
OTHER_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
WHOLE: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": role, "content": text} for role, text in TALK]},
    "messages in parts": {
        "messages": [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in TALK], "tools": [],
    },
    "sharegpt": {"conversations": [{"from": OTHER_NAMES[role], "value": text} for role, text in TALK]},
    "sharegpt with a column": {
        "conversations": [{"from": OTHER_NAMES[role], "value": text} for role, text in TALK[1:]],
        "system": SYSTEM, "tools": "[]",
    },
    "sharegpt with OpenAI's names": {"conversations": [{"role": role, "content": text} for role, text in TALK]},
    "xtuner": {
        "conversation": [
            {"system": SYSTEM, "input": HISTORY[0][0], "output": HISTORY[0][1]},
            {"input": QUESTION, "output": ANSWER},
        ]
    },
    "alpaca": {
        "instruction": QUESTION, "input": "", "output": ANSWER, "history": [list(HISTORY[0])], "system": SYSTEM,
    },
}  # fmt: skip


def read(path: Path, form: str = "auto", allowed: float = 1.0) -> tuple[list[Row], list[Problem], str]:
    validator = Validator(open_source(path), Columns(), allowed, form)
    rows = list(validator.rows_and_problems())
    return (
        [r for r in rows if isinstance(r, Row)],
        [r for r in rows if isinstance(r, Problem)],
        validator.form.name,
    )


def refused(path: Path, form: str = "auto", allowed: float = 0.05) -> str:
    with pytest.raises(BadInput) as error:
        read(path, form, allowed)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv", "saved"])
def test_one_conversation_in_every_form(name: str, kind: str, tmp_path: Path) -> None:
    """The same row, whatever the form and the file; a table of text holds lists as JSON."""
    path = written([WHOLE[name]] * 3, kind, tmp_path)
    rows, problems, form = read(path)
    assert form == name.split()[0] and not problems
    assert rows == [Row(number, QUESTION, "", ANSWER, HISTORY, SYSTEM) for number in (1, 2, 3)]
    assert read(path, form)[0] == rows


def written(rows: list[dict[str, Any]], kind: str, folder: Path) -> Path:
    if kind == "jsonl":
        return write_jsonl(folder / "rows.jsonl", rows)
    if kind == "csv":
        import csv

        cells = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
        with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(cells[0]))
            table.writeheader()
            table.writerows(cells)
        return folder / "rows.csv"
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(rows)
    if kind == "parquet":
        table.to_parquet(folder / "rows.parquet")
        return folder / "rows.parquet"
    table.save_to_disk(folder / "saved")
    return folder / "saved"


def test_the_answers_that_are_learned() -> None:
    row = Row(1, QUESTION, "", ANSWER, HISTORY, SYSTEM)
    assert list(answers(row, "all")) == [
        (HISTORY[0][0], (), SYSTEM, HISTORY[0][1]),
        (QUESTION, HISTORY, SYSTEM, ANSWER),
    ]
    assert list(answers(row, "last")) == [(QUESTION, HISTORY, SYSTEM, ANSWER)]
    assert Row.of(row.as_dict()) == row and Row.of(json.loads(json.dumps(row.as_dict()))) == row


def said(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({**WHOLE["messages"], "tools": [{"name": "f"}]}, conversations.TOOLS),
        ({"messages": [*WHOLE["messages"]["messages"], {"role": "tool", "content": "3"}]}, conversations.TOOLS),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]}, conversations.TOOLS),
        (said(("user", "a")), "a conversation that ends with a question"),
        (said(("user", "a"), ("user", "b"), ("assistant", "c")), "two questions in a row, without an answer between"),
        (said(("assistant", "c")), "a conversation that begins with an answer"),
        (said(("user", "a"), ("assistant", "b"), ("assistant", "c")), "two answers in a row"),
        (said(("user", "a"), ("assistant", "b"), ("system", "c")), "a system prompt in the middle of a conversation"),
        (said(("system", "a")), "a conversation without a question"),
        (said(("critic", "a")), "a turn of an unknown role"),
        (said(("user", "a"), ("assistant", " ")), "empty response"),
        (said(("user", " "), ("assistant", "b")), "empty prompt"),
        (said(("user", "a"), ("assistant", ""), ("user", "a"), ("assistant", "b")), "an empty turn"),
        (said(("user", "a"), ("assistant", "\udcff")), "not valid Unicode"),
        ({"messages": []}, "'messages' is no list of turns"),
        ({"messages": "text"}, "'messages' is no list of turns"),
        ({"messages": ["text"]}, "a turn that is no object"),
        ({"messages": [{"role": "user", "content": 3}]}, "a turn that is not text"),
        ({"messages": [{"role": "user", "content": [{"image": 1}]}]}, "pictures or other parts that are no text"),
    ],
)  # fmt: skip
def test_a_conversation_that_cannot_be_used_is_left_out_and_counted(
    bad: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [WHOLE["messages"], bad]), encoding="utf-8")
    rows, problems, _ = read(path)
    assert [row.id for row in rows] == [1] and [(p.row, p.reason) for p in problems] == [(2, reason)]
    assert f"{path}:2: {reason}" in refused(path)


def test_a_history_that_is_none(tmp_path: Path) -> None:
    for history in (["a", "b"], [["a"]], [["a", 1]], "a", 3):
        path = write_jsonl(
            tmp_path / "rows.jsonl", [WHOLE["alpaca"], {**WHOLE["alpaca"], "history": history}]
        )
        assert [p.reason for p in read(path)[1]] == ["'history' is no list of [question, answer]"]
    for nothing in (None, [], ""):
        path = write_jsonl(
            tmp_path / "rows.jsonl", [WHOLE["alpaca"], {**WHOLE["alpaca"], "history": nothing}]
        )
        assert read(path)[0][1].history == ()


def test_a_named_form_that_is_not_the_rows(tmp_path: Path) -> None:
    """One line that names the form that it looks like, and how to say so."""
    path = write_jsonl(tmp_path / "rows.jsonl", [WHOLE["messages"]] * 3)
    message = refused(path, "belle")
    assert "data.form = belle needs instruction and output, but its rows have 'messages'" in message
    assert message.endswith("it looks like OpenAI's messages: --set data.form=messages")
    path = write_jsonl(tmp_path / "rows.jsonl", [WHOLE["alpaca"]] * 3)
    assert refused(path, "sharegpt").endswith("it looks like alpaca's columns: --set data.form=alpaca")
    path = write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
    assert refused(path, "sharegpt").endswith("but its rows have 'a'; choose another form")
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "1+1?", "golden": "2"}])
    assert "looks like CMATH, a test set without worked answers" in refused(path)
    with pytest.raises(
        BadInput, match=r"data\.form = cmath: CMATH is a test set, for score\.sets; training data are"
    ):
        read(path, "cmath")


@pytest.mark.parametrize(
    ("row", "form", "prompt", "response"),
    [
        ({"question": "1+1?", "answer": "1+1=2\n#### 2"}, "gsm8k", "1+1?", "1+1=2\n#### 2"),
        ({"question": "q", "answer": "a", "question_zh": "问", "answer_zh": "#### 2", "answer_only": "2"}, "gsm8k-zh",
         "问", "#### 2"),
        ({"problem": "1+1?", "solution": "it is \\boxed{2}", "level": "1"}, "math", "1+1?", "it is \\boxed{2}"),
    ],
)  # fmt: skip
def test_sets_with_worked_answers_can_be_learned(
    row: dict[str, Any], form: str, prompt: str, response: str, tmp_path: Path
) -> None:
    rows, _, found = read(write_jsonl(tmp_path / "rows.jsonl", [row] * 2))
    assert found == form and rows[0] == Row(1, prompt, "", response)


def test_prepared_conversations(tmp_path: Path) -> None:
    """Kept whole, counted, and a dev conversation's question is not one of train's unless all before it is the same."""
    other = said(("user", "别的话"), ("assistant", "嗯"), ("user", QUESTION), ("assistant", ANSWER))
    path = write_jsonl(
        tmp_path / "rows.jsonl", [WHOLE["messages"], other, WHOLE["messages"], other | {"id": 4}]
    )
    done = prepare(path, tmp_path / "data", dev_rows="1")
    assert (done.dev, done.train, done.conversations) == (1, 2, 4)
    assert done.record["overlap"]["rows"] == [3] and done.record["form"]["name"] == "messages"
    assert [row.history for row in done.rows("train")] == [(("别的话", "嗯"),)] * 2
    assert next(iter(Prepared.load(tmp_path / "data").rows("dev"))) == Row(
        1, QUESTION, "", ANSWER, HISTORY, SYSTEM
    )
    assert prepare(path, tmp_path / "data", dev_rows="1", form="messages").fingerprint == done.fingerprint


def test_data_prepared_before_there_were_forms_stay_valid(tmp_path: Path) -> None:
    """Its fingerprint is that of the three columns alone."""
    row = {"instruction": "问", "input": "", "output": "答"}
    path = write_jsonl(tmp_path / "rows.jsonl", [row, row | {"instruction": "又问"}])
    done = prepare(path, tmp_path / "data", dev_rows="1")
    assert done.fingerprint == "b503efbfaf3642f87618ef5f268934f5978db758466b5e890342e4f8c1a9bcf6"
    assert (tmp_path / "data" / "train.jsonl").read_text(encoding="utf-8") == (
        '{"id": 2, "instruction": "又问", "input": "", "output": "答"}\n'
    )


def test_rows_of_several_forms(tmp_path: Path) -> None:
    """Said with their lines and where they belong, not as columns to be renamed."""
    plain = {"instruction": "q", "input": "", "output": "a"}
    solved = {"question": "1+1?", "answer": "1+1=2\n#### 2"}
    others = [WHOLE["messages"]] * 2 + [WHOLE["sharegpt"]] * 2 + [solved]
    said = refused(write_jsonl(tmp_path / "rows.jsonl", [plain] * 3 + others))
    assert (
        "rows of several forms: belle (3), messages (2, from line 4), sharegpt (2, from line 6), gsm8k (1,"
        in said
    )
    assert "a file of its own, and name the files under data.sources; or go on without them: --set" in said
    said = refused(write_jsonl(tmp_path / "rows.jsonl", others + [plain] * 3))
    assert "messages (2), sharegpt (2, from line 3), gsm8k (1, from line 5), belle (3, from line 6)" in said
    problems = read(write_jsonl(tmp_path / "rows.jsonl", [plain] * 3 + others))[1]
    assert [problem.reason for problem in problems][1:3] == [
        "of another form: messages",
        "of another form: sharegpt",
    ]
    with pytest.raises(
        BadInput, match=r"no train row is left .*\(5 unusable; of other forms: messages \(2, from"
    ):
        prepare(tmp_path / "rows.jsonl", tmp_path / "o", dev_rows="1-3", allow_dropped=1)


def test_how_many_rows_are_unusable_in_all(tmp_path: Path) -> None:
    rows = [WHOLE["messages"]] * 2 + [{"messages": []}] * 2 + [said(("user", "a"), ("user", "b"))]
    message = refused(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert (
        "rows.jsonl:3: 'messages' is no list of turns (found an empty list) in 2 of 5 rows, 3 unusable in all"
        in message
    )
    assert message.endswith("--set data.allow_dropped=0.6")


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (
            [{"question": "q", "answer": text} for text in ("2\n#### 2", "no hash", "2\n#### ", "#### 3")],
            [2, 3],
        ),
        ([{"problem": "q", "solution": text} for text in ("\\boxed{2}", "no box", "\\fbox{3}")], [2]),
        ([{"question_zh": "q", "answer_zh": "二", "answer_only": "2"}] * 2, []),
        ([{"instruction": "q", "input": "", "output": "a"}] * 2, []),
    ],
)
def test_worked_answers_without_a_marked_result_are_counted(
    rows: list[dict[str, Any]], lines: list[int], tmp_path: Path
) -> None:
    """They are learned; one that is the mark alone is none."""
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    done = prepare(path, tmp_path / "o", dev_rows="1", deduplicate=False)
    assert done.record["unmarked"] == {"rows": len(lines), "lines": lines}
    assert done.train == len(rows) - 1
    solved = {"question": "q", "answer": "2\n#### 2"}
    mark = {"question": "q", "answer": "#### "}
    assert [p.reason for p in read(write_jsonl(path, [solved, mark]))[1]] == ["empty response"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mgsm.tsv", "1+1等于几？\t2\n2+2等于几？\t4\n", "looks like MGSM, a test set without worked answers"),
        ("long.tsv", "小明有1个苹果，又买了1个，一共有几个？\t2\n" * 3, "looks like MGSM, a test set"),
        ("mmlu.csv", "1+1=?,1,2,3,4,B\n2+2=?,1,2,3,4,D\n", "looks like questions with options, as C-Eval, CMMLU"),
        ("QA.csv", "Question,Answer\n1+1=?,2\n", "no column 'instruction'"),
        ("rows.csv", "1+1=?,,2\n2+2=?,,4\n", "rows.csv:1: the first line of a table names its columns, and this one"),
        ("rows.csv", "1+1=?,,2\n2+2=?,,4\n", "is a row: '1+1=?', '', '2'; write such a line above it:"),
        ("rows.csv", "prompt,response\n1,2\n", "no column 'instruction'"),
        ("rows.csv", ",instruction,answer\n0,1+1=?,2\n", "no column 'output'"),
    ],
)  # fmt: skip
def test_tables_without_a_header(name: str, content: str, said: str, tmp_path: Path) -> None:
    """A known test set's is recognised as scoring does; of another, it is said that the line is missing."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert said in refused(tmp_path / name)
