"""Runs a command on our standard streams and terminal, as if the user had started it directly.

The command has its own process group. Otherwise it could signal us, and a script that called us, because any process
can signal its whole group. So we act as a shell does: we put its group in the terminal's foreground, forward the
signals that we get, and stop when it is stopped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import trio

from pyinterceptor.runtime.process import Running

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
FOR_THE_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH)  # what a terminal sends
FOR_THE_COMMAND = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ASKING = (signal.SIGTTIN, signal.SIGTTOU)  # they stop a process that uses the terminal from the background
# Requests the foreground before the command begins, because some programs check for it only once, at their start.
ASK = ("/bin/sh", "-c", 'kill -TTIN $$; exec "$@"', "sh")

Start = Callable[[Sequence[str]], Awaitable[Running]]


async def until_signalled(main: Callable[[], Awaitable[int]]) -> int:
    """Runs `main`, and cancels it at a signal that would end us. Returns its exit code, or 128+n for signal n.

    Only for the main thread. An exception of `main` is raised inside an exception group.
    """
    ended_by = 0
    code = 0

    async def watch(signals: AsyncIterator[int]) -> None:
        nonlocal ended_by
        async for number in signals:
            ended_by = number
            nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(*_heeded(ENDING)) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, signals)
            code = await main()
            nursery.cancel_scope.cancel()
    return 128 + ended_by if ended_by else code


async def supervise(start: Start) -> int:
    """Starts the command, forwards signals to it until it ends, and returns its exit code.

    `start` gets words to put in front of the command, and must start it in a new process group. Only for the main
    thread, because Python handles signals only there.
    """
    heeded = _heeded((*FOR_THE_GROUP, *FOR_THE_COMMAND))
    with _open_terminal() as terminal, trio.open_signal_receiver(*heeded, signal.SIGCHLD) as signals:
        is_interactive = terminal.is_ours() and os.isatty(0) and os.isatty(1)
        running = await start(ASK if is_interactive else ())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_follow, signals, running, terminal)
                code = await running.wait()
                nursery.cancel_scope.cancel()
        finally:
            await running.aclose()
            terminal.take_back()
    return code


class _Terminal:
    """Our controlling terminal. Borrows its descriptor `fd`, which is None if we have no terminal."""

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        self._is_given = False

    def is_ours(self) -> bool:
        """Whether our process group is in the foreground."""
        return self.fd is not None and os.tcgetpgrp(self.fd) == os.getpgrp()

    def give(self, group: int) -> bool:
        """Puts the group in the foreground if our group is there. Returns whether we have put one there."""
        if self.is_ours():
            self._set(group)
            self._is_given = True
        return self._is_given

    def take_back(self) -> bool:
        """Puts our group in the foreground again if we had put another one there. Returns whether we had."""
        was_given, self._is_given = self._is_given, False
        if was_given:
            self._set(os.getpgrp())
        return was_given

    def _set(self, group: int) -> None:
        assert self.fd is not None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # or tcsetpgrp stops us
        with suppress(OSError):  # the terminal has hung up, or the group has ended
            os.tcsetpgrp(self.fd, group)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _open_terminal() -> Iterator[_Terminal]:
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield _Terminal(None)
        return
    try:
        yield _Terminal(fd)
    finally:
        os.close(fd)


async def _follow(signals: AsyncIterator[int], running: Running, terminal: _Terminal) -> None:
    _stop_with(running, terminal)  # it may have been stopped before we knew its pid
    async for number in signals:
        if number == signal.SIGCHLD:
            _stop_with(running, terminal)
        elif number in FOR_THE_GROUP:
            running.signal_group(number)
        else:
            running.send_signal(number)


def _stop_with(running: Running, terminal: _Terminal) -> None:
    """Handles a stop of the command. If it waits for the foreground, gives it that. If it was stopped for another
    reason, or we don't have the foreground, stops our own group, so that our shell takes over. Then continues it."""
    try:
        stopped = os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WNOHANG)
    except ChildProcessError:
        return
    if stopped is None or terminal.fd is None:
        return
    asks = stopped.si_status in ASKING
    if not (asks and terminal.give(running.pid)):
        was_given = terminal.take_back()
        _stop(signal.SIGSTOP if asks else signal.SIGTSTP)
        if was_given or asks:
            terminal.give(running.pid)
    running.signal_group(signal.SIGCONT)


def _stop(number: signal.Signals) -> None:
    """Stops our group until a shell continues it. If no shell can do that, the kernel ignores SIGTSTP."""
    before = signal.getsignal(signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.killpg(0, number)
    signal.signal(signal.SIGTSTP, before)


def _heeded(numbers: Sequence[signal.Signals]) -> list[signal.Signals]:
    """Returns the signals without those that our caller made us ignore, as nohup(1) does. The command ignores these
    as well."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
