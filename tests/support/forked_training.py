"""The train stage on ranks that are forked from the calling process: torch and DeepSpeed are imported once for all."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable

from glmjobs import train
from glmjobs.run.directory import Run
from hpc.runtime.rendezvous import Rank, free_port

PATIENCE = 300.0


def forked(run: Run, *, stage: Callable[[list[str]], int] = train.main) -> list[int]:
    """The exit codes of a run's ranks, one node's; what was patched here holds in them too."""
    from glmjobs.training import session  # noqa: F401 - the import that is shared

    ranks, port = run.shape.gpus, free_port()
    fork = multiprocessing.get_context("fork")
    processes = []
    for rank in range(ranks):
        place = Rank(rank=rank, world_size=ranks, local_rank=rank, local_size=ranks, port=port)
        processes.append(fork.Process(target=_rank, args=(run, place, stage)))
        processes[-1].start()
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _rank(run: Run, place: Rank, stage: Callable[[list[str]], int]) -> None:
    os.environ.update(place.variables())
    try:
        code = stage([str(run.path)])
    except Exception as error:
        traceback.print_exc()
        code = int(getattr(error, "exit_code", 1))
    os._exit(code)
