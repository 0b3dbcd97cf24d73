"""Which value belongs to which name: 苹果12个、梨8个 / 12个苹果和8个梨 / 苹果和梨分别有12个和8个."""

from __future__ import annotations

import re
from collections.abc import Iterator

from glmjobs.marking.values.items import Item, Quantity

_TOTAL = re.compile("共|总|合计")
_MORE_BY = re.compile("比.{0,6}[多少大小高低长短重轻贵]$")
_TOGETHER = re.compile("分别|各|依次")


def label_marks(text: str, labels: list[str]) -> list[tuple[int, str]]:
    """Where each name stands; a longer name also by its ends (黑兔子: 黑兔, 兔子), and by its first character."""
    marks: list[tuple[int, str]] = []
    taken = [False] * len(text)
    distinct = len({label[0] for label in labels}) == len(labels)
    for label in sorted(labels, key=len, reverse=True):
        short = [label[-2:], label[:2]] if len(label) > 2 else []
        for variant in (label, *short, *([label[0]] if distinct else [])):
            hits = [at for at in _places(text, variant) if not taken[at]]
            for at in hits:
                taken[at : at + len(variant)] = [True] * len(variant)
                marks.append((at, label))
            if hits:
                break
    return sorted(marks)


def _places(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + len(word))


def assign(text: str, marks: list[tuple[int, str]], items: list[Item]) -> list[tuple[str, Item]]:
    """The values with the names they belong to."""
    if not marks or not items:
        return []
    first = items[0].start
    leading = [(at, label) for at, label in marks if at < first]
    distinct = list(dict.fromkeys(label for _, label in leading))
    together = leading and (_TOGETHER.search(text[leading[-1][0] : first + 1]) or len(leading) == len(marks))
    if together and 2 <= len(distinct) <= len(items):
        return list(zip(distinct, items, strict=False))
    if _follow(text, marks, items):
        after = [(next((n for at, n in marks if i.end <= at <= i.end + 4), ""), i) for i in items]
        return [(label, item) for label, item in after if label]
    return _lead(text, marks, items)


def _lead(text: str, marks: list[tuple[int, str]], items: list[Item]) -> list[tuple[str, Item]]:
    """Each value belongs to the name before it, and to the name only the first value or a result."""
    found: list[tuple[str, Item]] = []
    skipped: list[Item] = []
    for item in items:
        at, label = max(((at, name) for at, name in marks if at < item.start), default=(0, ""))
        if not label:
            continue
        between = text[at : item.start]
        if not _TOTAL.search(label) and (_TOTAL.search(between) or _MORE_BY.search(between)):
            skipped.append(item)
            continue  # 香蕉12元，一共32元; 梨比它少15千克
        earlier = [i for i in items if at < i.start < item.start and i not in skipped]
        if not earlier or (isinstance(item, Quantity) and item.result):
            found.append((label, item))  # 苹果12个，比梨多4个: only the first value is the apple's
    return found


def _follow(text: str, marks: list[tuple[int, str]], items: list[Item]) -> bool:
    """Whether names stand right behind their values (12个苹果)."""
    behind = sum(
        any(i.end <= at <= i.end + 1 and text[i.end : at] in ("", "的") for at, _ in marks) for i in items
    )
    ahead = sum(
        any(0 <= i.start - at <= 24 and not re.search("[,、;和]", text[at : i.start]) for at, _ in marks)
        for i in items
    )
    return behind > ahead
