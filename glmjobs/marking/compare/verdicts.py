"""Answers that are no numbers: choices, yes and no, names, expressions."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from glmjobs.marking.compare import factors
from glmjobs.marking.conclusion import find, select, statement
from glmjobs.marking.conclusion.find import Speaks
from glmjobs.marking.phrases import STRONG
from glmjobs.marking.question import Question
from glmjobs.marking.values import expression, scan

Fields = tuple[bool, str, str, str]
"""correct, gold value, predicted value, reason."""

_LETTERS = re.compile(
    r"(?<![A-Za-z∠△])([A-H](?:\s?[、,和与及\s]?\s?[A-H])*)(?![A-Za-z\d])(?=项|选项|正确|"
    r"是正|符合|最|对|[\s.。,;:)\]⟧!\"]|$|[(]|[\u4e00-\u9fff])"
)
_CHOSEN = re.compile(
    r"(?:选择?|答案|选项|应为|(?i:answer)|"
    r"结果)[^A-H\n。,;]{0,8}?[(\[⟦\"]?\s?([A-H](?:\s?[、,和与及]?\s?[A-H](?!选?项|是|的|错|对|正))*)(?![A-Za-z\d])"
)
_RIGHT_LETTER = re.compile(r"(?<![A-Za-z])([A-H])(?:选项|项)?[^A-H。,;]{0,12}?(?:正确|符合|是对的|成立|满足)")
_WRONG_LETTERS = re.compile(
    r"[A-H](?:[、,和与]?[A-H])*(?:选?项)?[^A-H。,;]{0,14}?(?:错误|不正确|不对|不符|不是|"
    r"排除|不成立|错)|(?:排除|不选|不是|不能选|而不是|"
    r"而非)(?:选项)?[A-H](?:[、,和与]?[A-H])*"
)


def _letters(text: str, asked: Question) -> list[str]:
    """The letters a statement chooses, as one sorted string in a list; [] where it chooses none."""
    plain = _WRONG_LETTERS.sub(lambda m: " " * len(m[0]), text)
    boxed = re.findall(r"⟦\s?[(]?([A-H][A-H、, ]*)[)]?\s?[^⟦⟧]{0,40}⟧", plain)
    chosen = boxed or _CHOSEN.findall(plain)
    if not chosen:
        bare = re.match(
            r"\s?[(\[\"]?\s?([A-H](?:\s?[、,和与及 ]?\s?[A-H])*)\s?(?:[)\]\".:、。,]|$|选?项)", plain
        )
        chosen = (
            [bare[1]] if bare and (len(plain) < 40 or not asked.options) else _RIGHT_LETTER.findall(plain)
        )
    if not chosen and (STRONG.search(plain) or re.search("所以|因此|故|应该?是", plain)):
        chosen = [m for m in _LETTERS.findall(plain) if len(m) == 1][-1:]
    if chosen:
        return ["".join(sorted(set(re.findall("[A-H]", chosen[-1]))))]
    return _by_text(plain, asked)


def _by_text(plain: str, asked: Question) -> list[str]:
    """The option whose text or value the statement gives."""
    if not asked.options:
        return []
    whole = [k for k, v in asked.options.items() if len(_squeeze(v)) > 1 and _contains(plain, v)]
    if len(whole) == 1 and not _MANY.search(asked.text):
        return whole
    zone = [m.end() for m in STRONG.finditer(plain)] or [
        m.end() for m in re.finditer("所以|因此|故|即|[=是为:]", plain)
    ]
    tail = plain[zone[-1] :] if zone else plain
    hits = [
        k
        for k, v in asked.options.items()
        if v and _squeeze(v) == re.sub("^(?:应该?)?(?:选择?|是|为)", "", _squeeze(tail))
    ]
    hits = hits or [k for k, v in asked.options.items() if len(_squeeze(v)) > 1 and _contains(tail, v)]
    if len(hits) > 1:
        longest = max(hits, key=lambda k: len(asked.options[k]))
        hits = [longest] if all(asked.options[k] in asked.options[longest] for k in hits) else hits
    if not hits:
        numbers = [i for i in scan.results(tail, scan.scan(tail)) if isinstance(i, scan.Quantity)]
        stems = {k: re.match("[\u4e00-\u9fff]{2,8}", v) for k, v in asked.options.items()}
        hits = [
            k
            for k, m in stems.items()
            if m and m[0] in tail and sum(m[0] in v for v in asked.options.values()) == 1
        ]
    if not hits:
        hits = [k for k, v in asked.options.items() if numbers and _same_value(v, numbers[-1])]
        if _MANY.search(asked.text):
            numbers = [i for i in scan.results(plain, scan.scan(plain)) if isinstance(i, scan.Quantity)]
            hits = [k for k, v in asked.options.items() if any(_same_value(v, n) for n in numbers)]
    if len(hits) > 1 and _MANY.search(asked.text):
        return ["".join(sorted(hits))]
    return hits if len(hits) == 1 else _by_clause(plain, asked)


def _by_clause(plain: str, asked: Question) -> list[str]:
    """Of several options named, the one whose clause speaks the question's words."""
    named: list[tuple[float, str]] = []
    for clause in re.split("[,;。]", plain):
        hits = [k for k, v in asked.options.items() if v and _contains(clause, v)]
        if len(hits) == 1:
            named.append((statement.overlap(clause, asked), hits[0]))
    best = max(named, default=(0.0, ""))
    rivals = {k for near, k in named if near == best[0]}
    return [best[1]] if best[0] >= 0.3 and len(rivals) == 1 else []


