"""`python -m glmjobs.doctor`: :mod:`hpc.doctor` with this toolkit's variables and remedies."""

from __future__ import annotations

import argparse

from glmjobs.cli import run_command
from glmjobs.run.remedies import REMEDIES
from hpc.doctor import __main__ as doctor

SETTING = doctor.Setting(
    prog="python -m glmjobs.doctor", cluster="GLMJOBS_CLUSTER", runs="GLMJOBS_RUNS", remedies=REMEDIES
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return doctor.parser(SETTING)


def main(argv: list[str] | None = None) -> int:
    """0 fit, 2 bad input, 3 not fit."""
    return doctor.main(argv, SETTING)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
