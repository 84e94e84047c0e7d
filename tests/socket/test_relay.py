"""Opening and closing the relay."""

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
from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Options, Relay, open_relay
from tests.socket.loopback import in_trio
from tests.socket.passage import CONTAINER, LO, NEAR, OPEN, passage


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay(lib.relay_open(ffi.new("struct relay_options *", {"reserve": 1})))
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


def test_a_relay_without_enough_descriptors_fails_and_closes_none_of_its_callers() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    options = ffi.new("struct relay_options *")
    options.threads = 2
    outcomes = []
    for free in range(16):
        before = sorted(os.listdir("/proc/self/fd"), key=int)
        held = [os.dup(0) for _ in range(64)]  # no lower number is free
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
    assert outcomes == sorted(outcomes)  # it opens once there are enough
    assert not outcomes[0]
    assert outcomes[-1]


def test_options_of_zero_take_the_documented_defaults() -> None:
    given = ffi.new("struct relay_options *")
    relay = lib.relay_open(given)
    effective = lib.relay_options_of(relay)
    lib.relay_close(relay)
    names = ("opening_deadline", "sniff_wait", "idle_deadline", "dial_deadline", "linger_deadline", "close_deadline")
    names += ("settle_deadline",)
    assert [getattr(effective, name) for name in names] == [10.0, 0.5, 3600.0, 15.0, 120.0, 10.0, 0.5]
    assert ffi.string(effective.content_methods) == b""
    assert effective.threads in {1, 2}
    files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1_000_000)
    assert effective.flows == files * 3 // 8
    assert effective.descriptors == files * 3 // 4
    assert effective.reserve == max(effective.flows // 1000, 1)


@in_trio
async def test_the_methods_of_content_are_known_to_python_too() -> None:
    async with open_relay(Options()) as relay:
        assert not relay.content_methods
    async with open_relay(Options(content_methods="ACL, LOCK")) as relay:
        assert relay.content_methods == {"ACL", "LOCK"}


def test_options_that_are_given_stay() -> None:
    given = ffi.new("struct relay_options *", (3, 7, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, b"LOCK,ACL", 70, 2))
    relay = lib.relay_open(given)
    assert ffi.buffer(ffi.new("struct relay_options *", lib.relay_options_of(relay)))[:] == ffi.buffer(given)[:]
    lib.relay_close(relay)


@in_trio
async def test_a_budget_of_zero_takes_the_documented_defaults() -> None:
    """A budget of nothing would refuse every connection."""
    async with passage() as opened:
        opened.relay.remove_container(CONTAINER)
        to = ffi.new("struct attachment *", {"capture": 0, "interface": LO})
        to.v4 = packed(NEAR)
        assert lib.relay_add_container(opened.relay._handle, CONTAINER, to, ffi.new("struct relay_budget *")) == 0
        opened.publish(OPEN)
        opened.publish_address()
        for _ in range(3):
            opened.pair()
        assert opened.relay.count(CONTAINER).over_budget == 0
