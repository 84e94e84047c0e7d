"""Queries over UDP and upstream's answers: the server, the resolver and a nameserver on loopback."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
import trio.testing
from dns.rdatatype import AAAA, A
from pyinterceptor._relay import ffi, lib

from pyinterceptor.dns.names import SYNTHETIC, Names
from pyinterceptor.dns.nat64 import AGAIN, learn_prefixes
from pyinterceptor.dns.query import QUERY_MAX
from pyinterceptor.dns.resolver import Lookups, QueryCounters, Resolver
from pyinterceptor.dns.servers import Servers
from pyinterceptor.dns.upstream import SECOND_FAMILY, TRY, Ways
from pyinterceptor.policy.addresses import unpacked
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile, decide_name
from tests.socket.clock import with_jumping_clock
from tests.socket.nameserver import Answer, Nameserver, open_nameserver, response, silent, zone
from tests.socket.stepped import open_stepped

KEPT = float(lib.NAME_KEPT)
LO = 41  # number of the container that sends the datagrams
LOOPBACK = socket.if_nametoindex("lo")
OTHER = LO + 1000
BUDGET = Budget(queries=20)
IP_PKTINFO, IPV6_RECVPKTINFO = 8, 49  # linux/in.h, linux/in6.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
WWW = (("www.test", "A", "203.0.113.7"), ("www.test", "AAAA", "2001:db8::7"))


class Published:
    """Stands for the relay: keeps the published names."""

    def __init__(self) -> None:
        self.names: list[tuple[Any, ...]] = []

    def publish_name(self, container, name, synthetic, addresses, seconds):
        self.names.append((name, "synthetic" if synthetic else [str(address) for address in addresses], seconds))
        return True

    def publish_addresses(self, container, name, packed, seconds):
        addresses = [unpacked(packed[at : at + 16]) for at in range(0, len(packed), 16)]
        return self.publish_name(container, name, None, addresses, seconds)

    def name_failed(self, container, name):
        self.names.append((name, "failed"))

    def ways(self, table: bytes) -> Ways:
        """Returns the functions for C."""

        @ffi.callback("int(struct relay *, uint32_t, char *, uint8_t *, uint8_t *, uint32_t, double)")
        def publish(relay, container, name, synthetic, addresses, count, seconds):
            self.publish_addresses(container, ffi.string(name).decode(), ffi.buffer(addresses, 16 * count)[:], seconds)
            return 0

        @ffi.callback("int(struct relay *, uint32_t, char *)")
        def decide(relay, container, name):
            return decide_name(table, ffi.string(name).decode())

        return Ways(ffi.NULL, publish, decide)


class Bench:
    """A resolver with its containers. Its upstream is a nameserver on loopback."""

    def __init__(
        self, resolver: Resolver, containers: dict[int, Lookups], nameserver: Nameserver, relay: Published, port: int
    ) -> None:
        self.resolver = resolver
        self.containers = containers
        self.nameserver = nameserver
        self.published = relay.names
        self._port = port

    async def ask(self, name: str, kind: str = "A", *, at: str = "127.0.0.1") -> dns.message.Message:
        """Asks over UDP. Only an answer from the address that was asked is received."""
        query = dns.message.make_query(name, kind)
        with self.client(at) as client:
            await client.connect((at, self._port))
            await client.send(query.to_wire())
            answer = dns.message.from_wire(await client.recv(65535))
        assert query.is_response(answer)
        return answer

    def client(self, at: str = "127.0.0.1") -> trio.socket.SocketType:
        return trio.socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_DGRAM)

    async def ask_over_tcp(self, name: str, container: int) -> dns.message.Message:
        """Returns the resolver's answer, after it has waited for a place."""
        wire = dns.message.make_query(name, "A").to_wire()
        return dns.message.from_wire(await self.resolver.answer(self.containers[container], wire))

    def count(self, container: int) -> QueryCounters:
        return self.resolver.count(self.containers[container])


def addresses(answer: dns.message.Message) -> list[str]:
    """Returns the values of the A and AAAA records."""
    return [record.address for records in answer.answer if records.rdtype in (A, AAAA) for record in records]


