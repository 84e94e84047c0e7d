"""The rings of records and of events: bounded, in shares, and silent without a subscriber."""

from __future__ import annotations

import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, aclosing

import pytest
import trio
from pyinterceptor._relay import ffi, lib

from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.rules import Rules
from pyinterceptor.relay.records import Cause, Kind, Record
from pyinterceptor.relay.relay import Dropped, Handoff, Options, Relay
from tests.socket.loopback import in_trio
from tests.socket.passage import CONTAINER, NAME, hears_a_reset, passage

ALL = Kind.FLOW | Kind.REFUSAL | Kind.REQUEST


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay(lib.relay_open(ffi.new("struct relay_options *")))
    yield made
    made.close()


def make(relay: Relay, kind: Kind, flow: int, ended: float = 1.0, **members: bytes) -> None:
    record = ffi.new("struct relay_record *", {"kind": int(kind), "flow": flow, "ended": ended, **members})
    lib.record_make(relay._handle, record)


def taken(relay: Relay) -> list[Record]:
    found: list[Record] = []
    while batch := relay.records_nowait():
        found += batch
    return found


async def next_batch(relay: Relay) -> list[Record]:
    async with aclosing(relay.records()) as batches:
        return await anext(batches)


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_without_a_subscriber_no_record_is_made(relay: Relay) -> None:
    make(relay, Kind.FLOW, 1)
    relay.subscribe(Kind.REFUSAL)
    make(relay, Kind.FLOW, 2)
    make(relay, Kind.REFUSAL, 3)
    relay.subscribe(Kind.NONE)
    make(relay, Kind.REFUSAL, 4)
    assert [record.flow for record in taken(relay)] == [3]
    assert relay.count_dropped() == Dropped(0, 0, 0)


def test_every_member_comes_through(relay: Relay) -> None:
    relay.subscribe(ALL)
    record = ffi.new("struct relay_record *")
    record.kind, record.container, record.flow, record.protocol = lib.RECORD_REQUEST, 7, 2**40, lib.PROTOCOL_HTTP
    record.cause, record.status, record.sent, record.received = lib.END_REFUSED, 204, 2**50, 3
    record.decision = (lib.VERDICT_HANDLE, 5, 9, 2, 3, lib.REASON_MATCH, 1)
    record.client.address, record.client.port = bytes(10) + b"\xff\xff\xc6\x33\x64\x01", 65535
    record.destination.address, record.destination.port = bytes.fromhex("20010db8" + "0" * 23 + "1"), 80
    record.began, record.judged, record.connected, record.answered, record.ended = 1.5, 2.5, 3.5, 4.5, 5.5
    record.method, record.host, record.target = b"GET", b"a\nb\xff", b"/" + b"x" * (lib.RECORD_TARGET_MAX - 2)
    lib.record_make(relay._handle, record)
    (got,) = taken(relay)
    assert (got.kind, got.container, got.flow, got.protocol) == (Kind.REQUEST, 7, 2**40, lib.PROTOCOL_HTTP)
    assert (got.cause, got.status, got.sent, got.received) == (Cause.REFUSED, 204, 2**50, 3)
    assert (got.verdict, got.rule, got.generation) == (lib.VERDICT_HANDLE, 5, 9)
    assert (got.stage, got.target, got.reason, got.matched) == (2, 3, lib.REASON_MATCH, 1)
    assert [(str(address), port) for address, port in (got.client, got.destination)] == [
        ("198.51.100.1", 65535),
        ("2001:db8::1", 80),
    ]
    assert (got.began, got.judged, got.connected, got.answered, got.ended) == (1.5, 2.5, 3.5, 4.5, 5.5)
    assert (got.method, got.host, got.request_target) == ("GET", "a\nb\xff", "/" + "x" * 254)


@pytest.mark.parametrize("flood", [Kind.FLOW, Kind.REFUSAL, Kind.REQUEST])
def test_a_flood_of_one_kind_hides_none_of_another_and_is_counted(relay: Relay, flood: Kind) -> None:
    relay.subscribe(ALL)
    for number in range(10_000):
        make(relay, flood, number)
    others = [kind for kind in (Kind.FLOW, Kind.REFUSAL, Kind.REQUEST) if kind != flood]
    for kind in others:
        make(relay, kind, 77)
    found = taken(relay)
    assert {record.kind for record in found if record.flow == 77 and record.kind != flood} == set(others)
    kept = [record.flow for record in found if record.kind == flood]
    assert kept == list(range(len(kept)))
    lost = relay.count_dropped()
    assert {Kind.FLOW: lost.flows, Kind.REFUSAL: lost.refusals, Kind.REQUEST: lost.requests} == {
        kind: 10_000 - len(kept) if kind == flood else 0 for kind in (Kind.FLOW, Kind.REFUSAL, Kind.REQUEST)
    }
    assert 1_000 < len(kept) < 10_000
    make(relay, flood, 5)
    assert [record.flow for record in taken(relay)] == [5]


