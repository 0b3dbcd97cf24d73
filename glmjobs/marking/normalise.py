"""Text in one form: half width, simplified script, no markup. LaTeX and markdown become plain notation.

Every pattern here is linear in the text: character classes that exclude their own delimiter, no nested
quantifier.
"""

from __future__ import annotations

import html
import re
import unicodedata

BOX_OPEN, BOX_CLOSE = "⟦", "⟧"
"""What ``\\boxed{…}`` becomes."""

_TRADITIONAL = str.maketrans(
    "萬億點個兩隻時間鐘圓錢塊張條頭輛雙噸餘幾數對錯選項為應該還這長寬體積書買賣紙筆顆總現後來給"
    "過開學們無確論綜結題設問達齡歲週禮現歐鎊參陸貳壹畫陽會與從種類機車馬雞鴨魚鳥貓豬樹葉邊積進運動場館誤訂"
    "驗認爲並號層級組戶門間趟籃籠裝盤桶壺倆單價減乘計圍徑維準備剛終於關係發現況實際準則務師園農場廠",
    "万亿点个两只时间钟圆钱块张条头辆双吨余几数对错选项为应该还这长宽体积书买卖纸笔颗总现后来给"
    "过开学们无确论综结题设问达龄岁周礼现欧镑参陆贰壹画阳会与从种类机车马鸡鸭鱼鸟猫猪树叶边积进运动场馆误订"
    "验认为并号层级组户门间趟篮笼装盘桶壶俩单价减乘计围径维准备刚终于关系发现况实际准则务师园农场厂",
)
_SYMBOLS = str.maketrans(
    {
        "²": "^2", "³": "^3", "⁄": "/", "∕": "/", "－": "-", "−": "-", "–": "-", "—": "-", "―": "-",
        "‐": "-",
        "∶": ":", "︰": ":", "꞉": ":", "✕": "×", "✖": "×", "∙": "·", "⋅": "·", "•": "·", "﹣": "-",
        "﹒": ".",
        "‘": "'", "’": "'", "“": '"', "”": '"', "【": "[", "】": "]", "〔": "(", "〕": ")", "「": '"',
        "」": '"',
        "〖": "[", "〗": "]", "『": '"', "』": '"', "≒": "≈", "≅": "≈", "✓": "√", "✔": "√", "☑": "√",
        "✅": "√",
        "❌": "×", "✗": "×", "✘": "×", "➗": "÷", "➕": "+", "➖": "-", "⁺": "^+", "⁻": "^-", "﹢": "+",
        "﹦": "=",
        "⟦": "", "⟧": "", "\ufe0f": "", "\u20e3": "", "\u200b": "", "\u200c": "", "\u200d": "",
        "\ufeff": "",
        "\u2060": "", "\r": "\n", "\t": " ", "\u3000": " ", "\x00": " ",
    }
)  # fmt: skip
_LATEX_WORDS = {
    "times": "×", "cdot": "×", "ast": "×", "div": "÷", "approx": "≈", "thickapprox": "≈", "pi": "π",
    "circ": "°",
    "neq": "≠", "ne": "≠", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "lt": "<", "gt": ">",
    "therefore": "所以",
    "because": "因为", "cdots": "...", "ldots": "...", "dots": "...", "dotsb": "...", "quad": " ",
    "qquad": " ",
    "left": "", "right": "", "displaystyle": "", "degree": "°", "yuan": "元", "Rightarrow": "所以",
    "implies": "所以",
    "colon": ":", "mid": "|", "pm": "±", "infty": "∞", "angle": "∠", "begin": "", "end": "", "hline": "",
    "bf": "",
    "rm": "", "it": "", "large": "", "Large": "", "big": "", "Big": "", "space": " ", "to": "→",
    "rightarrow": "→",
}  # fmt: skip
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+(?!⁄)")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_MATH_WORD = re.compile(r"\\([A-Za-z]{1,20})")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname|"
    r"mbox|hbox|underline|"
    r"mathbb|emph|textcolor\{[a-z]{1,12}\}|color\{[a-z]{1,12}\})\s{0,3}\{([^{}]*)\}"
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,3}\{([^{}]*)\}")
_FRAC = re.compile(r"(\d?)\s{0,2}\\[dtc]?frac\s{0,3}\{([^{}]*)\}\s{0,3}\{([^{}]*)\}")
_SHORT_FRAC = re.compile(r"(\d?)\\[dtc]?frac\s?(\d)\s?(\d)")
_SQRT = re.compile(r"\\sqrt\s{0,2}\{([^{}]*)\}")
_PLAIN = re.compile(r"-?[\d.]+\Z")
_PLAIN_BOTTOM = re.compile(r"-?[\d.]+(?:\^\d{1,3})?\Z")
_STRUCK = re.compile(r"~~[^~\n]{1,400}~~|<(del|s|strike)>[^<]{0,400}</\1>|\\cancel\{[^{}]{0,400}\}")
_COMMENT = re.compile(r"<!--[^<>]{0,400}-->")
_TAG = re.compile(r"</?(?!think)[a-zA-Z][^<>]{0,200}>")
_DOTTED = re.compile(r"(\d{1,20}\.\d{0,20}?)\\dot\s?\{?\s?(\d)\s?\}?(?:(\d{0,12})\\dot\s?\{?\s?(\d)\s?\}?)?")
_BARRED = re.compile(r"(\d{1,20}\.\d{0,20}?)\\overline\s?\{\s?(\d{1,12})\s?\}")
_DOTS = re.compile("(\\d{1,20}\\.\\d{0,20}?)(\\d)\u0307(?:(\\d{0,12})(\\d)\u0307)?")
_PLUS_MINUS = re.compile(
    r"(?<![\d)])(?<!\d[\u4e00-\u9fff])(?<!\d[\u4e00-\u9fff]{2})±\s?(\d{1,20}(?:\.\d{1,20})?)"
)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH_DAY = re.compile(
    rf"(?<![a-z])({'|'.join(_MONTHS)})[a-z]{{0,6}}\.? (\d{{1,2}})(?:st|nd|rd|th)?(?![a-z\d:])", re.IGNORECASE
)
# 63，127 lists; 30，000 and 1，234元 are thousands.
_LIST_COMMA = re.compile("(?<=[0-9])，(?=[0-9]{3}(?![0-9]))(?![0-9]00)(?![0-9]{3}[\u4e00-\u9fff])")
_TABLE_ROW = re.compile(r"(?m)^[ ]*\|([^|\n]{1,40})\|([^\n]{1,200})\|[ ]*$")
_MATH = re.compile(r"\$([^$\n]{1,300})\$")
FACTORIAL = "ꜝ"
"""The sign of a factorial, told from the exclamation mark."""
_FACTORIAL = re.compile(r"(?<=\d)!(?=\s{0,2}(?:[=×*÷/+\-).]|\\times|\\cdot|\\div|的|\Z))")
_BRACKETED = re.compile(r"\(\s?(\d{1,18})\s?\)\s?/\s?\(\s?(\d{1,18})\s?\)")  # Math23K: ((2)/(3))
_MIXED = re.compile(r"(?<![\d./)a-zA-Z])(\d{1,18})\(\(?(\d{1,18})/(\d{1,18})\)?\)")  # Ape210K: 66(2/3)
_SQRT_WORD = re.compile(r"(?<![a-z\\])sqrt\s?(?=[(\d])", re.IGNORECASE)
_BREAK = re.compile(r"<(?:br|/p|/div|/li|/tr|/h\d)\s?/?>", re.IGNORECASE)


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match[1], match[2].strip(), match[3].strip()
    if _PLAIN.match(top) and _PLAIN_BOTTOM.match(bottom):
        return f"{whole}{'又' if whole else ''}{top}/{bottom}"
    return f"{whole}{'×' if whole else ''}({top})/({bottom})"


def _recurring(match: re.Match[str]) -> str:
    """0.1\\dot{6} → 0.1(6)"""
    return f"{match[1]}({''.join(g or '' for g in match.groups()[1:])})"


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = match.groups()
    return f"{whole}又{top}/{bottom}" if int(top) < int(bottom) else match[0]


def _latex(text: str) -> str:
    """LaTeX to plain notation: fractions, boxes, spacing, words."""
    text = re.sub(r"\\([%$&#_{}])(?!\w)|\\([%$&#_])", lambda m: m[1] or m[2], text)
    text = (
        text.replace("{,}", ",")
        .replace("\\,", "\u2009")
        .replace("\\!", "")
        .replace("\\;", " ")
        .replace("\\:", " ")
    )
    text = re.sub(r"(\d)\u2009(?=\d{3})", r"\1,", text).replace("\u2009", " ")
    text = _BARRED.sub(_recurring, _DOTTED.sub(_recurring, text))
    text = re.sub(r"\^\s?\{?\s?\\circ\s?\}?", "°", text)
    text = re.sub(r"\^\{\s?(-?\d{1,6})\s?\}", r"^\1", text)
    text = re.sub(r"\\(?:begin|end)\{[^{}]{0,40}\}", "\n", text)
    for _ in range(4):  # innermost first; deeper nesting than this is no answer a pupil writes
        before = text
        text = _WRAPPER.sub(r"\1", text)
        text = _FRAC.sub(_fraction, text)
        text = _SQRT.sub(r"√(\1)", text)
        text = _BOX.sub(BOX_OPEN + r"\1" + BOX_CLOSE, text)
        if text == before:
            break
    text = _SHORT_FRAC.sub(lambda m: f"{m[1]}{'又' if m[1] else ''}{m[2]}/{m[3]}", text)
    text = re.sub(r"\\\\", "\n", text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = _MATH_WORD.sub(lambda m: _LATEX_WORDS.get(m[1], m[0][1:]), text)
    return text.replace("\\", " ")


def _vulgar(match: re.Match[str]) -> str:
    plain = unicodedata.normalize("NFKC", match[0]).replace("⁄", "/")
    before = match.string[match.start() - 1 : match.start()]
    return ("又" if before.isdigit() else "") + plain


def _width(text: str) -> str:
    """Full width, circled, superscript and foreign digits to ASCII."""
    text = re.sub("[①-⑳]", lambda m: f"({ord(m[0]) - 0x2460 + 1})", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _LIST_COMMA.sub("、", text)
    text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]).replace("−", "-"), text)
    text = text.translate(_SYMBOLS)
    text = unicodedata.normalize("NFKC", text).translate(_SYMBOLS).translate(_TRADITIONAL)
    return re.sub(r"(?![0-9])\d", lambda m: str(unicodedata.digit(m[0], 0)), text)


