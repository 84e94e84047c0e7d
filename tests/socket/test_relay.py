"""The relay as a thing that is opened and closed."""

from __future__ import annotations

import ipaddress
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.errors import CaptureError
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    options = ffi.new("struct relay_options *")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Relay(lib.relay_open(listener.fileno(), options))
        yield made
        made.close()


def test_one_container_of_thousands_is_found_as_fast_as_one_alone(relay: Relay) -> None:
    v4, v6 = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")

    def seconds() -> float:
        began = time.thread_time()
        for _ in range(5_000):
            relay.count(1)
        return time.thread_time() - began

    relay.add_container(1, v4, v6, Budget())
    alone = seconds()
    for container in range(2, 5_000):
        relay.add_container(container, v4, v6, Budget())
    assert seconds() < 3 * alone
    for container in range(1, 5_000):
        relay.remove_container(container)
        with pytest.raises(CaptureError):
            relay.remove_container(container)


def test_a_relay_that_finds_too_few_descriptors_says_so_and_closes_none_of_its_callers() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    options = ffi.new("struct relay_options *")
    options.threads = 2
    outcomes = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for free in range(16):
            before = sorted(os.listdir("/proc/self/fd"), key=int)
            held = [os.dup(0) for _ in range(64)]  # no hole is left below these
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + free, hard))
            try:
                relay = lib.relay_open(listener.fileno(), options)
                outcomes.append(relay != ffi.NULL)
                if relay != ffi.NULL:
                    lib.relay_close(relay)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in held:
                os.close(fd)
            assert sorted(os.listdir("/proc/self/fd"), key=int) == before
    assert outcomes == sorted(outcomes)  # with enough of them it opens
    assert not outcomes[0]
    assert outcomes[-1]
