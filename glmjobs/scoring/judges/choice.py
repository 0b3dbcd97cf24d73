"""The judge "choice": the letter of an option, read off an answer in words as C-Eval's and CMMLU's evaluations do.

Their scripts look for phrases such as 答案是B and 选项B正确, for a letter that the text begins with, and for the only
letter in the text. So does this, in that order, and takes the last of several phrases. Where nothing is found CMMLU's
script draws a letter by chance; here the answer is wrong: it chose nothing.
"""

from __future__ import annotations

import re
import unicodedata

from glmjobs.marking import Verdict
from glmjobs.scoring.judges import JudgeName, not_marked

OPTION = re.compile(r"(?:^|[\s(（,，;；。])([A-H])\s*[.．、:：)）]")
"""An option in a question: its letter at the beginning of a word, and a mark after it."""

LETTER = "(?<![A-Za-z])[A-H](?![A-Za-z])"
SEVERAL = rf"{LETTER}(?:\s*[,、和与及]?\s*{LETTER})*|(?<![A-Za-z])[A-H]{{2,8}}(?![A-Za-z])"
"""One letter, or several: "ACD", "A、C"."""

SAYS = [
    re.compile(
        pattern.replace(
            "@",
            rf"[\s\"'(\[*:]*(?:\\boxed\{{|\\text\{{)*\s*({SEVERAL})(?!\s*(?:选?项)?(?:[是为])?(?:不|错|有误))",
        )
    )
    for pattern in (
        r"\\boxed\{\s*@",
        r"答案(?:选项)?(?:应该?|就)?(?:[是为选]|是选|选择)?(?:选项)?[:】]?@",
        r"正确的?选项(?:应该?)?[是为]?@",
        r"选(?:择(?:答案)?)?[是为]?@",
        r"而是(?:选项)?@",
        r"(?i:answer|option|choice)(?:\s+is)?@",
    )
]
"""Phrases that name an option after them."""

BEFORE = re.compile(rf"({SEVERAL})\s*(?:[是为]?(?:正确|对的?)|符合题意|选?项(?:是|为)?(?:正确|符合))")
"""Phrases that name an option before them."""

DENIED = re.compile(r"(?:不|非|没)(?:应该?|能|会|可以)?[是选为]?\s*$")


class Choice:
    """Compares the letters of options."""

    name: JudgeName = "choice"
    at_once = 1

    def mark(self, question: str, gold: str, prediction: str) -> Verdict:
        """The same letters, or not; a gold without a letter is not marked."""
        wanted = letters(gold)
        if not wanted:
            return not_marked("the gold names no option")
        options = set(OPTION.findall(_plain(question))) or set("ABCD")
        said = letters(prediction, options)
        if not said:
            return Verdict(False, wanted, "", "no option named")
        return Verdict(said == wanted, wanted, said, "same option" if said == wanted else "other option")


def letters(text: str, options: set[str] | None = None) -> str:
    """The options that an answer chooses, in the alphabet's order; "" for none.

    Args:
        options: the letters that there are; None: A to H.

    >>> letters("A不对，所以答案是B。"), letters("选择AC"), letters("B. 土地"), letters("都可以")
    ('B', 'AC', 'B', '')
    """
    text = _plain(text).strip()
    said = [
        (match.start(), match.group(1))
        for pattern in (*SAYS, BEFORE)
        for match in pattern.finditer(text)
        if not DENIED.search(text, max(0, match.start() - 6), match.start())
    ]
    if said:
        return _chosen(max(said)[1], options)
    if begins := re.match(rf"[(\[*]*({SEVERAL})(?=$|[\s.,:)\]*。])", text):
        return _chosen(begins.group(1), options)
    found = {letter for letter in re.findall(LETTER, text) if options is None or letter in options}
    return found.pop() if len(found) == 1 else ""


def _chosen(text: str, options: set[str] | None) -> str:
    found = set(re.findall("[A-H]", text))
    return "".join(sorted(found)) if options is None or found <= options else ""


def _plain(text: str) -> str:
    """Full-width letters and marks as the narrow ones."""
    return unicodedata.normalize("NFKC", text)
