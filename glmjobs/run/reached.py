"""How far a run's training is, and whether the model that was made of it is of that step.

A model can be made by hand of a training that is cut off and goes on later, or runs. It counts until training has got
further; then consolidation, scores and report are done again.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hpc.chain import ledger
from hpc.core.files import Json

REST_ON_TRAINING = ("report", "score", "consolidate")
"""In the order in which they are reopened: broken off on the way, none that is done rests on one that is not."""


LAST = "the last one"
"""How a consolidation's figure ``chosen`` begins that took the last checkpoint (:mod:`glmjobs.run.evaluations`)."""


class Reached(NamedTuple):
    """How far a training is, as far as it is saved; ``finished``: to its end; ``of``: steps in all, where known."""

    step: int
    epoch: float
    finished: bool
    of: int | None = None

    def __str__(self) -> str:
        return f"{self.step:,} steps ({self.epoch:.4g} epoch{'s' if self.epoch != 1 else ''})"


def reached(path: Path) -> Reached | None:
    """How far the training of the run at ``path`` is; None before its first checkpoint."""
    progress = ledger.progress(path, "train")
    of = progress.get("of")
    of = of if isinstance(of, int) else None
    if ledger.is_done(path, "train"):
        figures = _figures(path, "train")
        return Reached(int(figures.get("step") or 0), float(figures.get("epoch") or 0), True, of)
    step = progress.get("checkpoint")
    if not isinstance(step, int) or not step:
        return None
    share = step / max(step, int(progress.get("step") or step))
    return Reached(step, float(progress.get("epoch") or 0) * share, False, of)


def behind(path: Path) -> str:
    """Why the run's model is out of date: training has got further since it was made. "" where it has not, or where
    consolidation is not done."""
    if not ledger.is_done(path, "consolidate"):
        return ""
    figures, at = _figures(path, "consolidate"), reached(path)
    step = figures.get("step")
    then = figures.get("trained", None if _best(figures) else step)  # older markers have the model's step alone
    if at is None or not isinstance(then, int) or at.step <= then:
        return ""
    return f"the model is of step {step}, training has got to step {at.step} since"


def short_of_the_end(path: Path, step: int | None, *, best: bool) -> str:
    """What is to be said of a model of this step: that training isn't finished, or that its end is not to be had.

    Args:
        step: of the checkpoint; None where that does not say.
        best: it was taken as the best one, so that it may well be of a step before the last.
    """
    at = reached(path)
    if at is None or step is None:
        return ""
    if at.finished:
        if best or step >= at.step:
            return ""
        return f"of step {step}: training has ended at step {at.step}, whose checkpoint was not there"
    return f"of step {step}: training isn't finished" + (f", {at.of} steps are wanted" if at.of else "")


def of_model(path: Path) -> str:
    """What is to be said of the run's model beside its training; "" where it is of the training's end."""
    if not ledger.is_done(path, "consolidate"):
        return ""
    figures = _figures(path, "consolidate")
    said = short_of_the_end(path, figures.get("step"), best=_best(figures))
    return behind(path) or (f"the model is {said}" if said else "")


def redo(path: Path, why: str) -> None:
    """Have consolidation, scores and report done again, those that are done; on record."""
    for stage in REST_ON_TRAINING:
        ledger.reopen(path, stage, why)


def _best(figures: Json) -> bool:
    return not str(figures.get("chosen", LAST)).startswith(LAST)


def _figures(path: Path, stage: str) -> Json:
    figures = (ledger.marker(path, stage) or {}).get("figures")
    return figures if isinstance(figures, dict) else {}
