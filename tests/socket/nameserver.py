"""A DNS server on the loopback address, whose answers a test defines."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import trio

Record = tuple[str, str, str]  # owner, type, value
Answer = Callable[[dns.message.Message, bool], Sequence[bytes] | None]


class Nameserver:
    """A DNS server. `answer(query, udp)` returns the messages to send, or None to send none. `asked` holds
    "name type transport" for each query."""

    def __init__(self, port: int, answer: Answer) -> None:
        self.server = f"127.0.0.1:{port}"
        self.asked: list[str] = []
        self._answer = answer

    def messages(self, wire: bytes, udp: bool) -> Sequence[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        transport = "udp" if udp else "tcp"
        self.asked.append(f"{question.name} {dns.rdatatype.to_text(question.rdtype)} {transport}")
        return self._answer(query, udp) or ()


@asynccontextmanager
async def open_nameserver(answer: Answer) -> AsyncIterator[Nameserver]:
    """Serves UDP and TCP on the same port until the block ends."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))  # TCP first: a closed connection may still occupy the TCP port
        await datagrams.bind(listener.getsockname())
        listener.listen()
        nameserver = Nameserver(listener.getsockname()[1], answer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_datagrams, datagrams, nameserver)
            nursery.start_soon(trio.serve_listeners, _stream_of(nameserver), [trio.SocketListener(listener)])
            yield nameserver
            nursery.cancel_scope.cancel()


async def _datagrams(sock: trio.socket.SocketType, nameserver: Nameserver) -> None:
    while True:
        wire, peer = await sock.recvfrom(4096)
        for message in nameserver.messages(wire, True):
            await sock.sendto(message, peer)


def _stream_of(nameserver: Nameserver):
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            wire = b""
            while data := await stream.receive_some():
                wire += data
                if len(wire) >= 2 + int.from_bytes(wire[:2], "big"):
                    break
            for message in nameserver.messages(wire[2:], False):
                await stream.send_all(len(message).to_bytes(2, "big") + message)

    return serve


def response(query: dns.message.Message, *records: Record, code: int = dns.rcode.NOERROR) -> dns.message.Message:
    made = dns.message.make_response(query, recursion_available=True)
    made.set_rcode(dns.rcode.Rcode(code))
    made.answer += [dns.rrset.from_text(owner + ".", 30, "IN", kind, value) for owner, kind, value in records]
    return made


def sent(made: dns.message.Message, udp: bool) -> bytes:
    """Returns a response's bytes. Over UDP it is truncated if it exceeds what the query permits (EDNS)."""
    if not udp:
        return made.to_wire(max_size=65535)
    try:
        return made.to_wire()
    except dns.exception.TooBig:
        made.answer.clear()
        made.flags |= dns.flags.TC
        return made.to_wire()


def zone(*records: Record) -> Answer:
    """Returns an answer function with these records. Other names don't exist."""

    def answer(query: dns.message.Message, udp: bool) -> Sequence[bytes]:
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        own = [record for record in records if record[0] == name]
        if not own:
            return [response(query, code=dns.rcode.NXDOMAIN).to_wire()]
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        return [sent(response(query, *(record for record in own if record[1] == kind)), udp)]

    return answer


def silent(query: dns.message.Message, udp: bool) -> None:
    """An answer function that never answers."""