class Observed:
    """Stands for the maker of records: keeps the reported queries."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def answered(self, query, verdict, code, asked):
        assert trio.current_time() - 10 < asked <= trio.current_time()
        self.seen.append((query.host, dns.rcode.to_text(dns.rcode.Rcode(code))))

    def over_budget(self, query):
        self.seen.append((query.host, "over budget"))

    def failed(self, query, error):
        raise error


@asynccontextmanager
async def bench(answer: Answer, *, v6: bool = True, queue: int = 4 << 20) -> AsyncIterator[Bench]:
    """Opens a bench on which my.kv has a handler. Other names are asked from a nameserver with this answer."""
    table = compile(Rules({"my.kv": 0}, None, True), 1)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours:
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        ours.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        ours.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        ours.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, queue)
        ours.bind(("::", 0))
        relay = Published()
        ways = relay.ways(table)
        async with (
            open_nameserver(answer) as nameserver,
            open_stepped(Servers([nameserver.server]), ways) as upstream,
        ):
            resolver = Resolver(upstream=upstream, relay=relay, v6=v6)

            def verdict(host: str) -> int:
                return decide_name(table, host)

            containers = {
                number: Lookups(number, verdict, BUDGET, Names(SYNTHETIC), Observed()) for number in (LO, OTHER)
            }
            resolver.add(containers[LO], LOOPBACK)
            resolver.add(containers[OTHER], LOOPBACK + 1000)
            upstream.listen(ours)
            yield Bench(resolver, containers, nameserver, relay, ours.getsockname()[1])
            for lookups in containers.values():
                resolver.remove(lookups)


@pytest.mark.parametrize("at", ["127.0.0.1", "127.9.8.7", "::1"])
@with_jumping_clock
async def test_a_datagram_is_answered_from_the_address_it_was_sent_to(at):
    async with bench(zone(*WWW)) as here:
        assert addresses(await here.ask("my.kv", at=at)) == ["198.18.1.0"]
        assert addresses(await here.ask("www.test", at=at)) == ["203.0.113.7"]


@with_jumping_clock
async def test_noise_is_not_answered_and_does_not_disturb():
    async with bench(zone(*WWW)) as here:
        with here.client() as client:
            await client.connect(("127.0.0.1", here._port))
            for noise in (b"", b"\0", b"\xff" * 100, bytes(QUERY_MAX + 1000)[:9000]):
                await client.send(noise)
            await client.send(dns.message.make_query("my.kv", "A", id=77).to_wire())
            answers = [dns.message.from_wire(await client.recv(65535)) for _ in range(2)]
        assert [(answer.id, answer.rcode()) for answer in answers] == [(0, dns.rcode.FORMERR), (77, dns.rcode.NOERROR)]


@pytest.mark.parametrize("kind", ["A", "AAAA"])
@with_jumping_clock
async def test_an_upstream_answer_publishes_both_families_before_it_is_sent(kind):
    async with bench(zone(*WWW)) as here:
        answer = await here.ask("WWW.Test", kind)
        assert addresses(answer) == ["203.0.113.7" if kind == "A" else "2001:db8::7"]
        [(name, texts, seconds)] = here.published
        assert (name, sorted(texts), seconds) == ("www.test", ["2001:db8::7", "203.0.113.7"], KEPT)
        assert texts[0] == addresses(answer)[0]
        assert sorted(map(str.lower, here.nameserver.asked)) == ["www.test. a udp", "www.test. aaaa udp"]


@with_jumping_clock
async def test_a_client_that_asks_for_both_families_at_once_costs_two_questions():
    async with bench(zone(*WWW)) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.ask, "www.test", "A")
            nursery.start_soon(here.ask, "www.test", "AAAA")
        assert sorted(here.nameserver.asked) == ["www.test. A udp", "www.test. AAAA udp"]


@pytest.mark.parametrize("kind", ["TXT", "MX", "SRV", "HTTPS", "ANY", "TYPE65280"])
@with_jumping_clock
async def test_another_type_is_asked_upstream_alone(kind):
    async with bench(zone(*WWW, ("www.test", "TXT", '"some text"'))) as here:
        answer = await here.ask("www.test", kind)
        assert [str(record) for records in answer.answer for record in records] == ['"some text"'] * (kind == "TXT")
        assert here.nameserver.asked == [f"www.test. {kind} udp"]
        assert here.published == []


@pytest.mark.parametrize("name", ["gone.test", "."])
@with_jumping_clock
async def test_no_such_name_is_passed_on_and_nothing_is_published(name):
    async with bench(zone(*WWW)) as here:
        assert (await here.ask(name)).rcode() == dns.rcode.NXDOMAIN
        assert here.published == []


@with_jumping_clock
async def test_a_name_that_no_host_has_is_passed_on_as_it_is():
    strange = r"B\195\188cher\032\046x.test"
    async with bench(lambda query, udp: [response(query, (strange, "A", "203.0.113.7")).to_wire()]) as here:
        assert addresses(await here.ask(strange)) == ["203.0.113.7"]
        assert here.published == []


@with_jumping_clock
async def test_a_handled_name_is_never_asked_upstream():
    async with bench(zone(*WWW)) as here:
        for kind in ("A", "AAAA", "TXT", "HTTPS", "ANY"):
            await here.ask("my.kv", kind)
        await here.ask("localhost")
        await here.ask("0.1.18.198.in-addr.arpa", "PTR")
        assert here.nameserver.asked == []
        await here.ask("www.test", "TXT")
        assert here.nameserver.asked == ["www.test. TXT udp"]


@with_jumping_clock
async def test_a_silent_family_holds_the_other_up_for_a_moment_only():
    def half(query, udp):
        return zone(*WWW)(query, udp) if query.question[0].rdtype == A else None

    async with bench(half) as here:
        began = trio.current_time()
        assert addresses(await here.ask("www.test")) == ["203.0.113.7"]
        assert trio.current_time() - began < SECOND_FAMILY + 1
        assert here.published == [("www.test", ["203.0.113.7"], KEPT)]


@with_jumping_clock
async def test_a_family_without_addresses_waits_for_nothing():
    def half(query, udp):
        return None if query.question[0].rdtype == AAAA else [response(query).to_wire()]

    async with bench(half) as here:
        began = trio.current_time()
        answer = await here.ask("www.test")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
        assert trio.current_time() - began < SECOND_FAMILY


@with_jumping_clock
async def test_the_family_that_was_asked_for_is_published_even_where_it_comes_last():
    kinds: list[Any] = []

    def answer(query, udp):
        kinds.append(query.question[0].rdtype)
        return None if kinds.count(A) == 1 and kinds[-1] == A else zone(*WWW)(query, udp)

    async with bench(answer) as here:
        assert addresses(await here.ask("www.test")) == ["203.0.113.7"]
        assert here.published == [("www.test", ["203.0.113.7", "2001:db8::7"], KEPT)]
        assert sorted(kinds) == [A, A, AAAA]


@with_jumping_clock
async def test_a_host_without_v6_publishes_and_answers_v4_alone():
    async with bench(zone(*WWW), v6=False) as here:
        assert addresses(await here.ask("www.test")) == ["203.0.113.7"]
        answer = await here.ask("www.test", "AAAA")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
        assert [name[:2] for name in here.published] == [("www.test", ["203.0.113.7"])] * 2


@with_jumping_clock
async def test_an_answer_too_long_for_a_datagram_has_what_fits_and_comes_whole_over_tcp():
    many = [("many.test", "A", f"203.0.113.{number}") for number in range(150)]
    async with bench(zone(*many)) as here:
        answer = await here.ask("many.test")
        assert answer.flags & dns.flags.TC
        assert 0 < len(addresses(answer)) < 150
        asked = dns.message.make_query("many.test", "A").to_wire()
        told = await here.resolver.answer(here.containers[LO], asked)
        assert len(addresses(dns.message.from_wire(told))) == 150
        assert here.nameserver.asked.count("many.test. A udp") == 1


@with_jumping_clock
async def test_without_an_answer_from_upstream_it_is_servfail_and_counted():
    async with bench(silent) as here:
        assert (await here.ask("www.test")).rcode() == dns.rcode.SERVFAIL
        assert here.count(LO).unanswered == 1


@with_jumping_clock
async def test_above_the_limit_udp_is_truncated_tcp_waits_and_another_container_is_served():
    async with bench(silent) as here:
        with here.client() as client:
            await client.connect(("127.0.0.1", here._port))
            for number in range(BUDGET.queries + 50):
                await client.send(dns.message.make_query(f"n{number}.test", "A", id=number).to_wire())
            cut = [dns.message.from_wire(await client.recv(65535)) for _ in range(50)]
            assert all(answer.flags & dns.flags.TC and answer.rcode() == dns.rcode.NOERROR for answer in cut)
            assert {answer.id for answer in cut} == set(range(BUDGET.queries, BUDGET.queries + 50))
            assert here.count(LO).over_budget == 50
            assert addresses(await here.ask("my.kv")) == ["198.18.1.0"]  # needs no answer from upstream
            began, told = trio.current_time(), []

            async def ask(name: str, container: int) -> None:
                told.append((container, (await here.ask_over_tcp(name, container)).rcode(), trio.current_time()))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, "waits.test", LO)
                nursery.start_soon(ask, "other.test", OTHER)
                for _ in range(BUDGET.queries):
                    answer = dns.message.from_wire(await client.recv(65535))
                    assert answer.rcode() == dns.rcode.SERVFAIL
            assert [one[:2] for one in told] == [(OTHER, dns.rcode.SERVFAIL), (LO, dns.rcode.SERVFAIL)]
            assert told[0][2] - began < 2 * TRY + 2
            assert told[1][2] - began > 2 * TRY + 2  # it waited for a place
            assert (here.count(LO).over_budget, here.count(OTHER).over_budget) == (51, 0)
        assert here.count(LO).waiting == 0


@with_jumping_clock
async def test_more_datagrams_than_a_queue_holds_are_all_answered():
    """The resolver reads all that wait before it answers one."""
    count = BUDGET.query_queue + 500
    async with bench(zone(*WWW)) as here:
        with here.client() as client:
            client.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            await client.connect(("127.0.0.1", here._port))
            for number in range(count):
                client._sock.send(dns.message.make_query("my.kv", "A", id=number).to_wire())
            answers = [dns.message.from_wire(await client.recv(65535)) for _ in range(count)]
        whole = [answer for answer in answers if addresses(answer) == ["198.18.1.0"]]
        cut = [answer for answer in answers if answer.flags & dns.flags.TC]
        assert {answer.id for answer in answers} == set(range(count))
        assert len(whole) + len(cut) == count
        assert len(cut) == here.count(LO).over_budget == 500


@with_jumping_clock
async def test_an_answer_is_asked_for_once_while_its_ttl_lasts_and_its_ttl_falls():
    async with bench(zone(*WWW)) as here:
        first = await here.ask("www.test")
        await trio.sleep(10)
        for name in ("www.test", "WWW.test", "www.TEST"):
            again = await here.ask(name)
            assert again.question[0].name.to_text() == name + "."
            assert (addresses(again), again.answer[0].ttl) == (["203.0.113.7"], 20)
        assert first.answer[0].ttl == 30
        assert addresses(await here.ask("www.test", "AAAA")) == ["2001:db8::7"]
        assert len(here.nameserver.asked) == 2
        await trio.sleep(21)
        await here.ask("www.test")
        assert len(here.nameserver.asked) == 4


@with_jumping_clock
async def test_each_answer_from_the_cache_publishes_its_addresses():
    """An address that two names share leads to the one that was asked last."""
    records = [(name, kind, value) for name in ("a.test", "b.test") for _, kind, value in WWW]
    async with bench(zone(*records)) as here:
        for name in ("a.test", "b.test", "a.test", "b.test", "a.test"):
            await here.ask(name)
        assert [name for name, *_ in here.published] == ["a.test", "b.test", "a.test", "b.test", "a.test"]
        assert len(here.nameserver.asked) == 4


@with_jumping_clock
async def test_a_denial_is_kept_for_the_time_of_its_soa():
    def denied(query, udp):
        made = response(query, code=dns.rcode.NXDOMAIN)
        soa = "ns.test. root.test. 1 2 3 4 20"
        made.authority.append(dns.rrset.from_text("test.", 100, "IN", "SOA", soa))
        return [made.to_wire()]

    async with bench(denied) as here:
        for seconds, asked in ((0, 1), (19, 1), (2, 2)):
            await trio.sleep(seconds)
            answer = await here.ask("gone.test", "TXT")
            assert (answer.rcode(), len(answer.authority)) == (dns.rcode.NXDOMAIN, 1)
            assert len(here.nameserver.asked) == asked


@with_jumping_clock
async def test_a_query_that_is_cancelled_leaves_its_place():
    async with bench(silent) as here:
        async with trio.open_nursery() as leaving:
            leaving.start_soon(here.ask_over_tcp, "www.test", LO)
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        await here.ask_over_tcp("www.test", OTHER)
        assert here.count(LO).waiting == 0
        assert here.count(OTHER).unanswered == 1


@with_jumping_clock
async def test_a_flow_that_waits_for_a_name_gets_its_addresses_or_a_failure():
    async with bench(zone(*WWW)) as here:
        await here.resolver.refresh(here.containers[LO], "www.test")
        await here.resolver.refresh(here.containers[LO], "gone.test")
        assert here.published == [("www.test", ["2001:db8::7", "203.0.113.7"], 30), ("gone.test", "failed")]
    async with bench(silent, v6=False) as here:
        await here.resolver.refresh(here.containers[LO], "www.test")
        assert here.published == [("www.test", "failed")]


@with_jumping_clock
async def test_the_networks_nat64_prefix_is_learnt_and_local_addresses_behind_it_are_local():
    behind = ipaddress.IPv6Address("2a40:64::10.0.0.1").packed
    records = [("ipv4only.arpa", "AAAA", "2a40:64::192.0.0.170"), ("ipv4only.arpa", "AAAA", "2a40:64::192.0.0.171")]
    async with open_nameserver(zone(*records)) as nameserver, open_stepped(Servers([nameserver.server])) as upstream:
        assert not lib.guard_is_local(behind)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(learn_prefixes, upstream)
            await trio.sleep(AGAIN / 2)
            assert lib.guard_is_local(behind)
            assert len(nameserver.asked) == 1
            await trio.sleep(AGAIN)
            assert len(nameserver.asked) == 2
            nursery.cancel_scope.cancel()


@with_jumping_clock
async def test_queries_that_c_answers_are_observed_while_somebody_wants_them():
    async with bench(zone(*WWW)) as here:
        seen = here.containers[LO].observer.seen
        await here.ask("www.test")
        assert seen == []
        here.resolver.observe(True)
        await here.ask("WWW.test")  # from the cache
        await here.ask("gone.test", "TXT")
        await here.ask("my.kv")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [("www.test", "NOERROR"), ("gone.test", "NXDOMAIN"), ("my.kv", "NOERROR")]


@with_jumping_clock
async def test_a_query_above_the_budget_is_observed():
    async with bench(silent) as here:
        here.resolver.observe(True)
        with here.client() as client:
            await client.connect(("127.0.0.1", here._port))
            for number in range(BUDGET.queries + 1):
                await client.send(dns.message.make_query(f"n{number}.test", "A", id=number).to_wire())
            assert dns.message.from_wire(await client.recv(65535)).flags & dns.flags.TC
        await trio.testing.wait_all_tasks_blocked()
        last = f"n{BUDGET.queries}.test"
        assert here.containers[LO].observer.seen == [(last, "over budget"), (last, "NOERROR")]


@with_jumping_clock
async def test_a_container_that_was_removed_gets_no_answer_and_its_questions_end():
    async with bench(silent) as here:
        with here.client() as client:
            await client.connect(("127.0.0.1", here._port))
            await client.send(dns.message.make_query("www.test", "A").to_wire())
            while not here.nameserver.asked:
                await trio.lowlevel.checkpoint()
            lookups = here.containers[LO]
            here.resolver.remove(lookups)
            await client.send(dns.message.make_query("my.kv", "A").to_wire())
            with trio.move_on_after(3 * TRY) as waited:
                await client.recv(65535)
            assert waited.cancelled_caught
            here.resolver.add(lookups, LOOPBACK)
            assert addresses(await here.ask("my.kv")) == ["198.18.1.0"]  # control


@with_jumping_clock
async def test_queries_that_the_full_queue_of_the_socket_has_lost_are_counted_and_logged_once(caplog):
    async with bench(zone(*WWW), queue=20_000) as here:
        assert addresses(await here.ask("my.kv")) == ["198.18.1.0"]
        assert here.resolver.count_all().lost == 0
        for _ in range(2):
            with here.client() as client:
                await client.connect(("127.0.0.1", here._port))
                for number in range(500):
                    client._sock.send(dns.message.make_query("my.kv", "A", id=number).to_wire())
            await trio.testing.wait_all_tasks_blocked()  # until the queue is empty
            assert addresses(await here.ask("my.kv")) == ["198.18.1.0"]
        counters = here.resolver.count_all()
        assert counters.queries + counters.lost == 1003
        assert counters.lost > 100
    [line] = [record.message for record in caplog.records if "lost" in record.message]
    assert int(line.split()[0]) > 50


@with_jumping_clock
async def test_a_small_cache_drops_the_answers_that_were_used_least_recently():
    async with open_nameserver(zone(*WWW)) as nameserver:
        async with open_stepped(Servers([nameserver.server]), cache_size=4000) as upstream:
            for name in ("a", "b", "a", "c", "d", "e", "f"):
                await upstream.resolve(f"{name}.test")
                await upstream.resolve("www.test")
            assert nameserver.asked.count("www.test. A udp") == 1
            await upstream.resolve("a.test")
        assert nameserver.asked.count("a.test. A udp") > 1
