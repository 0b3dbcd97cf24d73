"""Text in one form: half width, simplified script, no markup. LaTeX and markdown become plain notation.

Every pattern here is linear in the text: character classes that exclude their own delimiter, no nested
quantifier.
"""

from __future__ import annotations

import html
import re
import unicodedata

from glmjobs.marking.tables import load
from glmjobs.marking.values.arithmetic import FACTORIAL

BOX_OPEN, BOX_CLOSE = "⟦", "⟧"
"""What ``\\boxed{…}`` becomes."""

_TABLE = load("notation")
_TRADITIONAL = str.maketrans(_TABLE["traditional"]["from"], _TABLE["traditional"]["to"])
_SYMBOLS = str.maketrans({sign: to for to, signs in _TABLE["symbols"].items() for sign in signs})
_LATEX_WORDS = {word: to for to, words in _TABLE["latex"].items() for word in words.split()}
_ENGLISH = {
    **{word: n for n, word in enumerate(_TABLE["english"]["units"].split(), 2)},
    **{word: 10 * n for n, word in enumerate(_TABLE["english"]["tens"].split(), 2)},
}
_IN_WORDS = re.compile(
    rf"\b({'|'.join(_ENGLISH)})\b(?:[- ](one|{'|'.join(list(_ENGLISH)[:8])})\b)?|(?<=\d) ?percent\b",
    re.IGNORECASE,
)
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
_PLAIN_TOP = re.compile(r"(?:-?[\d.]+|(\d{0,9}\s?(?:π|\\pi)))\s?\Z")
_PLAIN_BOTTOM = re.compile(r"-?[\d.]+(?:\^\d{1,3})?\Z")
_STRUCK = re.compile(r"~~[^~\n]{1,400}~~|<(del|s|strike)>[^<]{0,400}</\1>|\\cancel\{[^{}]{0,400}\}")
_THOUGHT = re.compile(r"\A.*</think>(?=.*\w)", re.DOTALL)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_TAG = re.compile(r"</?(?!think)[a-zA-Z][^<>]{0,200}>")
_DOTTED = re.compile(r"(\d{1,20}\.\d{0,20}?)\\dot\s?\{?\s?(\d)\s?\}?(?:(\d{0,12})\\dot\s?\{?\s?(\d)\s?\}?)?")
_BARRED = re.compile(r"(\d{1,20}\.\d{0,20}?)\\overline\s?\{\s?(\d{1,12})\s?\}")
_DOTS = re.compile("(\\d{1,20}\\.\\d{0,20}?)(\\d)\u0307(?:(\\d{0,12})(\\d)\u0307)?")
_PLUS_MINUS = re.compile(
    r"(?<![\d)])(?<!\d[\u4e00-\u9fff])(?<!\d[\u4e00-\u9fff]{2})±\s?(\d{0,20}√?\(?\d{1,20}(?:\.\d{1,20})?\)?)|"
    r"(\(?)(?<![\d.])(\d{1,9})\s?±\s?(\d{0,9}√(?:\(\d{1,9}\)|\d{1,9}))(\s?\)\s?/\s?\d{1,9})?"
)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH_DAY = re.compile(
    rf"(?<![a-z])({'|'.join(_MONTHS)})[a-z]{{0,6}}\.? (\d{{1,2}})(?:st|nd|rd|th)?(?![a-z\d:])", re.IGNORECASE
)
# 63，127 lists; 30，000 and 1，234元 are thousands.
_LIST_COMMA = re.compile(
    "(?<=[0-9])，(?:(?=[0-9]{4}(?![0-9]))|(?=[0-9]{3}(?![0-9]))(?![0-9]00)(?![0-9]{3}[\u4e00-\u9fff]))"
)
_TABLE_ROW = re.compile(r"(?m)^[ ]*\|([^|\n]{1,40})\|([^\n]{1,200})\|[ ]*$")
_MATH = re.compile(r"\$([^$\n]{1,300})\$")
_FACTORIAL = re.compile(r"(?<=\d)!(?=\s{0,2}(?:[=×*÷/+\-).]|\\times|\\cdot|\\div|的|\Z))")
_BRACKETED = re.compile(r"\(\s?(\d{1,18})\s?\)\s?/\s?\(\s?(\d{1,18})\s?\)")  # Math23K: ((2)/(3))
_MIXED = re.compile(r"(?<![\d./)a-zA-Z])(\d{1,18})\(\(?(\d{1,18})/(\d{1,18})\)?\)")  # Ape210K: 66(2/3)
_PAIR = re.compile(r"\(\s?([a-z])\s?,\s?([a-z])\s?\)\s?=\s?\(([^(),]{1,20}),([^(),]{1,20})\)")
_SQRT_WORD = re.compile(r"(?<![a-z\\])sqrt\s?(?=[(\d])|根号下?", re.IGNORECASE)
_EXPONENT = re.compile(r"(?<=\d)[eE]\+?(-?\d{1,2})(?![\da-zA-Z])")
_POWER_WORD = re.compile(r"(?<=[\d)])的(?:(\d{1,3})次[方幂]|(平方|立方)(?![米厘分毫千根]))")
_BREAK = re.compile(r"<(?:br|/p|/div|/li|/tr|/h\d)\s?/?>", re.IGNORECASE)


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match[1], match[2].strip(), match[3].strip()
    plain = _PLAIN_TOP.match(top)
    if plain and _PLAIN_BOTTOM.match(bottom):
        return f"{whole}{'又' if whole and not plain[1] else ''}{top}/{bottom}"
    return f"{whole}{'×' if whole else ''}({top})/({bottom})"


