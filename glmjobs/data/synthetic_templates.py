"""The wording of the made problems: names, things with their measure words, and sentence templates.

Placeholders of a template: {A} {B} {C} three different names; {o} a thing and {u} its measure word, {p} and
{v} a second one; {a} {b} the first two numbers, {c} the last one; {r} the result.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

NAMES = (
    "小明", "小红", "小华", "小刚", "小丽", "小军", "小芳", "小强", "小雨", "小杰", "小兰", "小东",
    "小燕", "小亮", "小梅", "小伟", "小云", "小龙", "小静", "小波", "小林", "小英", "小宁", "小光",
)  # fmt: skip


class Thing(NamedTuple):
    """A countable thing and its measure word."""

    unit: str
    name: str


def _things(text: str) -> tuple[Thing, ...]:
    return tuple(Thing(word[0], word[1:]) for word in text.split())


THINGS = {
    "own": _things(
        "个苹果 个梨 个桃子 个橙子 个鸡蛋 个气球 个杯子 个球 颗糖果 颗草莓 颗珠子 颗星星 "
        "支铅笔 支钢笔 支蜡笔 支粉笔 本书 本故事书 本练习本 本画册 张卡片 张邮票 张贴纸 张照片 "
        "块饼干 块蛋糕 块积木 块橡皮 枚硬币 枚徽章 朵花 朵玫瑰"
    ),
    "animals": _things("只鸡 只鸭 只鹅 只羊 只兔子 只鸽子 只小猫 只小狗"),
    "plants": _things("棵苹果树 棵梨树 棵桃树 棵松树 棵柳树 棵杨树 棵枣树 棵柏树 棵槐树 棵桂花树"),
    "goods": _things(
        "支钢笔 支铅笔 本书 本练习本 块橡皮 块蛋糕 个书包 "
        "个玩具 个球 把尺子 把雨伞 盒彩笔 盒牛奶 条毛巾"
    ),
    "people": _things("名男生 名女生 名老师 名家长"),
}  # fmt: skip


class Template(NamedTuple):
    """One way to ask. ``operations`` are done in order, each on the result before it."""

    operations: str
    things: str
    question: str
    conclusion: str


@cache
def templates() -> tuple[Template, ...]:
    """All templates, of one operation and of two."""
    found = []
    for line in _TEXT.strip().splitlines():
        operations, things, question, conclusion = (part.strip() for part in line.split("|"))
        found.append(Template(operations, things, question, conclusion))
    return tuple(found)


_TEXT = """
+  | own     | {A}有{a}{u}{o}，{B}又给了{A}{b}{u}，{A}现在一共有多少{u}{o}？ | {A}现在一共有{r}{u}{o}
+  | own     | {A}有{a}{u}{o}，{B}有{b}{u}{o}，他们一共有多少{u}{o}？ | 他们一共有{r}{u}{o}
+  | own     | {A}上午买了{a}{u}{o}，下午又买了{b}{u}，{A}一共买了多少{u}{o}？ | {A}一共买了{r}{u}{o}
+  | own     | {B}有{a}{u}{o}，{A}比{B}多{b}{u}，{A}有多少{u}{o}？ | {A}有{r}{u}{o}
+  | own     | {A}用掉了{a}{u}{o}，还剩{b}{u}，{A}原来有多少{u}{o}？ | {A}原来有{r}{u}{o}
+  | own     | 盒子里有{a}{u}{o}，{A}又放进去{b}{u}，盒子里现在有多少{u}{o}？ | 盒子里现在有{r}{u}{o}
+  | animals | 农场里有{a}{u}{o}和{b}{v}{p}，{o}和{p}一共有多少{u}？ | {o}和{p}一共有{r}{u}
+  | animals | {A}家有{a}{u}{o}，又买来{b}{u}，{A}家现在有多少{u}{o}？ | {A}家现在有{r}{u}{o}
+  | plants  | 果园里有{a}{u}{o}和{b}{v}{p}，一共有多少棵树？ | 一共有{r}棵树
+  | plants  | 第一组种了{a}{u}{o}，第二组种了{b}{u}，两组一共种了多少{u}{o}？ | 两组一共种了{r}{u}{o}
+  | goods   | 一{u}{o}{a}元，一{v}{p}{b}元，{A}各买一样，一共要花多少元？ | {A}一共要花{r}元
+  | goods   | {A}买一{u}{o}花了{a}元，还剩{b}元，{A}原来有多少元？ | {A}原来有{r}元
+  | people  | 操场上有{a}{u}{o}和{b}{v}{p}，操场上一共有多少人？ | 操场上一共有{r}人
+  | people  | 车上有{a}人，到站又上来{b}人，没有人下车，车上现在有多少人？ | 车上现在有{r}人
-  | own     | {A}有{a}{u}{o}，送给{B}{b}{u}，{A}还剩多少{u}{o}？ | {A}还剩{r}{u}{o}
-  | own     | {A}有{a}{u}{o}，{B}有{b}{u}{o}，{A}比{B}多多少{u}{o}？ | {A}比{B}多{r}{u}{o}
-  | own     | {B}有{a}{u}{o}，{A}比{B}少{b}{u}，{A}有多少{u}{o}？ | {A}有{r}{u}{o}
-  | own     | {A}和{B}一共有{a}{u}{o}，{B}有{b}{u}，{A}有多少{u}{o}？ | {A}有{r}{u}{o}
-  | own     | 盒子里有{a}{u}{o}，{A}拿走了{b}{u}，盒子里还有多少{u}{o}？ | 盒子里还有{r}{u}{o}
-  | own     | {A}想要{a}{u}{o}，现在有{b}{u}，还缺多少{u}{o}？ | 还缺{r}{u}{o}
-  | animals | 农场里有{a}{u}{o}，卖掉了{b}{u}，农场里还剩多少{u}{o}？ | 农场里还剩{r}{u}{o}
-  | plants  | 公园要种{a}{u}{o}，已经种了{b}{u}，还要种多少{u}{o}？ | 还要种{r}{u}{o}
-  | goods   | {A}有{a}元，买一{u}{o}用去{b}元，{A}还剩多少元？ | {A}还剩{r}元
-  | goods   | 一{u}{o}原价{a}元，现在便宜{b}元，现在卖多少元？ | 现在卖{r}元
-  | people  | 车上有{a}人，到站下去{b}人，没有人上车，车上还有多少人？ | 车上还有{r}人
-  | people  | 班里有{a}人，其中女生{b}人，班里男生有多少人？ | 班里男生有{r}人
*  | own     | {A}每天用{a}{u}{o}，{b}天一共用多少{u}{o}？ | {b}天一共用{r}{u}{o}
*  | own     | 一盒有{a}{u}{o}，{A}买了{b}盒，{A}一共买了多少{u}{o}？ | {A}一共买了{r}{u}{o}
*  | own     | {B}有{a}{u}{o}，{A}的{o}是{B}的{b}倍，{A}有多少{u}{o}？ | {A}有{r}{u}{o}
*  | own     | {b}个小朋友每人有{a}{u}{o}，他们一共有多少{u}{o}？ | 他们一共有{r}{u}{o}
*  | plants  | {A}种树，每行种{a}{u}{o}，种了{b}行，一共种了多少{u}{o}？ | 一共种了{r}{u}{o}
*  | goods   | 一{u}{o}{a}元，{A}买{b}{u}{o}要花多少元？ | {A}要花{r}元
*  | people  | 每组有{a}人，一共有{b}组，{A}的班里一共有多少人？ | {A}的班里一共有{r}人
/  | own     | {A}把{a}{u}{o}平均分给{b}个小朋友，每人分到多少{u}{o}？ | 每人分到{r}{u}{o}
/  | own     | {A}有{a}{u}{o}，每盒装{b}{u}，可以装多少盒？ | 可以装{r}盒
/  | own     | {A}有{a}{u}{o}，每天用{b}{u}，可以用多少天？ | 可以用{r}天
/  | own     | {B}有{a}{u}{o}，是{A}的{b}倍，{A}有多少{u}{o}？ | {A}有{r}{u}{o}
/  | plants  | {A}种了{a}{u}{o}，平均种成{b}行，每行有多少{u}{o}？ | 每行有{r}{u}{o}
/  | goods   | {A}买{b}{u}{o}花了{a}元，一{u}{o}多少元？ | 一{u}{o}{r}元
/  | people  | {A}的班里有{a}人，每{b}人一组，可以分成多少组？ | 可以分成{r}组
++ | own     | {A}有{a}{u}{o}，{B}有{b}{u}，{C}有{c}{u}，三人一共有多少{u}{o}？ | 三人一共有{r}{u}{o}
+- | own     | {A}有{a}{u}{o}，又买了{b}{u}，送给{B}{c}{u}，{A}还剩多少{u}{o}？ | {A}还剩{r}{u}{o}
+- | people  | 车上有{a}人，到站上来{b}人，下去{c}人，车上现在有多少人？ | 车上现在有{r}人
-+ | own     | {A}有{a}{u}{o}，用掉{b}{u}，又买了{c}{u}，{A}现在有多少{u}{o}？ | {A}现在有{r}{u}{o}
-- | own     | {A}有{a}{u}{o}，给了{B}{b}{u}，又给了{C}{c}{u}，{A}还剩多少{u}{o}？ | {A}还剩{r}{u}{o}
*+ | own     | 一盒有{a}{u}{o}，{A}有{b}盒，另外还有{c}{u}，{A}一共有多少{u}{o}？ | {A}一共有{r}{u}{o}
*- | own     | 一盒有{a}{u}{o}，{A}买了{b}盒，用掉{c}{u}，{A}还剩多少{u}{o}？ | {A}还剩{r}{u}{o}
*/ | own     | 一盒有{a}{u}{o}，{A}把{b}盒平均分给{c}个小朋友，每人分到多少{u}{o}？ | 每人分到{r}{u}{o}
/+ | own     | {a}{u}{o}平均分给{b}人，{B}分到一份，又买了{c}{u}，{B}现在有多少{u}{o}？ | {B}现在有{r}{u}{o}
/- | own     | {a}{u}{o}平均分给{b}人，{B}分到一份，用掉{c}{u}，{B}还剩多少{u}{o}？ | {B}还剩{r}{u}{o}
+* | own     | 一盒有{a}{u}红的和{b}{u}蓝的{o}，{A}买了{c}盒，一共有多少{u}{o}？ | 一共有{r}{u}{o}
-* | goods   | 一{u}{o}原价{a}元，便宜{b}元后{A}买了{c}{u}，{A}要花多少元？ | {A}要花{r}元
"""
