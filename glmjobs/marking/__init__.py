"""From a question, a gold answer and a prediction to a verdict. No torch.

``judge`` is bound here to the function, before anyone can reach the submodule of that name as an attribute.
"""

from __future__ import annotations

from glmjobs.marking.equations import gold_has_false_equation
from glmjobs.marking.judge import Step, Verdict, answer_type, judge

__all__ = ["Step", "Verdict", "answer_type", "gold_has_false_equation", "judge"]
