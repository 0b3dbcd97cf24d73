"""Reading: every form BELLE's file comes in, and every way it can be wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from glmjobs.data.reading import Problem, Record, read_json
from glmjobs.data.rows import Columns, Row
from glmjobs.data.sources import HubSource, TableSource, open_source
from glmjobs.data.validating import Validator
from hpc.core.errors import BadInput

ROWS = [{"instruction": f"问题{i}？", "input": "", "output": f"\n答案是{i}。"} for i in range(1, 31)]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def checked(source: Any, columns: Columns | None = None) -> tuple[list[Row], list[Problem]]:
    validator = Validator(open_source(source), columns or Columns())
    found = list(validator.rows_and_problems())
    return [r for r in found if isinstance(r, Row)], [p for p in found if isinstance(p, Problem)]


def refused(source: Any, columns: Columns | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        checked(source, columns)
    message = str(caught.value)
    assert "\n" not in message
    return message


EXPECTED = [Row(i, f"问题{i}？", "", f"\n答案是{i}。") for i in range(1, 31)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a b'c.json"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_json_lines_whatever_the_name(tmp_path: Path, name: str, bom: bytes, end: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(bom + lines(ROWS).replace(b"\n", end))
    assert checked(path) == (EXPECTED, [])


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_array(tmp_path: Path, indent: int | None, bom: bytes, packed: bool) -> None:
    path = tmp_path / "a.json"
    content = bom + b"\n " + json.dumps(ROWS, ensure_ascii=False, indent=indent).encode() + b"\n\n"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert checked(path) == (EXPECTED, [])


def test_array_is_streamed_across_pieces_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a piece ends (in the middle of a character, a number, an escape), the rows are the same."""
    rows = [{**row, "n": 12345.5e-3, "s": '\\"\u2028é'} for row in ROWS] + [17]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    whole = list(read_json(path))
    for size in (1, 2, 3, 7, 64):
        monkeypatch.setattr("glmjobs.data.reading._CHUNK", size)
        assert list(read_json(path)) == whole
    assert [r.value for r in whole if isinstance(r, Record)] == rows
    starts = path.read_text(encoding="utf-8").split("\n")
    assert all(starts[r.line - 1].strip()[0] in "{1" for r in whole)


def test_gzip_lines_and_unicode_line_separators(tmp_path: Path) -> None:
    row = {"instruction": "a\u2028b\u0085c", "input": "d\x1ee", "output": "f"}
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines([row])))
    assert checked(path) == ([Row(1, "a\u2028b\u0085c", "d\x1ee", "f")], [])


