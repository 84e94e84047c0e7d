"""Resolvers upstream that misbehave: real sockets on loopback, and a clock that jumps when all tasks wait."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest
import trio
import trio.testing
from dns.rdatatype import AAAA, A
from pyinterceptor._relay import lib

from pyinterceptor.dns import servers as module
from pyinterceptor.dns.query import question_of
from pyinterceptor.dns.servers import Servers
from pyinterceptor.dns.upstream import SECOND_FAMILY, STREAMS, TRY, Answer, NoAnswer, addresses, open_upstream
from pyinterceptor.errors import PolicyError
from tests.socket.clock import with_jumping_clock
from tests.socket.nameserver import open_nameserver, response, sent, silent, zone
from tests.socket.stepped import open_stepped

NAME = b"\3www\7example\4test\0"
QUESTION = question_of(NAME, A)
BOTH = (("www.example.test", "A", "203.0.113.7"), ("www.example.test", "AAAA", "2001:db8::7"))


def upstream_of(*servers: str):
    return open_stepped(Servers(servers))


async def query(*servers: str) -> Answer:
    async with upstream_of(*servers) as upstream:
        return await upstream.query(QUESTION)


def told(answer: Answer) -> list[str]:
    return [str(address) for address in addresses(answer)]


def closed_port() -> str:
    """Returns the address of a port without a listener: the kernel refuses datagrams to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


@with_jumping_clock
async def test_the_first_server_that_answers_is_believed():
    async with open_nameserver(zone(*BOTH)) as first, open_nameserver(zone()) as second:
        answer = await query(first.server, second.server)
    assert (told(answer), answer.lowest) == (["203.0.113.7"], 30)
    assert (first.asked, second.asked) == (["www.example.test. A udp"], [])


@with_jumping_clock
async def test_no_such_name_is_an_answer():
    async with open_nameserver(zone()) as first, open_nameserver(zone(*BOTH)) as second:
        answer = await query(first.server, second.server)
    assert (answer.code, second.asked) == (dns.rcode.NXDOMAIN, [])


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP])
@with_jumping_clock
async def test_a_server_that_neither_answers_nor_denies_is_followed_by_the_next(code):
    def unsure(query, udp):
        made = response(query, code=code)
        made.question.clear()
        return [made.to_wire()]

    async with open_nameserver(unsure) as first, open_nameserver(zone(*BOTH)) as second:
        answer = await query(first.server, second.server)
        assert (answer.code, len(first.asked), len(second.asked)) == (dns.rcode.NOERROR, 1, 1)
        answer = await query(first.server)
        assert (answer.code, len(first.asked)) == (code, 2)


@with_jumping_clock
async def test_a_silent_server_is_left_for_the_next():
    async with open_nameserver(silent) as first, open_nameserver(zone(*BOTH)) as second:
        began = trio.current_time()
        answer = await query(first.server, second.server)
        assert told(answer) == ["203.0.113.7"]
        assert TRY <= trio.current_time() - began < TRY + 1
        assert len(first.asked) == 1


@with_jumping_clock
async def test_a_server_that_is_not_there_is_left_at_once():
    async with open_nameserver(zone(*BOTH)) as second:
        began = trio.current_time()
        answer = await query(closed_port(), second.server)
        assert told(answer) == ["203.0.113.7"]
        assert trio.current_time() - began < TRY


@with_jumping_clock
async def test_without_any_answer_every_server_is_asked_twice():
    async with (
        open_nameserver(silent) as first,
        open_nameserver(silent) as second,
        upstream_of(first.server, second.server) as upstream,
    ):
        with pytest.raises(NoAnswer):
            await upstream.query(QUESTION)
    assert (len(first.asked), len(second.asked)) == (2, 2)


@with_jumping_clock
async def test_an_answer_that_was_cut_is_asked_for_over_tcp():
    def cut(query, udp):
        made = response(query, *(("www.example.test", "A", f"203.0.113.{n}") for n in range(200)))
        return [sent(made, udp)]

    async with open_nameserver(cut) as server:
        answer = await query(server.server)
    assert len(dns.message.from_wire(answer.wire).answer[0]) == 200
    assert len(told(answer)) == lib.ANSWER_ADDRESSES_MAX
    assert server.asked == ["www.example.test. A udp", "www.example.test. A tcp"]


