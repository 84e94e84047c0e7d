"""Serves the flows that the relay hands over, and records their ends."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from functools import partial
from typing import assert_never

from pyinterceptor._relay import lib
from pyinterceptor.app.entrypoint import Connecting
from pyinterceptor.bindings.env import Env
from pyinterceptor.boundary import parted
from pyinterceptor.dns.resolver import Resolver
from pyinterceptor.dns.server import serve_tcp
from pyinterceptor.http.fetch import FetchScope
from pyinterceptor.http.server import Server
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.records import Cause
from pyinterceptor.relay.relay import Event, Handoff, Relay, Resolve
from pyinterceptor.relay.stream import HubStream
from pyinterceptor.serving.intercepted import InterceptedStream
from pyinterceptor.serving.lines import shown_endpoint, shown_host
from pyinterceptor.serving.requests import Outbound
from pyinterceptor.serving.run import Run


class Flows:
    """Serves flows. `runs` holds the running containers by number."""

    def __init__(
        self, relay: Relay, hub: Hub, server: Server, resolver: Resolver, env: Env, runs: Mapping[int, Run]
    ) -> None:
        self._relay = relay
        self._hub = hub
        self._server = server
        self._resolver = resolver
        self._env = env
        self._runs = runs

    async def run(self) -> None:
        """Serves the flows that the relay hands over, each in its container's nursery, until cancelled."""
        async for batch in self._relay.events():
            for event in batch:
                self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        run = self._runs.get(event.container)
        match event:
            case Handoff():
                if run is None or run.is_over:
                    os.close(event.fd)
                    self._relay.returned(event, 0, 0)
                else:
                    run.flows += 1
                    run.nursery.start_soon(self._serve, run, event)
            case Resolve():
                if run is not None and not run.is_over:
                    run.nursery.start_soon(self._refresh, run, event)
            case _:
                assert_never(event)

    async def _refresh(self, run: Run, event: Resolve) -> None:
        """Resolves a name that a flow waits for. A failure here ends the flows that wait for it alone."""
        try:
            await self._resolver.refresh(run.lookups, event.name)
        except Exception as error:
            run.faults.error(f"resolve {shown_host(event.name)}: failed", error)
            self._relay.name_failed(event.container, event.name)

    async def _serve(self, run: Run, event: Handoff) -> None:
        """Serves one flow to its end. A failure here ends this flow alone."""
        cause = event.cause
        received = sent = 0
        try:
            stream = self._hub.stream(owned(event.fd))
            try:
                await self._speak(run, event, stream)
                let_end_in_order(stream.socket)
            finally:
                received, sent = transferred(stream.socket)
                stream.close_nowait()  # without waiting, so that a cancelled flow is recorded as well
        except BaseException as error:
            passes, ends = parted(error)
            if ends is not None:
                cause = Cause.RESET
                run.faults.error(f"flow to {shown_endpoint(event.destination)}: failed", ends)
            if passes is not None:
                cause = Cause.DETACHED
                raise passes from None
        finally:
            run.flows -= 1
            self._relay.returned(event, received, sent)
            run.recorder.flow(event, cause, received, sent)

    async def _speak(self, run: Run, event: Handoff, stream: HubStream) -> None:
        if event.destination[1] == lib.DNS_PORT and event.protocol == lib.PROTOCOL_NONE:
            await serve_tcp(stream, run.lookups, self._resolver)
            return
        policy = run.identity.policies.now
        decision = policy.decide(event.protocol, event.host, event.destination)
        target = policy.targets[decision.target].handler if decision.target != lib.NO_TARGET else None
        if isinstance(target, Connecting):
            with FetchScope(run.client) as scope:
                await target.worker.connect(InterceptedStream(stream, event.destination, event.host))
            if scope.has_fetched:
                await scope.let_go(None)
            return
        outbound = Outbound(run, self._env, event)
        address, port = event.destination
        await self._server.serve(
            stream,
            outbound.respond,
            scheme="http",
            destination=(str(address), port),
            pump=partial(self._relay.pump, event.container),
            is_ending=lambda: run.is_stopping,
            ended=outbound.ended,
            refused=outbound.refused,
            faults=run.faults,
        )


def owned(fd: int) -> socket.socket:
    """Returns a socket for the descriptor, which it takes even if it fails. Raises OSError."""
    try:
        return socket.socket(fileno=fd)
    except BaseException:
        os.close(fd)
        raise


def let_end_in_order(connection: socket.socket) -> None:
    """Makes a close send a FIN. Until then it sends a reset, so that no response looks complete if we are killed."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))


def transferred(connection: socket.socket) -> tuple[int, int]:
    """Returns the bytes received and acknowledged on a TCP socket, from TCP_INFO (tcp(7)); 0 if it is closed."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    except OSError:
        return 0, 0
    acked, received = struct.unpack_from("=QQ", info, 120)
    return received, acked