_MANY = re.compile("哪些|多选|多项|哪几|所有")


def _squeeze(text: str) -> str:
    return re.sub(r"[\s。,.;:!\"'()\[\]⟦⟧]", "", text)


def _contains(tail: str, option: str) -> bool:
    option, tail = _squeeze(option), _squeeze(tail)
    at = tail.find(option)
    if at < 0:
        return False
    edge = tail[at - 1 : at] if at else ""
    return not (option[0].isdigit() and edge.isdigit()) and not tail.startswith(
        tuple("0123456789"), at + len(option)
    )


def _same_value(option: str, item: scan.Quantity) -> bool:
    found = [i for i in scan.scan(option) if isinstance(i, scan.Quantity)]
    if len(found) != 1 or (found[0].value == item.value and found[0].units == item.units):
        return len(found) == 1
    a, b = found[0], item
    if not a.units or not b.units:
        return a.value == b.value
    return any(x.dim == y.dim and a.value * x.factor == b.value * y.factor for x in a.units for y in b.units)


def choice(asked: Question, gold: str, predicted: str) -> Fields:
    """Choices agree by letter or by the option's text."""

    def speaks(text: str) -> list[str]:
        return _letters(text, asked)

    bare = re.fullmatch(r"[(\[]?([A-H](?:[、, ]?[A-H])*)[)\].。]?", gold)
    wanted = "".join(sorted(set(re.findall("[A-H]", bare[1])))) if bare else _concluded(asked, gold, speaks)
    if not wanted:
        return words(asked, gold, predicted)
    found = _one_by_one(predicted) or _concluded(asked, predicted, speaks)
    if not found:
        return False, wanted, "", "no choice in the conclusion"
    return found == wanted, wanted, found, "same choice" if found == wanted else "other choice"


_OPTION = re.compile(r"(?:选项\s?)?(?<![A-Za-z])([A-H])\s?(?:选?项)?\s?[:.、]")


def _one_by_one(text: str) -> str:
    """The only option not denied, where a text goes through the options and says nothing after that, else ""."""
    marks = list(_OPTION.finditer(text))
    if len(marks) < 3 or re.search("答案|选(?!项)|所以|因此|故|综上", text):
        return ""
    ends = [*(m.start() for m in marks[1:]), len(text)]
    said = {m[1]: text[m.end() : end] for m, end in zip(marks, ends, strict=True)}
    kept = [letter for letter, words in said.items() if not _NEGATION.search(words)]
    return kept[0] if len(kept) == 1 and len(said) == len(marks) else ""


def _concluded(asked: Question, text: str, speaks: Speaks) -> str:
    found = find.find(text, asked, "choice", speaks)
    return str(found.statement.items[0]) if found.statement else ""