@with_jumping_clock
async def test_queries_over_tcp_hold_few_descriptors():
    """The server cuts each answer over UDP, and gives none over TCP."""
    count, accepted = STREAMS + 44, []

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.setblocking(False)
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port = listener.socket.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))

        async def cut() -> None:
            while True:
                await trio.lowlevel.wait_readable(datagrams)
                wire, peer = datagrams.recvfrom(4096)
                made = response(dns.message.from_wire(wire))
                made.flags |= dns.flags.TC
                datagrams.sendto(made.to_wire(), peer)

        async def accept() -> None:
            while True:
                accepted.append(await listener.accept())

        async with listener, upstream_of(f"127.0.0.1:{port}") as upstream, trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            nursery.start_soon(accept)
            for number in range(count):
                name = b"\4%04d\7example\4test\0" % number
                nursery.start_soon(upstream.query, question_of(name, A))
            while len(accepted) < STREAMS:
                await trio.lowlevel.checkpoint()
            await trio.sleep(TRY / 2)  # until no task runs
            assert len(accepted) == STREAMS
            nursery.cancel_scope.cancel()
        for stream in accepted:
            await trio.aclose_forcefully(stream)


@with_jumping_clock
async def test_an_answer_to_another_question_is_ignored():
    """The right answer comes after forged ids, answers to other questions, queries and noise."""

    def forged(query, udp):
        right = response(query, BOTH[0])
        wrong = response(query, ("www.example.test", "A", "198.51.100.66"))
        wrong.id ^= 1
        other = response(dns.message.make_query("evil.test", "A", id=query.id), ("evil.test", "A", "198.51.100.66"))
        messages = [wrong, other, query, right]
        return [b"", b"\0", b"noise that is no message", *(message.to_wire() for message in messages)]

    async with open_nameserver(forged) as server:
        answer = await query(server.server)
    assert told(answer) == ["203.0.113.7"]


@with_jumping_clock
async def test_an_answer_from_another_address_is_not_heard():
    sent = []

    def stolen(query, udp):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.2", 0))
            for port in ports():
                sock.sendto(response(query, ("www.example.test", "A", "198.51.100.66")).to_wire(), ("127.0.0.1", port))
                sent.append(port)
        return [response(query, BOTH[0]).to_wire()]

    async with open_nameserver(stolen) as server:
        answer = await query(server.server)
    assert told(answer) == ["203.0.113.7"]
    assert sent


def ports() -> list[int]:
    """Returns the local ports of connected UDP sockets, which a real forger can't know."""
    rows = [line.split() for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]]
    return [int(row[1].partition(":")[2], 16) for row in rows if row[2] != "00000000:0000"]


@with_jumping_clock
async def test_a_chain_of_names_leads_to_addresses():
    chain = (
        ("www.example.test", "CNAME", "real.example.test."),
        ("real.example.test", "A", "203.0.113.7"),
    )

    def answer(query, udp):
        return [response(query, *(chain if query.question[0].rdtype == A else chain[:1])).to_wire()]

    async with open_nameserver(answer) as server, upstream_of(server.server) as upstream:
        found = await upstream.resolve("www.example.test")
    assert (found.v4, found.v6, found.ttl) == (["203.0.113.7"], [], 30)


