"""One program: serves three flows while every call of a kind that touches them fails in the kernel.

`python -m tests.socket.faulty CALL ERRNO`. A seccomp filter makes it fail on Trio's thread alone: the relay's threads
and the client's go on. Exits with 0 if each flow ended, its place and its descriptor are free again, and the
interceptor lives.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
import threading
from typing import Any

import trio

from pyinterceptor import Budget, Container, Response
from tests.conftest import descriptors
from tests.socket.interception import Interception, interception

NUMBERS = {
    "x86_64": {
        **{"ioctl": 16, "sendto": 44, "recvfrom": 45, "getsockname": 51, "setsockopt": 54, "getsockopt": 55},
        **{"epoll_ctl": 233},
    },
    "aarch64": {
        **{"ioctl": 29, "sendto": 206, "recvfrom": 207, "getsockname": 204, "setsockopt": 208, "getsockopt": 209},
        **{"epoll_ctl": 21},
    },
}[platform.machine()]
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
ALLOW, FAIL = 0x7FFF0000, 0x00050000  # linux/seccomp.h
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data
FLOWS = 3


class Faulty(Container):
    budget = Budget(handoffs=1)  # each flow needs the place of the one before


@Faulty.outbound
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("ok")


def fail(call: str, number: int, hub: int) -> None:
    """From now on the call fails on this thread: of epoll_ctl(2) the hub's, of others those on new descriptors."""
    held = max(fd for fd, _ in descriptors())
    while os.dup(0) < held:  # no hole is left below
        pass
    compare = (EQUAL, hub) if call == "epoll_ctl" else (AT_LEAST, held + 1)
    program = b"".join(
        struct.pack("=HBBI", *step)
        for step in (
            (LOAD, 0, 0, NUMBER),
            (EQUAL, 0, 3, NUMBERS[call]),
            (LOAD, 0, 0, FIRST_ARGUMENT),
            (compare[0], 0, 1, compare[1]),
            (RETURN, 0, 0, FAIL | number),
            (RETURN, 0, 0, ALLOW),
        )
    )
    text = ctypes.create_string_buffer(program)
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) == 0, os.strerror(ctypes.get_errno())


def ask(address: tuple[str, int], turn: threading.Semaphore, answers: list[bytes]) -> None:
    for _ in range(FLOWS):
        turn.acquire()
        with socket.create_connection(address, 10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: my.kv\r\nConnection: close\r\n\r\n")
            try:
                answers.append(client.recv(100))
            except ConnectionResetError:
                answers.append(b"")


async def serve(here: Interception, call: str, number: int) -> None:
    await here.interceptor.get_container(Faulty)
    turn, answers = threading.Semaphore(0), list[bytes]()
    client = threading.Thread(target=ask, args=(here.capture.address, turn, answers))
    client.start()
    fail(call, number, here.hub._epoll.fileno())
    before = descriptors()
    (run,) = here.interceptor.runs.values()
    for number_of_flows in range(1, FLOWS + 1):
        turn.release()
        while len(answers) < number_of_flows or run.flows or here.interceptor.count().flows:
            await trio.lowlevel.checkpoint()
        assert here.interceptor.count().handled == number_of_flows, here.interceptor.count()
    client.join()
    assert descriptors() <= before, descriptors() - before
    assert not run.has_ended
    print("answered" if all(answers) else "refused")


async def main(call: str, number: int) -> None:
    with trio.fail_after(20):
        async with interception([Faulty]) as here:
            await serve(here, call, number)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], getattr(errno, sys.argv[2]))
