"""A command on our own streams, terminal and signals behaves as if it ran directly."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import trio

RUN = """
import sys, trio
from pyinterceptor.runtime import open_netns_container, run_inherited
async def attach(fd): pass
async def main():
    async with open_netns_container(name="container", attach=attach) as container:
        return await run_inherited(container, sys.argv[1:])
code = trio.run(main)
print("code", code, flush=True)
sys.exit(code)
"""
OURS = [sys.executable, "-c", RUN]
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
# Prints the name of each signal that it gets, and ends with 7 at SIGUSR1.
LISTEN = """
import os, signal, sys
def say(number, frame):
    os.write(1, f"<{signal.Signals(number).name}>\\n".encode())
    if number == signal.SIGUSR1:
        os._exit(7)
for name in "SIGINT SIGTERM SIGHUP SIGQUIT SIGWINCH SIGUSR1".split():
    signal.signal(getattr(signal, name), say)
os.write(1, b"<ready>\\n")
while True:
    signal.pause()
"""


class Terminal:
    """The other end of a pty. `said` holds all bytes read so far."""

    def __init__(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        self.fd = fd
        self.process = process
        self.said = b""

    def until(self, text: bytes) -> None:
        """Reads until `text` has appeared since the last call. Fails after 20 s."""

        async def read() -> None:
            with trio.fail_after(20):
                while text not in self.said[self.seen :]:
                    await trio.lowlevel.wait_readable(self.fd)
                    self.said += os.read(self.fd, 4096)

        self.seen = getattr(self, "end", 0)
        trio.run(read)
        self.end = self.said.index(text, self.seen) + len(text)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)


@contextmanager
def on_terminal(argv: Sequence[str]) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, *argv],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def listening() -> list[str]:
    return [*OURS, "/usr/bin/python3", "-c", LISTEN]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["nonesuch"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_exit_code_is_what_a_shell_would_say(argv: list[str], code: int) -> None:
    ran = subprocess.run([*OURS, *argv], capture_output=True, check=False)
    assert ran.returncode == code
    if code == 127:
        assert ran.stderr == b"pyinterceptor: run nonesuch: command not found\n"


def test_the_standard_streams_are_ours() -> None:
    script = [*OURS, "sh", "-c", "cat; echo err >&2"]
    ran = subprocess.run(script, input=b"given\n", capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"given\ncode 0\n", b"err\n")


def test_ctrl_c_reaches_the_command_once_and_not_us() -> None:
    with on_terminal(listening()) as terminal:
        terminal.until(b"<ready>")
        terminal.type(b"\x03")
        terminal.until(b"<SIGINT>")
        terminal.type(b"\x1c")
        terminal.until(b"<SIGQUIT>")
        os.kill(terminal.process.pid, signal.SIGUSR1)
        terminal.until(b"code 7")
        assert terminal.said.count(b"<SIGINT>") == 1
        assert terminal.said.count(b"<SIGQUIT>") == 1


def test_ctrl_c_ends_a_command_that_does_not_care() -> None:
    with on_terminal([*OURS, "sh", "-c", "echo up; exec sleep 1000"]) as terminal:
        terminal.until(b"up")
        terminal.type(b"\x03")
        terminal.until(b"code 130")
        assert b"Traceback" not in terminal.said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGWINCH"])
def test_a_signal_to_us_alone_is_passed_on_once(name: str) -> None:
    with on_terminal(listening()) as terminal:
        terminal.until(b"<ready>")
        os.kill(terminal.process.pid, getattr(signal, name))
        terminal.until(f"<{name}>".encode())
        os.kill(terminal.process.pid, signal.SIGUSR1)
        terminal.until(b"code 7")
        assert terminal.said.count(f"<{name}>".encode()) == 1


def test_ctrl_z_stops_both_for_the_shell_and_fg_goes_on() -> None:
    script = 'set -m; "$@"; echo "stopped=$?"; fg; echo "ended=$?"'
    with on_terminal(["bash", "-c", script, "bash", *OURS, "sh", "-c", "echo up; read line; exit 5"]) as terminal:
        terminal.until(b"up")
        terminal.type(b"\x1a")
        terminal.until(b"stopped=148")
        terminal.type(b"line\n")
        terminal.until(b"ended=5")


def test_the_terminal_is_the_callers_again_when_the_command_has_ended() -> None:
    script = '"$@"; echo "ended=$?"; read line; echo "read=$line"'
    with on_terminal(["sh", "-c", script, "sh", *OURS, "cat"]) as terminal:
        terminal.type(b"to the command\n\x04")
        terminal.until(b"to the command\r\nto the command")
        terminal.until(b"ended=0")
        terminal.type(b"to the caller\n")
        terminal.until(b"read=to the caller")


def test_a_command_in_a_pipeline_gets_the_terminal_when_it_reads_it() -> None:
    script = "echo piped | \"$@\" sh -c 'cat; read line </dev/tty; echo \"typed=$line\"' | cat; echo after"
    with on_terminal(["sh", "-c", script, "sh", *OURS]) as terminal:
        terminal.until(b"piped")
        terminal.type(b"by hand\n")
        terminal.until(b"typed=by hand")
        terminal.until(b"after")


def test_ctrl_c_ends_a_command_in_a_pipeline() -> None:
    script = "\"$@\" sh -c 'echo up; exec sleep 1000' | (trap '' INT; cat)"
    with on_terminal(["bash", "-c", script, "bash", *OURS]) as terminal:
        terminal.until(b"up")
        terminal.type(b"\x03")
        terminal.until(b"code 130")
        assert b"Traceback" not in terminal.said


def test_a_command_in_the_background_stops_its_job_when_it_reads_the_terminal() -> None:
    script = "set -m; \"$@\" sh -c 'read line; exit 6' & wait $!; echo \"stopped=$?\"; fg; echo \"ended=$?\""
    with on_terminal(["bash", "-c", script, "bash", *OURS]) as terminal:
        terminal.until(b"stopped=147")
        terminal.type(b"line\n")
        terminal.until(b"ended=6")


def test_signals_that_the_caller_ignores_stay_ignored() -> None:
    script = 'trap "" HUP; exec "$@"'
    with on_terminal(["sh", "-c", script, "sh", *OURS, "sh", "-c", "echo up; read line; exit 8"]) as terminal:
        terminal.until(b"up")
        os.kill(terminal.process.pid, signal.SIGHUP)
        terminal.type(b"line\n")
        terminal.until(b"code 8")


def test_a_window_change_arrives() -> None:
    with on_terminal(listening()) as terminal:
        terminal.until(b"<ready>")
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        terminal.until(b"<SIGWINCH>")


def test_nothing_can_be_typed_into_the_terminal_from_inside() -> None:
    script = """
import fcntl, termios
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    print("typed")
except OSError as error:
    print("refused", error.errno)
"""
    probe = ["/usr/bin/python3", "-c", script]
    with on_terminal([*OURS, *probe]) as terminal:
        terminal.until(b"refused 1")
    with on_terminal(probe) as terminal:
        terminal.until(b"typed")