@with_jumping_clock
async def test_both_families_are_asked_at_once_and_each_question_is_sent_once():
    async with open_nameserver(zone(*BOTH)) as server, upstream_of(server.server) as upstream:
        found = []

        async def resolve():
            found.append(await upstream.resolve("www.example.test"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(resolve)
            nursery.start_soon(upstream.query, QUESTION)
        assert sorted(server.asked) == ["www.example.test. A udp", "www.example.test. AAAA udp"]
        await upstream.resolve("www.example.test")  # still known
        assert len(server.asked) == 2
        await trio.sleep(31)  # longer than its TTL
        await upstream.resolve("www.example.test")
        assert len(server.asked) == 4
    assert [one.both() for one in found] == [["2001:db8::7", "203.0.113.7"]] * 20


@pytest.mark.parametrize(("answering", "silent_one"), [(A, AAAA), (AAAA, A)])
@with_jumping_clock
async def test_one_familys_addresses_do_not_wait_long_for_the_others(answering, silent_one):
    def half(query, udp):
        return zone(*BOTH)(query, udp) if query.question[0].rdtype == answering else None

    async with open_nameserver(half) as server:
        began = trio.current_time()
        async with upstream_of(server.server) as upstream:
            found = await upstream.resolve("www.example.test")
        assert len(found.both()) == 1
        assert SECOND_FAMILY <= trio.current_time() - began < TRY


@with_jumping_clock
async def test_a_cancelled_query_does_not_take_the_answer_from_the_others():
    async with (
        open_nameserver(silent) as first,
        open_nameserver(zone(*BOTH)) as second,
        upstream_of(first.server, second.server) as upstream,
    ):
        found = []

        async def impatient():
            with trio.move_on_after(TRY / 2):
                await upstream.query(QUESTION)

        async def patient():
            found.append(await upstream.query(QUESTION))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(patient)
            nursery.start_soon(patient)
        assert [told(answer) for answer in found] == [["203.0.113.7"]] * 2
        assert (len(first.asked), len(second.asked)) == (1, 1)


@with_jumping_clock
async def test_all_waiters_for_one_answer_get_its_failure():
    async with open_nameserver(silent) as server, upstream_of(server.server) as upstream:
        failed = []

        async def ask():
            with pytest.raises(NoAnswer):
                await upstream.query(QUESTION)
            failed.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        assert (len(failed), len(server.asked)) == (2, 2)


@with_jumping_clock
async def test_addresses_and_localhost_are_never_asked_for():
    async with open_nameserver(zone(*BOTH)) as server, upstream_of(server.server) as upstream:
        assert (await upstream.resolve("203.0.113.9")).both() == ["203.0.113.9"]
        assert (await upstream.resolve("2001:db8::9")).both() == ["2001:db8::9"]
        for name in ("localhost", "db.localhost"):
            assert (await upstream.resolve(name)).both() == ["::1", "127.0.0.1"]
        assert (await upstream.resolve("a" * 64 + ".test")).both() == []
        assert (await upstream.resolve("www..test")).both() == []
        assert server.asked == []
        assert (await upstream.resolve("www.example.test")).both() == ["2001:db8::7", "203.0.113.7"]


@with_jumping_clock
async def test_resolv_conf_is_followed_as_it_changes(tmp_path, monkeypatch):
    conf = tmp_path / "resolv.conf"
    monkeypatch.setattr(module, "RESOLV_CONF", conf)
    async with (
        open_nameserver(zone(*BOTH)) as first,
        open_nameserver(zone()) as second,
        open_stepped(Servers()) as upstream,
    ):
        conf.write_text(f"# nameserver 192.0.2.1\nsearch test\nnameserver nonsense\nnameserver {first.server}\n")
        assert (await upstream.query(QUESTION)).code == dns.rcode.NOERROR
        conf.write_text(f"nameserver\t{second.server}\nnameserver {first.server}\n")
        assert (await upstream.query(question_of(NAME, AAAA))).code == dns.rcode.NXDOMAIN
    assert (len(first.asked), len(second.asked)) == (1, 1)


@pytest.mark.parametrize("text", ["", "options ndots:2\n", None])
def test_without_a_nameserver_the_host_itself_is_asked(text, tmp_path, monkeypatch):
    conf = tmp_path / "resolv.conf"
    if text is not None:
        conf.write_text(text)
    monkeypatch.setattr(module, "RESOLV_CONF", conf)
    assert module._system() == [("127.0.0.1", 53)]


@pytest.mark.parametrize(
    "text", ["dns.example", "203.0.113.53:0", "203.0.113.53:99999", "203.0.113.53:x", "[::1", "", "1.2.3"]
)
def test_a_nameserver_that_is_not_an_address_is_refused(text):
    with pytest.raises(PolicyError, match="nameserver"):
        Servers(["203.0.113.53", "[2001:db8::53]:5353", "2001:db8::53", text])


@with_jumping_clock
async def test_a_server_that_resets_its_tcp_connection_is_followed_by_the_next():
    """Its answer over UDP is truncated, so that it is asked again over TCP."""

    def cut(query, udp):
        made = response(query)
        made.flags |= dns.flags.TC
        return [made.to_wire()]

    async def resets(listener: trio.SocketListener) -> None:
        stream = await listener.accept()
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.setblocking(False)
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port = listener.socket.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))

        async def answers() -> None:
            await trio.lowlevel.wait_readable(datagrams)
            wire, peer = datagrams.recvfrom(4096)
            (answer,) = cut(dns.message.from_wire(wire), True)
            datagrams.sendto(answer, peer)

        async with listener, open_nameserver(zone(*BOTH)) as good, trio.open_nursery() as nursery:
            nursery.start_soon(answers)
            nursery.start_soon(resets, listener)
            answer = await query(f"127.0.0.1:{port}", good.server)
            assert told(answer)


