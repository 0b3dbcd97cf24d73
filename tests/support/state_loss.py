"""A model's dev loss, and a training state's: `python -m tests.support.state_loss RUN CHECKPOINT OUT`, a rank."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from glmjobs import train
from glmjobs.data.collate import ExampleDataset, PaddedCollator
from glmjobs.data.prepared import Prepared
from glmjobs.data.tokenised import tokenise
from glmjobs.models.family import family_for
from glmjobs.run.directory import Run
from glmjobs.training.loop_state import LoopState
from hpc.runtime.heartbeat import Heartbeat
from hpc.runtime.rendezvous import discover_rank
from hpc.runtime.stop import StopFlag


def dev_loss(run: Run, model: Any, tokens: Path, tokenizer: Any) -> float:
    """Mean over all target tokens of the dev rows; no two ranks may tokenise into one folder."""
    data = run.recipe.data
    tokenised = tokenise(
        Prepared.load(run.data), "dev", tokenizer, family_for(run.recipe.model.family), tokens,
        max_source_length=data.max_source_length, max_target_length=data.max_target_length,
    )  # fmt: skip
    rows = ExampleDataset(tokenised)
    collate = PaddedCollator(int(tokenizer.pad_token_id))
    total, targets = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            batch = collate([rows[i] for i in range(start, min(start + 8, len(rows)))])
            count = int((batch["labels"] != -100).sum())
            total += float(model(**batch).loss) * count
            targets += count
    return total / targets


class LossAtBegin(TrainerCallback):  # type: ignore[misc]
    """When the state is loaded and before a step is taken: the loss, and the end."""

    def __init__(self, trainer: Any, measure: Any, out: Path) -> None:
        self.trainer, self.measure, self.out = trainer, measure, out

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Ends the process."""
        engine = self.trainer.model_wrapped
        engine.eval()
        loss = self.measure(engine)
        self.out.write_text(json.dumps({"loss": loss, "step": engine.global_steps}))
        torch.distributed.barrier()
        os._exit(0)


def main(run_path: str, checkpoint: str, out: str) -> None:
    """One rank of the training, which loads its state and measures."""
    run = Run.open(run_path)
    place = discover_rank(run.jobs("train"))
    place.export()
    heartbeat = Heartbeat(run.jobs("train") / "heartbeat", place.rank, place.world_size, 600.0, StopFlag())
    session = train.prepare(run, place, heartbeat)
    trainer = session.trainer
    trainer.loop_state = LoopState(trainer, Path(checkpoint), session.reading)
    file = Path(f"{out}-{place.rank}.json")
    measure = partial(dev_loss, run, tokens=file.with_suffix(".tokens"), tokenizer=trainer.processing_class)
    trainer.add_callback(LossAtBegin(trainer, measure, file))
    trainer.train(resume_from_checkpoint=checkpoint)


if __name__ == "__main__":
    main(*sys.argv[1:])
