"""A run's connections that have switched protocols and that Python carries; a new policy decides them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio


class Tunnels:
    """The open tunnels of a run."""

    def __init__(self) -> None:
        self._open: dict[trio.CancelScope, Callable[[], bool]] = {}

    @contextmanager
    def held(self, is_refused: Callable[[], bool]) -> Iterator[None]:
        """Holds a tunnel while the block lasts. The block ends if the policy in force refuses the tunnel.

        Raises trio.BrokenResourceError then.
        """
        with trio.CancelScope() as scope:
            self._open[scope] = is_refused
            try:
                if is_refused():  # a policy was published between the request and its answer
                    scope.cancel()
                yield
            finally:
                del self._open[scope]
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the policy refuses the tunnel")

    def judge_again(self) -> None:
        """Ends the tunnels that the policy in force refuses."""
        for scope, is_refused in self._open.items():
            if not scope.cancel_called and is_refused():
                scope.cancel()
