"""Flows as they come out of the relay: served if they are handed over, and a line in the log for each when it ends."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Mapping
from functools import partial
from typing import assert_never

import trio

from pyinterceptor._relay import lib
from pyinterceptor.bindings.env import Env
from pyinterceptor.dns.resolver import Resolver
from pyinterceptor.dns.server import serve_tcp
from pyinterceptor.http.server import Server
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.records import Kind, Record
from pyinterceptor.relay.relay import Event, Handoff, Relay, Resolve
from pyinterceptor.serving.requests import Attached, Outbound

log = logging.getLogger("pyinterceptor")

DNS_PORT = 53
VERDICTS = {lib.VERDICT_REFUSE: "REFUSE", lib.VERDICT_SPLICE: "SPLICE", lib.VERDICT_HANDLE: "HANDLE"}


class Flows:
    """`attached` says whose flows are whose, at each moment."""

    def __init__(
        self, relay: Relay, hub: Hub, server: Server, resolver: Resolver, env: Env, attached: Mapping[int, Attached]
    ) -> None:
        self._relay = relay
        self._hub = hub
        self._server = server
        self._resolver = resolver
        self._env = env
        self._attached = attached

    async def run(self) -> None:
        """Serves what the relay hands over, until cancelled."""
        async with trio.open_nursery() as nursery:
            if log.isEnabledFor(logging.INFO):
                nursery.start_soon(self._log_records)
            async for batch in self._relay.events():
                for event in batch:
                    self._dispatch(event, nursery)

    def _dispatch(self, event: Event, nursery: trio.Nursery) -> None:
        match event:
            case Handoff():
                nursery.start_soon(self._serve, event)
            case Resolve():
                nursery.start_soon(self._refresh, event)
            case _:
                assert_never(event)

    async def _log_records(self) -> None:
        self._relay.subscribe(Kind.FLOW | Kind.REFUSAL)
        try:
            async for batch in self._relay.records():
                self._log_batch(batch)
        finally:
            while batch := self._relay.records_nowait():
                self._log_batch(batch)

    def _log_batch(self, batch: list[Record]) -> None:
        for record in batch:
            attached = self._attached.get(record.container)
            self._log(record, attached, record.sent, record.received, record.ended - record.began)

    async def _refresh(self, event: Resolve) -> None:
        """Resolves a name that a flow waits for. What goes wrong here ends the flows that wait for it alone."""
        try:
            await self._resolver.refresh(event.container, event.name)
        except Exception:
            log.exception("resolve %s: failed", event.name)
            self._relay.name_failed(event.container, event.name)

    async def _serve(self, event: Handoff) -> None:
        """One handed-off flow to its end. What goes wrong here ends this flow alone."""
        stream = self._hub.stream(socket.socket(fileno=event.fd))
        started = trio.current_time()
        attached = self._attached.get(event.container)
        try:
            if attached is None:
                return
            if event.destination[1] == DNS_PORT and event.protocol == lib.PROTOCOL_NONE:
                await serve_tcp(stream, event.container, self._resolver)
            else:
                outbound = Outbound(attached, self._env, event.destination, event.cause)
                address, port = event.destination
                pump = partial(self._relay.pump, event.container)
                await self._server.serve(
                    stream, outbound.respond, scheme="http", destination=(str(address), port), pump=pump
                )
            let_end_in_order(stream.socket)
        except Exception:
            log.exception("flow %d to %s: failed", event.flow, event.destination[0])
        finally:
            received, sent = transferred(stream.socket)
            stream.close_nowait()  # nothing here waits: what is cancelled is counted and told as well
            self._relay.returned(event, received, sent)
            self._log(event, attached, received, sent, trio.current_time() - started)

    def _log(
        self, event: Handoff | Record, attached: Attached | None, sent: int, received: int, seconds: float
    ) -> None:
        """The one line of a flow, when it has ended."""
        log.info(
            "%s %s %s:%d rule=%s cause=%s sent=%d received=%d seconds=%.3f",
            VERDICTS[event.verdict],
            event.host or "-",
            *event.destination,
            "-" if attached is None else attached.policy.rule_name(event.rule),
            event.cause.name,
            sent,
            received,
            seconds,
        )


def let_end_in_order(connection: socket.socket) -> None:
    """From now on a close is a FIN. Before, were we killed, it is a reset: no answer cut short looks complete."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))


def transferred(connection: socket.socket) -> tuple[int, int]:
    """Bytes received and sent (acknowledged) on a TCP socket, from TCP_INFO (tcp(7)); 0 where it is gone."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    except OSError:
        return 0, 0
    acked, received = struct.unpack_from("=QQ", info, 120)
    return received, acked
