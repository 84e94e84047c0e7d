"""Processes of a workload: started from a thread of their own, awaited in Trio.

A thread's namespaces and system-call filter are its own, and what it starts inherits them. So entering a
container is done by a thread that lives just as long, and our process never enters anything.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.threads import on_own_thread

Stream = int | IO[bytes] | None

NOT_FOUND = 127
NOT_EXECUTABLE = 126
CHUNK = 64 * 1024  # bytes
REAP_TIMEOUT = 5.0  # seconds, for what should have ended already


class CommandNotRun(RuntimeFailure):
    """The command isn't there (`code` 127) or can't be executed (126), as in POSIX sh(1)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended. `returncode` is 128+n where signal n ended it."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as UTF-8, what isn't replaced."""
        return self.stdout.decode(errors="replace")


class Running:
    """A process inside, by its pid on the host. Its pipes, where asked for, are Trio streams."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._reaping = trio.Lock()
        self.stdin, self.stdout, self.stderr = (
            None if pipe is None else trio.lowlevel.FdStream(os.dup(pipe.fileno()))
            for pipe in (process.stdin, process.stdout, process.stderr)
        )
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; 128+n where signal n ended it."""
        return exit_code(self._process.returncode)

    @property
    def has_ended(self) -> bool:
        """Whether it has, also before anybody waits."""
        return self._process.returncode is not None or bool(select.select([self._pidfd], [], [], 0)[0])

    async def wait(self) -> int:
        """Until it has ended; returns its exit code."""
        async with self._reaping:
            if self._process.returncode is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                self._process.wait()
                os.close(self._pidfd)
        code = self.returncode
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self._process.returncode is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def signal_group(self, number: int) -> None:
        """To all of the process group that it leads; nothing happens if it has ended."""
        if self._process.returncode is None:  # not reaped, so its number is nobody else's
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def aclose(self) -> None:
        """Kills it if it still runs, reaps it, closes its pipes; also when cancelled.

        A process that the kernel doesn't end in REAP_TIMEOUT is left behind.
        """
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        with trio.move_on_after(REAP_TIMEOUT, shield=True):
            await self.wait()
        with trio.CancelScope(shield=True):
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)

    async def finish(self, input: bytes | None) -> Finished:
        """Feeds `input`, gathers the output, waits. Killed if cancelled."""
        gathered: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        try:
            async with trio.open_nursery() as nursery:
                if self.stdin is not None:
                    nursery.start_soon(_feed, self.stdin, input or b"")
                for name in gathered:
                    stream = getattr(self, name)
                    if stream is not None:
                        nursery.start_soon(_gather, stream, name, gathered)
            await self.wait()
        finally:
            await self.aclose()
        assert self.returncode is not None
        return Finished(self.returncode, gathered["stdout"], gathered["stderr"])


class Started:
    """The processes that a container has started, so that none is left unreaped when it stops."""

    def __init__(self) -> None:
        self._running: list[Running] = []

    def add(self, running: Running) -> Running:
        """Notes it; returns it."""
        self._running = [earlier for earlier in self._running if earlier.returncode is None]
        self._running.append(running)
        return running

    async def reap(self) -> None:
        """Once the container has ended and they with it. Their output can still be read."""
        for running in self._running:
            with trio.move_on_after(REAP_TIMEOUT):
                await running.wait()
            running.send_signal(signal.SIGKILL)
            await running.wait()


def split(argv: str | Sequence[str]) -> list[str]:
    """A string is split as a shell would.

    Raises: RuntimeFailure if it is empty or a quote is left open; TypeError if it isn't made of str.
    """
    if not isinstance(argv, str | Sequence) or isinstance(argv, bytes | bytearray):
        raise TypeError(f"a command is a str or a sequence of str, not {argv!r}")
    if wrong := [word for word in argv if not isinstance(word, str | os.PathLike)]:
        raise TypeError(f"a command's words are str, not {type(wrong[0]).__name__}: {wrong[0]!r}")
    try:
        words = shlex.split(argv) if isinstance(argv, str) else [os.fspath(word) for word in argv]
    except ValueError as error:
        raise RuntimeFailure(f"read the command {argv!r}: {error}") from error
    if not words:
        raise RuntimeFailure("run a command: it is empty")
    return words


async def start_process(
    argv: Sequence[str], *, enter: Callable[[], None] = lambda: None, **options: Any
) -> Running:
    """Starts it from a thread of its own, after `enter` has put that thread where it belongs.

    `options` are subprocess.Popen's. Raises: CommandNotRun, RuntimeFailure, and what `enter` raises.
    """

    def work() -> subprocess.Popen[bytes]:
        enter()
        try:
            return subprocess.Popen(argv, **options)
        except FileNotFoundError as error:
            raise CommandNotRun(f"run {argv[0]}: command not found", NOT_FOUND) from error
        except OSError as error:
            if error.filename is not None:  # it is execve(2) that failed
                raise CommandNotRun(f"run {argv[0]}: {error.strerror}", NOT_EXECUTABLE) from error
            raise RuntimeFailure(f"run {argv[0]}: {error.strerror}") from error

    return Running(await trio.to_thread.run_sync(on_own_thread, work))


def exit_code(returncode: int | None) -> int | None:
    """As a shell says it: 128+n for signal n."""
    return 128 - returncode if returncode is not None and returncode < 0 else returncode


async def _feed(stream: trio.abc.SendStream, data: bytes) -> None:
    """Writes it all and closes; a reader that has gone is no error, as for a shell's pipe."""
    async with stream:
        try:
            await stream.send_all(data)
        except trio.BrokenResourceError:
            return


async def _gather(stream: trio.abc.ReceiveStream, name: str, gathered: dict[str, bytes]) -> None:
    chunks = bytearray()
    async with stream:
        async for chunk in stream:
            chunks += chunk
    gathered[name] = bytes(chunks)
