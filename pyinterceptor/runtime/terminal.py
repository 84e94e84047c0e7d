"""A command on our own standard streams and terminal, as if our process weren't there.

The command stays in our process group, so the terminal's Ctrl-C reaches it without us, and a pipeline
around us keeps working. We outlive such signals, pass on what was sent to us alone, and stop when the
command is stopped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from pyinterceptor.runtime.process import Running

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
SIGINFO = 128  # bytes of a struct signalfd_siginfo
SI_KERNEL = 0x80  # the terminal sent it, to the whole group
SFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK


async def supervise(start: Callable[[], Awaitable[Running]]) -> int:
    """Starts the command with our signals held back, waits for it; returns its exit code.

    The main thread's work: Python delivers signals nowhere else.
    """
    with _signal_descriptor() as descriptor, trio.open_signal_receiver(*SIGNALS, signal.SIGCHLD) as stray:
        running = await start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_follow, descriptor, running)
                nursery.start_soon(_follow_stray, stray, running)
                code = await running.wait()
                nursery.cancel_scope.cancel()
        finally:
            await running.aclose()
    return code


@contextmanager
def _signal_descriptor() -> Iterator[int]:
    """A signalfd(2), which unlike a handler tells who sent the signal."""
    libc = ctypes.CDLL(None, use_errno=True)
    blocked = {*SIGNALS, signal.SIGCHLD}
    mask = struct.pack("Q", sum(1 << (number - 1) for number in blocked)).ljust(128, b"\0")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    descriptor = libc.signalfd(-1, mask, SFD_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _follow(descriptor: int, running: Running) -> None:
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        with suppress(BlockingIOError):
            info = os.read(descriptor, SIGINFO)
            number, _, code, sender = struct.unpack_from("IiiI", info)
            if number == signal.SIGCHLD:
                _stop_with(running)
            elif code != SI_KERNEL and not _is_of_our_group(sender):
                _pass_on(number, running)


async def _follow_stray(stray: object, running: Running) -> None:
    """Signals that another thread of ours took: the terminal's, if we are in its foreground, or else ours."""
    async for number in stray:  # type: ignore[attr-defined]
        if number == signal.SIGCHLD:
            _stop_with(running)
        elif number == signal.SIGTERM or not _is_in_foreground():
            _pass_on(number, running)


def _stop_with(running: Running) -> None:
    """If the command has been stopped, stop as well, so that the shell sees it; go on together."""
    try:
        stopped = os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WNOHANG)
    except ChildProcessError:
        return
    if stopped is not None:
        os.kill(os.getpid(), signal.SIGSTOP)
        _pass_on(signal.SIGCONT, running)


def _pass_on(number: int, running: Running) -> None:
    with suppress(ProcessLookupError):
        running.send_signal(number)


def _is_of_our_group(sender: int) -> bool:
    """Such a sender signals its whole group (`kill 0`), and the command is in it."""
    try:
        return sender not in (0, os.getpid()) and os.getpgid(sender) == os.getpgrp()
    except ProcessLookupError:
        return False


def _is_in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