_YES = re.compile(
    r"^(?:是的?|对的?|正确|能|可以|够|会|有|√|T|真|(?i:yes|true)|成立|合理|符合|合格|相等|"
    r"一样|公平|行|足够|来得及|超过了?|可能)[了的啊]?$"
)
_NO = re.compile(
    r"^(?:否|不|错误?的?|不正确|不对|不是|不能|不可以|不够|不会|没有|×|F|X|x|假|(?i:no|"
    r"false)|不成立|不合理|不符合|不合格|不相等|不一样|不公平|不行|来不及|不足|没超过|无法|"
    r"不可能|不一定|未必)[了的啊]?$"
)
_NEGATION = re.compile(
    "无(?!论|误|关|疑|需|法)|不(?!但|仅|只|过|管|论|同意|多于|少于|到)|没有?(?!错|问题)|无法|未(?!来)|否(?!则)|"
    "错误|错(?!过)|(?<![\\d)\\s])×(?![\\d(\\s])|(?i:\\bno\\b|\\bfalse\\b)"
)
_AFFIRM = re.compile(
    "够|能|可以|[买装坐放吃用]得[起下完]|是的|正确|对的?(?!折|应|称|比|于)|会|√|足够|足以|成立|合理|符合|相等|一样|"
    "来得及|可行|有|是|合格|公平|(?i:\\byes\\b|\\btrue\\b)|行"
)
_DOUBLE = re.compile("不(?:是)?不|没有?不(?:够|足|对)|不会不|并非不|没错|没有错|无误|没问题")
_KINDS = (
    ("质数|素数", "合数"), ("奇数|单数", "偶数|双数"), ("真分数", "假分数|带分数"), ("正数", "负数"),
    ("有理数", "无理数"), ("锐角", "直角", "钝角"), ("闰年", "平年"), ("(?<![不成])正比", "反比"),
)  # fmt: skip
"""Kinds of which a thing can be only one: 合数 denies 质数."""
_OPPOSITES = {
    "贵": "便宜",
    "多": "少",
    "大": "小",
    "高": "低矮",
    "快": "慢",
    "长": "短",
    "重": "轻",
    "早": "晚",
    "近": "远",
    "便宜": "贵",
    "少": "多",
    "小": "大",
    "慢": "快",
    "短": "长",
    "轻": "重",
    "晚": "早",
    "远": "近",
    "划算": "亏",
}


def is_verdict(text: str) -> bool:
    """Whether a bare text is yes or no."""
    return bool(_YES.match(text) or _NO.match(text))


def _predicate(asked: Question) -> str:
    clause = asked.main.clause
    for pattern in (
        r"([\u4e00-\u9fff]{1,2})不\1",
        "是否([\u4e00-\u9fff]{1,3})",
        "(能)否|(可)否",
        "([\u4e00-\u9fff]得[\u4e00-\u9fff])吗",
        "(够|能|可以|会|来得及|相等|一样|足够|成立|正确|合理|公平|超过|贵|便宜|对|有)[^,。]{0,12}吗",
        "(便宜|划算|[快慢多少大小高矮低长短重轻贵早晚远近])(?:一些|一点)?吗",
        "(是)[^,。]{0,12}吗",
    ):
        match = re.search(pattern, clause)
        if match:
            word = next(g for g in match.groups() if g)
            return "是" if word[0] in "为是" else word
    return ""


def polarity(text: str, asked: Question) -> bool | None:
    """True for yes, False for no, None where a statement decides nothing."""
    plain = text.strip(" 。.!;,:\"'()[]⟦⟧")
    marks = list(STRONG.finditer(plain))
    if marks and plain[marks[-1].end() :].strip():
        plain = plain[marks[-1].end() :].strip(" 。.!;,:\"'()[]⟦⟧")
    plain = re.sub("(?<=.)[,;](?:这是)?(?:因为|由于)(?![^。]*所以).*$", "", plain)  # 不是，因为…才是
    head = re.split("[,;:。]", plain)
    for piece in [*head[:1], *head[-1:]]:
        bare = piece.strip(" 。.!\"'()[]⟦⟧")
        bare = re.sub("^(?:所以|因此|故|答案?|是的?因为|即)", "", bare) or bare
        bare = re.sub("^(?:这|此|该|以上|题中)?(?:一?句话|个?说法|个?判断|命题|结论)是?", "", bare) or bare
        if _YES.match(bare):
            return True
        if _NO.match(bare):
            return False
    word = _predicate(asked)
    spoken = (
        [p for p in re.split("[,;。]", plain) if word and word in p]
        or [p for p in re.split("[,;。]", plain) if re.search("所以|因此|故", p)]
        or re.split("[,;。]", plain)
    )
    for piece in reversed(spoken):
        verdict = _piece(piece, word, asked)
        if verdict is not None:
            return verdict != _mirrored(piece, asked)
    return None


def _mirrored(piece: str, asked: Question) -> bool:
    """Whether a comparison names the two sides the other way round than the question."""
    said = re.search("(.{1,6})比(.{1,6})", piece)
    asks = re.search("([\u4e00-\u9fff]{2})[^,。]{0,6}比(.{2})", asked.main.clause)
    return bool(said and asks and asks[2] in said[1] and asks[1] in said[2])


