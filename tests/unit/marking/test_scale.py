"""Marking stays linear: a megabyte of anything takes at most twelve times as long as a tenth of it, and under a second.

``python -m tests.unit.marking.test_scale`` prints the seconds of each kind of text, the slowest first.
"""

from __future__ import annotations

import gc
import time

import pytest

from glmjobs.marking import judge

PIECES = [
    "1", "(", "=", "1/", "一", "1:", "米", "1米", "1,", "1 000", "1.", "1+", "-1", "±1", "√(", "\\frac{",
    "\\frac{1}{2}", "\\boxed{", "\\text{a}", "$", "⟦", "<a ", "<!--", "~~", "*", "|", "#\n", "答案是",
    "所以1。", "不是", "如果1，", "等等，", "验算：1。", "小明和", "A、", "1年1月1日", "1点", "1比", "1余",
    "1…", "1万", "1又", "分之", "半", "½", "①", "a\u0307", "0.1\u0307", "&amp;", "\n", " ", "。", "1或",
    "1~", "😀", "x=1，", "设x为1，", "1 2 ", "1，所以",
]  # fmt: skip
ASKED = [
    ("还剩多少平方米？", "12平方米"), ("选哪个？A.1 B.2 C.3", "B"), ("小红和小明谁快？", "小明"), ("够吗？", "够"),
    ("甲、乙各是多少？", "甲是1，乙是2"), ("比较大小：1 ○ 2", "<"),
]  # fmt: skip
SMALL, LARGE = 100_000, 1_000_000
BOUND_S = 1.0


def seconds(question: str, gold: str, text: str) -> float:
    gc.disable()  # in a process with everything loaded, looking through it all takes longer than the marker
    try:
        start = time.process_time()
        judge(question, gold, text)
        return time.process_time() - start
    finally:
        gc.enable()


@pytest.mark.parametrize("index", range(len(PIECES)), ids=[repr(p) for p in PIECES])
def test_a_megabyte_is_linear(index: int) -> None:
    piece = PIECES[index]
    question, gold = ASKED[index % len(ASKED)]
    small, large = (seconds(question, gold, piece * (size // len(piece))) for size in (SMALL, LARGE))
    assert large < max(1.2 * (LARGE / SMALL) * small, 0.5)
    assert large < BOUND_S


@pytest.mark.parametrize("piece", ["1", "(", "1/", "一"])
def test_long_questions_and_golds_too(piece: str) -> None:
    text = piece * (LARGE // len(piece))
    assert seconds(text, text, "12") < BOUND_S
    assert seconds(text, "12", text) < BOUND_S


@pytest.mark.parametrize(
    ("question", "gold", "text"),
    [
        ("( )+( )+( )+( )+( )+( )=10", "1，2，3，4，5，6", "1+" * 900),
        ("( )( )( )( )是数", "1，2，3，4", "一二三四五六" * 300),
        ("( )米( )分米( )厘米( )毫米", "1；2；3；4", "1米" * 900),
        ("3+4=? " * 2400, "7", "7"),
    ],
    ids=["signs", "nothing between", "units", "thousands"],
)
def test_blanks_are_laid_on_a_text_in_one_way(question: str, gold: str, text: str) -> None:
    assert seconds(question, gold, text) < BOUND_S


def test_digits_that_recur_are_a_value() -> None:
    question, gold = "一根3米长的绳子平均分成9段，每段长多少米？", "3÷9=1/3米"
    assert judge(question, gold, "每段长3÷9=0.33333333333333333333米。").correct


if __name__ == "__main__":
    taken = []
    for number, text in enumerate(PIECES):
        asks, right = ASKED[number % len(ASKED)]
        taken.append((seconds(asks, right, text * (LARGE // len(text))), text))
    for spent, text in sorted(taken, reverse=True):
        print(f"{spent:.2f} s  {text!r}")
