"""A socket of the hub as a Trio stream.

A task parks only where a system call would block. The epoll reports every change once: after a short read the socket is
empty until the next report. Every CHECKPOINT_EVERY-th call in a row that did not wait runs a checkpoint first, so that
a busy connection lets other tasks run and can be cancelled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from functools import partial

import trio

RECEIVE = 65536  # bytes of one read
SPARSE = 1024  # bytes that end the wait of `receive_sparsely`
CHECKPOINT_EVERY = 16  # calls
RESET = select.EPOLLHUP | select.EPOLLERR
LEFT = RESET | select.EPOLLRDHUP
READABLE = LEFT | select.EPOLLIN
WRITABLE = RESET | select.EPOLLOUT
AT_ONCE = struct.pack("ii", 1, 0)  # struct linger, socket(7): close with a reset


class HubStream(trio.abc.HalfCloseableStream):
    """A Trio stream over a socket, which it takes. Made by `Hub.stream`.

    `has_left`: the peer has closed or reset its side. `on_leave(is_reset)` is called when the epoll reports that.
    """

    def __init__(self, sock: socket.socket, forget: Callable[[int], None]) -> None:
        self.socket = sock
        self.has_left = False
        self.on_leave: Callable[[bool], None] | None = None
        self._forget = forget
        self._may_have_bytes = True
        self._may_take_bytes = False
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self._calls = 0

    def wake(self, events: int) -> None:
        """Handles epoll events of the socket."""
        if events & READABLE:
            self._may_have_bytes = True
            if self._reader is not None:
                task, self._reader = self._reader, None
                trio.lowlevel.reschedule(task)
        if events & WRITABLE:
            self._may_take_bytes = True
            if self._writer is not None:
                task, self._writer = self._writer, None
                trio.lowlevel.reschedule(task)
        if events & LEFT:
            self.has_left = True
            if self.on_leave is not None:
                self.on_leave(bool(events & RESET))

    def has_unread(self) -> bool:
        """Whether unread bytes have arrived."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receives up to `max_bytes`; b"" at the end. Raises as trio.abc.ReceiveStream does."""
        if self._reader is not None:
            raise trio.BusyResourceError("another task reads from this connection")
        self._calls += 1
        if self._calls % CHECKPOINT_EVERY == 0:  # before the read: a later cancellation would lose its bytes
            await trio.lowlevel.checkpoint()
        most = RECEIVE if max_bytes is None else max_bytes
        while True:
            if not self._may_have_bytes:
                self._calls = 0
                self._reader = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_reader)
            try:
                data = self.socket.recv(most)
            except BlockingIOError:
                self._may_have_bytes = False
            except OSError as error:
                raise self._failure("read", error) from error
            else:
                self._may_have_bytes = len(data) == most or self.has_left
                return data

    async def receive_sparsely(self, seconds: float) -> bytes | None:
        """Waits up to `seconds` for SPARSE bytes or the end; fewer don't wake the task (SO_RCVLOWAT, socket(7)).

        Returns the bytes that have arrived; None if none have. Raises as `receive_some` does.
        """
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, SPARSE)
            with trio.move_on_after(seconds):
                return await self.receive_some()
            return self.socket.recv(RECEIVE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._failure("read", error) from error
        finally:
            self._may_have_bytes = True  # the epoll reports nothing for fewer than SPARSE bytes
            with contextlib.suppress(OSError):  # the socket was closed meanwhile
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all bytes. Raises as trio.abc.SendStream does."""
        if self._writer is not None:
            raise trio.BusyResourceError("another task writes to this connection")
        self._calls += 1
        if self._calls % CHECKPOINT_EVERY == 0:
            await trio.lowlevel.checkpoint()
        rest = data
        while True:
            try:
                sent = self.socket.send(rest)
            except BlockingIOError:
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_writer)
            except OSError as error:
                raise self._failure("write", error) from error
            else:
                if sent == len(rest):
                    return
                rest = memoryview(rest)[sent:]

    async def send_file(self, file: int, offset: int, count: int) -> int:
        """Sends up to `count` bytes of a file from `offset` on; returns their number, 0 at its end. See sendfile(2).

        A thread waits for the disk. Raises OSError if the file can't be read; else as trio.abc.SendStream does.
        """
        if self._writer is not None:
            raise trio.BusyResourceError("another task writes to this connection")
        while True:
            self._may_take_bytes = False
            send = partial(os.sendfile, self.socket.fileno(), file, offset, count)
            try:
                return await trio.to_thread.run_sync(send)
            except BlockingIOError:
                if not self._may_take_bytes:  # otherwise the socket became writable before the thread's result arrived
                    self._writer = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._abort_writer)
            except OSError as error:
                if error.errno == errno.EIO:
                    raise
                raise self._failure("write", error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Returns at once, since a send that would block waits by itself."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Closes the sending side. Reading stays possible."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._failure("close for writing", error) from error
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """Closes the stream; a waiting task gets ClosedResourceError. A second call does nothing."""
        if self.socket.fileno() < 0:
            return
        self.on_leave = None
        self._forget(self.socket.fileno())
        self.socket.close()
        self.wake(select.EPOLLIN | select.EPOLLOUT)

    def reset(self) -> None:
        """Closes with a reset, so that the peer can't mistake the sent bytes for a complete message."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.close_nowait()

    async def aclose(self) -> None:
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def _failure(self, step: str, error: OSError) -> Exception:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError("this connection was closed here")
        return trio.BrokenResourceError(f"{step}: {error.strerror}")

    def _abort_reader(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _abort_writer(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED
