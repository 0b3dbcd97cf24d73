"""The name of :mod:`glmjobs.attach` as it was: scripts of runs in flight call it. Gone after one release."""

from __future__ import annotations

from glmjobs.attach import main
from glmjobs.cli import run_command

if __name__ == "__main__":
    raise SystemExit(run_command(main))
