"""The names in a question: of the parts it asks for, of who is asked about and of the others."""

from __future__ import annotations

import re

PERSON = (
    "小[\u4e00-\u9fff]|爸爸|妈妈|爷爷|奶奶|哥哥|弟弟|姐姐|妹妹|[\u4e00-\u9fff](?:老师|叔叔|阿姨)|父亲|母亲"
)
_PERSON = re.compile(PERSON)
_OPENING = "那么|则|请问|问|求|请|这时|此时|现在|今年"
_SUBJECT = re.compile(
    f"^(?:{_OPENING}|原来|算出)*([\u4e00-\u9fffA-Z]{{2,4}}?)(?=有|是|为|重|存|现有|还|共|一共|应|每|需|可|能|要|跑|走|行|用|"
    "花|得|卖|买|种|做|吃|看|读|写|今年|[长高宽深厚](?=多少)|的?(?:速度|价格|重量|长度|面积|体积|年龄|身高|体重|单价|人数|数量))"
)
_PERSON_FIRST = re.compile(f"(?:{_OPENING})*({PERSON})")
_WORD_ONLY = re.compile("[\u4e00-\u9fffA-Z]+")
_JOINT = re.compile("[比和与、]|一共|共|总|相差")
_RECEIVES = re.compile(f"(?:给|送|输|借|卖|分)(?:了|给)*(?:他的?|她的?)?({PERSON})")


def others(body: str, clause: str) -> list[str]:
    """Names parallel to the asked subject (科技书 where 故事书 is asked, 乙仓 where 甲仓 is): another quantity's."""
    match = _SUBJECT.search(clause) or _PERSON_FIRST.match(clause)
    if _JOINT.search(clause):
        return []
    if not match or match[1][0] in "他她它这那还现":
        return [n for n in dict.fromkeys(_RECEIVES.findall(body)) if n not in clause]  # 给了小刚4颗，还剩几颗
    subject = match[1]
    if _PERSON.fullmatch(subject):
        found = _PERSON.findall(body)
    else:
        size = len(subject)
        ends = (m.end() for m in re.finditer(re.escape(subject[-1]), body))
        found = [
            n for end in ends if len(n := body[max(0, end - size) : end]) == size and _WORD_ONLY.fullmatch(n)
        ]
    return [n for n in dict.fromkeys(found) if n != subject and not re.search("[的是有了比和与]", n)]


_LEADING = re.compile(f"^(?:{_OPENING}|原来|这个?长方形的?|它的|他们的?|其中|分别求出?|算出|你知道)+")
_TOTAL = re.compile("共|总")
_SHARE = re.compile("(?:各自|各|分别)(?![为是有]?\\d)")
_WORD = "(?:(?![和与、的共总比差多几])[\u4e00-\u9fff])"
_BOTH = (
    # 求这组数据的平均数和中位数
    re.compile(
        f"求.*的({_WORD}{{2,6}})[和与]({_WORD}{{2,6}}|[\u4e00-\u9fff]{{2}}(?:之和|总[和长价]))(?:是多少)?[。?]?$"
    ),
    # 计算苹果的总价和梨的总价
    re.compile(
        "(?:求|计算|算出)((?!.*的.*的.*的)[\u4e00-\u9fff]{1,6}的[总单]?[\u4e00-\u9fff]{1,3})[和与]([\u4e00-\u9fff]{1,6}的[总单]?[\u4e00-\u9fff]{1,3})[。?]?$"
    ),
    # 求成人票和儿童票的单价
    re.compile(
        f"求({_WORD}{{2,4}})[和与]({_WORD}{{2,4}})的(?:单价|价格|长度|面积|体积|质量|重量|年龄|速度|人数|数量)"
    ),
    # 种了多少面积的豆角和茄子
    re.compile(f"(?:多少|几)[\u4e00-\u9fff]{{1,4}}的({_WORD}{{1,4}})[和与]({_WORD}{{1,4}})[。?]?$"),
)
_TWINS = re.compile("鸡兔|长宽|甲乙丙?丁?|男女|大小|父子|母女")
_TAIL = re.compile("(?<=.)(?:这?[两二三四五]|几)(?:个|种|位|名)?(?:人|数|队|班|车|者|船|地|同学|小朋友)?$")
_JOIN = re.compile("[和与、及]")
_EQUATION = re.compile(r"[\da-z+\-×*/(). ]{1,40}=[\da-z+\-×*/(). ]{1,40}")
_ENUMERATION = re.compile("(?:[甲乙丙丁戊][、和与,]?){2,5}(?=[两二三四五]|共|一共|合|的和|[\u4e00-\u9fff])")
_GROUP = re.compile(
    "^(?:那么|则|问|这|他们|她们|它们)?的?(?:[两二三四五2-5](?:个|位|名|种)?[\u4e00-\u9fff]{0,3})?$"
)


def labels(text: str, clauses: list[str]) -> list[str]:
    """The names of several asked parts: 苹果和梨各多少 → 苹果, 梨; six at most."""
    found = _unknowns(text)
    for clause in clauses:
        share = _SHARE.search(clause)
        if share:
            found.extend(_shared(text, clause[: share.start()]))
        else:
            both = next((m for pattern in _BOTH if (m := pattern.search(clause))), None)
            found.extend(both.groups() if both else ())
    totals = [c for c in clauses if _TOTAL.search(c) and re.search("多少|几", c) and not _SHARE.search(c)]
    if totals and len(found) >= 2 and not any(map(_TOTAL.search, found)):
        found.append("共")
    return [label for label in found if label][:6]


def _shared(text: str, head: str) -> list[str]:
    """The names before 各 or 分别."""
    before = head
    head = _LEADING.sub("", head.strip().rstrip("的,"))
    owner, _, thing = head.rpartition("的")
    if _JOIN.search(thing):
        head = thing
    elif re.search("[和与、及]|[甲乙丙]{2}", owner):
        head = owner  # 苹果和梨的单价
    parts = [p for p in re.split("和|与|、|以?及|,", _TAIL.sub("", head)) if p]
    if len(parts) == 1 and _TWINS.fullmatch(parts[0]):
        parts = list(parts[0])
    parts = [p for p in parts if not p.isdigit()]
    if len(parts) < 2:
        listed = _ENUMERATION.search(text)
        if not listed or not _GROUP.match(before):
            return []
        return list(dict.fromkeys(c for c in listed[0] if c in "甲乙丙丁戊"))
    parts = [p.rsplit("的", 1)[-1] or p for p in parts]  # 这个长方形的长, 宽 → 长, 宽
    if len(parts[-1]) > len(parts[0]) and parts[0] in tuple("甲乙丙丁长宽男女"):
        parts[-1] = parts[-1][: len(parts[0])]
    weekday = re.search("(?:星期|周)[一二三四五六日天]", parts[0])
    return [p[weekday.start() :] if weekday and weekday[0] in p else p for p in parts]


def _unknowns(text: str) -> list[str]:
    """The letters of a system of equations."""
    if "方程组" not in text:
        return []
    letters = sorted({c for m in _EQUATION.finditer(text) for c in m[0] if c.isalpha()})
    return letters if 2 <= len(letters) <= 4 else []
