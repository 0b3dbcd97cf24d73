"""The marker, rule by rule: what published extractors get wrong, and what no text may do to it."""

from __future__ import annotations

import doctest
import random
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glmjobs.marking import Verdict, answer_type, judge

PUBLISHED_FAILURES = [
    # question, gold, a right answer, what the published extractors read instead
    ("做作业用了45分钟，是几小时？", "3/4小时", "用了3/4小时", "4"),
    ("降价后卖多少钱？", "3万元", "降价后卖3万元。", "3"),
    ("途中用了多长时间？", "2小时30分钟", "途中用了2小时30分钟", "30"),
    ("它的面积是多少？", "12平方厘米", "面积是12cm2", "2"),
    ("17除以5，商和余数各是多少？", "商是3，余数是2", "17÷5=3余2", "2"),
    ("一共有多少只羊？", "15只", "一共有十五只羊。", ""),
]


@pytest.mark.parametrize(("question", "gold", "answer", "misread"), PUBLISHED_FAILURES)
def test_what_published_extractors_misread(question: str, gold: str, answer: str, misread: str) -> None:
    assert judge(question, gold, answer).correct
    assert judge(question, answer, gold).correct
    assert judge(question, answer, answer).correct
    assert not judge(question, gold, misread).correct
    assert not judge(question, misread or "51", answer).correct


