"""The time as every record carries it: UTC, ISO 8601 with milliseconds."""

from __future__ import annotations

from datetime import datetime, timezone


def now() -> str:
    """The time now, such as ``2026-11-28T22:13:13.042Z``."""
    return stamp(datetime.now(timezone.utc).timestamp())


def stamp(seconds: float) -> str:
    """Unix seconds in that form."""
    when = datetime.fromtimestamp(seconds, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """The inverse of :func:`now`."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
