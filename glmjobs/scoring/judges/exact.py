"""The judge "exact": both texts are the same once they are normalised.

The normalisation is that of lm-evaluation-harness's ``exact_match`` with the settings of its task gsm8k
(``ignore_case`` and ``regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]``): what stands before the last "#### "
goes, so do commas, dollar signs and a full stop at the end; case does not count. Full-width commas and stops (，。)
go as well, and blanks around the text.
"""

from __future__ import annotations

import re

from glmjobs.marking import Verdict
from glmjobs.scoring.judges import JudgeName, not_marked, shown


class Exact:
    """Compares as text."""

    name: JudgeName = "exact"
    at_once = 1

    def mark(self, question: str, gold: str, prediction: str) -> Verdict:
        """Equal after :func:`normalise`, or not; a gold of which nothing is left is not marked."""
        wanted, said = normalise(gold), normalise(prediction)
        if not wanted:
            return not_marked("the gold is empty")
        same = wanted == said
        return Verdict(same, shown(wanted), shown(said), "same text" if same else "other text")


def normalise(text: str) -> str:
    """See the module's text.

    >>> normalise("3 + 4 = 7\\n#### $1,007.")
    '1007'
    """
    text = text.rpartition("#### ")[2].strip().lower()
    return re.sub(r"[.。]$", "", re.sub(r"[,，$]", "", text)).strip()
