"""DNS over TCP, and the answers that Python gives: memory streams, and a clock that jumps."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest
import trio
import trio.testing
from pyinterceptor._relay import ffi, lib

from pyinterceptor.dns.names import NAMES_MAX, REUSE_AFTER, SYNTHETIC, Names
from pyinterceptor.dns.query import QUERY_MAX, read
from pyinterceptor.dns.resolver import Lookups, QueryCounters, Resolver
from pyinterceptor.dns.server import IDLE, serve_tcp
from pyinterceptor.dns.servers import Servers
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile, decide_name
from tests.socket.stepped import open_stepped

CONTAINER, OTHER = 7, 8  # numbers
BUDGET = Budget()
MY_KV = dns.message.make_query("my.kv", "A").to_wire()


class Published:
    """Stands for the relay: keeps the published names. `held` addresses have open flows."""

    def __init__(self) -> None:
        self.names: list[tuple[Any, ...]] = []
        self.held: set[Any] = set()

    def publish_name(self, container, name, synthetic, addresses, seconds):
        if synthetic is not None and self.held & set(synthetic):
            return False
        self.names.append((container, name, synthetic, tuple(map(str, addresses)), seconds))
        return True

    def publish_addresses(self, container, name, packed, seconds):
        self.names.append((container, name, packed, seconds))
        return True

    def name_failed(self, container, name):
        self.names.append((container, name, "failed"))


class Observed:
    """Stands for the maker of records: keeps the reported questions."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def answered(self, query, verdict, code, asked):
        self.seen.append((query.host, dns.rcode.to_text(dns.rcode.Rcode(code))))

    def over_budget(self, query):
        self.seen.append((query.host, "over budget"))

    def failed(self, query, error):
        raise error


class Alone:
    """Stands for the way upstream of a resolver whose queries never go there."""

    def __init__(self) -> None:
        self.handle = ffi.gc(lib.resolver_open(ffi.new("struct resolver_options *")), lib.resolver_close)
        self.clock = trio.current_time


class Resolving:
    """A resolver, and two containers under the same rules."""

    def __init__(self, resolver: Resolver, decide: Callable[[str], int]) -> None:
        self.resolver = resolver
        self.observed = Observed()
        self.lookups = {
            number: Lookups(number, decide, BUDGET, Names(SYNTHETIC), self.observed) for number in (CONTAINER, OTHER)
        }
        for number, lookups in self.lookups.items():
            resolver.add(lookups, number)

    def known(self, container: int, wire: bytes) -> bytes | None:
        """Returns the answer that needs no upstream."""
        return self.resolver.known(self.lookups[container], read(wire), 0.0)

    def count(self, container: int) -> QueryCounters:
        return self.resolver.count(self.lookups[container])


def decided(hosts=("my.kv",), *, catch_all=False, internet=False) -> Callable[[str], int]:
    rules = Rules({host: rule for rule, host in enumerate(hosts)}, 99 if catch_all else None, internet)
    table = compile(rules, 1)

    def verdict(host: str) -> int:
        return decide_name(table, host)

    return verdict


def resolver_of(hosts=("my.kv",), *, catch_all=False, internet=False, v6=True, relay=None) -> Resolving:
    resolver = Resolver(upstream=Alone(), relay=relay or Published(), v6=v6)
    return Resolving(resolver, decided(hosts, catch_all=catch_all, internet=internet))


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            await test(**fixtures)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


def ask(resolver: Resolving, name: str, kind: str = "A", container: int = CONTAINER) -> dns.message.Message:
    """Returns the answer that needs no upstream."""
    query = dns.message.make_query(name, kind)
    answer = resolver.known(container, query.to_wire())
    assert isinstance(answer, bytes)
    response = dns.message.from_wire(answer)
    assert query.is_response(response)
    return response


def told(response: dns.message.Message) -> list[str]:
    """Returns the code if it is an error, then the values of the records."""
    code = [] if response.rcode() == dns.rcode.NOERROR else [dns.rcode.to_text(response.rcode())]
    return code + [record.to_text() for records in response.answer for record in records]


