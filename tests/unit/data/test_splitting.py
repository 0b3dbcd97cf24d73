"""Row ranges and the split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmjobs.data.rows import question_key
from glmjobs.data.splitting import RowRanges, Split
from hpc.core.errors import BadInput


def test_belle_splits() -> None:
    rest = Split.parse("1-10000")
    assert [rest.part(row) for row in (1, 10000, 10001, 100000, 248481)] == [
        "dev",
        "dev",
        "train",
        "train",
        "train",
    ]
    tutorial = Split.parse("1-10000", "100001-")
    assert [tutorial.part(row) for row in (1, 10000, 10001, 100000, 100001)] == [
        "dev",
        "dev",
        None,
        None,
        "train",
    ]


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(1, 80),
)
def test_ranges_agree_with_sets(pairs: list[tuple[int, int]], row: int) -> None:
    text = ", ".join(f"{first}-{first + more}" for first, more in pairs)
    parts = [set(range(first, first + more + 1)) for first, more in pairs]
    if sum(map(len, parts)) > len(set().union(*parts)):
        with pytest.raises(BadInput, match="overlap at row"):
            RowRanges.parse(text)
    else:
        ranges = RowRanges.parse(text)
        assert (row in ranges) == any(row in part for part in parts)
        assert ranges.highest == max(map(max, parts))


@pytest.mark.parametrize(
    "text", ["", "a", "0-5", "5-3", "1--3", "-5", "1-5,", "1-5;7", "1.5-2", "rest", "１-5 6"]
)
def test_malformed(text: str) -> None:
    with pytest.raises(BadInput, match=r"data\.dev_rows = ") as caught:
        Split.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dev", "train", "row"), [("1-10", "10-", 10), ("5-", "1-9", 5), ("7", "1-3,6-8", 7), ("1-10", "3", 3)]
)
def test_dev_and_train_may_not_overlap(dev: str, train: str, row: int) -> None:
    with pytest.raises(BadInput, match=f"both hold row {row}:"):
        Split.parse(dev, train)


def test_ranges_beyond_the_file() -> None:
    Split.parse("1-10", "11-").check(11, "f.json")
    with pytest.raises(
        BadInput, match=r"data\.dev_rows = '1-10000' reaches row 10000, but f\.json has 4 rows"
    ):
        Split.parse("1-10000").check(4, "f.json")
    with pytest.raises(BadInput, match=r"data\.train_rows = '11-' reaches row 11, but f\.json has 10 rows"):
        Split.parse("1-10", "11-").check(10, "f.json")


def test_question_keys() -> None:
    same = [
        "小明有3个苹果，共几个？",
        "小明有３个苹果,共几个?",
        " 小明有 3 个苹果，\n共几个",
        "小明有3个苹果，共几个。",
    ]
    assert len({question_key(text) for text in same}) == 1
    assert question_key("有3.5元") != question_key("有35元")
    assert question_key("3-2") != question_key("32")


@pytest.mark.parametrize(
    ("dev", "train"), [("1-10", "rest"), (None, "rest"), ("7,20-30", "1-6,15-19,31-"), ("90-200", "10-")]
)
def test_train_rows_are_counted_without_looking_at_each(dev: str | None, train: str) -> None:
    if dev == "90-200":
        train = "1-89"
    split = Split.parse(dev, train)
    for rows in (0, 1, 6, 25, 100):
        assert split.train_rows(rows) == sum(split.part(row) == "train" for row in range(1, rows + 1))
    assert split.train_rows(10**15) <= 10**15
