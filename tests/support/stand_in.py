"""A stage that stands in for a real one: what happens to jobs is real, the work takes no time.

    python tests/support/stand_in.py RUN STAGE

``RUN/behaviour/STAGE`` says what it does: ``ok`` (default); ``fail N`` (exit code N); ``wait`` (until the file
``RUN/go`` is there); ``save`` (likewise, and told to stop by USR1 it saves a checkpoint first); ``nothing`` (ends with
0, without a marker). Each start leaves a line in ``RUN/starts/STAGE``. The
marker is written when all elements of an array have been here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hpc.chain import ledger
from hpc.core import timestamps
from hpc.runtime.stop import EXIT_REQUEUE


def main() -> int:
    run, stage = Path(sys.argv[1]), sys.argv[2]
    task, count = (
        os.environ.get("SLURM_ARRAY_TASK_ID", "0"),
        int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1")),
    )
    started = timestamps.now()
    told_to_stop: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: told_to_stop.append(number))
    (run / "starts").mkdir(exist_ok=True)
    with (run / "starts" / stage).open("a") as file:
        file.write(f"{task}\n")
    told = run / "behaviour" / stage
    own = told.with_name(f"{stage}-{task}")
    words = (own if own.exists() else told).read_text().split() if own.exists() or told.exists() else ["ok"]
    if words[0] == "fail":
        print(f"error: {stage} was told to fail", file=sys.stderr)
        return int(words[1])
    while words[0] in ("wait", "save") and not (run / "go").exists():
        time.sleep(0.05)
        if words[0] == "save" and told_to_stop:
            saved = int(ledger.progress(run, stage).get("checkpoint") or 0)
            ledger.write_progress(run, stage, step=saved + 1, checkpoint=saved + 1)
            return EXIT_REQUEUE
    if words[0] == "nothing":
        return 0
    (run / "starts" / f"{stage}-{task}.done").touch()
    if len(list((run / "starts").glob(f"{stage}-*.done"))) == count:
        ledger.write_marker(run, stage, outcome="done", started=started)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
