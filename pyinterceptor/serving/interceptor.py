"""The containers of one app, while it is open: each an identity, and a run from its start to its stop."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

import trio

from pyinterceptor.app.app import App
from pyinterceptor.app.container import Container
from pyinterceptor.app.policy import Policy
from pyinterceptor.bindings.env import Env
from pyinterceptor.boundary import parted
from pyinterceptor.capture.capture import Capture
from pyinterceptor.dns.names import Networks
from pyinterceptor.dns.resolver import Resolver
from pyinterceptor.dns.upstream import Upstream
from pyinterceptor.errors import CaptureError, ungrouped
from pyinterceptor.http.client import open_client
from pyinterceptor.http.dial import Dialer
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Counters, Relay
from pyinterceptor.runtime.runtime import OpenRuntime, Runtime
from pyinterceptor.serving.container import Identity
from pyinterceptor.serving.handle import ContainerHandle
from pyinterceptor.serving.run import Run, flows_ended
from pyinterceptor.serving.turns import in_turns


class Interceptor:
    """Made by `open_interceptor`. Starts containers, replaces their policies, counts their flows."""

    def __init__(
        self,
        app: App,
        nursery: trio.Nursery,
        *,
        capture: Capture,
        relay: Relay,
        hub: Hub,
        upstream: Upstream,
        open_runtime: OpenRuntime,
        v6: bool,
        synthetic: Networks,
        env: Env,
        policies: Mapping[type[Container], Policy],
    ) -> None:
        self.env = env  # as handlers see it
        self.runs: dict[int, Run] = {}  # by number
        self.resolver = Resolver(upstream=upstream, relay=relay, v6=v6)
        self._app = app
        self._nursery = nursery
        self._capture = capture
        self._listener = relay.listen(capture.listener)  # the capture's number in the relay
        self._relay = relay
        self._hub = hub
        self._upstream = upstream
        self._open_runtime = open_runtime
        self._synthetic = synthetic
        self._containers: dict[tuple[str, str], Identity] = {}
        self._numbers = itertools.count(1)  # of runs
        self._policies = dict(policies)  # the latest of each class, as far as it was read
        self._generations = itertools.count(1)  # of policies

    async def get_container(
        self, cls: type[Container], name: str = "default", *, user: str | None = None
    ) -> ContainerHandle:
        """Returns the container of this class and name; it is started if it does not run.

        It runs as `user`, by default the user that invoked us; in an image one of the image's, by default the one that
        the image names. Containers of different names start side by side.

        Raises: PolicyError for a class that the app doesn't have, or rules that can't be; RuntimeFailure or
        CaptureError if it can't be started or attached.
        """
        identity = self._identity(cls, name)
        async with identity.starting:
            run = identity.run
            if run is not None and run.has_ended:
                await run.gone.wait()
                run = None
            if run is None:
                opening = partial(self._open_runtime, image=cls.image, name=name, user=user)
                handle: ContainerHandle = await self._nursery.start(self._run, identity, opening)
                return handle
            assert run.handle is not None
            return run.handle

    async def replace_policy(self, cls: type[Container]) -> None:
        """Reads the class's rules, as they stand at the call, for all its containers, with flows open.

        Every request that begins after the call has returned is decided by them; no connection is dropped. Ten thousand
        hosts take about 0.1 s, in which other tasks run.

        Raises: PolicyError for a bad rule; then nothing has changed.
        """
        policy = await self._read_policy(cls)
        replaced = {
            identity
            for identity in self._containers.values()
            if identity.cls is cls and identity.policies.replace(policy)
        }
        for run in self.runs.values():
            if run.identity in replaced:
                self._relay.publish_policy(run.number, policy.blob)

    def count(self, cls: type[Container] | None = None, name: str = "default") -> Counters:
        """Counts the flows of one container, or of all since the start. Raises: KeyError if it does not run."""
        if cls is None:
            return self._relay.count()
        identity = self._containers.get((cls.__name__, name))
        if identity is None or identity.run is None:
            raise KeyError(f"{cls.__name__} {name!r} does not run")
        return self._relay.count(identity.run.number)

    def run_on(self, interface: int) -> Run | None:
        """The run whose traffic comes in on the interface; None if there is none, or it is over."""
        number = self._capture.container_on(interface)
        run = None if number is None else self.runs.get(number)
        return None if run is None or run.is_over else run

    def set_ipv6(self, v6: bool) -> None:
        """The host has gained or lost its way to IPv6 addresses."""
        self._capture.set_ipv6(v6)
        self.resolver.set_ipv6(v6)

    def _identity(self, cls: type[Container], name: str) -> Identity:
        self._app.check_class(cls)
        identity = self._containers.get((cls.__name__, name))
        if identity is None:
            identity = self._containers[cls.__name__, name] = Identity(cls, name, self.env, self._policies[cls])
        return identity

    async def _read_policy(self, cls: type[Container]) -> Policy:
        """The class's rules, or those that a later call has read meanwhile."""
        policy = await in_turns(self._app.reading(cls, next(self._generations)))
        if policy.generation > self._policies[cls].generation:
            self._policies[cls] = policy
        return self._policies[cls]

    async def _run(
        self,
        identity: Identity,
        opening: Callable[..., AbstractAsyncContextManager[Runtime]],
        *,
        task_status: trio.TaskStatus[ContainerHandle] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """One container from its start to its stop. Once it has started, its failures end it alone."""
        run: Run | None = None
        try:
            async with (
                self._open_run(identity) as opened,
                opening(attach=partial(self._capture.attach, opened.attachment)) as runtime,
            ):
                run = identity.run = opened
                run.handle = ContainerHandle(run, runtime)
                task_status.started(run.handle)
                await run.serve(runtime, self._relay)
        except BaseException as error:
            if run is None:
                alone = ungrouped(error)  # the nurseries of the run have wrapped it
                raise alone from alone.__cause__
            passes, ends = parted(error)
            if ends is not None:
                run.fail(ungrouped(ends))
            if passes is not None:
                raise passes from None
        finally:
            if run is not None:
                identity.run = None
                run.gone.set()

    @asynccontextmanager
    async def _open_run(self, identity: Identity) -> AsyncIterator[Run]:
        """A run that is ready for its network namespace. Nothing of it is left when the block ends."""
        identity.policies.replace(await self._read_policy(identity.cls))
        attachment = self._capture.reserve(next(self._numbers))
        number = attachment.container
        try:
            self._relay.add_container(self._listener, attachment, identity.cls.budget)
            async with (
                open_client(self._dialer(number), pump=partial(self._relay.pump, number)) as client,
                flows_ended(self._relay, number),
                trio.open_nursery() as nursery,
            ):
                run = self.runs[number] = Run(identity, attachment, client, nursery, self._synthetic)
                self._relay.publish_policy(number, identity.policies.now.blob)
                yield run
                run.end_tasks()
        finally:
            self.runs.pop(number, None)
            with suppress(CaptureError):  # it was never added
                self._relay.remove_container(number)
            with trio.CancelScope(shield=True):
                await self._capture.detach(attachment)

    def _dialer(self, container: int) -> Dialer:
        def may_dial(ip: str, port: int, local: bool) -> bool:
            return self._relay.may_dial(ipaddress.ip_address(ip), port, container=container, local=local)

        return Dialer(resolve=self._upstream.resolve, may_dial=may_dial, make_stream=self._hub.stream)