@in_trio
async def test_a_handled_name_has_a_pair_that_the_relay_knows_first():
    relay = Published()
    resolver = resolver_of(relay=relay)
    v4, v6 = told(ask(resolver, "my.kv"))[0], told(ask(resolver, "my.kv", "AAAA"))[0]
    assert ipaddress.ip_address(v4) in SYNTHETIC.v4
    assert ipaddress.ip_address(v6) in SYNTHETIC.v6
    assert relay.names == [(CONTAINER, "my.kv", (ipaddress.ip_address(v4), ipaddress.ip_address(v6)), (), 0)]
    assert ask(resolver, "my.kv").answer[0].ttl == 60


@pytest.mark.parametrize("kind", ["TXT", "MX", "HTTPS", "SVCB", "SRV", "NS", "CNAME", "ANY", "TYPE65280"])
@in_trio
async def test_another_type_of_a_handled_name_is_empty_and_takes_no_address(kind):
    relay = Published()
    resolver = resolver_of(relay=relay, internet=True)
    assert told(ask(resolver, "my.kv", kind)) == []
    assert relay.names == []
    assert told(ask(resolver, "my.kv")) == ["198.18.1.0"]


@pytest.mark.parametrize("name", ["my.kv", "my.kv.", "MY.kV", "a.b.glob.kv", "X.GLOB.KV.", "xn--bcher-kva.example"])
@in_trio
async def test_a_name_is_handled_however_it_is_written(name):
    resolver = resolver_of(("my.kv", "*.glob.kv", "Bücher.example"))
    assert told(ask(resolver, name)) == ["198.18.1.0"]
    assert told(ask(resolver, name + ".example" if name[-1] != "." else "kv")) == ["NXDOMAIN"]


@in_trio
async def test_without_internet_a_name_without_a_rule_does_not_exist():
    resolver = resolver_of(("my.kv",))
    for name in ("www.example.test", "kv", "my.kv.example", "notmy.kv", ".", r"my\.kv", r"my.kv\058"):
        for kind in ("A", "AAAA", "TXT"):
            assert told(ask(resolver, name, kind)) == ["NXDOMAIN"]
    assert told(ask(resolver, "my.kv")) == ["198.18.1.0"]


@in_trio
async def test_under_a_catch_all_every_host_name_exists_and_nothing_else():
    resolver = resolver_of((), catch_all=True)
    assert told(ask(resolver, "a.example")) == ["198.18.1.0"]
    assert told(ask(resolver, "b.example")) == ["198.18.1.1"]
    for name in (".", r"a\032b.example", r"a\.b", "203.0.113.7", r"a.example\058443"):
        assert told(ask(resolver, name)) == []


@in_trio
async def test_a_host_without_v6_gives_no_v6_address_and_no_error():
    relay = Published()
    resolver = resolver_of(v6=False, relay=relay)
    response = ask(resolver, "my.kv", "AAAA")
    assert (response.rcode(), told(response)) == (dns.rcode.NOERROR, [])
    assert told(ask(resolver, "my.kv")) == ["198.18.1.0"]


@pytest.mark.parametrize("name", ["localhost", "LocalHost.", "db.localhost"])
@in_trio
async def test_localhost_is_the_containers_own_whatever_the_rules_say(name):
    for resolver in (resolver_of(()), resolver_of((), catch_all=True), resolver_of((), internet=True)):
        assert told(ask(resolver, name)) == ["127.0.0.1"]
        assert told(ask(resolver, name, "AAAA")) == ["::1"]
        assert told(ask(resolver, name, "TXT")) == []
    assert told(ask(resolver_of(()), "notlocalhost")) == ["NXDOMAIN"]


@in_trio
async def test_a_synthetic_address_is_asked_back_for_its_name():
    resolver = resolver_of(("my.kv",), internet=True)
    for kind in ("A", "AAAA"):
        address = told(ask(resolver, "my.kv", kind))[0]
        pointer = ipaddress.ip_address(address).reverse_pointer
        assert told(ask(resolver, pointer, "PTR")) == ["my.kv."]
        assert told(ask(resolver, pointer.upper(), "PTR")) == ["my.kv."]
        assert told(ask(resolver, pointer, "TXT")) == []
        assert told(ask(resolver, pointer, "PTR", OTHER)) == ["NXDOMAIN"]
    assert told(ask(resolver, "255.255.19.198.in-addr.arpa", "PTR")) == ["NXDOMAIN"]


@in_trio
async def test_each_container_has_addresses_of_its_own():
    relay = Published()
    resolver = resolver_of(("one.kv", "two.kv"), relay=relay)
    one, two = told(ask(resolver, "one.kv")), told(ask(resolver, "two.kv", container=OTHER))
    assert one == two
    assert [name[:2] for name in relay.names] == [(CONTAINER, "one.kv"), (OTHER, "two.kv")]
    assert told(ask(resolver, "two.kv")) != one


