"""A save that grows is alive, however long it takes; one that stands still is not."""

from __future__ import annotations

import time
from pathlib import Path

from hpc.runtime.heartbeat import Heartbeat, read


def test_a_growing_folder_is_a_report(tmp_path: Path) -> None:
    """Of this rank's and of other ranks' files; the beat stops when they stop, and outside of saving none counts."""
    folder, saved = tmp_path / "heartbeat", tmp_path / "checkpoint-2"
    heartbeat = Heartbeat(folder, 0, 1, limit=0.1)
    thread = heartbeat.start()

    def beats() -> int:
        return int(read(folder)[0]["count"])

    def grown(by: int, name: str) -> bool:
        """Whether the count goes on while the file grows."""
        first, end = beats(), time.monotonic() + 20
        while time.monotonic() < end:
            with (saved / name).open("ab") as file:
                file.write(b"x" * by)
            time.sleep(0.02)
            if beats() > first + 3:
                return True
        return False

    try:
        heartbeat.report("saving", 2, growing=saved)  # is not there yet
        (saved / "global_step2").mkdir(parents=True)
        assert grown(10, "global_step2/rank_0") and grown(10, "global_step2/rank_1")
        last, standing = beats(), 0
        for _ in range(200):  # until it has stood still for half a second
            time.sleep(0.02)
            standing, last = (standing + 1, last) if beats() == last else (0, beats())
            if standing == 25:
                break
        assert standing == 25
        heartbeat.report("training", 3)
        (saved / "more").write_bytes(b"x" * 100)
        time.sleep(0.3)
        assert beats() <= last + 1
    finally:
        thread.stop()