def _of_another_kind(piece: str, asked: Question) -> bool:
    """Whether it says 是合数 where 质数 is asked."""
    for kinds in _KINDS:
        mine = [kind for kind in kinds if re.search(kind, asked.main.clause)]
        if len(mine) == 1 and not re.search(mine[0], piece):
            return any(re.search(kind, piece) for kind in kinds if kind != mine[0]) and not _NEGATION.search(
                piece
            )
    return False


def _piece(piece: str, word: str, asked: Question) -> bool | None:
    piece = re.sub("如果|因为|由于", "", piece)
    if _DOUBLE.search(piece):
        return True
    if word == "是" and _of_another_kind(piece, asked):
        return False
    if word and word in piece:
        before = piece[: piece.rfind(word)][-6:]
        return not (
            _NEGATION.search(before) or re.search(f"{re.escape(word)}[^,。]{{0,4}}(?:不[到了成]|错误)", piece)
        )
    opposite = _OPPOSITES.get(word)
    if opposite and re.search(f"[{opposite}]" if len(opposite) < 3 else opposite, piece):
        return False
    if _NEGATION.search(piece):
        return False
    if _AFFIRM.search(piece) and (
        not re.search(r"\d", piece) or re.search("够|能|可以|正确|来得及|成立|足|得[起下完]", piece)
    ):
        return True
    return None


def yes_no(asked: Question, gold: str, predicted: str) -> Fields:
    """Yes and no agree by meaning: 够 is 够了, 可以, 是的."""

    def speaks(text: str) -> list[bool]:
        verdict = polarity(text, asked)
        return [] if verdict is None else [verdict]

    wanted = polarity(gold, asked) if is_verdict(gold.strip(" 。.!")) else None
    if wanted is None:
        found = find.find(gold, asked, "yesno", speaks)
        wanted = (
            bool(found.statement.items[0]) if found.statement else polarity(statement.split(gold)[-1], asked)
        )
    mine = find.find(predicted, asked, "yesno", speaks)
    if wanted is None:
        return words(asked, gold, predicted)
    label = {True: "yes", False: "no"}
    if mine.statement is None:
        return False, label[wanted], "", mine.reason
    said = bool(mine.statement.items[0])
    return said == wanted, label[wanted], label[said], "same verdict" if said == wanted else "other verdict"


_COLOUR = re.compile("[红黄蓝绿白黑紫橙灰粉棕]色")
_NAME = re.compile(
    "小(?![的于数时学组])[\u4e00-\u9fff](?:[\u4e00-\u9fff](?=[和与、]))?|"
    "[甲乙丙丁戊己](?:[\u4e00-\u9fff]{0,2}(?=[和与、比更最先的,]|$)|"
    "[队店车厂班城种商超市场仓])?|方案[一二三四甲乙1-4A-D]|方法[一二三1-4]|"
    "第[一二三四1-4][\u4e00-\u9fff]{1,2}|[A-D](?:店|队|车|种|超市|商店|公司|套餐|班|组|包装|品牌|牌|方案|款|型|家|箱|瓶|盒|袋|厂|校|地|路|线)|"
    "[正长]方[形体]|(?:等[腰边])?[三直]角(?:三角)?形|圆[形柱锥]?(?!周)|平行四边形|[菱梯]形|球体?|"
    "[\u4e00-\u9fff][一二三四五六]班|"
    "[一二三四五六]班|[一二三四五六\\d]\\(\\d{1,2}\\)班|[\u4e00-\u9fff]{2,3}(?:超市|商店|公司|商场)|大[杯盒瓶袋包桶]装?|"
    "小[杯盒瓶袋包桶]装?|[男女]生|大于|小于|等于|[><]|上午|下午|晴天|雨天|"
    "星期[一二三四五六日天]|一样[多快大重长高贵]?|相等|同样"
)


def names(asked: Question, text: str) -> list[str]:
    """Names that could answer 谁 or 哪个, in order."""
    plain = statement.strip_denied(text)
    if "颜色" in asked.main.clause:
        return _COLOUR.findall(plain)
    known = [n for n in dict.fromkeys(_candidates(asked)) if n and n in plain]
    found = sorted(((plain.find(n), n) for n in known), key=lambda x: (x[0], -len(x[1])))
    return [n for _, n in found] or _NAME.findall(plain)


