"""How far this node's clock is from node 0's, asked over the network that the ranks will use.

Node 0 answers with its time; the asker takes the middle of its own times of asking and of hearing, of the quickest of
some tries (Cristian's algorithm). The error is at most half that try's round trip.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

TRIES = 5


class ClockServer:
    """Answers with this node's time until it is stopped."""

    def __init__(self, port: int, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._socket = socket.create_server(("", port), reuse_port=False)
        self._socket.settimeout(0.2)
        self.port = int(self._socket.getsockname()[1])
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="clock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more answers; the port is free."""
        self._end.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(5)
            while connection.recv(1):
                connection.sendall(struct.pack("!d", self._now()))


def offset(address: str, port: int, *, patience: float, now: Callable[[], float] = time.time) -> float:
    """Seconds by which this node's clock is ahead of node 0's (negative: behind).

    Raises:
        OSError: no answer from there within ``patience`` seconds.
    """
    end = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((address, port), timeout=5) as connection:
                return min((_once(connection, now) for _ in range(TRIES)), key=lambda pair: pair[0])[1]
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _once(connection: socket.socket, now: Callable[[], float]) -> tuple[float, float]:
    started, before = time.monotonic(), now()
    connection.sendall(b"?")
    data = b""
    while len(data) < 8:
        part = connection.recv(8 - len(data))
        if not part:
            raise ConnectionError("node 0 hung up")
        data += part
    trip = time.monotonic() - started
    return trip, before + trip / 2 - float(struct.unpack("!d", data)[0])
