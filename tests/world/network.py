"""Network namespaces without a name or a mount, which a descriptor keeps alive."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time

CLONE_NEWNET = 0x40000000
READY = 15.0  # seconds for a server to listen


def new_namespace() -> int:
    """Creates a network namespace and returns its descriptor. It ends with its last descriptor and process."""
    libc = ctypes.CDLL(None, use_errno=True)
    made: list[int] = []

    def make() -> None:  # on a temporary thread, because unshare(2) moves the calling thread
        if libc.unshare(CLONE_NEWNET) == 0:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert made, "unshare(CLONE_NEWNET) was refused: needs root"
    return made[0]


def wait_for_port(address: str, port: int) -> None:
    """Returns once a server accepts a connection. Raises AssertionError after READY seconds."""
    deadline, pause = time.monotonic() + READY, threading.Event()
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing listens at {address} port {port}") from error
            pause.wait(0.02)
