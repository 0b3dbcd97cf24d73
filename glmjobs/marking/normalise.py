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
_CIRCLED = {ord("①") + n: f"({n + 1})" for n in range(20)}
_LATEX_WORDS = {word: to for to, words in _TABLE["latex"].items() for word in words.split()}
_ONES, _TENS = _TABLE["english"]["ones"].split(), _TABLE["english"]["tens"].split()
_ENGLISH = {w: n for n, w in enumerate(["", *_ONES])} | {w: 10 * n for n, w in enumerate(_TENS, 2)}

_THOUGHT = re.compile(r"\A.*</think>(?=.*\w)", re.DOTALL)
_STRUCK = re.compile(
    r"<sup><\|\d+\|></sup>|~~[^~\n]{1,400}~~|<(del|s|strike)>[^<]{0,400}</\1>|\\cancel\{[^{}]{0,400}\}"
)
_TURN = re.compile(r"(?<=\S)\s*(?:Human|User)\s?[:：].*", re.DOTALL)
"""The next turn of a conversation, which a model goes on to make up: 48Human: …"""
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_BREAK = re.compile(r"<(?:br|/p|/div|/li|/tr|/h\d)\s?/?>", re.IGNORECASE)
_TAG = re.compile(r"</?(?!think)[a-zA-Z][^<>]{0,200}>")
_FACTORIAL = re.compile(r"(?<=\d)!(?=\s{0,2}(?:[=×*÷/+\-)]|\\times|\\cdot|\\div))")

_WRAPPER = re.compile(
    r"\\(?:text|math|mbox|bm|boldsymbol|operatorname|underline|emph|color)[a-z]*(?:\{[a-z]{1,12}\}(?=\{))?\s{0,3}\{([^{}]*)\}"
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,3}\{([^{}]*)\}")
_FRAC = re.compile(r"(?:(\d)\s{0,2})?\\[dtc]?frac\s{0,3}(?:\{([^{}]*)\}\s{0,3}\{([^{}]*)\}|(\d)\s?(\d))")
_SIMPLE = re.compile(r"-?[\d.]+(?:\^\d{1,3})?\s?")
_SQRT = re.compile(r"\\sqrt\s{0,2}\{([^{}]*)\}")
_RECURRING = re.compile(
    r"(\.\d{0,20}?)\\(?:dot|overline)\s?\{?\s?(\d{1,12})\s?\}?(?:(\d{0,12})\\dot\s?\{?\s?(\d)\s?\}?)?"
)
_BARE_COMMAND = re.compile(
    r"(?<!\\)(?:(?<!\\[dtc])frac(?=\{)|sqrt(?=[\[{])|circ(?=\})|(?:[lg]eq|neq)(?:slant)?(?=[ \d\\f-]))"
)
"""A command that has lost its backslash: 80^{circ}, xleq frac{2}{3}."""
_MATH_WORD = re.compile(r"\\([A-Za-z]{1,20})")
_MATH = re.compile(r"\$(\s[^$\n]{1,300}|[^$\n]{0,300}[^$\n\s,和与及到至])\$")
"""$9$ is math, $9 is dollars: what stands between two dollar amounts keeps its signs."""

# 63，127 lists; 30，000 and 1，234元 are thousands.
_LIST_COMMA = re.compile(
    "(?<=[0-9])，(?=[0-9]{3,4}(?![0-9]))(?![0-9]00(?![0-9]))(?![0-9]{3}(?:[\u4e00-\u9fff]|\\.[0-9]))|"
    "(?<=[0-9]), (?=[0-9]{3}(?![0-9]))"
)
_LIST_MARK = re.compile(r"(?m)^[ ]{0,8}(?:[-+*]|>(?!\s?[<>=])|#{1,3}|#{5,6})[ ]+")
_TABLE_ROW = re.compile(r"(?m)^[ ]*\|[ ]*([^|\n]{1,40}?)[ ]*\|(?:[^\n]{0,200}\|)?[ ]*([^|\n]{1,200}?)[ ]*\|[ ]*$")
_RULE = re.compile(r"(?m)^[ |:-]+$")
_IDLE_BLANK = re.compile(r"(?<=[\u4e00-\u9fff,。:;!?、]) (?=[\d\u4e00-\u9fff])|(?<=\d) (?=[\u4e00-\u9fff])")
_BRACKETED = re.compile(r"\(\s?(\d{1,18})\s?\)\s?/\s?\(\s?(\d{1,18})\s?\)")  # Math23K: ((2)/(3))
_MIXED = re.compile(r"(?<![\d./)a-zA-Z])(\d{1,18})\(\(?(\d{1,18})/(\d{1,18})\)?\)")  # Ape210K: 66(2/3)
_PAIR = re.compile(r"\(\s?([a-z])\s?,\s?([a-z])\s?\)\s?=\s?\(([^(),]{1,20}),([^(),]{1,20})\)")
_SQRT_WORD = re.compile(r"(?<![a-z\\])[Ss]qrt\s?(?=[(\d])|根号下?")
_EXPONENT = re.compile(r"(?<=\d)[eE]\+?(-?\d{1,2})(?![\da-zA-Z])")
_IN_WORDS = re.compile(
    rf"\b(?=[a-z]{{3}})(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_ONES[:9])}))?|({'|'.join(_ONES[1:])}))\b", re.IGNORECASE
)
_POWER_WORD = re.compile(r"(?<=[\d)])的(?:(\d{1,3})次[方幂]|(平方|立方)(?![米厘分毫千根]))")
_PLUS_MINUS = re.compile(
    r"(?:(?<![\d)])(?<!\d[\u4e00-\u9fff])(?<!\d[\u4e00-\u9fff]{2})|(\(?(?<![\d.])\d{1,9})\s?(?=±\s?\d{0,9}√))±\s?"
    r"(\d{0,20}√?(?:\(\d{1,20}\)|\d{1,20}(?:\.\d{1,20})?)(?:\s?\)\s?/\s?\d{1,9})?)"
)


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match[1] or "", match[2] or match[4] or "", match[3] or match[5] or ""
    if _SIMPLE.fullmatch(top) and _SIMPLE.fullmatch(bottom):
        return f"{whole}{'又' if whole else ''}{top}/{bottom}"
    return f"{whole}({top})/({bottom})"


