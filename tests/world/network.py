"""Network namespaces without a name or a mount: a descriptor holds them."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time

CLONE_NEWNET = 0x40000000
READY = 15.0  # seconds a server may take to listen


def new_namespace() -> int:
    """A descriptor of a fresh network namespace, which ends with its last descriptor and process."""
    libc = ctypes.CDLL(None, use_errno=True)
    made: list[int] = []

    def make() -> None:  # in a thread: a namespace is a thread's own, and the thread is thrown away
        if libc.unshare(CLONE_NEWNET) == 0:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert made, "unshare(CLONE_NEWNET) was refused: needs root"
    return made[0]


def wait_for_port(address: str, port: int) -> None:
    """Returns when something accepts there. Raises: AssertionError after READY seconds."""
    deadline, pause = time.monotonic() + READY, threading.Event()
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing listens at {address} port {port}") from error
            pause.wait(0.02)
