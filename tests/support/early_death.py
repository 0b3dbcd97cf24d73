"""A rank that dies early, without torch: ``python tests/support/early_death.py RUN KIND RANK MOMENT``.

KIND, of the rank named: ``import`` (a module is missing), ``cuda`` (an error that it records), ``killed``, ``node``
(not fit: exit code 3), ``term`` (SIGTERM, sent to it alone). MOMENT: ``first`` (before the others listen), ``loading``
(they exit with 85 when told to end), ``training`` (the same, past a checkpoint). The others wait.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

STOPPED = 85


def main() -> None:
    run, kind, victim, moment = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    rank = int(os.environ["SLURM_PROCID"])
    if moment == "first" and rank != victim:
        wait()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        if moment != "first":
            signal.signal(number, lambda *_: os._exit(STOPPED))
    here = run / f"up-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', 0)}-{rank}"
    here.touch()
    if rank != victim:
        wait()
    others = [here.with_name(here.name[:-1] + str(r)) for r in range(2) if r != rank]
    while moment != "first" and not all(path.exists() for path in others):
        time.sleep(0.02)
    if moment == "training":
        from hpc.chain import ledger

        ledger.write_progress(run, "work", step=7, checkpoint=7)
    die(run, kind, rank)


def wait() -> None:
    """For the end that another rank's death brings."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.1)
    sys.exit(1)


def die(run: Path, kind: str, rank: int) -> None:
    if kind == "import":
        __import__("no_such_module_of_ours")
    elif kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
    from hpc.core.errors import NotFit
    from hpc.runtime.failures import record_failure

    error = (
        NotFit("GPU 3 is missing here") if kind == "node" else RuntimeError("CUDA error: device-side assert")
    )
    record_failure(run / "jobs" / "work", rank, error)
    sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
