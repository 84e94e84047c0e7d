"""The real addresses of hosts that rules name: when each policy is published with them."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from pyinterceptor import PolicyError, RuledNames
from pyinterceptor.app.container import Container
from pyinterceptor.app.policy import policy_of
from pyinterceptor.dns.upstream import Addresses
from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.layout import resolved
from pyinterceptor.serving.ruled import RuledHosts
from tests.stream.dialogue import in_trio

KNOWN = {f"h{number}.test": f"203.0.113.{number}" for number in range(20)}


@dataclass
class Wire:
    """DNS and the relay: what is asked, and what is published to each container."""

    asked: list[tuple[float, str]] = field(default_factory=list)
    tables: dict[int, bytes] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    ttl: int = 30

    async def resolve(self, name: str) -> Addresses:
        self.asked.append((trio.current_time(), name))
        if name in self.slow:
            await trio.sleep(100)
        return Addresses([KNOWN[name]], [], self.ttl) if name in KNOWN else Addresses()

    def publish_policy(self, number: int, table: bytes) -> None:
        self.tables[number] = table


def run_of(number: int, *hosts: str) -> Any:
    """Returns the part of a run that is looked at."""

    class Ruled(Container):
        outbound_by_host = dict.fromkeys(hosts, lambda request, env, ctx: None)

    policies = SimpleNamespace(now=policy_of(Ruled, number))
    return SimpleNamespace(
        number=number, identity=SimpleNamespace(policies=policies), set_ruled=lambda *, are_known: None
    )


@asynccontextmanager
async def kept(wire: Wire, *runs: Any, options: RuledNames | None = None) -> AsyncIterator[RuledHosts]:
    ruled = RuledHosts(wire.resolve, wire, {run.number: run for run in runs}, options)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ruled.keep)
        for run in runs:
            ruled.publish(run)
        yield ruled
        nursery.cancel_scope.cancel()


def with_addresses(run: Any, *names: str) -> bytes:
    return resolved(run.identity.policies.now.blob, [packed(ipaddress.ip_address(KNOWN[name])) for name in names])


@in_trio
async def test_a_slow_name_delays_its_own_policy_alone() -> None:
    wire = Wire(slow={"slow.test"})
    slow, quick = run_of(1, "slow.test", "h1.test"), run_of(2, "h2.test", "h3.test")
    async with kept(wire, slow, quick):
        assert wire.tables == {1: slow.identity.policies.now.blob, 2: quick.identity.policies.now.blob}
        await trio.sleep(1)
        assert wire.tables == {1: slow.identity.policies.now.blob, 2: with_addresses(quick, "h2.test", "h3.test")}
        await trio.sleep(100)
        assert wire.tables[1] == with_addresses(slow, "h1.test")


@in_trio
async def test_a_policy_without_names_is_published_with_none_at_once() -> None:
    wire, run = Wire(), run_of(1, "*.test", "192.0.2.1")
    async with kept(wire, run):
        assert wire.tables == {1: resolved(run.identity.policies.now.blob, [])}


@in_trio
async def test_names_are_asked_again_by_their_ttl_and_unknown_ones_ever_more_seldom() -> None:
    wire = Wire()
    async with kept(wire, run_of(1, "h1.test", "none.test"), options=RuledNames(least=10, kept=100)):
        await trio.sleep(400)
    assert [round(when) for when, name in wire.asked if name == "h1.test"] == list(range(0, 400, 30))
    times = [round(when) for when, name in wire.asked if name == "none.test"]
    assert times[:5] == [0, 10, 30, 70, 150]


@in_trio
async def test_an_address_stays_for_a_while_after_its_last_answer() -> None:
    wire, run = Wire(ttl=20), run_of(1, "h1.test")
    before = KNOWN["h1.test"]
    async with kept(wire, run, options=RuledNames(kept=50)):
        await trio.sleep(1)
        old = with_addresses(run, "h1.test")
        assert wire.tables[1] == old
        KNOWN["h1.test"] = "203.0.113.77"
        try:
            await trio.sleep(60)
            found = [b"\0" * 10 + b"\xff\xff" + bytes([203, 0, 113, last]) for last in (1, 77)]
            assert wire.tables[1] == resolved(run.identity.policies.now.blob, found)
            await trio.sleep(60)
            assert wire.tables[1] == with_addresses(run, "h1.test")
        finally:
            KNOWN["h1.test"] = before


@in_trio
async def test_at_most_so_many_names_are_asked_at_once() -> None:
    wire = Wire(slow=set(KNOWN))
    async with kept(wire, run_of(1, *KNOWN), options=RuledNames(at_once=3)):
        await trio.sleep(1)
        assert len(wire.asked) == 3
        await trio.sleep(100)
        assert len(wire.asked) == 6


@pytest.mark.parametrize("numbers", [{"at_once": 0}, {"least": 0.0}, {"kept": -1.0}])
def test_a_number_that_is_not_positive_is_an_error(numbers: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="at least 1|above 0"):
        RuledNames(**numbers)
