"""Says what is being waited for where Slurm takes long to answer."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FIRST_SECONDS = 4.0
"""So long nothing is said: a controller that is well answers in less."""

AGAIN_SECONDS = 15.0


@contextlib.contextmanager
def waiting(command: str) -> Iterator[None]:
    """While the block runs, a line on stderr after 4 seconds, and every 15 from then on."""
    ended, began, stream = threading.Event(), time.monotonic(), sys.stderr
    what = f"waiting for the Slurm controller ({command})"

    def tell() -> None:
        pause = FIRST_SECONDS
        while not ended.wait(pause):
            seconds = time.monotonic() - began
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                print(
                    f"{what}, {seconds:.0f} s so far ...",
                    file=stream,
                    flush=True,
                )
            pause = AGAIN_SECONDS

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def announced(
    call: Callable[Concatenate[Sequence[str], P], T],
) -> Callable[Concatenate[Sequence[str], P], T]:
    """A function that runs a command, its words first, within :func:`waiting`."""

    @wraps(call)
    def run(words: Sequence[str], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with waiting(words[0]):
            return call(words, *args, **kwargs)

    return run
