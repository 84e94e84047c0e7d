"""A socket of the hub as a Trio stream.

The system call is tried first; a task parks only where it would block. So that a busy connection starves nobody, every
CHECKPOINT_EVERY-th call that didn't block gives them their turn (and a place to be cancelled).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import trio

RECEIVE = 65536  # bytes of one read
CHECKPOINT_EVERY = 16  # calls
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
LEFT = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class HubStream(trio.abc.HalfCloseableStream):
    """Made by `Hub.stream`. Takes the socket."""

    def __init__(self, sock: socket.socket, forget: Callable[[int], None]) -> None:
        self.socket = sock
        self._forget = forget
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self._calls = 0
        self._has_left = False
        self._gone: Callable[[], None] | None = None

    def wake(self, events: int) -> None:
        """The hub saw these epoll events."""
        if events & READABLE and self._reader is not None:
            task, self._reader = self._reader, None
            trio.lowlevel.reschedule(task)
        if events & WRITABLE and self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)
        if events & LEFT:
            self._has_left = True
            self._tell()

    def on_peer_gone(self, callback: Callable[[], None] | None) -> None:
        """Calls back, once, when the peer has closed or reset and no unread byte waits; None: no more."""
        self._gone = callback
        if callback is not None and self._has_left:
            self._tell()

    def _tell(self) -> None:
        if self._gone is None:
            return
        try:
            unread = self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            unread = b""
        if not unread:
            callback, self._gone = self._gone, None
            callback()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Up to `max_bytes`; b"" at the end. Raises as trio.abc.ReceiveStream says."""
        if self._reader is not None:
            raise trio.BusyResourceError("another task reads from this connection")
        while True:
            self._check_open()
            try:
                data = self.socket.recv(RECEIVE if max_bytes is None else max_bytes)
            except BlockingIOError:
                await self._park_reader()
            except OSError as error:
                raise trio.BrokenResourceError(f"read: {error.strerror}") from error
            else:
                await self._maybe_checkpoint()
                return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """All of it, or raises as trio.abc.SendStream says."""
        if self._writer is not None:
            raise trio.BusyResourceError("another task writes to this connection")
        rest = memoryview(data)
        while True:
            self._check_open()
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                await self._park_writer()
            except OSError as error:
                raise trio.BrokenResourceError(f"write: {error.strerror}") from error
            if not rest:
                await self._maybe_checkpoint()
                return

    async def wait_send_all_might_not_block(self) -> None:
        """Returns at once: a send that would block waits by itself."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self._check_open()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(f"close for writing: {error.strerror}") from error
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """Closes; a task that waits in it gets ClosedResourceError. Again: nothing."""
        if self.socket.fileno() < 0:
            return
        self._gone = None
        self._forget(self.socket.fileno())
        self.socket.close()
        self.wake(READABLE & ~LEFT | WRITABLE & ~LEFT)

    async def aclose(self) -> None:
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this connection was closed here")

    async def _maybe_checkpoint(self) -> None:
        self._calls += 1
        if self._calls % CHECKPOINT_EVERY == 0:
            await trio.lowlevel.checkpoint()

    async def _park_reader(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._reader = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _park_writer(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
