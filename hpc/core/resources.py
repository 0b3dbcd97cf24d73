"""Where the files of ``configs/`` and ``sbatch/`` are: at the top of a checkout, or, installed, inside the packages.

Installed from a wheel, ``configs/stacks/current.txt`` is ``hpc/configs/stacks/current.txt`` beside the code; which
directory went into which package is in ``setup.py``. Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
"""The folder that the packages are in: a checkout, or ``site-packages``."""

LIGHT = ("pydantic", "pyyaml", "rich", "submitit", "numpy", "safetensors", "xxhash", "psutil")
"""The packages without which a login node cannot submit, watch and consolidate."""


def checkout() -> Path | None:
    """The checkout that this code runs from; None where it is installed."""
    return TOP if (TOP / "configs" / "stacks").is_dir() else None


def resource(name: str, *packages: str) -> Path:
    """Where a file or folder such as ``configs/clusters/generic.yaml`` is; it need not be there.

    Args:
        packages: whose data it may be where there is no checkout, the first that has it; default: hpc's.
    """
    top = checkout()
    places = [top] if top else [TOP / package for package in packages or ("hpc",)]
    return next((place / name for place in places if (place / name).exists()), places[0] / name)


def default_stack(python: tuple[int, int] = sys.version_info[:2]) -> str:
    """The stack for a Python: 3.10 is served by the older one."""
    return "centos7-cu117" if python < (3, 11) else "current"
