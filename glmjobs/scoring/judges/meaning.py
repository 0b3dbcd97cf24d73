"""The judge "meaning": the rules of :mod:`glmjobs.marking`, told in docs/scoring.md."""

from __future__ import annotations

from glmjobs.marking import Verdict, judge
from glmjobs.scoring.judges import JudgeName


class Meaning:
    """Compares what the answers mean."""

    name: JudgeName = "meaning"
    at_once = 1

    def mark(self, question: str, gold: str, prediction: str) -> Verdict:
        """See :func:`glmjobs.marking.judge`."""
        return judge(question, gold, prediction)
