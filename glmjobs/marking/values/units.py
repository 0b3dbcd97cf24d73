"""Units with dimension and exact factor, and the measure words of Chinese (只, 本 …): ``wordlists/units.toml``."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from fractions import Fraction

from glmjobs.marking.tables import load


@dataclass(frozen=True)
class Unit:
    """``factor`` of this unit make one base unit of ``dim`` (m, m², m³, g, s, month, yuan …)."""

    name: str
    dim: str
    factor: Fraction = Fraction(1)


_TABLE = load("units")
_COUNTED = _TABLE["counted"]
_MULTIPLE: dict[str, int] = _COUNTED["multiple"]
_COLLECTIVE = _COUNTED["collective"].split()
_NO_UNIT = tuple(_COUNTED["no_unit"].split())
_ALIKE: dict[str, set[int]] = {}
"""Measure word → the rows of ``alike`` that it stands in."""
UNITS: dict[str, list[Unit]] = {}
"""Name → the readings it has: 分 may be a minute, a cent or a mark."""


def _fill() -> None:
    for dim, rows in _TABLE["dimensions"].items():
        for row in rows:
            *names, size = row.split()
            for name in names:
                UNITS.setdefault(name, []).append(Unit(name, dim, Fraction(size)))
    for name, factor in [(n, u[0].factor) for n, u in UNITS.items() if u[0].dim == "length"]:
        for dim, power, before, after in (
            ("area", 2, "平方", ("^2", "2")),
            ("volume", 3, "立方", ("^3", "3")),
        ):
            UNITS[before + name] = [Unit(before + name, dim, factor**power)]
            for mark in after if name.isascii() else ():
                UNITS[name + mark] = [Unit(name + mark, dim, factor**power)]
    for index, row in enumerate(_COUNTED["alike"]):
        for name in row.split():
            _ALIKE.setdefault(name, set()).add(index)
    for name in [*_ALIKE, *_COLLECTIVE, *_MULTIPLE, *_COUNTED["others"].split()]:
        known = UNITS.setdefault(name, [])
        if all(u.dim != "count" for u in known):
            known.append(Unit(name, "count", Fraction(_MULTIPLE.get(name, 1))))


_fill()
_SINGLES = set(_ALIKE) - set(_COLLECTIVE) | set(_COUNTED["also_single"].split())
_ASCII = re.compile(r"°[CF]?|[A-Za-zμ]+(?:\^[23]|[23](?!\d))?|[$€£¥]")
_LONGEST = min(6, max(map(len, UNITS)))
_PIECE = re.compile(
    "[个只](盒|箱|袋|瓶|杯|桶|筐|篮|盘|碗|包|班|组|队|罐|车)(?:子(?!弹)|级|(?![\u4e00-\u9fff]))"
)
_LONG_TIME = tuple("个" + name for name in ("小时", "钟头", "星期", "礼拜", "季度", "世纪"))
_BEGIN = {name[0] for name in UNITS} | set("个只平立μ°$€£¥") | set(string.ascii_letters)
NAMELESS = re.compile("(?:个|平方|立方)单位(?:长度|面积|体积)?|个长度单位")
"""A unit without a name, which adds nothing to a number."""


def match(text: str, at: int) -> tuple[list[Unit], int]:
    """The readings of the unit that begins at ``text[at]`` and its end; ``([], at)`` where none does."""
    if text[at : at + 1] not in _BEGIN:
        return [], at
    piece = _PIECE.match(text, at)
    if piece:
        return [u for u in [*UNITS[piece[1]], *UNITS[text[at]]] if u.dim == "count"], piece.end()
    if text.startswith(_LONG_TIME, at):
        at += 1
    if text.startswith(_NO_UNIT, at):
        return [], at
    token = _ASCII.match(text, at)
    if token:
        name = token[0]
        found = UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(name.upper())
        return (found, token.end()) if found else ([], at)
    for size in range(_LONGEST, 0, -1):
        name = text[at : at + size]
        if len(name) == size and name in UNITS:
            return UNITS[name], at + size
    if text.startswith(("平方", "立方"), at):
        token = _ASCII.match(text, at + 2)
        if token and text[at : at + 2] + token[0].lower() in UNITS:
            return UNITS[text[at : at + 2] + token[0].lower()], token.end()
        return UNITS[text[at : at + 2] + "米"], at + 2
    return [], at


def per(top: list[Unit], bottom: list[Unit]) -> list[Unit]:
    """The readings of top/bottom: 千米/时, 元/千克."""
    return [
        Unit(
            f"{a.name}/{b.name}",
            "speed" if (a.dim, b.dim) == ("length", "time") else f"{a.dim}/{b.dim}",
            a.factor / b.factor,
        )
        for a in top
        for b in bottom
    ]


def count_agrees(a: Unit, b: Unit) -> bool:
    """Whether two measure words may count the same things."""
    if a.name == b.name or a.name in _MULTIPLE or b.name in _MULTIPLE:
        return True
    if _ALIKE.get(a.name, set()) & _ALIKE.get(b.name, set()):
        return True
    return "个" in (a.name, b.name) and (b.name if a.name == "个" else a.name) in _SINGLES
