"""Everything open at once: the gateway, the relay, DNS, and the containers of one app.

`async with open_interceptor(app) as interceptor` is a lifetime: what it started is gone when the block ends.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial

import trio

from pyinterceptor.app.app import App
from pyinterceptor.app.container import Container, Context, container_id
from pyinterceptor.app.policy import Policy
from pyinterceptor.bindings.env import Env, configured, open_env, settings_of
from pyinterceptor.bindings.state import state_directory
from pyinterceptor.capture.capture import Attachment
from pyinterceptor.capture.gateway.gateway import Gateway, open_gateway
from pyinterceptor.capture.routes import follow_ipv6, has_ipv6
from pyinterceptor.dns.names import SYNTHETIC, Networks
from pyinterceptor.dns.resolver import Resolver
from pyinterceptor.dns.server import serve_udp
from pyinterceptor.dns.upstream import Upstream
from pyinterceptor.errors import PolicyError, ungrouped
from pyinterceptor.http.client import open_client
from pyinterceptor.http.dial import Dialer
from pyinterceptor.http.server import open_server
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Counters, Options, Relay, open_relay
from pyinterceptor.runtime import NetnsContainer, PodmanContainer, open_netns_container, open_podman_container
from pyinterceptor.serving.box import Box
from pyinterceptor.serving.flows import Flows
from pyinterceptor.serving.requests import Attached
from pyinterceptor.serving.turns import in_turns

SETTLE_TIMEOUT = 0.5  # seconds
SETTLE_PAUSE = 0.005  # seconds


class Interceptor:
    """Made by `open_interceptor`; gives containers and lets their policies be replaced."""

    def __init__(
        self,
        app: App,
        nursery: trio.Nursery,
        gateway: Gateway,
        relay: Relay,
        hub: Hub,
        upstream: Upstream,
        v6: bool,
        synthetic: Networks,
        env: Env,
    ) -> None:
        self.env = env  # as handlers see it
        self._app = app
        self._nursery = nursery
        self._gateway = gateway
        self._relay = relay
        self._capture = relay.listen(gateway.listener)
        self._numbers = itertools.count(1)  # of containers
        self._hub = hub
        self._upstream = upstream
        self.attached: dict[int, Attached] = {}  # by number
        self._boxes: dict[tuple[str, str], Box] = {}
        self._starting = trio.Lock()
        self._generations = 0
        self._latest: dict[str, Policy] = {}  # by class
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
        """The container of this class and name; it is started if it does not run.

        As `user`, by default who invoked us; in an image one of the image's, by default the one it names.

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

    async def replace_policy(self, cls: type[Container]) -> None:
        """Reads the class's rules, as they stand at the call, for all its running containers, with flows open.

        Every request that begins after the call has returned is decided by them; no connection is dropped. Ten thousand
        hosts take about 0.1 s, in which other tasks run.

        Raises: PolicyError for a bad rule; then nothing has changed.
        """
        policy = await self._read_policy(cls)
        for attached in self.attached.values():
            if attached.context.container_class == cls.__name__ and attached.policy.generation < policy.generation:
                attached.policy = policy
                self._relay.publish_policy(attached.container, policy.blob)

    async def _read_policy(self, cls: type[Container]) -> Policy:
        """The class's rules, or those that a later call has read meanwhile."""
        self._generations += 1
        policy = await in_turns(self._app.reading(cls, self._generations))
        latest = self._latest.get(cls.__name__, policy)
        self._latest[cls.__name__] = policy if policy.generation > latest.generation else latest
        return self._latest[cls.__name__]

    def count(self, cls: type[Container] | None = None, name: str = "default") -> Counters:
        """What became of the flows of one container, or of all that ever were. Raises: KeyError if it does not run."""
        if cls is None:
            return self._relay.count()
        for attached in self.attached.values():
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
            async with self._attachment(cls, name) as attachment:
                attach = partial(self._gateway.attach, attachment)
                opening: AbstractAsyncContextManager[NetnsContainer | PodmanContainer]
                if cls.image is None:
                    opening = open_netns_container(name=name, user=user, attach=attach)
                else:
                    opening = open_podman_container(name=name, image=cls.image, user=user, attach=attach)
                async with opening as workload:
                    box = self._boxes[key] = Box(workload)
                    task_status.started(box)
                    await box.stopping.wait()
                    await workload.stop()
                    await self._settle(attachment.container)
        except BaseExceptionGroup as group:  # the client's nursery wraps what passes through it
            error = ungrouped(group)
            raise error from error.__cause__
        finally:
            if key in self._boxes:
                self._boxes.pop(key).gone.set()

    async def _settle(self, container: int) -> None:
        """Its processes have ended, and what they sent may be on its way: lets that arrive, for a moment."""
        with trio.move_on_after(SETTLE_TIMEOUT):
            while self._relay.count(container).flows:  # noqa: ASYNC110  # C counts, and tells nobody
                await trio.sleep(SETTLE_PAUSE)

    @asynccontextmanager
    async def _attachment(self, cls: type[Container], name: str) -> AsyncIterator[Attachment]:
        """The tie to the gateway and all that is known of it, before the veth exists; gone with the block."""
        await self._read_policy(cls)
        attachment = self._gateway.reserve(next(self._numbers))
        number = attachment.container
        context = Context(container_id(cls.__name__, name), cls.__name__, name)
        dialer = Dialer(
            resolve=self._upstream.resolve,
            may_dial=partial(self._may_dial, number),
            make_stream=self._hub.stream,
        )
        async with open_client(dialer, pump=partial(self._relay.pump, number)) as client:
            self._relay.add_container(self._capture, attachment, cls.budget)
            try:
                policy = self._latest[cls.__name__]  # a call may have replaced what was read above
                self._relay.publish_policy(number, policy.blob)
                self.attached[number] = Attached(
                    number, context, policy, client, self._synthetic, cls.budget
                )
                yield attachment
            finally:
                self._relay.remove_container(number)
                self.attached.pop(number, None)
                self.resolver.forget(number)
                with trio.CancelScope(shield=True):
                    await self._gateway.detach(attachment)

    def _may_dial(self, container: int, ip: str, port: int, local: bool) -> bool:
        return self._relay.may_dial(ipaddress.ip_address(ip), port, container=container, local=local)

    def _budget_of(self, container: int) -> Budget:
        return self.attached[container].budget

    def _decide_name(self, container: int, host: str) -> int | None:
        """The best verdict for this name, whatever its address; None for a container that isn't there."""
        attached = self.attached.get(container)
        if attached is None:
            return None
        return attached.policy.decide_name(host)

    def set_ipv6(self, v6: bool) -> None:
        """The host has gained or lost its way to IPv6 addresses."""
        self._gateway.set_ipv6(v6)
        self.resolver.set_ipv6(v6)


