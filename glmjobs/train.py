"""The train stage: `python -m glmjobs.train RUN`, one process per GPU: all weights or LoRA, with DeepSpeed ZeRO.

Resumes by itself from the newest committed checkpoint; stops at a signal with one (exit code 85, see
:mod:`hpc.runtime.stop`). Output, in the shape people know: ``checkpoints/checkpoint-N/…``, ``train_results.json``,
``all_results.json``, ``trainer_state.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from glmjobs.cli import run_command
from glmjobs.run import inputs
from glmjobs.run.directory import Run
from glmjobs.run.reached import redo
from glmjobs.tracking import live
from glmjobs.training.device import choose_device
from hpc.core import timestamps
from hpc.runtime import gpu_monitor
from hpc.runtime.heartbeat import Heartbeat
from hpc.runtime.rendezvous import Rank, discover_rank
from hpc.runtime.stop import EXIT_REQUEUE, StopFlag, StopRequested

if TYPE_CHECKING:
    from glmjobs.training.session import Session


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.train", description="The train stage of a run.")
    p.add_argument("run", help="run directory, or its name under runs/")
    return p


def main(argv: list[str] | None = None) -> int:
    """Train, or go on training; 0 when the last step is saved, 85 when stopped early with everything saved."""
    run = Run.open(parser().parse_args(argv).run)
    flag = StopFlag().install()  # before the slow imports: a signal during warm-up is not lost
    if run.done("train"):
        print("train: done already", file=sys.stderr)
        return 0
    try:
        with flag.nothing_to_save():
            place = discover_rank(run.jobs("train"))
    except StopRequested:
        return EXIT_REQUEUE
    place.export()
    limit = float(run.recipe.jobs.heartbeat_seconds)
    heartbeat = Heartbeat(run.jobs("train") / "heartbeat", place.rank, place.world_size, limit, flag).start()
    try:
        with run.recording("train", place.rank), gpu_monitor.watching(run.path, place.local_rank):
            code = train(run, place, flag, heartbeat)
    except StopRequested:
        if place.rank == 0:
            print(
                f"stopped before the first step ({flag.reason}): there was nothing to save", file=sys.stderr
            )
        leave_at_once(EXIT_REQUEUE)
    if code == EXIT_REQUEUE:
        leave_at_once(code)
    return code


def train(run: Run, place: Rank, flag: StopFlag, heartbeat: Heartbeat) -> int:
    """One attempt at the training, on this rank; its exit code.

    Raises:
        StopRequested: a stop signal came before the first step.
    """
    started = timestamps.now()
    if place.rank == 0:
        live.start(run)
    with flag.nothing_to_save():
        session = prepare(run, place, heartbeat)
    outcome = session.train(flag)
    if outcome.finished and place.rank == 0:
        redo(run.path, "training has ended since")  # a model made by hand meanwhile is of an earlier step
        run.mark("train", started=started, outputs=outcome.outputs, figures=outcome.figures)
    if place.rank == 0:
        for line in live.remarks(run):
            print(line, file=sys.stderr)
    session.leave()  # after the marker: when the first rank ends, the launcher ends the others
    return 0 if outcome.finished else EXIT_REQUEUE


def prepare(run: Run, place: Rank, heartbeat: Heartbeat) -> Session:
    """Everything before the first step."""
    settings, begun = run.recipe.train, time.monotonic()
    heartbeat.report("importing")
    cuda = choose_device(settings, place)
    from glmjobs.training import session  # torch, transformers, DeepSpeed

    session.prepare_libraries(settings, cuda=cuda)
    heartbeat.report("reading the data")
    inputs.ensure(run)
    given = session.Inputs(
        recipe=run.recipe, run=run.path, data=run.data, base_model=run.base_model, checkpoints=run.checkpoints,
        ranks=run.shape.world_size, place=place, cuda=cuda, begun=begun,
    )  # fmt: skip
    return session.build(given, heartbeat)


def leave_at_once(code: int) -> NoReturn:
    """Exit without the interpreter's second of tidying up: the first rank to end has the launcher end the others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