def _latex(text: str) -> str:
    """LaTeX to plain notation: fractions, boxes, spacing, words."""
    text = re.sub(r"\\n(?![a-zA-Z])", "\n", text)
    text = re.sub(r"\\([%$&#_{}])", r"\1", text)
    text = re.sub(r"\{,\}", ",", re.sub(r"\\[,!;:]", "", text))
    text = _RECURRING.sub(lambda m: f"{m[1]}({''.join(g or '' for g in m.groups()[1:])})", text)  # 0.1\dot{6}: 0.1(6)
    text = re.sub(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)", "°", text)
    text = re.sub(r"\^\{\s?(-?\d{1,6})\s?\}", r"^\1", text)
    text = re.sub(r"\\(?:begin|end)\{[^{}]{0,40}\}|\\\\", "\n", text)
    for _ in range(4):  # innermost first; deeper nesting than this is no answer a pupil writes
        text = _FRAC.sub(_fraction, _WRAPPER.sub(r"\1", text))
        text = _BOX.sub(BOX_OPEN + r"\1" + BOX_CLOSE, _SQRT.sub(r"√(\1)", text))
    text = _MATH_WORD.sub(lambda m: str(_LATEX_WORDS.get(m[1], m[1])), re.sub(r"\\[()\[\]]", " ", text))
    return text.replace("\\", " ")


def _width(text: str) -> str:
    """Full width, circled and superscript digits to ASCII."""
    text = text.translate(_CIRCLED)
    text = re.sub("(?<=\\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub("(?<![⁺⁻⁰¹²³⁴-⁹])(?=[⁺⁻]?[⁰¹²³⁴-⁹]+(?![⁄⁰¹²³⁴-⁹]))", "^", _LIST_COMMA.sub("、", text))
    return unicodedata.normalize("NFKC", text.translate(_SYMBOLS)).translate(_SYMBOLS).translate(_TRADITIONAL)


def _markdown(text: str) -> str:
    text = _RULE.sub("", _LIST_MARK.sub("", text))
    if "|" in text:
        text = _TABLE_ROW.sub(r"\1:\2", text)
    return re.sub(r"\*\*|__|`|\$\$", "", text).replace("|", " ")


def normalise(text: str) -> str:
    """``text`` in half width, simplified script and plain notation; linear in its length, never raises."""
    text = _TURN.sub("", _STRUCK.sub("", _THOUGHT.sub("", text, count=1)))
    if "```" in text and re.search(r"\w", outside := _CODE.sub("\n", text)):
        text = outside
    text = re.sub(r"(?<=[a-z\s])!=", "≠", text)
    if "!" in text:  # 5!=120; 答案是5! has an exclamation mark
        text = _FACTORIAL.sub(FACTORIAL, re.sub(r"\A\s*(\d{1,3})!\s*\Z", rf"\1{FACTORIAL}", text))
    text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text).replace("<sup>", "^"))
    text = _width(text).replace("廿", "二十").replace("卅", "三十")
    text = re.sub(r"\b([ap])\.m\.", r"\1m", text.replace(" percent", "%"))
    text = re.sub(r"(?<![\d.])0\. (?=\d)", "0.", text)  # 0. 98, as scanned
    text = re.sub("(\\d)\u0307", r"\\dot{\1}", text)  # 0.1̇42857̇
    text = _BARE_COMMAND.sub(r"\\\g<0>", text)
    if "\\" in text:
        text = _latex(text)
    if "$" in text:
        text = _MATH.sub(r"\1", text.replace("$$", " "))
    text = _markdown(text)
    if "/" in text:
        text = _MIXED.sub(r"\1又\2/\3", _BRACKETED.sub(r"\1/\2", text))
    text = _IN_WORDS.sub(lambda m: str(sum(_ENGLISH[g.lower()] for g in m.groups(""))), text)  # thirty-two
    text = re.sub(r"(?<=\d)_(?=\d{1,9}/\d)", "又", text)  # 3_1/3
    text = _PAIR.sub(r"\1=\3,\2=\4", text)
    text = re.sub(r"(?<=\d) [xX] (?=\d)", "×", text)
    text = re.sub(r"(?<=[a-zA-Z\d]\))([23])(?=\s?[-+=])", r"^\1", text)  # (x-1)2+y=3, its superscript lost
    text = _EXPONENT.sub(r"×10^\1", _SQRT_WORD.sub("√", text))
    text = _POWER_WORD.sub(lambda m: f"^{m[1] or (2 if m[2] == '平方' else 3)}", text)
    if "±" in text:
        text = _PLUS_MINUS.sub(lambda m: f"{m[1]}+{m[2]}或{m[1]}-{m[2]}" if m[1] else f"{m[2]}或-{m[2]}", text)
    return _IDLE_BLANK.sub("", re.sub(r"[ \u00a0\u2000-\u200a\u202f\u205f]+", " ", re.sub("[{}]", "", text)))
