"""Every gold of CMATH dev and MGSM-zh parses, equals itself written in other ways, and differs from a changed value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction

import cn2an
import pytest

from glmjobs.marking import Verdict, judge
from tests.support.paths import SHARED

DATA = SHARED / "data"
NUMBER = re.compile(r"-?\d+(\.\d+)?")
WIDE = {ord(c): ord(c) + 0xFEE0 for c in "0123456789./-%,"}


def cmath() -> list[tuple[str, str]]:
    lines = (DATA / "cmath_dev.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["input"], row["golden"]) for row in map(json.loads, lines)]


def mgsm() -> list[tuple[str, str]]:
    lines = (DATA / "mgsm_zh.tsv").read_text(encoding="utf-8").splitlines()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


def ways(gold: str) -> Iterator[str]:
    """Ten and more other ways to write a gold."""
    yield from (
        gold.translate(WIDE),
        f"\\boxed{{{gold}}}",
        f"**答案：{gold}**",
        f"结果是 $ {gold} $。",
        f"经过计算，我们知道\n所以答案是{gold}。",
        f"The answer is {gold}.",
        f"我来算一算。\n#### {gold}",
        f"综上所述，最终答案为{gold}",
        f"解：设所求为x，\nx = {gold}",
        f"答：{gold}",
    )
    plain = gold.replace(",", "")
    if NUMBER.fullmatch(plain):
        value = Fraction(plain)
        yield cn2an.an2cn(plain)
        yield f"$\\frac{{{(value * 7).numerator}}}{{{(value * 7).denominator * 7}}}$"
        yield plain + ("00" if "." in plain else ".00")
        yield f"{int(value):,}" if value.denominator == 1 else plain
        yield f"先算得{plain}。\n再检查一遍，答案是{plain}。"


def changed(gold: str) -> Iterator[str]:
    digit = re.search(r"\d(?=\D*$)", gold)
    assert digit is not None, gold
    yield gold[: digit.start()] + str((int(digit[0]) + 1) % 10) + gold[digit.end() :]
    plain = gold.replace(",", "")
    if NUMBER.fullmatch(plain) and Fraction(plain):
        yield f"答案是{cn2an.an2cn(str(int(Fraction(plain)) + 1))}"
        yield "-" + plain


def by_pi(verdict: Verdict) -> bool:
    """Whether the next digit is the gold with π in the place of 3.14: 28.27 for 28.26."""
    return abs(float(verdict.predicted_value) / float(verdict.gold_value) - math.pi / 3.14) < 2e-4


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data (CMATH dev, MGSM-zh), which is absent")
@pytest.mark.parametrize(("read", "count"), [(cmath, 600), (mgsm, 250)], ids=["cmath", "mgsm"])
def test_every_gold_parses_and_equals_itself(read: object, count: int) -> None:
    rows = read()  # type: ignore[operator]
    assert len(rows) == count
    wrong: list[str] = []
    for question, gold in rows:
        verdict = judge(question, gold, gold)
        if not (verdict.correct and verdict.gold_value):
            wrong.append(f"{gold!r} does not parse: {verdict}")
        others = list(ways(gold))
        assert len(others) >= 10
        wrong += [f"{gold!r} is {w!r}" for w in others if not judge(question, gold, w).correct]
        for other in changed(gold):
            verdict = judge(question, gold, other)
            if verdict.correct and not by_pi(verdict):
                wrong.append(f"{gold!r} is not {other!r}")
    assert not wrong, wrong[:20]
