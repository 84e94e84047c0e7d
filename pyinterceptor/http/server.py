"""Serves the connections of containers, each as long as it lasts.

What is said on one stands in connection.py; here is what all of them share, and how one ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from pyinterceptor.http.connection import ClientStream, Connection, Ended, Limits, Refused, Respond
from pyinterceptor.http.deadlines import Deadlines
from pyinterceptor.http.faults import LOGGED, Faults
from pyinterceptor.http.transfer import Pump


class Server:
    """Made by `open_server`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.deadlines = Deadlines()

    async def serve(
        self,
        stream: ClientStream,
        respond: Respond,
        *,
        scheme: str,
        destination: tuple[str, int],
        pump: Pump | None = None,
        is_ending: Callable[[], bool] = lambda: False,
        ended: Ended | None = None,
        refused: Refused | None = None,
        faults: Faults = LOGGED,
    ) -> None:
        """One connection until either side is done; borrows the stream, but resets it where it must not end well.

        `destination` is the address and port that the client dialled; `pump` moves large bodies. While `is_ending()`
        a client that leaves doesn't cancel its handler. `ended` is called when a request has ended, `refused`
        when one was answered here because it is malformed or its method is not for handlers.
        """
        with trio.CancelScope() as scope, self.deadlines.watch(scope) as deadline:
            connection = Connection(
                stream,
                respond,
                self.limits,
                self.deadlines,
                deadline,
                scheme=scheme,
                destination=destination,
                pump=pump,
                ended=ended,
                refused=refused,
                faults=faults,
            )

            def client_leaves(is_reset: bool) -> None:
                if not is_ending():
                    connection.client_leaves(is_reset)

            stream.on_leave = client_leaves
            try:
                await connection.serve()
            except (trio.BrokenResourceError, trio.TooSlowError):
                stream.reset()
            finally:
                stream.on_leave = None
                if connection.is_answering:
                    stream.reset()


@asynccontextmanager
async def open_server(limits: Limits | None = None) -> AsyncIterator[Server]:
    """A server for the time of the block."""
    async with trio.open_nursery() as nursery:
        server = Server(limits or Limits())
        nursery.start_soon(server.deadlines.run)
        yield server
        nursery.cancel_scope.cancel()