@asynccontextmanager
async def open_interceptor(
    app: App,
    *,
    instance: str = "default",
    nameservers: Sequence[str] | None = None,
    synthetic: Networks = SYNTHETIC,
    settings: Mapping[str, str] | None = None,
    state: str | None = None,
    options: Options | None = None,
) -> AsyncIterator[Interceptor]:
    """Opens the gateway, the relay and DNS for `app`; all of it is gone when the block ends.

    `instance` separates several on one machine. `nameservers` are asked for names that no rule serves, instead of
    those of /etc/resolv.conf; names that a rule serves get addresses of `synthetic`. `settings` configure bindings,
    as {"KV": "redis://…"}, before what variables PYINTERCEPTOR_BINDING_KV say; what bindings keep on this machine is
    below /var/lib/pyinterceptor, by the name `state` (default: the instance's). Needs root (CAP_NET_ADMIN,
    CAP_SYS_ADMIN, CAP_BPF).

    Raises: CaptureError with the step and the remedy; PolicyError for what is wrong with the app or its settings;
    BindingError for a resource that can't be had.
    """
    for cls in app.containers:
        app.policy(cls, 0)  # bad rules are told before anything is opened
    bindings = configured(app.bindings, settings_of(os.environ) | dict(settings or {}))
    place = state_directory(state or instance)
    v6 = has_ipv6()
    upstream = Upstream(nameservers)
    try:
        with closing(Hub()) as hub:
            async with (
                open_env(bindings, place) as env,
                open_gateway(instance, v6=v6) as gateway,
                open_relay(options or Options()) as relay,
                open_server() as server,
                trio.open_nursery() as nursery,
            ):
                interceptor = Interceptor(app, nursery, gateway, relay, hub, upstream, v6, synthetic, env)
                flows = Flows(relay, hub, server, interceptor.resolver, env, interceptor.attached)
                nursery.start_soon(hub.run)
                nursery.start_soon(flows.run)
                nursery.start_soon(follow_ipv6, interceptor.set_ipv6)
                nursery.start_soon(serve_udp, gateway.dns, gateway.container_on, interceptor.resolver)
                yield interceptor
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = ungrouped(group)
        raise error from error.__cause__
