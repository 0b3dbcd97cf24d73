"""The names in a question: of the parts it asks for, and of people other than the one asked about."""

from __future__ import annotations

import re

_PERSON = "小[\u4e00-\u9fff]|爸爸|妈妈|爷爷|奶奶|[哥弟]{2}|[姐妹]{2}|[\u4e00-\u9fff](?:老师|叔叔|阿姨)|父亲|母亲"
_PEOPLE = re.compile(_PERSON)
_ASKED_FIRST = re.compile(f"(?:那么|则|请|问|求|这时|此时|现在|今年)*(?:{_PERSON})")
_RECEIVES = re.compile(f"[给送输借卖分][了给]*(?:[他她]的?)?({_PERSON})")


def others(body: str, clause: str) -> list[str]:
    """People beside the one asked about (小红 for 小明), or who get something (给了小刚4颗，还剩几颗？)."""
    found = (_PEOPLE if _ASKED_FIRST.match(clause) else _RECEIVES).findall(body)
    return [name for name in dict.fromkeys(found) if name not in clause]


_LEADING = re.compile("^(?:那么|则|请?问|求|原来|现在|今年|其中|[它他]们?的|这个?长方形的?)+")
_TOTAL = re.compile("共|总")
_SHARE = re.compile("(?:各自|各|分别)(?![为是有]?\\d)")
_BOTH = re.compile(
    "(?:求|计算|算出|找[出到]|[多少几][\u4e00-\u9fff]{1,4}的)(?:.{1,9}的)?([\u4e00-\u9fff]{2,9})[和与](?![和与])"
    "((?:(?!的..[和差])[\u4e00-\u9fff]){2,9}?)(?:的..|是多少)?[。?]?$"
)
"""求中位数和众数, 求成人票和儿童票的单价, 种了多少面积的豆角和茄子."""
_TWINS = re.compile("鸡兔|长宽|甲乙丙?丁?|男女|大小|父子|母女")
_TAIL = re.compile("(?<=.)(?:这?[两二三四五]|几)(?:个|种|位|名)?(?:人|数|队|班|车|者|船|地|同学)?$")
_ENUMERATION = re.compile("(?:[甲乙丙丁戊][、和与,]?){2,5}")
_VALUES_OF = re.compile(r"[a-z](?:\s?[,、和与]\s?[a-z])+(?=\s?(?:的值|各|分别))")
_EQUATION = re.compile(r"[\da-z+\-×*/(). ]{1,40}=[\da-z+\-×*/(). ]{1,40}")


def labels(text: str, clauses: list[str]) -> list[str]:
    """The names of several asked parts: 苹果和梨各多少 → 苹果, 梨; six at most."""
    found = _unknowns(text)
    for clause in clauses:
        if share := _SHARE.search(clause):
            found += _shared(text, clause[: share.start()])
        elif both := _BOTH.search(clause):
            found += both.groups()
    totals = [c for c in clauses if _TOTAL.search(c) and not _SHARE.search(c)]
    if totals and len(found) >= 2 and not any(map(_TOTAL.search, found)):
        found.append("共")
    return found[:6]


def _shared(text: str, head: str) -> list[str]:
    """The names before 各 or 分别."""
    head = _LEADING.sub("", head.strip().rstrip("的,"))
    owner, _, thing = head.rpartition("的")
    named = thing if re.search("[和与、]", thing) or not owner else owner  # 苹果和梨的单价
    parts = [p.strip() for p in re.split("和|与|、|以?及|,", _TAIL.sub("", named)) if p.strip()]
    if len(parts) == 1 and _TWINS.fullmatch(parts[0]):
        parts = list(parts[0])
    if len(parts) < 2:
        listed = _ENUMERATION.search(text)  # 甲、乙、丙的平均数是7 …，他们分别是多少？
        return list(dict.fromkeys(c for c in listed[0] if c in "甲乙丙丁戊")) if listed else []
    if parts[0] in tuple("甲乙丙丁长宽男女"):
        parts[-1] = parts[-1][:1]
    weekday = re.search("(?:星期|周)[一二三四五六日天]", parts[0])
    return [p[weekday.start() :] if weekday and weekday[0] in p else p for p in parts]


def _unknowns(text: str) -> list[str]:
    """The letters of a system of equations."""
    if "方程组" not in text:
        return []
    if asked := _VALUES_OF.findall(text):
        return re.findall("[a-z]", asked[-1])
    letters = sorted({c for m in _EQUATION.finditer(text) for c in m[0] if c.isalpha()})
    return letters if len(letters) >= 2 else []