def _markdown(text: str) -> str:
    text = re.sub(r"(?m)^[ ]{0,8}(?:[-+*>]|#{1,3}|#{5,6})[ ]+", "", text)
    text = re.sub(r"(?m)^[ ]{0,8}\|?[ :|-]*-{2,}[ :|-]*\|?[ ]*$", "", text)
    text = _TABLE_ROW.sub(lambda m: f"{m[1].strip()}:{m[2].split('|')[-1].strip()}", text)
    text = text.replace("**", "").replace("__", "").replace("`", "").replace("$$", "").replace("|", " ")
    return re.sub(r"(?<![\d) ])\*|\*(?![\d( ])", "", text)


def _math(match: re.Match[str]) -> str:
    """$9$ is math, $9 is dollars: what stands between two dollar amounts keeps its signs."""
    money = re.match(r"\s?\d[\d,.]*\s?(?:[\u4e00-\u9fff]|and |or |,\s|to )", match[1])
    return match[0] if money and not match[1].strip()[-1:].isdigit() else match[1]


def normalise(text: str) -> str:
    """``text`` in half width, simplified script and plain notation; linear in its length, never raises."""
    text = _STRUCK.sub("", text)
    if "!" in text and ("阶乘" in text or re.search(r"\A\s*\d+!\s*\Z|!\s?[=×*÷/+-]|\d!\s?\\", text)):
        text = _FACTORIAL.sub(FACTORIAL, text)  # 5!=120; 答案是5! has an exclamation mark
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _COMMENT.sub("", _BREAK.sub("\n", text))
        text = re.sub(r"<sup>\s?(\d{1,6})\s?</sup>", r"^\1", text)
        text = _TAG.sub("", text)
    text = (
        _width(text).replace("a.m.", "am").replace("p.m.", "pm").replace("廿", "二十").replace("卅", "三十")
    )
    if "\\" in text:
        text = _latex(text)
    if "\u0307" in text:
        text = _DOTS.sub(_recurring, text)
    text = text.replace("$$", " ")
    if "$" in text:
        text = _MATH.sub(_math, text)
    text = _markdown(text)
    text = _MONTH_DAY.sub(lambda m: f"{_MONTHS.index(m[1].lower()) + 1}月{m[2]}日", text)
    if "/" in text:
        text = _MIXED.sub(_mixed, _BRACKETED.sub(r"\1/\2", text))
    text = _SQRT_WORD.sub("√", text)
    text = _PLUS_MINUS.sub(r"\1或-\1", text)
    text = re.sub(r"[{}]", "", text)
    text = re.sub(r"[ \u00a0\u2000-\u200a\u202f\u205f]+", " ", text)
    return re.sub(
        r"(?<=[\u4e00-\u9fff,。:;!?、]) (?=[\d\u4e00-\u9fff])|(?<=\d) (?=[\u4e00-\u9fff])", "", text
    )