@with_jumping_clock
async def test_an_answer_above_512_bytes_comes_in_one_datagram():
    records = [("www.example.test", "A", f"203.0.113.{number}") for number in range(60)]
    async with open_nameserver(zone(*records)) as server:
        answer = await query(server.server)
    assert len(answer.wire) > 900
    assert server.asked == ["www.example.test. A udp"]


@with_jumping_clock
async def test_a_server_without_edns_is_asked_without_it_from_then_on():
    def old(query, udp):
        if query.edns < 0:
            return zone(*BOTH)(query, udp)
        made = dns.message.Message(query.id)
        made.flags = dns.flags.QR
        made.set_rcode(dns.rcode.FORMERR)
        return [made.to_wire()]

    async with open_nameserver(old) as server, upstream_of(server.server) as upstream:
        assert told(await upstream.query(QUESTION)) == ["203.0.113.7"]
        assert told(await upstream.query(question_of(NAME, AAAA))) == ["2001:db8::7"]
    assert len(server.asked) == 3


@with_jumping_clock
async def test_where_tcp_is_blocked_the_answer_that_was_cut_is_passed_on():
    def cut(query, udp):
        made = response(query, *(("www.example.test", "A", f"203.0.113.{n}") for n in range(200)))
        return [sent(made, udp)] if udp else ()

    async with open_nameserver(cut) as server:
        answer = await query(server.server)
    assert (answer.is_cut, answer.ttl) == (True, 0)


@with_jumping_clock
async def test_queries_come_from_many_ports_and_old_ones_are_closed():
    before = len(list(Path("/proc/self/fd").iterdir()))
    seen = set()

    async def ask(upstream, number):
        await upstream.query(question_of(b"\5n%04d\0" % number, A))

    async with (
        open_nameserver(zone()) as server,
        open_stepped(Servers([server.server]), port_queries=4) as upstream,
    ):
        for first in range(0, 400, 40):
            async with trio.open_nursery() as nursery:
                for number in range(first, first + 40):
                    nursery.start_soon(ask, upstream, number)
                await trio.testing.wait_all_tasks_blocked()
                seen.update(ports())
        assert len(seen) > 40
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + lib.NAMESERVER_PORTS + 8
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_thread_asks_and_repeats_by_itself():
    async def main() -> None:
        servers = []

        def answer(query, udp):
            servers.append(query.question[0].name.to_text())
            return None if servers.count("www.example.test.") == 1 else zone(*BOTH)(query, udp)

        with trio.fail_after(60):
            async with open_nameserver(answer) as server, open_upstream(Servers([server.server])) as upstream:
                assert told(await upstream.query(QUESTION)) == ["203.0.113.7"]
                found = await upstream.resolve("www.example.test")
        assert found.both() == ["2001:db8::7", "203.0.113.7"]
        assert servers == ["www.example.test."] * 3

    trio.run(main)
