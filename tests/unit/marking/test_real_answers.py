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
@pytest.mark.parametrize(("name", "may_miss"), [("marking_handover.jsonl", 1), ("marking_contrast.jsonl", 0)])
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
        ("下列说法：(1)0是偶数 (2)1是质数 (3)2是质数。正确的序号是？", "(1)(3)",
         ["正确的是①③。", "【答案】(1)和(3)", "(3)、(1)"], ["(1)(2)", "所以正确的是(3)。", "(1)(2)(3)"]),
        ("①4÷2 ②9÷3 ③8÷8，把它们按商从小到大排列。", "③＜①＜②", ["所以顺序是：③ < ① < ②。"], ["① < ② < ③", "②＜①＜③"]),
        ("直线过点(0,1)，斜率为2，它的方程为？", "2x-y+1=0", ["【答案】\ny=2x+1", "y = 2x + 1"], ["y=2x-1", "x=1"]),
        ("边长是多少？", "$\\frac{3 \\sqrt{10}}{10}$",
         ["$\\frac{3\\sqrt{10}}{10}$", "$0.3\\sqrt{10}$"], ["10", "$3\\sqrt{10}$"]),
        ("余弦是多少？", "$-\\frac{\\sqrt{2}}{10}$", ["$\\frac{-\\sqrt{2}}{10}$"], ["$\\frac{\\sqrt{2}}{10}$"]),
        ("已知k²=4且k>0，则k=", "2", ["【答案】\n$k=2$", "k=2"], ["k=2, -2", "k=-2"]),
        ("求y=x(6-2x)的最大值", "4.5", ["所以最大值是4.5，这个最大值在x=1.5时取到。"], ["最大值是3，在x=1.5时取到。"]),
        ("(a+b)²的展开式共有几项？", "由二项式定理得C_{3}^{1}=3", ["所以共有3项。"], ["共有2项"]),
        ("已知cos2a=1-2sin²a，sina=0.5，则cos2a=", "cos2a=1-2×0.25=0.5", ["代入得cos2a=0.5"], ["cos2a=-0.5"]),
        ("甲乙的平均数是7，乙丙的平均数是9，甲丙的平均数是8，他们分别是多少？", "甲6，乙8，丙10",
         ["因为乙丙的平均数是9，所以和是18。\n丙=18-8=10\n所以，甲、乙、丙分别是6、8、10。"],
         ["所以，甲、乙、丙分别是8、6、10。"]),
        ("小红有4只猫，小兰有3只猫，一共有多少只猫？每笼装2只，需要多少个笼子？", "一共7只，需要4个笼子",
         ["两人一共有7只猫。\n7÷2=3……1，需要4个笼子。"], ["两人一共有7只猫，需要3个笼子。"]),
        ("鸡兔同笼，头3个，脚9只，各几只？", "无解", ["这道题没有解。"], ["鸡2只，兔1只"]),
        # what follows a conclusion, and what a code block holds, is no second one
        ("每盒装8支，100支笔能装满几盒？", "12盒",
         ["100÷8=12余4，答案：12盒，余4支。\n具体做法是用100支笔除以8，得到的商就是盒数。",
          "```python\nprint(100 // 8)  # 100支\n```\n所以能装满\\boxed{12}盒。",
          "<think>100÷8=12.5，约13盒？</think>12"], ["<think>能装满12盒。</think>13"]),
        ("红花和黄花各有几朵？一共9朵，红花多1朵。", "红花5朵，黄花4朵",
         ["因此，红花有\\boxed{5}朵，\n黄花有\\boxed{4} 朵。"], ["红花有\\boxed{4}朵，黄花有\\boxed{5}朵。"]),
        ("今天是2024年5月8日，10天前是几号？", "2024年4月28日",
         ["今天是2024年5月8日，10天前就是2024年4月28日。"], ["今天是2024年5月8日，10天前就是2024年4月29日。"]),
        ("甲每天走 ______ 米，乙每天走 ______ 米．", "30；40",
         ["因此，答案为：甲每天走30米，乙每天走40米。"], ["甲每天走40米，乙每天走30米。"]),
        ("这样的三角形有几个？\nA、3个\nB、5个\nC、7个", "B", ["因此有\\boxed{5}。"], ["因此有\\boxed{7}。"]),
        ("x²-6x+2=0，x等于多少？", "x=3+√7或x=3-√7",
         ["x = (6 ± √28) / 2\n因此，这个方程有两个解：\nx = (6 + √28) / 2\nx = (6 - √28) / 2\n这就是 x 的两个可能值。"],
         ["x = (6 + √28) / 2"]),
        ("解方程组：x+y=3，xy=2", "x=1，y=2；或x=2，y=1", ["(x, y) = (1, 2) 或 (x, y) = (2, 1)"], ["(x, y) = (1, 3)"]),
        ("a的取值范围是什么？", "a<2且a≠1", ["a的取值范围是 (-∞, 2) 且 a 不等于1。"], ["a<2", "(-∞, 2)"]),
        ("解不等式 |x| ≤ 3", "-3≤x≤3", ["当0≤x<3时成立，综合得 x ∈ [-3, 3]。"], ["x ∈ [-3, 3)"]),
        ("求过点(0,1)和(1,4)的直线的方程。", "y=3x+1", ["直线的方程是 y = 3x + 1。"], ["直线的方程是 y = 3x + 4。"]),
        ("边长6厘米的正方形面积是多少？", "36平方厘米", ["36厘米²", "6厘米×6厘米=36厘米2"], ["36厘米"]),
        ("边长为2的正方形的对角线有多长？", "2√2", ["2.8284271247461903"], ["2.8384271247461903"]),
        ("体积增加了多少平方厘米？", "8立方厘米", ["所以高是2厘米。\n所以体积增加了8立方厘米。"], ["2厘米"]),
        ("利息是多少元？连同本金一共取回多少元？本金1000元。", "利息30元；一共1030元",
         ["利息=1000×3%=30元\n取回=1000+30=1030元\n因此，一共可以取回1030元。"], ["利息是1030元，一共取回30元。"]),
        # what cannot be worked out is no value: neither a power's base nor nothing divided
        ("结果是多少？", "2^5000", ["2^5000"], ["2^5001", "2", "5000"]),
        ("结果是多少？", "0", ["0", "0÷5=0"], ["5/0", "3÷0"]),
        # a blank that takes several; the question's own case; a value after the simplest form; 3.14 and π
        ("□里可填的数有 ；○里可填的数有 ．", "1、2、3；7、8",
         ["第一个空可以填1、2、3，第二个空可以填7、8。"], ["第一个空可以填1、2，第二个空可以填7、8。"]),
        ("如果每人分3个，剩几个？共20个，6人。", "2个", ["答：如果每人分3个，剩2个。"], ["答：如果每人分3个，剩3个。"]),
        ("先化简，再求值：2(a+1)-a，其中a=3。", "化简得a+2，当a=3时，原式=5", ["原式=a+2=5", "所以值为5。"], ["值为6"]),
        ("半径5厘米的圆，周长是多少厘米？", "31.4厘米", ["31.4159厘米", "31.42厘米"], ["31.5厘米", "31.2厘米"]),
        ("2的x次方加x等于6，求x", "x=2", ["所以，x=2是方程2的x次方+x=6的解。"], ["所以，x=3是方程2的x次方+x=6的解。"]),
        ("求圆的方程。圆心(1,-2)，半径5。", "(x-1)²+(y+2)²=25", ["（x - 1）2 + （y + 2）2 = 25"],
         ["（x - 1）2 + （y - 2）2 = 25"]),
        ("不等式组的解集是什么？", "2≤x<5", ["解集是 $2 \\leqslant x < 5$。"], ["解集是 $2 < x < 5$。"]),
        ("下午2点到下午5点差几小时？", "3小时", ["区别是三个小时。"], ["区别是两个小时。"]),
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
