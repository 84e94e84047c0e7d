"""Questions about routes: an answer is trusted only if the kernel sent it, to this question."""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.policy.addresses import packed

NEWROUTE, GETROUTE, ERROR, DONE = 24, 26, 2, 3  # linux/rtnetlink.h, linux/netlink.h
UNICAST, LOCAL = 1, 2
UNICAST_V4 = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 0, 0, UNICAST, 0)
LOCAL_V4 = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 255, 0, 0, LOCAL, 0)
UNICAST_V6 = struct.pack("=BBBBBBBBI", socket.AF_INET6, 128, 0, 0, 254, 0, 0, UNICAST, 0)
PATIENCE = 10.0

Answers = Callable[[int], list[bytes]]


def message(kind: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def error(sequence: int, number: int) -> bytes:
    return message(ERROR, sequence, struct.pack("=i", -number) + bytes(16))


def asked(address: str, netlink: int) -> int:
    to = ffi.new("struct endpoint *")
    to.address = packed(ipaddress.ip_address(address))
    return int(lib.route_to(netlink, to))


@contextmanager
def answering(answers: Answers) -> Iterator[socket.socket]:
    """Yields a socket on which each question gets these answers, made from its sequence number."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve() -> None:
        while question := theirs.recv(4096):
            kind, _, sequence, _ = struct.unpack_from("=HHII", question, 4)
            assert kind == GETROUTE
            for answer in answers(sequence):
                theirs.send(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours, theirs:
            yield ours
            ours.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
    finally:
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("answers", "route"),
    [
        (lambda n: [message(NEWROUTE, n, UNICAST_V4)], lib.ROUTE_UNICAST),
        (lambda n: [message(NEWROUTE, n, LOCAL_V4)], lib.ROUTE_OTHER),
        (lambda n: [error(n, errno.ENETUNREACH)], lib.ROUTE_NONE),
        (lambda n: [error(n, errno.EHOSTUNREACH)], lib.ROUTE_NONE),
        (lambda n: [error(n, errno.EPERM)], lib.ROUTE_UNKNOWN),
        (lambda n: [error(n, errno.EINVAL)], lib.ROUTE_UNKNOWN),
        (lambda n: [error(n, 0)], lib.ROUTE_UNKNOWN),
        (lambda n: [error(n, errno.ENETUNREACH)[:24]], lib.ROUTE_UNKNOWN),
        (lambda n: [message(ERROR, n, struct.pack("=i", -errno.ENETUNREACH))], lib.ROUTE_UNKNOWN),
        (lambda n: [message(NEWROUTE, n, UNICAST_V4)[:-1]], lib.ROUTE_UNKNOWN),
        (lambda n: [message(NEWROUTE, n, UNICAST_V4[:8])], lib.ROUTE_UNKNOWN),
        (lambda n: [message(NEWROUTE, n, UNICAST_V6)], lib.ROUTE_UNKNOWN),
        (lambda n: [message(NEWROUTE + 1, n, UNICAST_V4)], lib.ROUTE_UNKNOWN),
        (lambda n: [message(DONE, n, UNICAST_V4)], lib.ROUTE_UNKNOWN),
        (lambda n: [b"\x10"], lib.ROUTE_UNKNOWN),
        (lambda n: [message(NEWROUTE, n - 1, UNICAST_V4)], lib.ROUTE_UNKNOWN),
        (lambda n: [], lib.ROUTE_UNKNOWN),
        (lambda n: [message(NEWROUTE, n - 1, UNICAST_V4), message(NEWROUTE, n, LOCAL_V4)], lib.ROUTE_OTHER),
        (lambda n: [error(n + 1, errno.ENETUNREACH), message(NEWROUTE, n, UNICAST_V4)], lib.ROUTE_UNICAST),
    ],
)
def test_only_a_whole_answer_to_this_question_counts(answers: Answers, route: int) -> None:
    with answering(answers) as netlink:
        assert asked("203.0.113.1", netlink.fileno()) == route


def test_a_stale_answer_is_not_taken_for_the_next_ones() -> None:
    """The first question's answer comes after the second question."""
    late: list[bytes] = []

    def answers(sequence: int) -> list[bytes]:
        if not late:
            late.append(message(NEWROUTE, sequence, UNICAST_V4))
            return []
        return [*late, message(NEWROUTE, sequence, LOCAL_V4)]

    with answering(answers) as netlink:
        assert asked("203.0.113.1", netlink.fileno()) == lib.ROUTE_UNKNOWN
        assert asked("203.0.113.2", netlink.fileno()) == lib.ROUTE_OTHER


def test_a_socket_that_is_closed_or_full_gives_no_route() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.close()
        assert asked("203.0.113.1", ours.fileno()) == lib.ROUTE_UNKNOWN
    assert asked("203.0.113.1", -1) == lib.ROUTE_UNKNOWN


def test_an_address_is_refused_where_the_kernel_cannot_be_asked() -> None:
    relay = lib.relay_open(ffi.new("struct relay_options *"))
    to = ffi.new("struct endpoint *")
    to.address = packed(ipaddress.ip_address("203.0.113.1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        before = lib.relay_may_dial(relay, 0, to, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        assert lib.relay_may_dial(relay, 0, to, 0) == lib.DIAL_REFUSED
        assert before in {lib.DIAL_PERMITTED, lib.DIAL_UNREACHABLE}  # of this machine
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        lib.relay_close(relay)


def test_the_kernel_knows_its_own_address() -> None:
    netlink = lib.route_open()
    try:
        assert asked("127.0.0.1", netlink) == lib.ROUTE_OTHER
    finally:
        os.close(netlink)


def test_no_process_can_answer_for_the_kernel() -> None:
    with socket.socket(fileno=lib.route_open()) as netlink:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as other:
            other.bind((0, 0))
            with pytest.raises((ConnectionRefusedError, PermissionError)):
                other.sendto(message(NEWROUTE, 1, UNICAST_V4), (netlink.getsockname()[0], 0))
        with pytest.raises(BlockingIOError):
            netlink.recv(64, socket.MSG_DONTWAIT)
