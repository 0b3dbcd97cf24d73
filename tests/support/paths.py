"""Where things are in the checkout."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"
SUPPORT = REPO / "tests" / "support"
SHARED = REPO.parent / "shared"
"""Reference data beside the checkout; absent from a fresh clone."""