@in_trio
async def test_a_container_that_asks_for_100_000_names_gets_its_share_and_others_theirs():
    resolver = resolver_of((), catch_all=True)
    one = dns.message.make_query("n000000.example", "A").to_wire()
    wires = (one.replace(b"n000000", b"n%06d" % number) for number in range(100_000))
    codes = [resolver.known(CONTAINER, wire)[3] & 0xF for wire in wires]
    assert codes == [dns.rcode.NOERROR] * NAMES_MAX + [dns.rcode.SERVFAIL] * (100_000 - NAMES_MAX)
    assert resolver.count(CONTAINER).names_full == 100_000 - NAMES_MAX
    assert told(ask(resolver, "n000007.example")) == ["198.18.1.7"]
    assert told(ask(resolver, "another.example", container=OTHER)) == ["198.18.1.0"]
    assert resolver.count(OTHER).names_full == 0


@in_trio
async def test_an_address_with_open_flows_is_kept_beyond_its_time():
    relay = Published()
    resolver = resolver_of((), catch_all=True, relay=relay)
    one = dns.message.make_query("n000000.example", "A").to_wire()
    for number in range(NAMES_MAX):
        resolver.known(CONTAINER, one.replace(b"n000000", b"n%06d" % number))
    relay.held.add(ipaddress.ip_address("198.18.1.0"))
    await trio.sleep(REUSE_AFTER + 1)
    assert told(ask(resolver, "new.example")) == ["198.18.1.1"]
    assert told(ask(resolver, "n000000.example")) == ["198.18.1.0"]
    assert relay.names[-1][1] == "new.example"


@in_trio
async def test_noise_is_answered_with_its_error_or_not_at_all():
    resolver = resolver_of()
    header = b"\x12\x34\x01\x00\x00\x01" + bytes(6)
    for wire in (b"", b"\0" * 11, header[:2] + b"\x80" + header[3:]):
        assert await resolver.resolver.answer(resolver.lookups[CONTAINER], wire) is None
    for wire, code in ((header, 1), (header + b"\xff" * 100, 1), (header[:2] + b"\x28" + header[3:], 4)):
        answer = dns.message.from_wire(resolver.known(CONTAINER, wire))
        assert (answer.id, answer.rcode()) == (0x1234, code)


# ---- over TCP ----


