"""Processes of a container: started from a temporary thread, awaited in Trio.

Namespaces and the system-call filter belong to a thread, and its children inherit them. So a temporary thread enters
the container and starts the process. No other thread of this process ever enters a container.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import trio

from pyinterceptor.arguments import is_text_map
from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.threads import on_own_thread

Stream = int | IO[bytes] | None

NOT_FOUND = 127
NOT_EXECUTABLE = 126
CHUNK = 64 * 1024  # bytes
REAP_TIMEOUT = 5.0  # seconds to wait for a process that should have ended already


class CommandNotRun(RuntimeFailure):
    """The command was not found (`code` 127) or can't be executed (126). The codes are those of POSIX sh(1)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a process that has ended. `returncode` is 128+n if signal n ended it."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as UTF-8, with invalid bytes replaced."""
        return self.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Own:
    """A namespace that only one command and its descendants have.

    `kind` is its name in /proc/PID/ns, and `fd` a descriptor of it.
    """

    kind: str
    fd: int


class Running:
    """A process in a container. `pid` is its number on the host. Its pipes, if requested, are Trio streams."""

    def __init__(self, process: subprocess.Popen[bytes], own: Own | None = None) -> None:
        """Takes the namespace of `own`; None if the process has none."""
        self._process = process
        self._own = own
        self._discarding: set[trio.CancelScope] = set()
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
        """Its pid on the host."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code: None while the process runs, 128+n if signal n ended it."""
        return exit_code(self._process.returncode)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, even if it hasn't been waited for."""
        return self._process.returncode is not None or has_exited(self._pidfd)

    @property
    def is_over(self) -> bool:
        """Whether it has been reaped, and no process that it left running can still write to its pipes."""
        return self._process.returncode is not None and not self._discarding

    async def wait(self) -> int:
        """Waits until the process has ended. Returns its exit code."""
        async with self._reaping:
            if self._process.returncode is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                self._process.wait()
                os.close(self._pidfd)
                if self._own is not None:
                    os.close(self._own.fd)
        code = self.returncode
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Sends the signal to the process. Does nothing if it has ended. Raises ValueError for an unknown signal."""
        if not isinstance(number, int) or number not in signal.valid_signals():
            raise ValueError(f"send_signal takes a signal, as signal.SIGTERM, not {number!r}")
        if self._process.returncode is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def signal_group(self, number: int) -> None:
        """Sends the signal to the process group that the process leads. Does nothing if the process has ended."""
        if self._process.returncode is None:  # not reaped yet, so its number can't belong to another process
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM. Does nothing if the process has ended."""
        self.send_signal(signal.SIGTERM)

    async def aclose(self) -> None:
        """Kills the process if it still runs, reaps it and closes its pipes, even if cancelled.

        A process that the kernel doesn't end within REAP_TIMEOUT is left behind.
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
        """Writes `input`, reads the output and waits for the end.

        The output of processes that the command has left running is discarded from then on, until
        `stop_discarding`. If cancelled, kills the command and all of its descendants.
        """
        gathered = {"stdout": bytearray(), "stderr": bytearray()}
        outputs = {name: stream for name in gathered if (stream := getattr(self, name)) is not None}
        try:
            async with trio.open_nursery() as nursery:
                if self.stdin is not None:
                    nursery.start_soon(_feed, self.stdin, input or b"")
                for name, stream in outputs.items():
                    nursery.start_soon(_gather, stream, gathered[name])
                await self.wait()
                nursery.cancel_scope.cancel()
            left = [stream for name, stream in outputs.items() if not _drain(stream, gathered[name])]
            self.stdout = self.stderr = None
            for stream in outputs.values():
                if stream not in left:
                    await trio.aclose_forcefully(stream)
            for stream in left:
                self._discarding.add(scope := trio.CancelScope())
                trio.lowlevel.spawn_system_task(self._discard, stream, scope)
        finally:
            await self._kill_descendants()
            await self.aclose()
        assert self.returncode is not None
        return Finished(self.returncode, bytes(gathered["stdout"]), bytes(gathered["stderr"]))

    def stop_discarding(self) -> None:
        """Closes the output of processes that the command has left running."""
        for scope in self._discarding:
            scope.cancel()

    async def _discard(self, stream: trio.lowlevel.FdStream, scope: trio.CancelScope) -> None:
        """Reads until the last writer has ended. A closed pipe would end it by SIGPIPE, and a full one block it."""
        async with stream:
            with scope, contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some(CHUNK):
                    pass
        self._discarding.discard(scope)

    async def _kill_descendants(self) -> None:
        """Kills all processes in the command's own namespace, if it still runs. None of them can leave it."""
        if self._process.returncode is not None or self._own is None:
            return
        with trio.move_on_after(REAP_TIMEOUT, shield=True):
            while killed := await trio.to_thread.run_sync(_kill_in, self._own):  # they may have forked meanwhile
                with contextlib.ExitStack() as stack:
                    for pidfd in killed:
                        stack.callback(os.close, pidfd)
                    for pidfd in killed:
                        await trio.lowlevel.wait_readable(pidfd)


