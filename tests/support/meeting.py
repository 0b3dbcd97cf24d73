"""A rank of one of many jobs that start on one node at once: `python tests/support/meeting.py DIR JOBS`.

Rank 0 of each job takes its port as a training does, and listens on it only when the rank 0s of all ``JOBS`` jobs have
taken theirs: the time for which a port that is merely free could be given away. The others ask it which job it is of.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from hpc.runtime.rendezvous import discover_rank

PATIENCE = 240.0


def main() -> int:
    folder, jobs = Path(sys.argv[1]), int(sys.argv[2])
    job = os.environ["SLURM_JOB_ID"]
    place = discover_rank(folder)
    end = time.monotonic() + PATIENCE
    if place.rank > 0:
        while True:
            try:
                connection = socket.create_connection((place.address, place.port), timeout=10)
                break
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        with connection:
            found = connection.makefile().readline().strip()
        (folder / f"found-{job}").write_text(f"{found} {place.port}")
        return 0 if found == job else 1
    while len(list(folder.glob(".meet-*.json"))) < jobs:
        if time.monotonic() > end:
            raise TimeoutError("the other jobs did not start")
        time.sleep(0.05)
    with socket.create_server(("", place.port)) as server:
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
        with connection:
            connection.sendall(f"{job}\n".encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
