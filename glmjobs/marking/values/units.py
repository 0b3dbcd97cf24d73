"""Units with their dimension and exact factor, and the classifiers of Chinese (只, 本, 盒 …) with what they
count.

Factors: the SI and the international yard and pound (exact by definition); 市制 units after the Chinese
1959 ordinance
(1 斤 = 500 g, 1 里 = 500 m, 1 亩 = 2000/3 m²).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """``factor`` of this unit make one base unit of ``dim`` (m, m², m³, g, s, month, yuan …)."""

    name: str
    dim: str
    factor: Fraction = Fraction(1)


_TABLE = {
    "length":
        "米 m 公尺 1; 千米 公里 km 1000; 分米 dm 1/10; 厘米 cm 公分 1/100; 毫米 mm 1/1000; 微米"
        " μm um 1/1000000;"

        "纳米 nm 1/1000000000; 里 华里 里路 500; 英里 mile miles mi 1609.344; 英尺 ft feet 尺(英"
        ") 0.3048; 英寸 inch in 0.0254;"
    "码 yard 0.9144; 海里 1852; 丈 10/3; 尺 市尺 1/3; 寸 1/30",
    "area": "平米 1; 公顷 ha hm^2 10000; 亩 2000/3; 公亩 100; 英亩 4046.8564224",
    "volume":
        "升 L 公升 1/1000; 毫升 ml 西西 cc 1/1000000; 分升 dL 1/10000; 加仑 0.003785411784; 夸脱"
        " 0.000946352946",
    "mass":
        "克 g 1; 千克 kg 公斤 1000; 吨 t 公吨 1000000; 毫克 mg 1/1000; 斤 市斤 500; 两 50; 磅 l"
        "b lbs pound 453.59237;"
    "盎司 oz 28.349523125; 克拉 1/5",
    "time":
        "秒 秒钟 s sec 1; 分钟 分 min mins minute minutes 60; 小时 h hr hour hours 时 钟头 3600"
        "; 刻钟 刻 900;"
    "天 日 昼夜 d day days 86400; 周 星期 礼拜 week weeks 604800; 毫秒 ms 1/1000",
    "months": "月 个月 月份 1; 年 周年 year years 12; 季度 季 3; 世纪 1200",
    "CNY": "元 块 块钱 圆 元钱 人民币 元人民币 RMB CNY yuan ¥ 1; 角 毛 角钱 毛钱 1/10; 分 分钱 1/100",
    "USD": "美元 美金 刀 USD $ dollar dollars 1; 美分 cent cents 1/100",
    "EUR": "欧元 EUR € 1; 欧分 1/100",
    "GBP": "英镑 GBP £ 1; 便士 1/100",
    "JPY": "日元 日圆 JPY 1", "HKD": "港元 港币 HKD 1", "KRW": "韩元 1",
    "data": "字节 B 1; KB 千字节 1024; MB 兆 兆字节 1048576; GB 1073741824; TB 1099511627776",
    "temperature": "摄氏度 °C 度 1", "fahrenheit": "华氏度 °F 1",
    "angle": "度 ° 1; 直角 90; 平角 180; 周角 360",
    "energy":
        "千瓦时 度 度电 kWh kwh 3600000; 焦耳 J 1; 千焦 kJ 1000; 卡 卡路里 cal 4.184; 千卡 大卡"
        " kcal 4184",
    "power": "瓦 瓦特 W 1; 千瓦 kW 1000",
    "age": "岁 周岁 1", "score": "分 分数 1", "times": "倍 1",
    "speed": "mph 0.44704; 节 1852/3600",
}  # fmt: skip

# Classifiers of single things; two that share a row may stand for each other, and 个 for any of them.
_SINGLE = (
    "人 名 位 口 员 人次 名学生 个人 同学 学生", "只 头 匹 条 尾 羽 峰 口", "支 枝 根 条 管 把 杆 枚",
    "颗 粒 枚 块 滴 瓣 片 丸",
    "张 片 幅 枚 块 面 页 份", "本 册 部 卷", "辆 部 台 架 艘 只 条 列 节", "棵 株 丛 根", "朵 枝 支",
    "台 部 架", "件 条 套 样 项 身",
    "座 栋 幢 间 所 家 户 处 套", "把 张 条", "次 回 遍 下 趟 场 轮 局 声", "道 题", "种 类 样",
    "封 份 张", "款 件", "盏 只", "顶 只",
    "扇 面", "门 科", "块 片 段 截", "段 截 节", "圈 周", "组 队", "箱 盒", "袋 包", "瓶 罐", "束 把 扎",
    "行 排 列", "碗 份",
    "票 张", "门 扇", "页 版", "步", "字", "层 楼", "课时 节",
)  # fmt: skip
_COLLECTIVE = [
    "盒",
    "箱",
    "袋",
    "包",
    "瓶",
    "杯",
    "桶",
    "筐",
    "篮",
    "盘",
    "碗",
    "套",
    "副",
    "付",
    "组",
    "排",
    "行",
    "队",
    "班",
    "车",
    "捆",
    "束",
    "串",
    "罐",
    "壶",
    "缸",
    "堆",
    "摞",
    "叠",
    "沓",
    "垛",
    "扎",
    "批",
    "桌",
    "船",
    "圈",
    "池",
    "锅",
    "勺",
    "茶匙",
    "汤匙",
    "匙",
    "管",
    "卷",
    "听",
    "坛",
    "笼",
    "窝",
    "群",
    "格",
    "级",
    "列",
    "节",
    "段",
    "截",
    "团",
    "户",
    "家",
    "间",
    "棚",
    "册",
    "盆",
    "袋子",
    "份",
    "轮",
    "局",
    "季",
    "集",
    "场",
]
_MULTIPLE = {"双": 2, "对": 2, "打": 12}
_GUARD: tuple[str, ...] = (
    "角形",
    "边形",
    "年级",
    "角板",
    "班级",
    "分之",
    "个位",
    "等奖",
    "天平",
    "角尺",
    "元组",
    "分数线",
    "步骤",
)
_GUARD += (
    "年代",
    "次方",
    "时候",
    "日常",
    "名单",
    "面积",
    "本来",
    "部分",
    "对应",
    "种方法",
    "个数",
    "周长",
    "条件",
)
_NOUN_UNIT = re.compile(
    "(?:个|只)(盒|箱|袋|瓶|杯|桶|筐|篮|盘|碗|包|班|组|队|罐|车)(?:子(?!弹)|级|(?![\u4e00-\u9fff]))"
)

UNITS: dict[str, list[Unit]] = {}
_ROWS: dict[str, set[int]] = {}


def _fill() -> None:
    for dim, rows in _TABLE.items():
        for row in rows.split(";"):
            *names, size = row.split()
            for name in names:
                UNITS.setdefault(name, []).append(Unit(name, dim, Fraction(size)))
    lengths = [(n, u[0].factor) for n, u in UNITS.items() if u[0].dim == "length"]
    for name, factor in lengths:
        for prefix, dim, power in (("平方", "area", 2), ("立方", "volume", 3)):
            UNITS[prefix + name] = [Unit(prefix + name, dim, factor**power)]
        if name.isascii():
            for mark, dim, power in (
                ("^2", "area", 2),
                ("^3", "volume", 3),
                ("2", "area", 2),
                ("3", "volume", 3),
            ):
                UNITS[name + mark] = [Unit(name + mark, dim, factor**power)]
    for index, row in enumerate(_SINGLE):
        for name in row.split():
            _ROWS.setdefault(name, set()).add(index)
    for name in [
        *_ROWS,
        *_COLLECTIVE,
        *_MULTIPLE,
        "个",
        "枚",
        "本",
        "道",
        "篇",
        "首",
        "句",
        "眼",
        "口",
        "艘",
        "拍",
        "例",
    ]:
        known = UNITS.setdefault(name, [])
        if all(u.dim != "count" for u in known):
            known.append(Unit(name, "count", Fraction(_MULTIPLE.get(name, 1))))


_fill()
_SINGLES = set(_ROWS) - set(_COLLECTIVE) | {
    "个",
    "张",
    "块",
    "节",
    "段",
    "间",
    "家",
    "册",
    "份",
    "篇",
    "首",
    "句",
    "场",
    "枚",
}
_ASCII = re.compile(r"[A-Za-zμ°]+(?:\^[23]|[23](?!\d))?|[$€£¥]")
_LONGEST = max(map(len, UNITS))


def match(text: str, at: int) -> tuple[list[Unit], int]:
    """The unit's readings that begins at ``text[at]`` and its end; ``([], at)`` where none does.

    分 may be a minute, a cent or a mark: all readings come back and the comparison picks those that fit.
    """
    noun = _NOUN_UNIT.match(text, at)
    if noun:
        return [u for u in UNITS[noun[1]] if u.dim == "count"], noun.end()
    if text.startswith("个", at) and (
        text.startswith(("个小时", "个钟头", "个星期", "个礼拜", "个季度", "个世纪"), at)
    ):
        at += 1
    if text.startswith(_GUARD, at):
        return [], at
    token = _ASCII.match(text, at)
    if token:
        name = token[0]
        found = UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(name.upper())
        return (found, token.end()) if found else ([], at)
    for size in range(min(_LONGEST, 6), 0, -1):
        name = text[at : at + size]
        if name in UNITS and len(name) == size:
            return UNITS[name], at + size
    if text.startswith(("平方", "立方"), at):
        token = _ASCII.match(text, at + 2)
        if token and text[at : at + 2] + token[0].lower() in UNITS:
            return UNITS[text[at : at + 2] + token[0].lower()], token.end()
        return UNITS[text[at : at + 2] + "米"], at + 2
    return [], at


def per(top: list[Unit], bottom: list[Unit]) -> list[Unit]:
    """The readings of top/bottom: 千米/时, 元/千克."""
    result = []
    for a in top:
        for b in bottom:
            dim = "speed" if (a.dim, b.dim) == ("length", "time") else f"{a.dim}/{b.dim}"
            result.append(Unit(f"{a.name}/{b.name}", dim, a.factor / b.factor))
    return result


def count_agrees(a: Unit, b: Unit) -> bool:
    """Whether two classifiers may count the same things."""
    if a.name == b.name or a.name in _MULTIPLE or b.name in _MULTIPLE:
        return True
    if _ROWS.get(a.name, set()) & _ROWS.get(b.name, set()):
        return True
    if "个" in (a.name, b.name):
        other = b.name if a.name == "个" else a.name
        return other in _SINGLES
    return False
