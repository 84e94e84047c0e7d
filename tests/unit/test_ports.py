"""Local ports to one destination: a container leaves some to others, and what has no port waits for its turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyinterceptor._relay import ffi, lib

TOTAL, MANY = 120, 1000
FIRST = 40_000


@pytest.fixture
def ports() -> Iterator[Any]:
    made = ffi.new("struct ports *")
    lib.ports_open(made, 7)
    lib.ports_set(made, FIRST, TOTAL)
    yield made
    lib.ports_close(made)


class Place:
    """One container's connections to one destination."""

    def __init__(self, ports: Any, container: int, port: int = 80, limit: int = MANY) -> None:
        self.ports = ports
        self.container = container
        self.limit = limit
        self.to = ffi.new("struct endpoint *", {"port": port})
        self.number = ffi.new("uint16_t *")

    def take(self, now: float = 0.0, wait: Any = ffi.NULL) -> Any:
        """Returns a port; None if there is none."""
        taken = lib.ports_take(self.ports, self.container, self.limit, self.to, now, wait, self.number)
        return None if taken == ffi.NULL else taken

    def fill(self, now: float = 0.0) -> list[Any]:
        """Takes ports until there are none."""
        return list(iter(lambda: self.take(now), None))


class Waiting:
    """Connections of one thread that wait for ports."""

    def __init__(self, ports: Any, wake: int = -1) -> None:
        self.ports = ports
        self.nudges = ffi.new("struct nudges *", {"wake": wake})

    def one(self, cookie: int) -> Any:
        return ffi.new("struct port_wait *", {"nudges": self.nudges, "cookie": cookie})

    def nudged(self) -> list[int]:
        return list(iter(lambda: lib.ports_nudged(self.ports, self.nudges), 0))


def test_the_range_has_the_first_and_the_last_port(ports: Any) -> None:
    assert lib.ports_range(ports) == FIRST | (FIRST + TOTAL - 1) << 16


def test_each_further_container_finds_ports(ports: Any) -> None:
    """Each takes while it has fewer than are free: the first half of all, the next ones half of the rest each."""
    assert [len(Place(ports, container).fill()) for container in range(1, 6)] == [60, 30, 15, 8, 4]


def test_containers_that_take_in_turn_get_the_same(ports: Any) -> None:
    places = [Place(ports, container) for container in (1, 2)]
    got = [0, 0]
    while any(taken := [place.take() is not None for place in places]):
        got = [count + more for count, more in zip(got, taken, strict=True)]
    assert got == [40, 40]


def test_another_destination_has_ports_of_its_own(ports: Any) -> None:
    assert len(Place(ports, 1, port=80).fill()) == len(Place(ports, 1, port=81).fill()) == 60


def test_a_container_gets_at_most_its_limit(ports: Any) -> None:
    assert len(Place(ports, 1, limit=9).fill()) == 9


def test_the_oldest_resting_port_is_bound_again_when_the_share_is_used_up(ports: Any) -> None:
    place = Place(ports, 1)
    first, second, *_ = place.fill()
    lib.ports_rest(ports, first, 50_001, 0.0)
    lib.ports_rest(ports, second, 50_002, 0.0)
    for number in (50_001, 50_002):
        assert place.take(1.0) is not None
        assert place.number[0] == number
    assert place.take(1.0) is None


def test_a_port_that_cannot_be_bound_again_rests_for_a_minute(ports: Any) -> None:
    place = Place(ports, 1)
    lib.ports_rest(ports, place.fill()[0], 0, 0.0)
    assert place.take(59.9) is None
    assert place.take(60.0) is not None
    assert place.number[0] == 0
    assert place.take(60.0) is None


def test_reusable_and_other_resting_ports_expire_in_their_order(ports: Any) -> None:
    place = Place(ports, 1)
    for port, number in zip(place.fill(), [5, 0, 6, 0, 7] * 12, strict=True):
        lib.ports_rest(ports, port, number, 0.0)
    assert place.take(1.0) is not None
    assert place.number[0] == 5
    assert len(place.fill(60.0)) == 59


def test_the_first_that_waits_is_nudged_when_a_port_is_given_back(ports: Any) -> None:
    place, waiting = Place(ports, 1), Waiting(ports)
    taken = place.fill()
    first, second = waiting.one(2), waiting.one(4)
    assert place.take(0.0, first) is place.take(0.0, second) is None
    assert lib.ports_is_first(ports, first)
    assert not lib.ports_is_first(ports, second)
    assert waiting.nudged() == []
    lib.ports_give(ports, taken[0])
    assert waiting.nudged() == [2]
    assert place.take(0.0, second) is None  # it isn't its turn
    assert place.take(0.0, first) is not None
    lib.ports_leave(ports, first)
    assert waiting.nudged() == [4]  # it looks whether there is another one
    assert place.take(0.0, second) is None
    lib.ports_rest(ports, taken[1], 50_001, 0.0)
    assert waiting.nudged() == [4]
    assert place.take(0.0, second) is not None
    lib.ports_leave(ports, second)


def test_one_that_stops_waiting_loses_its_nudge_to_the_next(ports: Any) -> None:
    place, waiting = Place(ports, 1), Waiting(ports, wake=7)
    taken = place.fill()
    first, second = waiting.one(2), waiting.one(4)
    place.take(0.0, first)
    place.take(0.0, second)
    assert lib.ports_give(ports, taken[0]) == 7
    assert lib.ports_leave(ports, first) == 7
    assert waiting.nudged() == [4]
    assert lib.ports_leave(ports, second) == -1
    assert lib.ports_leave(ports, second) == -1