def _recurring(match: re.Match[str]) -> str:
    """0.1\\dot{6} → 0.1(6)"""
    return f"{match[1]}({''.join(g or '' for g in match.groups()[1:])})"


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = match.groups()
    return f"{whole}又{top}/{bottom}" if int(top) < int(bottom) else match[0]


def _both_signs(match: re.Match[str]) -> str:
    """±3 → 3或-3; 2±√3 → 2+√3或2-√3."""
    if match[1]:
        return f"{match[1]}或-{match[1]}"
    opens, a, b, ends = match[2], match[3], match[4], match[5] or ""
    return f"{opens}{a}+{b}{ends}或{opens}{a}-{b}{ends}"


def _in_words(match: re.Match[str]) -> str:
    """fourteen → 14, thirty-two → 32, percent → %."""
    if not match[1]:
        return "%"
    tens, ones = _ENGLISH[match[1].lower()], (match[2] or "").lower()
    more = 1 if ones == "one" else _ENGLISH.get(ones, 0)
    return str(tens + more) if tens >= 20 or not ones else match[0]


_NEGATIVE_ROOT = re.compile(r"(?<![\w)])-\s?\((\d{0,9}√\([^()]{1,20}\))\)/")  # -\frac{\sqrt{2}}{10}


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
    text = _NEGATIVE_ROOT.sub(r"(-\1)/", re.sub(r"(?<=\d) (?=√)", "", text))
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
    text = _CIRCLED.sub(lambda m: f"({ord(m[0]) - 0x2460 + 1})", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _LIST_COMMA.sub("、", text)
    text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]).replace("−", "-"), text)
    text = text.translate(_SYMBOLS)
    text = unicodedata.normalize("NFKC", text).translate(_SYMBOLS).translate(_TRADITIONAL)
    return _OTHER_DIGIT.sub(lambda m: str(unicodedata.digit(m[0], 0)), text)


_CIRCLED = re.compile("[①-⑳]")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_LIST_MARK = re.compile(r"(?m)^[ ]{0,8}(?:[-+*>]|#{1,3}|#{5,6})[ ]+")
_RULE = re.compile(r"(?m)^[ ]{0,8}\|?[ :|-]*-{2,}[ :|-]*\|?[ ]*$")
_EMPHASIS = re.compile(r"(?<![\d) ])\*|\*(?![\d( ])")
_BLANKS = re.compile(r"[ \u00a0\u2000-\u200a\u202f\u205f]+")
_IDLE_BLANK = re.compile(r"(?<=[\u4e00-\u9fff,。:;!?、]) (?=[\d\u4e00-\u9fff])|(?<=\d) (?=[\u4e00-\u9fff])")


def _markdown(text: str) -> str:
    text = _LIST_MARK.sub("", text)
    if "--" in text:
        text = _RULE.sub("", text)
    if "|" in text:
        text = _TABLE_ROW.sub(lambda m: f"{m[1].strip()}:{m[2].split('|')[-1].strip()}", text)
    text = text.replace("**", "").replace("__", "").replace("`", "").replace("$$", "").replace("|", " ")
    return _EMPHASIS.sub("", text) if "*" in text else text


def _math(match: re.Match[str]) -> str:
    """$9$ is math, $9 is dollars: what stands between two dollar amounts keeps its signs."""
    money = re.match(r"\s?\d[\d,.]*\s?(?:[\u4e00-\u9fff]|and |or |,\s|to )", match[1])
    return match[0] if money and not match[1].strip()[-1:].isdigit() else match[1]


def normalise(text: str) -> str:
    """``text`` in half width, simplified script and plain notation; linear in its length, never raises."""
    text = _STRUCK.sub("", _THOUGHT.sub("", text, count=1))
    if "```" in text:
        text = _CODE.sub("\n", text) if re.search(r"\w", _CODE.sub("", text)) else text
    if "!" in text and ("阶乘" in text or re.search(r"\A\s*\d+!\s*\Z|!\s?[=×*÷/+-]|\d!\s?\\", text)):
        text = _FACTORIAL.sub(FACTORIAL, text)  # 5!=120; 答案是5! has an exclamation mark
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _BREAK.sub("\n", text)
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
    text = _IN_WORDS.sub(_in_words, text)
    text = _MONTH_DAY.sub(lambda m: f"{_MONTHS.index(m[1].lower()) + 1}月{m[2]}日", text)
    if "/" in text:
        text = _MIXED.sub(_mixed, _BRACKETED.sub(r"\1/\2", text))
        text = re.sub(r"(?<![\d.)a-zA-Z])(?<!\d )π(?= ?/ ?\d)", "1π", text)
    text = _PAIR.sub(r"\1=\3,\2=\4", text)
    text = _EXPONENT.sub(r"×10^\1", text)
    text = _POWER_WORD.sub(lambda m: f"^{m[1] or (2 if m[2] == '平方' else 3)}", _SQRT_WORD.sub("√", text))
    if "±" in text:
        text = _PLUS_MINUS.sub(_both_signs, text)
    text = _BLANKS.sub(" ", text.replace("{", "").replace("}", ""))
    return _IDLE_BLANK.sub("", text) if " " in text else text
