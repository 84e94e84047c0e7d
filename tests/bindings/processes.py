"""Free ports for a test's servers, and a wait until a server is ready."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

PATIENCE = 60.0  # seconds for a server to be ready
PAUSE = 0.02  # seconds between two checks


def until(is_so: Callable[[], bool]) -> None:
    """Polls until `is_so` returns True: the other process sends no event to wait for."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "the server did not come up"
        time.sleep(PAUSE)


def free_port() -> int:
    """Returns a free port. The port 10 000 above is free as well, because the bus of a Redis cluster uses it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
        if port < 55_000:
            return port
