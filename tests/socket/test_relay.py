"""The relay as a thing that is opened and closed."""

from __future__ import annotations

import ipaddress
import os
import resource
import time
from collections.abc import Iterator

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.errors import CaptureError
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay(lib.relay_open(ffi.new("struct relay_options *")))
    yield made
    made.close()


def attachment(container: int, interface: int) -> Attachment:
    return Attachment(container, interface, ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


def test_a_number_and_an_interface_of_one_capture_are_one_containers_alone(relay: Relay) -> None:
    relay.add_container(0, attachment(1, 7), Budget())
    relay.add_container(1, attachment(2, 7), Budget())  # the same index, in another capture's namespace
    for taken in (attachment(1, 8), attachment(3, 7)):
        with pytest.raises(CaptureError, match="File exists"):
            relay.add_container(0, taken, Budget())
    relay.remove_container(1)
    relay.add_container(0, attachment(3, 7), Budget())


def test_one_container_of_thousands_is_found_as_fast_as_one_alone(relay: Relay) -> None:
    def seconds() -> float:
        began = time.thread_time()
        for _ in range(5_000):
            relay.count(1)
        return time.thread_time() - began

    relay.add_container(0, attachment(1, 1), Budget())
    alone = seconds()
    for container in range(2, 5_000):
        relay.add_container(0, attachment(container, container), Budget())
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
    for free in range(16):
        before = sorted(os.listdir("/proc/self/fd"), key=int)
        held = [os.dup(0) for _ in range(64)]  # no hole is left below these
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + free, hard))
        try:
            relay = lib.relay_open(options)
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