def test_a_verdict_keeps_values_and_reason() -> None:
    verdict = judge("还剩几千米？", "5千米", "一共8千米，走了3千米。\n所以还剩4500米。")
    assert verdict == Verdict(False, "5千米", "4500米", "other value", sure=verdict.sure, trace=verdict.trace)
    assert judge("还剩几千米？", "5千米", "还剩5千克").reason == "other unit"
    assert judge("还剩几千米？", "5千米", "").reason == "empty prediction"
    with pytest.raises(FrozenInstanceError):
        verdict.correct = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("question", "gold", "right", "wrong"),
    [
        # exact roots and recurring decimals
        ("斜边长是多少？", "2√2", ["√8", "$2\\sqrt{2}$", "2.83", "根号8"], ["2√3", "8", "2.82", "√2"]),
        ("写成小数是多少？", "1/6", ["0.1(6)", "$0.1\\dot{6}$", "0.1666…", "0.17"], ["0.(16)", "0.16", "0.6"]),
        ("写成循环小数是多少？", "1/7", ["$0.\\overline{142857}$", "0.1̇42857̇"], ["1.7", "0.7"]),
        # powers, factorials and roots are values; an exclamation mark is none
        ("值是多少？", "2^10", ["1024", "$2^{10}$", "2的10次方"], ["2^9", "210", "2"]),
        ("值是多少？", "1/2³", ["1/8", "0.125", "$\\frac{1}{2^3}$"], ["1/2⁴", "1/2"]),
        ("5的阶乘是多少？", "5!", ["120", "5!=120", "一百二十"], ["5", "24"]),
        ("剩几个？", "5个", ["答案是5！", "答案是5!"], ["120"]),
        # fractions and mixed numbers as Ape210K and Math23K write them; a minus sign behind a mark
        ("平均每小时行多少千米？", "66(2/3)", ["200/3", "66又2/3千米", "66((2)/(3))"], ["66", "66千米", "2/3"]),
        ("是几分之几？", "((2)/(5))", ["2/5", "五分之二", "40%"], ["5", "2"]),
        ("现在是多少度？", "-2-5=-7\n#### -7", ["-7", "零下7度", "【答案】-7"], ["7", "7度"]),
        # what is said without the last unit
        ("小明身高多少？", "165厘米", ["1米65", "一米六五", "1.65米"], ["1米56", "65", "1米6"]),
        ("用了多长时间？", "95分钟", ["1小时35分", "1.5小时5分"], ["1小时53", "35分钟"]),
        # ranges are two values
        ("质量的范围是多少？", "9克到11克", ["9~11克", "9克-11克", "在9克至11克之间"], ["9克", "9~12克"]),
        # relations read from either side
        ("比较大小：0.5 ○ 2/3", "<", ["0.5<2/3", "2/3>0.5", "小于"], ["0.5>2/3", ">", "="]),
        ("在○里填上>、<或=：3千克 ○ 2900克", "3千克>2900克", [">", "3千克>2900克"], ["<", "3千克=2900克"]),
        # unknowns by what they were supposed to be
        ("鸡和兔各有几只？", "鸡6只，兔4只", ["设鸡有x只，兔有y只，解得x=6，y=4。"],
         ["设鸡有x只，兔有y只，解得x=4，y=6。"]),
        ("解方程组：2x+y=7，x-y=2", "x=3，y=1", ["y=1，x=3", "(3,1)"], ["x=1，y=3", "x=3", "(1,3)"]),
        # money keeps its currency
        ("这本书卖 8 美元，他有 20 美元，还剩多少？", "12", ["12美元", "$12", "12"], ["12英镑", "8美元"]),
        # a made-up further task is no second answer
        ("3+4等于几？", "7", ["答案是7。\n问题：5+5等于几？\n答案是10。"], ["答案是10。\n问题：3+4等于几？"]),
    ],
)  # fmt: skip
def test_rules(question: str, gold: str, right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert judge(question, gold, answer).correct, (answer, judge(question, gold, answer))
    for answer in wrong:
        assert not judge(question, gold, answer).correct, (answer, judge(question, gold, answer))


@pytest.mark.parametrize(
    ("gold", "kind"),
    [("9颗", "integer"), ("2.5", "decimal"), ("3/4", "fraction"), ("20%", "percent"), ("2:3", "ratio"),
     ("3……2", "remainder"), ("因此答案是12元", "integer")],
)  # fmt: skip
def test_answer_types(gold: str, kind: str) -> None:
    assert answer_type(gold, "是多少？") == kind


def test_the_doctests_hold() -> None:
    from glmjobs.marking import equations
    from glmjobs.marking.values import arithmetic, numerals

    for module in (sys.modules["glmjobs.marking.judge"], arithmetic, equations, numerals):
        assert doctest.testmod(module).failed == 0


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from glmjobs.marking import judge; judge('几个？', '3个', '三个'); "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


SOLUTIONS = [
    ("25÷9，供吃几天？", "25 ÷ 9 = 2余7\n因此，能够吃2天。"),
    ("选哪个？A. 1/2 B. 2/3", "$\\frac{1}{2}$ 小，所以选 \\boxed{B}。"),
    ("长和宽各是多少厘米？", "长：12cm；宽：8cm，比是3:2，3.5×10⁶，±3，√5，50%，八五折，下午3:20"),
    ("比较大小：3/4 ○ 2/3", "**3/4** > 2/3，不是小于，更正：第1题 0.1̇ 五分之三 4月5日 星期三"),
    ("钱够吗？", "|不够|5元6角|1米65|两个半小时|零下5℃|3万5千|12②|如果x=3,则|"),
]


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_marked(question: str, gold: str, prediction: str) -> None:
    assert isinstance(judge(question, gold, prediction), Verdict)


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_mutated_solutions_are_marked(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [p for s in SOLUTIONS for p in s]

    def mutated() -> str:
        text = list("".join(chance.sample(pieces, 2)))
        for _ in range(chance.randrange(30)):
            at, kind = chance.randrange(len(text)), chance.randrange(3)
            if kind == 0:
                text.pop(at)
            elif kind == 1:
                text.insert(at, chance.choice("0123456789./:%^√±()=-一百万亿又分之点半余\\{}$⟦⟧\n\ud800̇"))
            else:
                text[at:at] = text[at : at + chance.randrange(12)]
            text = text or ["1"]
        return "".join(text)

    verdict = judge(mutated(), mutated(), mutated())
    assert verdict.status != "failed", verdict.reason


def test_a_ratio_with_a_decimal_in_a_fraction_is_read() -> None:
    assert judge("比是200.3/4:5，求比值", "1.5/2:3", "1.5/2:3").correct
    assert judge("1.5/0:3", "1:3", "1.5/0:3").reason == "other ratio"


@given(st.integers(0, 10**9), st.integers(1, 10**6))
@settings(max_examples=100, deadline=None)
def test_a_number_equals_itself_and_no_other(value: int, step: int) -> None:
    import cn2an

    question = "一共有多少元？"
    for form in (f"{value:,}", cn2an.an2cn(value), f"{value}.00元", f"\\boxed{{{value}}}", f"￥{value}"):
        assert judge(question, f"{value}元", form).correct, form
        assert not judge(question, f"{value + step}元", form).correct, form
