"""A rank that does as it is told, without torch: ``python tests/support/attempt_rank.py RUN WHAT``.

``RANK`` (on Slurm ``SLURM_PROCID``) says which one it is. WHAT, for the rank(s) named before the colon ("1:hang",
"*:wait"); the others wait: ``wait`` works step by step until told to stop (exit 85) · ``hang`` stops beating at step 3
· ``fail N`` raises an error of exit code N · ``killed`` is killed, and the others wait for it as in a collective ·
``done`` ends well. "1:hang then done": so at the first attempt, ``done`` on all ranks from the second on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hpc.chain import ledger
from hpc.runtime.failures import record_failure
from hpc.runtime.heartbeat import Heartbeat
from hpc.runtime.stop import EXIT_REQUEUE, StopFlag


class Told(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"told to fail with {code}")
        self.exit_code = code


def stuck_here() -> None:
    """What a hanging rank's stack is to show."""
    while True:
        time.sleep(60)


def main() -> int:
    run, (who, whole) = Path(sys.argv[1]), sys.argv[2].split(":")
    what, _, then = whole.partition(" then ")
    if then and len(ledger.events(run, event="attempt", stage="work")) > 1:
        who, what = "*", then
    env = os.environ
    rank, limit = int(env.get("RANK") or env.get("SLURM_PROCID") or 0), float(env.get("LIMIT", "60"))
    flag = StopFlag().install()
    heartbeat = Heartbeat(run / "jobs" / "work" / "heartbeat", rank, 2, limit, flag).start()
    mine = what.split() if who in ("*", str(rank)) else ["wait"]
    (run / f"started-{rank}-{os.getpid()}").touch()
    end = time.monotonic() + 60
    for step in range(1, 10_000):
        heartbeat.report("training", step)
        if mine[0] == "done":
            return 0
        if step == 3 and mine[0] == "hang":
            stuck_here()
        if step == 3 and mine[0] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 5 and what == "killed":
            stuck_here()
        if step == 3 and mine[0] == "fail":
            try:
                raise Told(int(mine[1]))
            except Told as error:
                record_failure(run / "jobs" / "work", rank, error)
                return error.exit_code
        if flag.requested and (flag.terminated is None or who == "*"):
            ledger.write_progress(run, "work", step=step, checkpoint=step)
            return EXIT_REQUEUE
        if time.monotonic() > end:
            return 1
        time.sleep(0.02)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
