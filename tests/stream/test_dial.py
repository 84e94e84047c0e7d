"""The order in which a name's addresses are dialled, and the addresses that never are."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from pyinterceptor.errors import DialRefused, FetchError, OtherRule
from pyinterceptor.http.dial import MAX_ADDRESSES, OPEN_ATTEMPTS, Decides, Descriptors, Dialer, interleaved
from tests.stream.dialogue import in_trio

NAMES: dict[str, tuple[list[str], list[str]]] = {
    "both.example": (["198.51.100.1", "198.51.100.2"], ["2001:db8::1"]),
    "v4.example": (["198.51.100.1"], []),
    "inside.example": (["10.0.0.1"], ["::1"]),
    "half.example": (["198.51.100.1", "10.0.0.1"], []),
    "none.example": ([], []),
}


class Net:
    """The fate of each address: seconds until it connects (0 by default), or the errno with which it fails."""

    def __init__(self) -> None:
        self.after: dict[str, float] = {}
        self.errors: dict[str, int] = {}
        self.dials: list[tuple[str, float]] = []
        self.resolved: list[str] = []
        self.resolving = 0.0
        self.closed: list[str] = []
        self.open = self.most_open = 0
        self.descriptors: Descriptors | None = None
        self._peers: list[socket.socket] = []

    async def resolve(self, host: str) -> Any:
        self.resolved.append(host)
        await trio.sleep(self.resolving)
        v4, v6 = NAMES[host]
        return SimpleNamespace(v4=v4, v6=v6)

    async def connect(self, ip: str, port: int) -> socket.socket:
        self.dials.append((ip, trio.current_time() - self.began))
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            await trio.sleep(self.after.get(ip, 0))
        finally:
            self.open -= 1
        if ip in self.errors:
            raise OSError(self.errors[ip], os.strerror(self.errors[ip]))
        ours, theirs = socket.socketpair()
        self._peers.append(theirs)
        self.connected = ip
        return ours

    async def dial(
        self,
        host: str,
        port: int = 80,
        local: bool = False,
        at: str | None = None,
        decides: Decides | None = None,
    ) -> list[tuple[str, float]]:
        """Dials and closes everything. Returns each address with the time at which it was tried."""
        dialer = Dialer(
            resolve=self.resolve,
            may_dial=lambda ip, port, local: local or not ip.startswith(("10.", "::1", "127.")),
            make_stream=lambda made: made,  # type: ignore[arg-type,return-value]
            connect=self.connect,
            descriptors=self.descriptors,
        )
        self.began = trio.current_time()
        try:
            dialled = await dialer(host, port, local, at, decides)
            dialled.stream.close()  # type: ignore[attr-defined]
            assert dialled.ip == self.connected
        finally:
            for peer in self._peers:
                peer.settimeout(0)
                assert peer.recv(1) == b""  # every other connection was closed, too
                peer.close()
        return self.dials


@in_trio
async def test_v6_has_a_head_start_of_250_ms() -> None:
    net = Net()
    net.after = {"2001:db8::1": 10, "198.51.100.1": 10}
    assert await net.dial("both.example") == [("2001:db8::1", 0), ("198.51.100.1", 0.25), ("198.51.100.2", 0.5)]
    assert net.connected == "198.51.100.2"


@in_trio
async def test_an_address_that_refuses_makes_way_at_once() -> None:
    net = Net()
    net.errors = {"2001:db8::1": errno.ECONNREFUSED}
    assert await net.dial("both.example") == [("2001:db8::1", 0), ("198.51.100.1", 0)]


@in_trio
async def test_the_first_that_connects_is_kept_and_the_rest_closed() -> None:
    net = Net()
    net.after = {"2001:db8::1": 0.26, "198.51.100.1": 0.005, "198.51.100.2": 1}
    await net.dial("both.example")
    assert net.connected == "198.51.100.1"


@in_trio
async def test_the_error_names_every_failure() -> None:
    net = Net()
    net.errors = {"2001:db8::1": errno.ENETUNREACH, "198.51.100.1": errno.ECONNREFUSED}
    net.errors["198.51.100.2"] = errno.EHOSTUNREACH
    with pytest.raises(FetchError) as caught:
        await net.dial("both.example", 8080)
    assert "connect to [2001:db8::1]:8080: network is unreachable" in str(caught.value)
    assert "connect to 198.51.100.1:8080: connection refused" in str(caught.value)
    assert "connect to 198.51.100.2:8080: no route to host" in str(caught.value)


@in_trio
async def test_nobody_answering_is_a_time_out_of_15_seconds() -> None:
    net = Net()
    net.after = {"198.51.100.1": 1000}
    with pytest.raises(FetchError, match=r"connect to 198\.51\.100\.1:80: timed out"):
        await net.dial("v4.example")
    assert trio.current_time() - net.began == 15


@in_trio
async def test_three_attempts_are_open_at_once_and_every_address_has_its_turn() -> None:
    net = Net()
    dead = [f"198.51.100.{number}" for number in range(100, 115)]
    net.after = dict.fromkeys(dead, 1000)
    NAMES["dead.example"] = ([*dead, "198.51.100.7"], [])
    dials = await net.dial("dead.example")
    assert net.connected == "198.51.100.7"
    assert net.most_open == OPEN_ATTEMPTS == 3
    assert [ip for ip, _ in dials] == NAMES["dead.example"][0]


@in_trio
async def test_a_name_without_an_address_is_an_error() -> None:
    with pytest.raises(FetchError, match=r"resolve none\.example: the name has no address"):
        await Net().dial("none.example")


@pytest.mark.parametrize("host", ["inside.example", "10.0.0.1", "::1", "127.0.0.1"])
@in_trio
async def test_guarded_addresses_are_not_dialled_unless_it_is_permitted(host: str) -> None:
    net = Net()
    with pytest.raises(DialRefused, match="local to the host"):
        await net.dial(host)
    assert net.dials == []
    assert await net.dial(host, local=True)


@in_trio
async def test_of_a_names_addresses_only_the_permitted_are_dialled() -> None:
    net = Net()
    net.errors = {"198.51.100.1": errno.ECONNREFUSED}
    with pytest.raises(FetchError):
        await net.dial("half.example")
    assert net.dials == [("198.51.100.1", 0)]


# --- at an address --------------------------------------------------------------------------------------------------


@in_trio
async def test_at_an_address_nothing_is_resolved_while_it_answers() -> None:
    net = Net()
    assert await net.dial("both.example", at="198.51.100.2") == [("198.51.100.2", 0)]
    assert net.resolved == []


@in_trio
async def test_the_hosts_other_addresses_stand_in_for_one_of_its_own() -> None:
    net = Net()
    net.errors = {"198.51.100.2": errno.ECONNREFUSED}
    assert await net.dial("both.example", at="198.51.100.2") == [("198.51.100.2", 0), ("2001:db8::1", 0)]
    net = Net()
    net.after = {"198.51.100.2": 10}
    assert await net.dial("both.example", at="198.51.100.2") == [("198.51.100.2", 0), ("2001:db8::1", 0.25)]


@in_trio
async def test_an_address_that_is_not_the_hosts_has_no_stand_in() -> None:
    net = Net()
    net.errors = {"203.0.113.1": errno.ECONNREFUSED}
    with pytest.raises(FetchError, match=r"connect to 203\.0\.113\.1:80: connection refused"):
        await net.dial("both.example", at="203.0.113.1")
    assert net.dials == [("203.0.113.1", 0)]
    assert net.resolved == ["both.example"]


@in_trio
async def test_a_slow_resolver_holds_no_address_up() -> None:
    net = Net()
    net.after, net.resolving = {"198.51.100.2": 1}, 1000
    assert await net.dial("both.example", at="198.51.100.2") == [("198.51.100.2", 0)]
    assert trio.current_time() - net.began == 1


@in_trio
async def test_a_guarded_address_is_refused_whatever_the_hosts_are() -> None:
    net = Net()
    with pytest.raises(DialRefused):
        await net.dial("half.example", at="10.0.0.1")
    assert net.dials == []
    net.errors = {"198.51.100.1": errno.ECONNREFUSED}
    with pytest.raises(FetchError):
        await net.dial("half.example", at="198.51.100.1")
    assert net.dials == [("198.51.100.1", 0)]


# --- decided -------------------------------------------------------------------------------------------------------


def all_but(*ruled: str) -> Decides:
    """Returns a policy that decides these addresses differently from the request."""
    return lambda ip, port: ip not in ruled


@in_trio
async def test_of_a_names_addresses_only_those_under_the_requests_rule_are_dialled() -> None:
    net = Net()
    net.errors = {"2001:db8::1": errno.ECONNREFUSED, "198.51.100.2": errno.ECONNREFUSED}
    with pytest.raises(FetchError):
        await net.dial("both.example", decides=all_but("198.51.100.1"))
    assert net.dials == [("2001:db8::1", 0), ("198.51.100.2", 0)]


@in_trio
async def test_no_stand_in_under_another_rule_is_dialled() -> None:
    net = Net()
    net.errors = {"2001:db8::1": errno.ECONNREFUSED, "198.51.100.2": errno.ECONNREFUSED}
    with pytest.raises(FetchError):
        await net.dial("both.example", at="2001:db8::1", decides=all_but("198.51.100.1"))
    assert net.dials == [("2001:db8::1", 0), ("198.51.100.2", 0)]


@pytest.mark.parametrize("at", [None, "198.51.100.1"])
@in_trio
async def test_where_every_address_is_under_another_rule_nothing_is_dialled(at: str | None) -> None:
    net = Net()
    with pytest.raises(OtherRule, match=r"198\.51\.100\.1:80, which is under another rule"):
        await net.dial("v4.example", at=at, decides=all_but("198.51.100.1"))
    assert net.dials == []


@in_trio
async def test_the_policy_is_asked_with_the_port() -> None:
    net = Net()
    with pytest.raises(OtherRule):
        await net.dial("v4.example", 8080, decides=lambda ip, port: port == 80)


@in_trio
async def test_a_rule_permits_nothing_that_the_guard_refuses() -> None:
    net = Net()
    with pytest.raises(DialRefused, match="local to the host"):
        await net.dial("inside.example", decides=all_but())
    assert net.dials == []


@in_trio
async def test_cancelled_at_any_time_a_dial_leaves_nothing_open() -> None:
    for tenths in range(12):
        net = Net()
        net.after = {"2001:db8::1": 0.3, "198.51.100.1": 0.4, "198.51.100.2": 0.4}
        net.errors = {"2001:db8::1": errno.ECONNREFUSED}
        with trio.move_on_after(tenths / 10):
            await net.dial("both.example")


def test_families_take_turns_and_the_number_of_attempts_is_bounded() -> None:
    assert interleaved(["a", "b"], ["1"]) == ["a", "1", "b"]
    assert interleaved([], ["1", "1", "2"]) == ["1", "2"]
    assert len(interleaved([str(n) for n in range(99)], [])) == MAX_ADDRESSES


class Places:
    """A budget of descriptors."""

    def __init__(self, count: int) -> None:
        self.count = count

    def take(self) -> bool:
        has_one = self.count > 0
        self.count -= has_one
        return has_one

    def give_back(self) -> None:
        self.count += 1


@in_trio
async def test_an_attempt_without_a_descriptor_waits_for_the_one_before() -> None:
    net = Net()
    net.descriptors = Places(0)
    net.after = {"2001:db8::1": 2.9}
    net.errors = {"2001:db8::1": errno.ETIMEDOUT}
    assert await net.dial("both.example") == [("2001:db8::1", 0), ("198.51.100.1", 3)]