def _candidates(asked: Question) -> list[str]:
    listed: list[str] = []
    for match in re.finditer(
        "([\u4e00-\u9fffA-Z]{1,5})(?:和|与|、|还是|或)([\u4e00-\u9fffA-Z]{1,5}?)(?=两|谁|哪|,|"
        "、|和|的|比|中|\\?|。|一起|同时|$)",
        asked.text,
    ):
        listed += [match[1].removeprefix("是"), match[2]]
    ranked = re.search("第[一二三四五]名", asked.main.clause)
    named = [n for n in _NAME.findall(asked.text) if not (ranked and n.startswith("第"))]
    return [*named, *(x for x in listed if x in asked.main.clause)]


_ADJECTIVE = re.compile(
    "便宜|划算|省钱|合算|小(?![\u4e00-\u9fff](?![些点]))|[快慢多少大高矮低长短重轻贵早晚远近先]"
)
_LESS = {
    "快": "慢",
    "多": "少",
    "大": "小",
    "高": "矮",
    "长": "短",
    "重": "轻",
    "贵": "便宜",
    "早": "晚",
    "远": "近",
}
_LESS |= {v: k for k, v in list(_LESS.items())} | {
    "划算": "贵",
    "合算": "贵",
    "省钱": "贵",
    "低": "高",
    "先": "晚",
}


def _subject(asked: Question, text: str) -> list[str]:
    """The name a comparing sentence puts first in the asked sense: 小明比小红快 and 小红比小明慢 both name
    小明."""
    plain = statement.strip_denied(text)
    tail = re.split("所以|因此|故|答[:,]|可见", plain)[-1]
    plain = tail if names(asked, tail) else plain
    found = names(asked, plain)
    wanted = next(
        (
            adjective
            for asks in (
                re.split("谁|哪", asked.main.clause)[-1],
                asked.main.clause,
                *re.split("谁|哪", asked.text)[:0:-1],
            )
            if (adjective := _ADJECTIVE.search(asks))
        ),
        None,
    )
    if wanted:
        # 小红更高,比小丽高7厘米: the second clause goes on speaking of 小红
        clauses = [c for c in re.split(r"[,;。](?!\s?[比为])", plain) if names(asked, c)]
        said = [c for c in clauses if wanted[0] in c] or [
            c for c in clauses if _LESS.get(wanted[0], wanted[0]) in c
        ]
        plain = said[-1] if said else plain
        found = names(asked, plain)
    compared = re.search("比(.{1,8}?)(便宜|划算|[快慢多少大小高矮低长短重轻贵早晚远近])", plain)
    if found and wanted and compared and len(found) >= 2 and _LESS.get(wanted[0]) == compared[2]:
        return [found[1]]
    if (
        found
        and wanted
        and wanted[0] not in plain
        and "比" not in plain
        and _LESS.get(wanted[0], "\n") in plain
    ):
        known = list(dict.fromkeys(names(asked, asked.text)))
        if len(known) == 2 and found[0] in known:
            return [n for n in known if n != found[0]]  # of two, 小刚慢 says that the other is 快
    return found[:1]


def same_winner(asked: Question, gold: str, found: find.Conclusion) -> bool:
    """Where who and how much are both asked (谁快？快多少？): whether the names agree too."""
    who = [a for a in re.split("[?。]", asked.text) if re.search("谁|哪[根个种家辆条只位名班组队边支座]", a)]
    if not who or found.statement is None:
        return True
    clause = re.split("[,;]", who[-1])[-1]
    view = replace(asked, asked=[replace(asked.main, clause=clause)])
    wanted, mine = _subject(view, gold), _subject(view, found.source or found.statement.text)
    if not wanted:
        return True
    return bool(mine) and (mine[0] in wanted[0] or wanted[0] in mine[0] or _same_label(mine[0], wanted[0]))


_IN_ORDER = re.compile("顺序|排列|排序|从.到.")


def in_order(asked: Question, gold: str) -> bool:
    """Whether names in a certain order are asked and given."""
    return bool(_IN_ORDER.search(asked.text)) and len(_ordered_names(asked, gold)) > 2


def _ordered_names(asked: Question, text: str) -> list[str]:
    return [n for n in names(asked, text) if n in asked.text and len(n) > 1 and "到" not in n]


