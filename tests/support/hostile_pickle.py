"""What must never be unpickled."""

from __future__ import annotations


class Runs:
    """An object whose unpickling calls something."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call
