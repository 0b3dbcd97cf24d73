"""Units with dimension and exact factor, and the measure words of Chinese (只, 本 …): ``wordlists/units.toml``."""

from __future__ import annotations

import re
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
UNITS: dict[str, list[Unit]] = {}
"""Name → the readings it has: 分 may be a minute, a cent or a mark."""


def _fill() -> None:
    for dim, rows in _TABLE["dimensions"].items():
        for row in rows:
            *names, size = row.split()
            for name in names:
                UNITS.setdefault(name, []).append(Unit(name, dim, Fraction(size)))
    for name, factor in [(n, u[0].factor) for n, u in UNITS.items() if u[0].dim == "length"]:
        for dim, power, word in (("area", 2, "平方"), ("volume", 3, "立方")):
            for named in (word + name, f"{name}^{power}", *((f"{name}{power}",) if name != "米" else ())):
                UNITS[named] = [Unit(named, dim, factor**power)]
    for name in _TABLE["counted"]["words"].split():
        UNITS.setdefault(name, []).append(Unit(name, "count"))


_fill()
_ASCII = re.compile(r"°[CF]?|[A-Za-zμ]+(?:\^[23]|[23](?!\d))?")
_LONGEST = max(map(len, UNITS))
_BEGIN = {name[0] for name in UNITS} | set("平立°ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PIECE = re.compile("个([盒箱袋瓶杯桶筐篮盘碗包班组队罐车])(?:子(?!弹)|级|(?![\u4e00-\u9fff]))")
_LONG_TIME = re.compile("个(?=小时|钟头|星期|礼拜|季度|世纪)")
_NO_UNIT = re.compile("(?:个|个?平方|个?立方)单位|" + "|".join(_TABLE["no_unit"]["words"].split()))


def match(text: str, at: int) -> tuple[list[Unit], int]:
    """The readings of the unit that begins at ``text[at]`` and its end; ``([], at)`` where none does."""
    if text[at : at + 1] not in _BEGIN:
        return [], at
    if piece := _PIECE.match(text, at):
        return [u for u in [*UNITS[piece[1]], *UNITS["个"]] if u.dim == "count"], piece.end()
    if _LONG_TIME.match(text, at):
        at += 1
    if _NO_UNIT.match(text, at):
        return [], at
    token = _ASCII.match(text, at)
    if token:
        name = token[0]
        found = UNITS.get(name) or UNITS.get(name.lower())
        return (found, token.end()) if found else ([], at)
    for size in range(min(_LONGEST, len(text) - at), 0, -1):
        if found := UNITS.get(text[at : at + size]):
            return found, at + size
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
