"""The judge "math-verify": parse and verify of the package math-verify, where it is installed.

It knows LaTeX and arithmetic well, and no Chinese units, names or corrections. It takes some milliseconds a row.
"""

from __future__ import annotations

from glmjobs.marking import Verdict
from glmjobs.scoring.judges import JudgeName, not_marked, shown
from hpc.core.errors import NotFit


class MathVerify:
    """Compares as mathematics.

    Raises:
        NotFit: the package is not installed.
    """

    name: JudgeName = "math-verify"
    at_once = 1

    def __init__(self) -> None:
        try:
            from math_verify import parse, verify
        except ImportError as error:
            lacks = getattr(error, "name", "") or "math_verify"
            fix = 'pip install "math-verify[antlr4_13_2]", or name another judge'
            raise NotFit(f"the judge math-verify: {lacks} is not installed here; {fix}") from None
        self._parse, self._verify = parse, verify

    def mark(self, question: str, gold: str, prediction: str) -> Verdict:
        """Equal as mathematics, or not; a gold that it cannot read, and an error of its own, are not marked."""
        try:
            wanted, said = self._parse(gold), self._parse(prediction)
            same = bool(wanted) and bool(said) and bool(self._verify(wanted, said))
        except Exception as error:  # it promises nothing about any text: this row has no verdict
            return not_marked(f"math-verify raised {type(error).__name__}")
        if not wanted:
            return not_marked("math-verify reads no value in the gold")
        value = shown(said[-1]) if said else ""
        reason = ("same value" if same else "other value") if said else "no value found"
        return Verdict(same, shown(wanted[-1]), value, reason)
