"""A build of DeepSpeed's operators that was killed hangs no later training."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("deepspeed")

from glmjobs.training import session


def test_a_lock_that_nobody_holds_any_more_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    locks = [tmp_path / "py311_cpu" / name / "lock" for name in ("cpu_adam", "shm_comm")]
    for lock in locks:
        lock.parent.mkdir(parents=True)
        lock.touch()
    before = time.time() - session.STALE_BUILD_SECONDS - 1
    os.utime(locks[0], (before, before))
    session.drop_stale_build_locks()
    assert [lock.exists() for lock in locks] == [False, True], "one that a build may hold stays"
    assert f"{locks[0]}: left by a build that was killed" in capsys.readouterr().err
    session.drop_stale_build_locks()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "none"))
    session.drop_stale_build_locks()
