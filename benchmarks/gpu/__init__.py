"""The parts of ``benchmarks/gpu_acceptance.py``: one module each, with ``run(place) -> Findings``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a part runs.

    Attributes:
        device: "cuda" or "cpu".
        short: sizes that a CPU does in a minute: shows that the part works, nothing about a GPU.
        out: folder for what the part writes.
    """

    device: str
    short: bool
    out: Path


@dataclass
class Findings:
    """What a part measured, and which of its bounds held.

    Attributes:
        figures: anything that JSON takes.
        missed: bounds that did not hold, a line each.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)

    def bound(self, name: str, value: float, most: float) -> None:
        """Keep a figure that must not be above ``most`` (nor be no number)."""
        self.figures[name] = value
        if not value <= most:
            self.missed.append(f"{name}: {value:.3g}, at most {most:g}")


class Missing(Exception):
    """What a part needs is not on this machine: the part is left out, and that is said."""
