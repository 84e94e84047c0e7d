"""One Trio task waits for all handed-over sockets, on an epoll of their own.

Trio's own wait_readable re-arms a socket at every wait, which costs more than the read; here each socket is registered
once, edge-triggered, and a ready one's task is rescheduled directly.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress

import trio

from pyinterceptor.relay.stream import HubStream

BATCH = 256  # events taken at once
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Hub:
    """`await hub.run()` in a task of its own; `hub.stream(sock)` for each socket."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._streams: dict[int, HubStream] = {}

    async def run(self) -> None:
        """Wakes the tasks of ready sockets, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, events in self._epoll.poll(0, BATCH):
                stream = self._streams.get(fd)
                if stream is not None:
                    stream.wake(events)

    def close(self) -> None:
        """Closes the epoll. The owners of the streams close those."""
        self._epoll.close()

    def stream(self, sock: socket.socket) -> HubStream:
        """Takes a connected socket, even if the call fails.

        Raises OSError if the socket can't be registered: ENOSPC at the user's limit of watches, epoll(7).
        """
        try:
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), EVENTS)
        except BaseException:
            sock.close()
            raise
        stream = self._streams[sock.fileno()] = HubStream(sock, self._forget)
        return stream

    def _forget(self, fd: int) -> None:
        if self._streams.pop(fd, None) is not None and not self._epoll.closed:
            with suppress(OSError):  # closing a socket has unregistered it
                self._epoll.unregister(fd)
