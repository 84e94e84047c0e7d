"""What servers of a test need: ports that are free, and to be waited for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

PATIENCE = 60.0  # seconds for a server to be ready
PAUSE = 0.02  # seconds between two looks


def until(is_so: Callable[[], bool]) -> None:
    """Waits for another process, which tells nobody."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "the server did not come up"
        time.sleep(PAUSE)


def free_port() -> int:
    """One that is 10 000 less than another: a Redis cluster's bus needs that one, too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
        if port < 55_000:
            return port