def words(asked: Question, gold: str, predicted: str) -> Fields:
    """Names and other words: the gold's name is the conclusion's subject, or its text stands in the
    conclusion."""
    wanted = _subject_of(asked, gold)

    def speaks(text: str) -> list[str]:
        spoken = _subject(asked, text)
        return spoken or ([text] if len(_squeeze(text)) <= 20 or STRONG.search(text) else [])

    found = find.find(predicted, asked, "text", speaks)
    if found.statement is None:
        return False, wanted, "", found.reason
    if re.search("哪个", asked.main.clause):
        better = [select.winner(t, asked.main.clause) for t in (gold, found.statement.text)]
        if better[0] is not None and better[1] is not None:
            return (
                better[0] == better[1],
                str(better[0]),
                str(better[1]),
                "the larger and smaller are told apart",
            )
    if in_order(asked, gold):
        order = [_ordered_names(asked, t) for t in (gold, found.statement.text)]
        same = order[0] == order[1]
        return same, ", ".join(order[0]), ", ".join(order[1]), "same order" if same else "other order"
    signs = _sign(gold), _sign(found.statement.text)
    if signs[0] and "比" not in gold and re.search("比较|[<>]|[(] ?[)]|○|填|哪个|一样", asked.text):
        return (
            signs[0] == signs[1],
            signs[0],
            signs[1],
            "same relation" if signs[0] == signs[1] else "other relation",
        )
    said = _subject(asked, found.statement.text)
    if said and wanted in names(asked, gold):
        same = said[0] == wanted or said[0] in wanted or wanted in said[0] or _same_label(said[0], wanted)
        return same, wanted, said[0], "same name" if same else "other name"
    plain = _squeeze(statement.strip_denied(found.statement.text))
    tail = _squeeze(gold)
    zone = STRONG.split(gold)[-1]
    core = _squeeze(zone or gold)
    same = bool(core) and (core in plain or (plain in core and len(plain) > 1) or tail in plain)
    return same, core[:60], plain[:60], "same words" if same else "other words"


def _same_label(a: str, b: str) -> bool:
    """乙店 and 乙商店: 甲, 乙 … and A, B … tell apart by themselves."""
    return a[0] == b[0] and a[0] in "甲乙丙丁戊己ABCD" and (len(a) < 3 or len(b) < 4)


def _sign(text: str) -> str:
    """The relation a statement ends in: ">", "<" or "=", "" where none."""
    hits = list(
        re.finditer("([>大]于?|>)|([<小]于?|<)|(=|等于|相等|一样)", re.sub("大小|不大|不小", "", text))
    )
    hits = [h for h in hits if h[0] not in ("大", "小")]
    if not hits:
        return ""
    return ">" if hits[-1][1] else "<" if hits[-1][2] else "="


def _subject_of(asked: Question, gold: str) -> str:
    def speaks(text: str) -> list[str]:
        return _subject(asked, text)

    found = find.find(gold, asked, "text", speaks)
    return str(found.statement.items[0]) if found.statement else gold[:60]


_FORMULA = re.compile(r"[-+×*÷/()\d.^ a-zA-Zπ]*[a-zA-Z][-+×*÷/()\d.^ a-zA-Zπ]*")


def _formula(text: str) -> list[str]:
    """The expression a statement ends in: of S=ab+c the right side."""
    plain = statement.strip_denied(text).replace("⟦", "").replace("⟧", "")
    found = [m[0].strip() for m in _FORMULA.finditer(re.sub(r"\b(?:cm|km|kg|m|g)\b", " ", plain))]
    point = {
        c: Fraction(k + 2) for k, c in enumerate("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZπ")
    }
    good = [f for f in found if len(f) > 0 and expression.evaluate(f, point) is not None]
    after = [f for f in good if re.search("[=:是为得]\\s?\\(?" + re.escape(f), plain)]
    return (after or good)[-1:]


def expressions(asked: Question, gold: str, predicted: str) -> Fields:
    """Expressions with letters agree when they are equal for all values."""
    wanted = (_formula(statement.split(gold)[-1]) or _formula(gold) or [""])[0]
    found = find.find(predicted, asked, "expression", _formula)
    if not wanted:
        return words(asked, gold, predicted)
    if found.statement is None:
        return False, wanted, "", found.reason
    said = str(found.statement.items[-1])
    same = expression.same(wanted, said)
    whole = factors.count_with_letters(said) >= factors.count_with_letters(wanted)
    if same and "因式" in asked.text and not whole:
        return False, wanted, said, "not factored so far"
    return same, wanted, said, "same expression" if same else "other expression"