def test_bad_rows_are_dropped_with_line_and_reason(tmp_path: Path) -> None:
    good = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    bad = {
        3: (b'{"instruction": "x", "output": ', "broken JSON"),
        5: (b"", "blank line"),
        7: (b"[1, 2]", "not an object"),
        8: (b'{"instruction": "x", "input": ""}', "no column 'output'"),
        10: (b'{"instruction": "x", "input": "", "output": 7}', "'output' is not text"),
        11: (b'{"instruction": null, "input": "", "output": "y"}', "'instruction' is not text"),
        12: (b'{"instruction": " \\u3000", "input": "", "output": "y"}', "empty prompt"),
        13: (b'{"instruction": "x", "input": "", "output": "\\n "}', "empty response"),
        14: ('{"instruction": "问", "output": "答"}'.encode("gb18030"), "not UTF-8"),
        15: (b'{"instruction": "\\ud800", "input": "", "output": "y"}', "'instruction' is not valid Unicode"),
        16: (b'{"instruction": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
        17: (b'{"instruction": ' + b"9" * 5000 + b', "input": "", "output": "y"}', None),
    }  # fmt: skip
    for number, (raw, _) in bad.items():
        good[number - 1] = raw
    path = tmp_path / "a.json"
    path.write_bytes(b"\n".join(good) + b"\n\n \n")
    rows, problems = checked(path)
    assert [row.id for row in rows] == [i for i in range(1, 31) if i not in bad]
    assert [p.line for p in problems] == list(bad)
    for problem in problems:
        assert bad[problem.line][1] in (None, problem.reason)
    assert "GB18030" in next(p.detail for p in problems if p.line == 14)


def test_a_missing_or_null_query_is_an_empty_one_where_the_column_exists(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    plain = {"instruction": "a", "output": "c"}
    path.write_bytes(lines([{**plain, "input": "b"}, plain, {**plain, "input": None}]))
    rows, problems = checked(path)
    assert [row.input for row in rows] == ["b", "", ""] and not problems


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"\n\n  \n", "blank lines"),
        (b"[]", "empty array"),
        (b"  \xef\xbb\xbf", ":1: broken JSON"),
        (gzip.compress(b""), "empty"),
        (gzip.compress(lines(ROWS) * 2000)[:-4000], "gzip"),
        (b"\x1f\x8bnot gzip at all", "gzip"),
        (lines(ROWS).decode().encode("utf-16"), "UTF-16"),
        (lines(ROWS).decode().encode("utf-16-le"), "UTF-16"),
        (lines(ROWS).decode().encode("gb18030"), ":1: not UTF-8 (looks like GB18030)"),
        (json.dumps(ROWS, ensure_ascii=False).encode("gb18030"), "not UTF-8"),
        (b"instruction,input\na,b\n", "no column 'output'"),
        (b"instruction\toutput\na\tb\n", "no column 'input'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", "a Git LFS pointer"),
        (b"instruction = a\n", ":1: broken JSON"),
        (json.dumps(ROWS).encode()[:-1], ":1: the array isn't closed"),
        (json.dumps(ROWS, indent=1).encode()[:200], "broken JSON in the array element"),
        (json.dumps(ROWS).replace("}, {", "} {", 1).encode(), "expected ',', found '{'"),
        (b'["a", "b"]\n["c", "d"]\n', ":2: more text after the array's end"),
        (b"[1, 2, 3]", "not an object"),
        (b"[" * 100000, "nested too deeply"),
        (b"PK\x03\x04xxxx", "zip"),
        (b"42\n43\n", "not an object (found a number)"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    message = refused(path)
    assert expected in message and "data.json" in message


def test_missing_columns_name_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(lines([{"instruction": "a", "input": "", "outputs": "c"}] * 9 + ROWS[:1]))
    message = refused(path)
    assert f"{path}:1: no column 'output' in 9 of 10 rows" in message
    assert "did you mean 'outputs'?: set data.response_column (--set data.response_column=outputs)" in message
    path.write_bytes(lines([{"instruction": "a", "output": "c"}] * 3))
    assert "no column 'input'" in refused(path) and "--set data.query_column= for none" in refused(path)
    assert len(checked(path, Columns(query=""))[0]) == 3
    assert "named twice" in refused(path, Columns(prompt="output"))


def test_a_wrong_column_is_found_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(lines([{"q": "a", "a": "c"}] * 5000))
    validator = Validator(open_source(path), Columns())
    with pytest.raises(BadInput, match="no column 'instruction'"):
        list(validator.rows_and_problems())
    assert validator.rows == 1000


def test_a_row_that_loses_its_history_is_no_silent_row(tmp_path: Path) -> None:
    """Of a form that does not read it. More than is allowed: nothing is read; as many as are allowed: counted."""
    rows = [{**row, "history": [["a", "b"]] if i < 8 else [], "system": "s" if i < 3 else ""}
            for i, row in enumerate(ROWS[:1] * 10)]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(rows))
    for allowed, good in ((0.05, False), (0.79, False), (0.8, True)):
        validator = Validator(open_source(path), Columns(), allowed, "belle")
        if good:
            assert len(list(validator.rows_and_problems())) == 10
        else:
            with pytest.raises(
                BadInput, match=r"8 of 10 rows hold more than .*'history' \(8\), 'system' \(3\)"
            ):
                list(validator.rows_and_problems())
        assert validator.context == {"history": 8, "system": 3} and validator.context_rows == 8
    named = Columns(query="system")
    assert Validator(open_source(path), named, 1.0, "belle").columns.query == "system"
    validator = Validator(open_source(path), named, 1.0, "belle")
    list(validator.rows_and_problems())
    assert validator.context == {"history": 8}, "a column that is read is not lost"


def test_the_hint_of_what_to_allow_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(ROWS[:1] * 17) + b"{broken\n" * 3)
    with pytest.raises(BadInput, match=r"broken JSON .* in 3 of 20 rows; .*: --set data.allow_dropped=0.15$"):
        list(Validator(open_source(path), Columns(), 0.05).rows_and_problems())
    assert len(list(Validator(open_source(path), Columns(), 0.15).rows_and_problems())) == 20


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It is read twice: once for its fingerprint."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="a pipe or device, which can be read only once"):
        open_source(tmp_path / "pipe")


