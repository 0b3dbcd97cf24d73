"""Rows of the kinds that real answers showed to fail, and neighbours that passed already."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glmjobs.marking import judge
from tests.support.paths import SHARED

DATA = SHARED / "data"


def agreed(name: str) -> tuple[list[dict[str, Any]], int]:
    """The rows with another verdict than their label, and how many rows there are."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    missed = [r for r in rows if judge(r["question"], r["gold"], r["prediction"]).correct != r["correct"]]
    return missed, len(rows)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, which is absent")
@pytest.mark.parametrize(("name", "may_miss"), [("marking_handover.jsonl", 6), ("marking_contrast.jsonl", 0)])
def test_real_answers(name: str, may_miss: int) -> None:
    missed, rows = agreed(name)
    assert rows > 40
    assert len(missed) <= may_miss, [(r["question"], r["prediction"]) for r in missed]


@pytest.mark.parametrize(
    ("question", "gold", "right", "wrong"),
    [
        ("谁的贴纸多？小文有8张，小武有8张。", "一样多", ["两人的贴纸数相同。", "一样多"], ["小武的多"]),
        ("盘里有4个梨，吃完了，还剩几个？", "0个", ["没有剩下任何梨。", "0"], ["4个", "还剩1个"]),
        ("每人分到几块？一共9块，4个人分。", "9/4块", ["每人得到2块和1/4块。", "2.25块"], ["2块", "4块"]),
        ("x的取值范围是？x-3>0", "x>3", ["x>3", "x大于3"], ["x=3", "x<3", "x≥3"]),
        ("方程x²=5的解是什么？", "±√5", ["x=√5或x=-√5", "x1=√5，x2=-√5"], ["√5", "5"]),
        ("7-2=( )；8÷4=( )", "5;2", ["7-2=5；8÷4=2", "5，2"], ["7-2=6；8÷4=2", "2;5"]),
        ("水池里有5升水，放走2升，还剩几升？", "3升", ["(5-2)升", "还剩(5-2)升。"], ["至少3升", "3升多", "3升以上"]),
        ("点(2,-3)在第几象限？", "第四象限", ["在第四象限。"], ["第二象限"]),
        ("小林有6元，买了9元的书，还剩多少元？", "-3元", ["还欠3元", "-3元"], ["3元", "还剩3元"]),
        ("分解因式：x²-4", "(x+2)(x-2)", ["(x-2)(x+2)"], ["x²-4"]),
        ("鸡兔同笼，头3个，脚9只，各几只？", "无解", ["这道题没有解。"], ["鸡2只，兔1只"]),
    ],
)  # fmt: skip
def test_kinds_that_real_answers_have(question: str, gold: str, right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert judge(question, gold, answer).correct, (answer, judge(question, gold, answer))
    for answer in wrong:
        assert not judge(question, gold, answer).correct, (answer, judge(question, gold, answer))


def test_a_verdict_tells_how_it_came_about() -> None:
    verdict = judge("还剩几颗？", "9颗", "原来有15颗。不对，应该是：还剩8颗。")
    fired = [(s.side, s.rule) for s in verdict.trace]
    assert fired[0] == ("question", "asks_for")
    assert ("prediction", "takes_back") in fired
    assert verdict.trace[-1] == ("verdict", "wrong", "other value")
    assert 0.0 <= verdict.sure <= 1.0
