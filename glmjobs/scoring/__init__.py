"""Generation, marking and statistics of scores. Importing it imports no torch.

``judge`` is bound here to the function, before anyone can reach the submodule of that name as an attribute.
"""

from __future__ import annotations

from glmjobs.scoring.judge import Verdict, answer_type, gold_has_false_equation, judge

__all__ = ["Verdict", "answer_type", "gold_has_false_equation", "judge"]
