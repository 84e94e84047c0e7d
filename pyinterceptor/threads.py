"""Temporary threads, each for one step.

Namespaces, the system-call filter and the signal mask belong to a thread, and its children inherit them. A step that
changes them runs on a temporary thread, so that no other code is affected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def on_own_thread(step: Callable[[], T]) -> T:
    """Runs `step` on a new thread and waits for it. Returns its result, or raises its exception."""
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
