"""hpc.slurm.waiting: a controller that takes long is said to, while it does."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from hpc.slurm import client, waiting


class Heard(io.StringIO):
    """A stderr that says when a line has come."""

    def __init__(self) -> None:
        super().__init__()
        self.line = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        if "\n" in text:
            self.line.set()
        return count


def test_a_line_comes_within_five_seconds() -> None:
    assert 0 < waiting.FIRST_SECONDS < 5


@pytest.mark.parametrize("code", [0, 1])
def test_while_a_command_hangs_it_is_said_what_is_waited_for(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\nread word <{gate}\necho answered >&2\necho $word\nexit {code}\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.05)
    heard = Heard()
    monkeypatch.setattr(sys, "stderr", heard)
    answers: list[str] = []

    def ask() -> None:
        try:
            answers.append(
                client.run(["squeue"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, pauses=())
            )
        except client.SlurmRefused as error:
            answers.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert heard.line.wait(30)
    gate.write_text("well\n", encoding="utf-8")
    asking.join(30)
    assert answers == (["well\n"] if code == 0 else ["squeue: answered"])
    assert heard.getvalue() == "waiting for the Slurm controller (squeue), 0 s so far ...\n"


def test_nothing_is_said_of_a_quick_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr(sys, "stderr", heard)
    assert client.run(["echo", "x"]) == "x\n"
    assert heard.getvalue() == "" and not [t for t in threading.enumerate() if t.name.endswith("(tell)")]
