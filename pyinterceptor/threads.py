"""Threads that live just as long as one step.

A thread's namespaces, system-call filter and signal mask are its own, and what it starts inherits them: whoever changes
them does it on a thread that nobody uses before or after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def on_own_thread(step: Callable[[], T]) -> T:
    """Runs `step` on a thread of its own; waits, and passes its result or exception on."""
    result: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            result.append(step())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="pyinterceptor-step")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return result[0]