class Client:
    """The client's end of a TCP connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, *names: str) -> None:
        wires = [dns.message.make_query(name, "A", id=number).to_wire() for number, name in enumerate(names)]
        await self.stream.send_all(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))

    async def read(self) -> dns.message.Message | None:
        """Returns the next answer; None at the end."""
        while len(self.buffer) < 2 or len(self.buffer) < 2 + int.from_bytes(self.buffer[:2], "big"):
            data = await self.stream.receive_some()
            if not data:
                assert self.buffer == b""
                return None
            self.buffer += data
        end = 2 + int.from_bytes(self.buffer[:2], "big")
        wire, self.buffer = self.buffer[2:end], self.buffer[end:]
        return dns.message.from_wire(wire)


async def serve(ours: trio.StapledStream, resolving: Resolving, container: int = CONTAINER) -> None:
    """Serves and closes a connection, as the interceptor does."""
    try:
        await serve_tcp(ours, resolving.lookups[container], resolving.resolver)
    finally:
        await trio.aclose_forcefully(ours)


@in_trio
async def test_each_question_is_observed_once_with_its_answer():
    resolving = resolver_of(internet=False)
    for name in ("my.kv", "other.example", "localhost"):
        ask(resolving, name)
    assert resolving.observed.seen == [("my.kv", "NOERROR"), ("other.example", "NXDOMAIN"), ("localhost", "NOERROR")]


@in_trio
async def test_tcp_ends_quietly_where_the_client_takes_no_answer_any_more():
    """An exception would be logged as a failure of this package, with a traceback."""
    theirs, ours = trio.testing.memory_stream_pair()
    theirs.receive_stream.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours, resolver_of())
        await Client(theirs).send("my.kv")


@in_trio
async def test_tcp_answers_one_question_after_the_other_in_their_order():
    theirs, ours = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours, resolver_of(("a.kv", "b.kv")))
        client = Client(theirs)
        await client.send("a.kv", "b.kv", "c.kv")
        answers = [await client.read() for _ in range(3)]
        await client.send("b.kv")
        answers.append(await client.read())
        await theirs.send_eof()
        assert await client.read() is None
    assert [answer.id for answer in answers] == [0, 1, 2, 0]
    assert [told(answer) for answer in answers] == [["198.18.1.0"], ["198.18.1.1"], ["NXDOMAIN"], ["198.18.1.1"]]


@in_trio
async def test_tcp_takes_a_question_byte_by_byte():
    theirs, ours = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours, resolver_of())
        wire = dns.message.make_query("my.kv", "A").to_wire()
        for byte in len(wire).to_bytes(2, "big") + wire:
            await theirs.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert told(await Client(theirs).read()) == ["198.18.1.0"]
        await theirs.aclose()


@pytest.mark.parametrize("begun", [b"", b"\0", b"\0\x1e", b"\0\x1e\x12\x34\x01"])
@in_trio
async def test_tcp_ends_where_a_question_is_cut(begun):
    theirs, ours = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours, resolver_of())
        await theirs.send_all(begun)
        await theirs.send_eof()
        assert await theirs.receive_some() == b""


@in_trio
async def test_tcp_ends_at_a_length_that_no_question_has():
    theirs, ours = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours, resolver_of())
        client = Client(theirs)
        await client.send("my.kv")
        assert told(await client.read()) == ["198.18.1.0"]
        await theirs.send_all((QUERY_MAX + 1).to_bytes(2, "big") + b"\0" * 10)
        assert await client.read() is None


@in_trio
async def test_a_client_that_dribbles_is_left_when_its_time_is_up():
    theirs, ours = trio.testing.memory_stream_pair()
    resolver, began = resolver_of(), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours, resolver)
        client = Client(theirs)
        for _ in range(2):
            await trio.sleep(IDLE - 1)
            await client.send("my.kv")
            assert told(await client.read()) == ["198.18.1.0"]

        async def dribble() -> None:
            while True:
                await theirs.send_all(b"\0")
                await trio.sleep(IDLE / 100)

        with pytest.raises(trio.BrokenResourceError):
            await dribble()
    assert trio.current_time() - began < 3 * IDLE + 1


@in_trio
async def test_a_client_that_takes_no_answer_is_left_when_its_time_is_up():
    ours, theirs = trio.testing.lockstep_stream_pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours, resolver_of())
        await Client(theirs).send("my.kv")
    assert IDLE <= trio.current_time() - began < IDLE + 1


@in_trio
async def test_a_containers_idle_connections_take_no_place():
    resolver, clients = resolver_of(), []
    async with trio.open_nursery() as nursery:
        for container in (*[CONTAINER] * (BUDGET.query_streams + 20), OTHER):
            theirs, ours = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, ours, resolver, container)
            await trio.testing.wait_all_tasks_blocked()
            clients.append(theirs)
        for served in clients:
            await Client(served).send("my.kv")
            assert told(await Client(served).read()) == ["198.18.1.0"]
        assert resolver.count(CONTAINER).over_budget == 0
        for stream in clients:
            await stream.aclose()


@in_trio
async def test_more_queries_over_tcp_than_there_are_places_wait_for_their_turn():
    count, clients = BUDGET.query_streams + 20, []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        async with open_stepped(Servers([server])) as upstream, trio.open_nursery() as nursery:
            resolving = Resolving(Resolver(upstream=upstream, relay=Published(), v6=True), decided(internet=True))
            for number in range(count):
                theirs, ours = trio.testing.memory_stream_pair()
                nursery.start_soon(serve, ours, resolving)
                clients.append(Client(theirs))
                await clients[-1].send(f"n{number}.example")
            began = trio.current_time()
            while resolving.count(CONTAINER).over_budget < 20:
                await trio.lowlevel.checkpoint()
            assert resolving.count(CONTAINER).waiting == BUDGET.query_streams
            assert await resolving.resolver.answer(resolving.lookups[OTHER], MY_KV) is not None
            assert trio.current_time() == began
            for client in clients:
                assert told(await client.read()) == ["SERVFAIL"]
                await client.stream.aclose()
            assert resolving.count(CONTAINER).over_budget == 20
            assert resolving.count(CONTAINER).unanswered == count
