"""Everything open at once: the gateway, the relay, DNS, and the containers of one app.

`async with open_interceptor(app) as interceptor` is a lifetime: what it started is gone when the block ends.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, assert_never

import trio

from pyinterceptor._relay import lib
from pyinterceptor.app import App
from pyinterceptor.capture.gateway import Gateway, open_gateway
from pyinterceptor.capture.routes import follow_ipv6, has_ipv6
from pyinterceptor.container import Container, Context, container_id
from pyinterceptor.dns.names import SYNTHETIC, Networks
from pyinterceptor.dns.resolver import Resolver
from pyinterceptor.dns.server import serve_tcp, serve_udp
from pyinterceptor.dns.upstream import Upstream
from pyinterceptor.errors import PolicyError
from pyinterceptor.http.client import open_client
from pyinterceptor.http.dial import Dialer
from pyinterceptor.http.server import Server, open_server
from pyinterceptor.outbound import Attached, Outbound
from pyinterceptor.policies import policy_of
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Counters, Ended, Event, Handoff, Options, Relay, Resolve, open_relay
from pyinterceptor.runtime import (
    Finished,
    NetnsContainer,
    PodmanContainer,
    Running,
    open_netns_container,
    open_podman_container,
)

log = logging.getLogger("pyinterceptor")

DNS_PORT = 53
UNSPECIFIED = (ipaddress.IPv4Address(0), 0)  # the destination of a name that nobody has dialled yet
VERDICTS = {lib.VERDICT_REFUSE: "REFUSE", lib.VERDICT_SPLICE: "SPLICE", lib.VERDICT_HANDLE: "HANDLE"}


class Interceptor:
    """Made by `open_interceptor`; gives containers and lets their policies be replaced."""

    def __init__(
        self,
        app: App,
        nursery: trio.Nursery,
        gateway: Gateway,
        relay: Relay,
        hub: Hub,
        server: Server,
        upstream: Upstream,
        v6: bool,
        synthetic: Networks,
    ) -> None:
        self._app = app
        self._nursery = nursery
        self._gateway = gateway
        self._relay = relay
        self._hub = hub
        self._server = server
        self._upstream = upstream
        self._attached: dict[int, Attached] = {}
        self._boxes: dict[tuple[str, str], Box] = {}
        self._starting = trio.Lock()
        self._generations = 0
        self._synthetic = synthetic
        self.resolver = Resolver(
            decide=self._decide_name,
            budget_of=self._budget_of,
            upstream=upstream,
            relay=relay,
            v6=v6,
            networks=synthetic,
        )

    async def get_container(self, cls: type[Container], name: str = "default", *, user: str | None = None) -> Box:
        """The container of this class and name; it is started if it does not run (as `user`, or who invoked us).

        Raises: PolicyError for a class that the app doesn't have or rules that can't be;
        RuntimeFailure, CaptureError where it can't be started or attached.
        """
        if cls not in self._app.containers:
            known = ", ".join(known.__name__ for known in self._app.containers)
            raise PolicyError(f"{cls.__name__} is not a container of this app; it has: {known}")
        async with self._starting:
            box = self._boxes.get((cls.__name__, name))
            if box is not None and box.has_ended:
                await box.stop()
                box = None
            if box is None:
                box = await self._nursery.start(self._run, cls, name, user)
            return box

    def replace_policy(self, cls: type[Container]) -> None:
        """Reads the class's rules anew for all its running containers, with flows open.

        The next request on every open connection is decided by them; none is dropped.
        """
        self._generations += 1
        policy = policy_of(cls, self._generations)
        for attached in self._attached.values():
            if attached.context.container_class == cls.__name__:
                attached.policy = policy
                self._relay.publish_policy(attached.container, policy.blob)

    def count(self, cls: type[Container] | None = None, name: str = "default") -> Counters:
        """What became of the flows of one container, or of all that ever were. Raises: KeyError if it does not run."""
        if cls is None:
            return self._relay.count()
        for attached in self._attached.values():
            if (attached.context.container_class, attached.context.container_name) == (cls.__name__, name):
                return self._relay.count(attached.container)
        raise KeyError(f"{cls.__name__} {name!r} does not run")

    async def _run(
        self,
        cls: type[Container],
        name: str,
        user: str | None,
        *,
        task_status: trio.TaskStatus[Box] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """One container from its start to its stop."""
        key = cls.__name__, name
        try:
            async with self._attachment(cls, name) as attach:
                opening: AbstractAsyncContextManager[NetnsContainer | PodmanContainer]
                if cls.image is None:
                    opening = open_netns_container(name=name, user=user, attach=attach)
                else:
                    opening = open_podman_container(name=name, image=cls.image, attach=attach)
                async with opening as workload:
                    box = self._boxes[key] = Box(workload)
                    task_status.started(box)
                    await box.stopping.wait()
        except ExceptionGroup as group:  # the client's nursery wraps what passes through it
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__
        finally:
            if key in self._boxes:
                self._boxes.pop(key).gone.set()

    @asynccontextmanager
    async def _attachment(self, cls: type[Container], name: str) -> AsyncIterator[Any]:
        """A seat at the gateway and all that is known of it, before the veth exists; gone with the block."""
        self._generations += 1
        policy = policy_of(cls, self._generations)
        seat = self._gateway.reserve()
        context = Context(container_id(cls.__name__, name), cls.__name__, name)
        dialer = Dialer(
            resolve=self._upstream.resolve,
            may_dial=partial(self._may_dial, seat.ifindex),
            make_stream=self._hub.stream,
        )
        async with open_client(dialer, pump=partial(self._relay.pump, seat.ifindex)) as client:
            self._relay.add_container(seat.ifindex, seat.v4, seat.v6, cls.budget)
            try:
                self._relay.publish_policy(seat.ifindex, policy.blob)
                self._attached[seat.ifindex] = Attached(
                    seat.ifindex, context, policy, client, self._synthetic, cls.budget
                )
                yield partial(self._gateway.attach, seat)
            finally:
                self._relay.remove_container(seat.ifindex)
                self._attached.pop(seat.ifindex, None)
                self.resolver.forget(seat.ifindex)
                with trio.CancelScope(shield=True):
                    await self._gateway.detach(seat)

    def _may_dial(self, container: int, ip: str, port: int, local: bool) -> bool:
        return self._relay.may_dial(ipaddress.ip_address(ip), port, container=container, local=local)

    def _budget_of(self, container: int) -> Budget:
        return self._attached[container].budget

    def _decide_name(self, container: int, host: str) -> int | None:
        """What an HTTP request for this name would get; None for a container that isn't there."""
        attached = self._attached.get(container)
        if attached is None:
            return None
        return attached.policy.decide(lib.PROTOCOL_HTTP, host, UNSPECIFIED).verdict

    def set_ipv6(self, v6: bool) -> None:
        """The host has gained or lost its way to IPv6 addresses."""
        self._gateway.set_ipv6(v6)
        self.resolver.set_ipv6(v6)

    async def follow_events(self) -> None:
        """Serves what the relay hands over, for ever."""
        async for batch in self._relay.events():
            for event in batch:
                self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        match event:
            case Handoff():
                self._nursery.start_soon(self._serve, event)
            case Resolve():
                self._nursery.start_soon(self.resolver.refresh, event.container, event.name)
            case Ended():
                attached = self._attached.get(event.container)
                self._log(event, attached, event.sent, event.received, event.seconds)
            case _:
                assert_never(event)

    async def _serve(self, event: Handoff) -> None:
        """One handed-off flow to its end. What goes wrong here ends this flow alone."""
        stream = self._hub.stream(socket.socket(fileno=event.fd))
        started = trio.current_time()
        attached = self._attached.get(event.container)
        try:
            if attached is None:
                return
            if event.destination[1] == DNS_PORT and event.protocol == lib.PROTOCOL_NONE:
                await serve_tcp(stream, event.container, self.resolver)
            else:
                outbound = Outbound(attached, self._app.env, event.destination, event.cause)
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
            await trio.aclose_forcefully(stream)
            self._relay.returned(event, received, sent)
            self._log(event, attached, received, sent, trio.current_time() - started)

    def _log(
        self, event: Handoff | Ended, attached: Attached | None, sent: int, received: int, seconds: float
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


class Box:
    """A running container, as `get_container` gives it."""

    def __init__(self, workload: NetnsContainer | PodmanContainer) -> None:
        self._workload = workload
        self.stopping = trio.Event()
        self.gone = trio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether it is stopped, or its first process has ended; `get_container` gives a fresh one then."""
        return self.stopping.is_set() or self._workload.has_ended

    @property
    def pid(self) -> int:
        """Of the process on the host whose end is the container's, and whose namespaces are."""
        return self._workload.pid

    async def exec(self, argv: str | Sequence[str], **options: Any) -> Finished:
        """Runs a command to its end inside; a string is split as a shell would.

        Returns a `Finished`: returncode, stdout, stderr (bytes).
        """
        return await self._workload.exec(argv, **options)

    async def start(self, argv: str | Sequence[str], **options: Any) -> Running:
        """Starts a long-lived command inside; returns it running."""
        return await self._workload.start(argv, **options)

    async def run_inherited(self, argv: Sequence[str]) -> int:
        """Runs a command on our own streams and terminal; returns its exit code (128+n: ended by signal n)."""
        return await self._workload.run_inherited(argv)

    async def stop(self) -> None:
        """Ends everything inside, then the container; returns when it is gone. Twice is no error."""
        self.stopping.set()
        await self.gone.wait()


@asynccontextmanager
async def open_interceptor(
    app: App,
    *,
    instance: str = "default",
    nameservers: Sequence[str] | None = None,
    synthetic: Networks = SYNTHETIC,
    options: Options | None = None,
) -> AsyncIterator[Interceptor]:
    """Opens the gateway, the relay and DNS for `app`; all of it is gone when the block ends.

    `instance` separates several on one machine. `nameservers` are asked for names that no rule serves, instead of
    those of /etc/resolv.conf; names that a rule serves get addresses of `synthetic`. Needs root (CAP_NET_ADMIN,
    CAP_SYS_ADMIN, CAP_BPF).

    Raises: CaptureError with the step and the remedy.
    """
    for cls in app.containers:
        policy_of(cls, 0)  # bad rules are told before anything is opened
    v6 = has_ipv6()
    upstream = Upstream(nameservers)
    hub = Hub()
    async with (
        open_gateway(instance, v6=v6) as gateway,
        open_relay(gateway.listener, options or Options()) as relay,
        open_server() as server,
        trio.open_nursery() as nursery,
    ):
        interceptor = Interceptor(app, nursery, gateway, relay, hub, server, upstream, v6, synthetic)
        nursery.start_soon(hub.run)
        nursery.start_soon(interceptor.follow_events)
        nursery.start_soon(follow_ipv6, interceptor.set_ipv6)
        nursery.start_soon(serve_udp, gateway.dns, interceptor.resolver)
        yield interceptor
        nursery.cancel_scope.cancel()


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
