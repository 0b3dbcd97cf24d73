"""Whether a run trains with compiled blocks (:mod:`glmjobs.models.common.compiled`): decided once, and kept by every
attempt after, for fused kernels round differently.

A layer is compiled and timed before any is: a node without a compiler, or one on which nothing is gained, shows there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from glmjobs.compat import COMPILES_ONCE
from glmjobs.models.common.attention_ways import measure
from glmjobs.models.common.compiled import compile_parts
from glmjobs.recipe.schema import TrainSection
from glmjobs.training import save
from glmjobs.training.agreement import Agreement
from glmjobs.training.attention import on_first_rows
from hpc.chain import ledger
from hpc.core.errors import BadInput
from hpc.core.files import Json

EVENT = "compiled"
GAIN = 1.05
"""Compiled where a layer takes this much less time: less is not worth the minutes of compiling."""


def settle(
    settings: TrainSection,
    run: Path,
    trainer: Any,
    agreement: Agreement,
    way: str | None,
    *,
    rank: int,
    resumes: bool,
) -> bool:
    """Have ``trainer``'s model compiled or not, as the run is; rank 0 decides for all, and says it.

    Args:
        way: of its attention; None: rows are not packed, and have a length each: nothing is compiled.
        resumes: there is a checkpoint to go on from.

    Raises:
        BadInput: ``train.compile`` asks for what is not possible here.
    """
    if way is None or settings.compile is False:
        return False
    decision = agreement.broadcast(_decide(settings, run, trainer, way, resumes) if rank == 0 else None)
    if decision.get("refused"):
        raise BadInput(decision["refused"])
    if decision["compiled"]:
        compile_parts(trainer.model)
    if rank == 0 and decision.get("why"):
        save.say(f"blocks {'compiled' if decision['compiled'] else 'not compiled'} ({decision['why']})")
        ledger.append(run, EVENT, stage="train", **decision)
    return bool(decision["compiled"])


def _decide(settings: TrainSection, run: Path, trainer: Any, way: str, resumes: bool) -> Json:
    """Whether, and, where that is new, why; or what to refuse."""
    kept = ledger.events(run, event=EVENT, stage="train")
    if kept and (settings.compile == "auto" or kept[-1]["compiled"]):
        return {"compiled": kept[-1]["compiled"]}
    # ZeRO-3's hooks gather weights inside the blocks.
    possible = COMPILES_ONCE and not is_deepspeed_zero3_enabled()
    if settings.compile == "auto" and (resumes or trainer.args.device.type == "cpu" or not possible):
        return {"compiled": False}
    if not possible:
        return {"refused": "train.compile: it takes torch 2.5 or later, and ZeRO-1 or 2; false or auto"}
    plain, compiled, failure = _timed(trainer, way)
    words = f"a layer forward and backward: {1e3 * plain:.3g} ms, "
    words += failure or f"compiled {1e3 * compiled:.3g} ms"
    if settings.compile is True:
        return (
            {"refused": f"train.compile: {failure}; false or auto"}
            if failure
            else {"compiled": True, "why": words}
        )
    return {"compiled": plain >= GAIN * compiled, "why": words}


def _timed(trainer: Any, way: str) -> tuple[float, float, str]:
    """Seconds of a layer as it is and compiled, the latter nan where that fails; and then why."""

    def time(model: Any, batch: Json) -> tuple[float, float, str]:
        plain = measure(model, batch, [way])[way]
        try:
            return plain, measure(model, batch, [way], compiled=True)[way], ""
        except Exception as error:  # whatever a compiler raises
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return plain, math.nan, f"compiling fails: {line[:200]}"

    plain, compiled, failure = on_first_rows(trainer, "compiling a layer", time)
    return plain, compiled, failure or ("compiling fails" if math.isnan(compiled) else "")