class Started:
    """The processes started in a container, which `reap` reaps when it stops."""

    def __init__(self) -> None:
        self._running: list[Running] = []

    def add(self, running: Running) -> Running:
        """Adds a process and returns it."""
        self._running = [earlier for earlier in self._running if not earlier.is_over]
        self._running.append(running)
        return running

    async def reap(self) -> None:
        """Reaps all processes. To be called after the container's end, which ends them too. Their output stays
        readable."""
        for running in self._running:
            running.stop_discarding()
            with trio.move_on_after(REAP_TIMEOUT):
                await running.wait()
            running.send_signal(signal.SIGKILL)
            await running.wait()


def split(argv: str | Sequence[str]) -> list[str]:
    """Returns the words of a command. A string is split as a shell would split it.

    Raises RuntimeFailure if the command is empty or has an open quote, TypeError if it isn't made of str, and
    ValueError if it contains a NUL.
    """
    if not isinstance(argv, str | Sequence) or isinstance(argv, bytes | bytearray):
        raise TypeError(f"a command is a str or a sequence of str, not {argv!r}")
    if wrong := [word for word in argv if not isinstance(word, str | os.PathLike)]:
        raise TypeError(f"a command's words are str, not {type(wrong[0]).__name__}: {wrong[0]!r}")
    if with_nul := [word for word in argv if "\0" in os.fspath(word)]:
        raise ValueError(f"a command's words can't contain a NUL: {with_nul[0]!r}")
    try:
        words = shlex.split(argv) if isinstance(argv, str) else [os.fspath(word) for word in argv]
    except ValueError as error:
        raise RuntimeFailure(f"read the command {argv!r}: {error}") from error
    if not words:
        raise RuntimeFailure("run a command: it is empty")
    return words


def check_environment(env: object) -> None:
    """Raises TypeError or ValueError if a process can't have these variables. None stands for no variables."""
    if env is None:
        return
    if not isinstance(env, Mapping) or not is_text_map(env):
        raise TypeError(f"a command's env maps names to texts, both str, not {env!r}")
    for name, text in env.items():
        if not name or "=" in name or "\0" in name + text:
            raise ValueError(f"a command's env maps names to texts; {name!r}: {text!r} can't be a variable")


def check_stream(stream: object, argument: str) -> None:
    """Raises TypeError if this can't be a process's standard stream."""
    if stream is not None and not isinstance(stream, int) and not hasattr(stream, "fileno"):
        raise TypeError(f"a command's {argument} is a file, a descriptor or one of subprocess's, not {stream!r}")


async def start_process(
    argv: Sequence[str], *, enter: Callable[[], Own | None] = lambda: None, **options: Any
) -> Running:
    """Starts a process from a temporary thread, on which `enter` runs first, for example to enter a container.

    `enter` may return a namespace that it has made for this process.
    `options` are those of subprocess.Popen. Raises CommandNotRun, RuntimeFailure, or an exception of `enter`.
    """

    def work() -> Running:
        with contextlib.ExitStack() as stack:
            own = enter()
            if own is not None:
                stack.callback(os.close, own.fd)
            running = Running(popen(), own)
            stack.pop_all()
        return running

    def popen() -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(argv, **options)
        except FileNotFoundError as error:
            raise CommandNotRun(f"run {argv[0]}: command not found", NOT_FOUND) from error
        except subprocess.SubprocessError as error:
            raise RuntimeFailure(f"run {argv[0]}: its process can't be given its user and its cgroup") from error
        except OSError as error:
            if error.filename is not None:  # execve(2) has failed, not an earlier step
                raise CommandNotRun(f"run {argv[0]}: {error.strerror}", NOT_EXECUTABLE) from error
            raise RuntimeFailure(f"run {argv[0]}: {error.strerror}") from error

    return await trio.to_thread.run_sync(on_own_thread, work)


def has_exited(pidfd: int) -> bool:
    """Whether the process has ended. Uses poll(2): select(2) takes no descriptor above 1023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def exit_code(returncode: int | None) -> int | None:
    """Converts Popen's return code to a shell's exit code: 128+n for signal n."""
    return 128 - returncode if returncode is not None and returncode < 0 else returncode


async def _feed(stream: trio.abc.SendStream, data: bytes) -> None:
    """Writes the data and closes the stream. As in a shell's pipe, it is no error if the reader has closed its end."""
    async with stream:
        try:
            await stream.send_all(data)
        except trio.BrokenResourceError:
            return


async def _gather(stream: trio.lowlevel.FdStream, gathered: bytearray) -> None:
    while chunk := await stream.receive_some(CHUNK):
        gathered += chunk


def _drain(stream: trio.lowlevel.FdStream, gathered: bytearray) -> bool:
    """Reads the bytes that the pipe holds. Returns whether no process can write more."""
    # As much as a pipe may hold, since a process that goes on writing could keep us here: fcntl(2), F_SETPIPE_SZ.
    for _ in range(fcntl.fcntl(stream.fileno(), fcntl.F_GETPIPE_SZ) // CHUNK + 1):
        try:
            chunk = os.read(stream.fileno(), CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            return True
        gathered += chunk
    return False


def _kill_in(own: Own) -> list[int]:
    """Kills the processes in a namespace. Returns a pidfd of each."""
    killed: list[int] = []
    namespace = os.fstat(own.fd)
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # OSError: it has ended
            pidfd = os.pidfd_open(int(entry.name))
            stack.callback(os.close, pidfd)
            if os.path.samestat(os.stat(f"/proc/{entry.name}/ns/{own.kind}"), namespace):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                stack.pop_all()
                killed.append(pidfd)
    return killed