def table(path: Path, first: int, rows: int = 3) -> None:
    """A parquet (or arrow) file of rows numbered from ``first``."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    values = [{"instruction": f"q{n}", "input": "", "output": f"a{n}"} for n in range(first, first + rows)]
    made = pa.Table.from_pylist(values)
    if path.suffix == ".parquet":
        pq.write_table(made, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)


@pytest.mark.parametrize(
    ("files", "read", "left_out"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], [1, 11], []),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], [1], ["test"]),
        (["train.parquet", "validation.parquet", "test.parquet"], [1], ["test", "validation"]),
        (["train/0000.parquet", "test/0000.parquet"], [1], ["test"]),
        (["default/train/0000.parquet", "default/dev/0000.parquet"], [1], ["validation"]),
        (["my_eval.parquet", "my_training.parquet"], [11], ["test"]),
        (["train.parquet", "extra.parquet"], [1], ["of no split"]),
        (["part-0.parquet", "part-1.parquet"], [1, 11], []),
        (["data/test-00000-of-00001.parquet"], [1], []),
        (["constraint.parquet", "latest.parquet"], [1, 11], []),  # words that only contain a split's name
        (["train.parquet", ".cache/test.parquet", "cache-0a1b.arrow"], [1], []),
        (["data-00000-of-00001.arrow", "cache-1f2e.arrow", "tmpx1.arrow"], [1], []),
        (["train.parquet", "train.arrow"], [1], ["beside .parquet files"]),
    ],
)
def test_a_directory_is_read_as_its_split_train(
    tmp_path: Path, files: list[str], read: list[int], left_out: list[str]
) -> None:
    for at, name in enumerate(files):
        table(tmp_path / name, 1 + 10 * at)
    source = open_source(tmp_path)
    found = [record.value["instruction"] for record in source.records(Columns())]  # type: ignore[union-attr, index]
    assert found == [f"q{first + i}" for first in read for i in range(3)]
    assert [line.rpartition(": ")[2] for line in source.left_out] == left_out


def test_splits_without_train_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("test.parquet", "validation.parquet"):
        table(tmp_path / name, 1)
    with pytest.raises(BadInput, match="holds test, validation, but no split 'train'"):
        open_source(tmp_path)


def test_a_second_copy_of_a_file_counts_once(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", 1)
    table(tmp_path / "backup/a.parquet", 1)
    source = open_source(tmp_path)
    assert len(list(source.records(Columns()))) == 3
    assert source.left_out == ["backup/a.parquet: a copy of a.parquet"]


def test_what_is_no_source(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.json")
    assert "no such file" in refused("data/none.jsonl.gz")
    assert "without .parquet or .arrow" in refused(tmp_path)
    assert isinstance(open_source("BelleGroup/school_math_0.25M"), HubSource)


def test_tables(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets isn't installed")
    table = datasets.Dataset.from_list([{**row, "more": 1} for row in ROWS])
    table.to_parquet(str(tmp_path / "parquet" / "a.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict(train=table, test=table.select(range(2))).save_to_disk(str(tmp_path / "splits"))
    for name in ("parquet/a.parquet", "parquet", "saved", "splits"):
        source = open_source(tmp_path / name)
        assert isinstance(source, TableSource)
        assert checked(source) == (EXPECTED, []), name
    with pytest.raises(BadInput, match="flatten_indices"):
        table.shuffle(seed=0).save_to_disk(str(tmp_path / "shuffled"), num_shards=1)
        (tmp_path / "shuffled" / "indices.arrow").write_bytes(b"")
        open_source(tmp_path / "shuffled")
    assert "set data.response_column" in refused(tmp_path / "saved", Columns(response="outputs"))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "parquet" / "a.parquet").read_bytes()[:-50])
    assert "cut.parquet: cannot be read as a table" in refused(tmp_path / "cut.parquet")


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets isn't installed")
    table = datasets.Dataset.from_list([{**row, "more": 1} for row in ROWS])
    loaded: dict[str, Any] = {"BelleGroup/school_math_0.25M": datasets.DatasetDict(train=table, test=table)}
    loaded["some/other"] = datasets.DatasetDict(a=table, b=table)

    def load_dataset(name: str) -> Any:
        if name not in loaded:
            raise ConnectionError("Couldn't reach\nthe hub")
        return loaded[name]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert checked("BelleGroup/school_math_0.25M") == (EXPECTED, [])
    source = open_source("BelleGroup/school_math_0.25M")
    assert source.digest(Columns()) == source.digest(Columns())
    assert source.digest(Columns()) != source.digest(Columns(response="more"))
    assert "has the splits a, b" in refused("some/other")
    assert "neither a file here nor a data set" in refused("some/missing")


def test_the_real_samples(shared: Path) -> None:
    rows, problems = checked(shared / "data" / "belle_school_math_samples.jsonl")
    assert len(rows) == 4 and not problems
    assert rows[0].instruction.startswith("题目：小华") and rows[3].output.startswith(" \n1.")
    rows, problems = checked(shared / "data" / "cmath_dev.jsonl", Columns("input", "", "golden"))
    assert len(rows) == 600 and not problems
    assert "mgsm_zh.tsv: looks like MGSM, a test set" in refused(shared / "data" / "mgsm_zh.tsv")


def test_cells_of_a_table_stay_as_they_are(tmp_path: Path) -> None:
    """Numbers, leading zeros and empty cells of the usual table of sums."""
    path = tmp_path / "sums.csv"
    path.write_text("instruction,input,output\n1+1=?,,2\n0.5+1=?,,1.50\n3+4=?,,007\n", encoding="utf-8")
    rows, _ = checked(path)
    assert [row.output for row in rows] == ["2", "1.50", "007"] and rows[0].input == ""


@pytest.mark.parametrize("mark", [",", "\t", ";"])
@pytest.mark.parametrize("name", ["rows.txt", "rows.csv.gz", "rows.tsv"])
def test_tables_as_excel_writes_them(tmp_path: Path, mark: str, name: str) -> None:
    """A byte order mark, line breaks, marks and quotes in cells, Windows line ends; a short row is counted."""
    if name.endswith("tsv") and mark != "\t":
        pytest.skip("by its name a TSV")
    cells = [["instruction", "input", "output"], ["问,一;\t", "", '答"一"\n答'], ["问二", "", "答二"]]
    table = io.StringIO()
    csv.writer(table, delimiter=mark, lineterminator="\r\n").writerows([*cells, ["short"], cells[2]])
    content = "\ufeff".encode() + table.getvalue().encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows, problems = checked(path)
    assert [row[1:4] for row in rows] == [tuple(cells[1]), tuple(cells[2]), tuple(cells[2])]
    assert [row.id for row in rows] == [1, 2, 4]
    assert [(p.row, p.line, p.reason) for p in problems] == [
        (3, 5, "another number of cells than the first line")
    ]


def test_objects_one_after_another_over_several_lines(tmp_path: Path) -> None:
    """As Math23K's file has them; a mistake in one is told with its line."""
    path = tmp_path / "a.json"
    text = "\n".join(json.dumps(row, indent=2, ensure_ascii=False) for row in ROWS[:1] * 3)
    path.write_text(text, encoding="utf-8")
    rows, problems = checked(path)
    assert [row.id for row in rows] == [1, 2, 3] and not problems
    path.write_text(text.replace('"output"', "output", 3)[: len(text) - 9], encoding="utf-8")
    assert "a.json:1: broken JSON in the object that begins here" in refused(path)
