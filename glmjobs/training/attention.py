"""Which way a run computes the attention of its packed rows: decided once, and kept by every attempt after.

The ways are one function but for rounding, so a resume that took another would no longer be, to the bit, the training
that was interrupted. What was decided is in the run's ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from glmjobs.models.common.attention import default_way
from glmjobs.models.common.attention_ways import fastest, measure, possible_ways, set_way
from glmjobs.recipe.schema import TrainSection
from glmjobs.training import save
from glmjobs.training.agreement import Agreement
from hpc.chain import ledger
from hpc.core.errors import BadInput
from hpc.core.files import Json

EVENT = "attention"


def settle(
    settings: TrainSection, run: Path, trainer: Any, agreement: Agreement, *, rank: int, resumes: bool
) -> str | None:
    """Have ``trainer``'s model compute in the run's way; rank 0 decides for all, and says it.

    Args:
        resumes: there is a checkpoint to go on from.

    Returns:
        the way; None where rows are not packed: then there is but one.

    Raises:
        BadInput: ``train.attention`` is a way that is not possible here.
    """
    if not settings.packing:
        return None
    device = trainer.args.device
    possible = possible_ways(device, trainer.model.config)
    if settings.attention != "auto" and settings.attention not in possible:
        raise BadInput(
            f"train.attention: {settings.attention} is not possible here: it needs a GPU, torch 2.5 or later, and a "
            f"model without attention dropout; {', '.join(possible)} or auto"
        )
    decision = _decide(settings, run, trainer, possible, resumes) if rank == 0 else {}
    way: str = agreement.broadcast(decision.get("way"))
    set_way(trainer.model, way)
    if rank == 0:
        save.say(f"attention of packed rows: {way} ({decision['why']})")
        if decision != _kept(run):
            ledger.append(run, EVENT, stage="train", **decision)
    return way


def _kept(run: Path) -> Json:
    """What was decided last, without when; {} where nothing was."""
    events = list(ledger.events(run, event=EVENT, stage="train"))
    return (
        {name: events[-1][name] for name in ("way", "why", "milliseconds") if name in events[-1]}
        if events
        else {}
    )


def _decide(
    settings: TrainSection, run: Path, trainer: Any, possible: tuple[str, ...], resumes: bool
) -> Json:
    if settings.attention != "auto":
        return {"way": settings.attention, "why": "train.attention says so"}
    kept = _kept(run)
    if kept.get("way") in possible:
        return kept
    device = trainer.args.device
    if resumes or device.type == "cpu":
        why = "as the run began" if resumes else "what suits a CPU"
        return {"way": default_way(device), "why": why}
    milliseconds = {
        way: round(1e3 * seconds, 3) if seconds == seconds else None  # nan: it failed
        for way, seconds in _measured(trainer, possible).items()
    }
    words = ", ".join(f"{way} {'fails' if ms is None else f'{ms:g} ms'}" for way, ms in milliseconds.items())
    way = fastest({way: float("nan") if ms is None else ms for way, ms in milliseconds.items()})
    return {"way": way, "why": f"a layer forward and backward: {words}", "milliseconds": milliseconds}


def _measured(trainer: Any, ways: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = on_first_rows(trainer, "measuring attention", partial(measure, ways=ways))
    return found


def on_first_rows(trainer: Any, doing: str, what: Callable[[Any, Json], Any]) -> Any:
    """What a measurement finds with the training's model and its first rows, on their device."""
    trainer.heartbeat.report(doing)
    device, dataset, model = trainer.args.device, trainer.train_dataset, trainer.model
    rows = range(min(len(dataset), trainer.args.per_device_train_batch_size))
    batch = trainer.data_collator([dataset[row] for row in rows])
    on_device = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of adapters
    found = what(model, on_device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found
