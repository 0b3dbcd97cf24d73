"""An interactive shell on a terminal of its own, and what it shows at the Tab key."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path

QUIET = {
    "bash": r"""bind 'set show-all-if-ambiguous on' 'set completion-query-items 0' 'set page-completions off' \
                     'set bell-style none' 'set enable-bracketed-paste off'""",
    "zsh": "autoload -U compinit && compinit -u -D; setopt nobeep; LISTMAX=0; unset zle_bracketed_paste",
}
START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
PROMPT = "listening> "
PATIENCE = 60.0


class Shell:
    """bash or zsh, which has read a completion script."""

    def __init__(self, shell: str, script: Path, cwd: Path, environ: Mapping[str, str]) -> None:
        self.terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 250, 0, 0))
        self.process = subprocess.Popen(
            START[shell], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, start_new_session=True,
            env={**environ, "TERM": "dumb", "PS1": PROMPT},
        )  # fmt: skip
        os.close(theirs)
        self.said = ""
        self.asked = 0
        self.read_until(None)
        for line in (QUIET[shell], f'eval "$(cat {script})"'):
            self.answer(line + "\n")

    def tab(self, line: str) -> set[str]:
        """The words on the terminal after a line and the Tab key: the line, completed, or what it could become."""
        return set(self.answer(f"{line}\t\x15").split())  # Ctrl-U: the line is not run

    def answer(self, keys: str) -> str:
        """What appears between these keys and the answer to a question asked after them."""
        self.asked += 1
        os.write(self.terminal, f"{keys}echo end''{self.asked}\n".encode())
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f]", "", self.read_until(f"end{self.asked}"))

    def read_until(self, mark: str | None) -> str:
        """Everything before the mark; the prompt after it has been shown, so the shell listens to each key again."""
        until = time.monotonic() + PATIENCE
        while PROMPT not in (self.said.partition(mark)[2] if mark else self.said):
            left = until - time.monotonic()
            assert left > 0 and select.select([self.terminal], [], [], left)[0], (
                f"no prompt: {self.said[-2000:]}"
            )
            self.said += os.read(self.terminal, 1 << 16).decode(errors="replace")
        found, _, _ = self.said.partition(mark or PROMPT)
        self.said = ""
        return found

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