def test_records_of_all_kinds_come_in_the_order_of_their_ends(relay: Relay) -> None:
    relay.subscribe(ALL)
    for number in range(600):
        make(relay, (Kind.FLOW, Kind.REFUSAL, Kind.REQUEST)[number * number % 3], number, ended=float(number))
    assert [record.flow for record in taken(relay)] == list(range(600))


def test_the_descriptor_is_readable_once_for_many_records(relay: Relay) -> None:
    ready = lib.relay_record_fd(relay._handle)
    relay.subscribe(ALL)
    assert not is_readable(ready)
    for number in range(3):
        make(relay, Kind.FLOW, number)
        make(relay, Kind.REFUSAL, number)
    assert is_readable(ready)
    taken(relay)
    make(relay, Kind.REQUEST, 1)
    assert is_readable(ready)


@in_trio
async def test_a_flow_and_a_refusal_are_recorded_in_batches() -> None:
    async with passage() as opened:
        opened.relay.subscribe(ALL)
        client, origin = opened.pair()
        client.sendall(b"abc")
        assert origin.recv(3) == b"abc"
        origin.sendall(b"de")
        assert client.recv(2) == b"de"
        client.close()
        origin.close()
        (record,) = await next_batch(opened.relay)
        assert (record.kind, record.cause, record.container) == (Kind.FLOW, Cause.DONE, CONTAINER)
        assert (record.sent, record.received, record.host) == (4, 2, NAME)
        assert record.destination == (record.destination[0], opened.address[1])
        assert 0 < record.began < record.ended
        opened.publish(Rules({}, None, internet=False))
        opened.client().sendall(b"\0")
        batch = await next_batch(opened.relay)
        assert [(record.kind, record.cause) for record in batch] == [(Kind.REFUSAL, Cause.REFUSED)]


@in_trio
async def test_each_request_of_a_followed_flow_is_recorded_when_its_response_has_passed() -> None:
    async with passage() as opened:
        opened.relay.subscribe(Kind.REQUEST)
        client = opened.client()
        first = b"POST /a?b HTTP/1.1\r\nHost: passage.test\r\nContent-Length: 3\r\n\r\nabc"
        second = b"GET /" + b"x" * 300 + b" HTTP/1.1\r\nHost: passage.test\r\n\r\n"
        client.sendall(first)
        origin = opened.arrived()
        assert origin.recv(len(first), socket.MSG_WAITALL) == first
        assert not opened.relay.records_nowait()
        answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
        origin.sendall(answer)
        assert client.recv(len(answer), socket.MSG_WAITALL) == answer
        (one,) = await next_batch(opened.relay)
        client.sendall(second)
        assert origin.recv(len(second), socket.MSG_WAITALL) == second
        origin.close()
        client.close()
        (two,) = await next_batch(opened.relay)
    assert (one.kind, one.method, one.request_target, one.host) == (Kind.REQUEST, "POST", "/a?b", "passage.test")
    assert (one.status, one.sent, one.received) == (201, len(first), len(answer))
    assert 0 < one.began <= one.answered <= one.ended
    assert (two.method, two.request_target, two.status) == ("GET", "/" + "x" * 254, 0)
    assert (two.flow, two.sent, two.received, two.answered) == (one.flow, len(second), 0, 0.0)


@in_trio
async def test_a_handoff_that_finds_no_room_ends_its_flow_and_is_counted() -> None:
    """The ring of events is bounded: a reader that takes no events costs no memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = lib.EVENTS_MAX + 10
    try:
        rules, options = Rules({NAME: 1}, None, internet=False), Options(threads=1, flows=2 * many)
        budget = Budget(flows=many, openings=many, handoffs=many)
        async with passage(rules, options, budget) as opened:
            opened.relay.subscribe(ALL)
            with ExitStack() as stack:
                clients = [stack.enter_context(socket.create_connection(opened.address)) for _ in range(many)]
                for client in clients:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: passage.test\r\n\r\n")
                while opened.relay.count(CONTAINER).no_resources < 10:
                    await trio.lowlevel.checkpoint()
                found = taken(opened.relay)
                assert [record.cause for record in found] == [Cause.NO_RESOURCES] * 10
                given = 0
                async with aclosing(opened.relay.events()) as events:
                    while given < lib.EVENTS_MAX:
                        for event in await anext(events):
                            assert isinstance(event, Handoff)
                            socket.socket(fileno=event.fd).close()
                            opened.relay.returned(event, 0, 0)
                            given += 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@in_trio
async def test_a_connection_beyond_the_budget_is_recorded_as_a_refusal_by_no_rule() -> None:
    async with passage(budget=Budget(flows=1)) as opened:
        opened.relay.subscribe(Kind.REFUSAL)
        opened.pair()
        with socket.create_connection(opened.address) as refused:
            assert hears_a_reset(refused)
        (record,) = await next_batch(opened.relay)
    assert (record.kind, record.cause, record.container) == (Kind.REFUSAL, Cause.BUDGET, CONTAINER)
    assert (str(record.destination[0]), record.destination[1]) == opened.address
    assert (record.rule, record.target, record.verdict) == (lib.NO_RULE, lib.NO_TARGET, lib.VERDICT_REFUSE)
    assert record.flow > 0
