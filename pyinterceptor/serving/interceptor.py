"""The containers of one open app. Each has an identity, and a run from its start to its stop."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import trio

from pyinterceptor.app.app import App
from pyinterceptor.app.at_run_time import Edit
from pyinterceptor.app.container import Container, limits_of
from pyinterceptor.app.entrypoint import Exports
from pyinterceptor.app.policy import Overrides, Policy, changing
from pyinterceptor.arguments import check_each
from pyinterceptor.bindings.env import Env
from pyinterceptor.boundary import parted
from pyinterceptor.capture.capture import Capture
from pyinterceptor.dns.names import Networks
from pyinterceptor.dns.resolver import QueryCounters, Resolver
from pyinterceptor.dns.upstream import Upstream
from pyinterceptor.errors import CaptureError, PolicyError, RuntimeFailure, ungrouped
from pyinterceptor.http.client import open_client
from pyinterceptor.http.connecting import connect
from pyinterceptor.http.dial import Dialer
from pyinterceptor.policy.pieces import Pieces, at_once
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Counters, Relay
from pyinterceptor.runtime.files import Files, working_in
from pyinterceptor.runtime.runtime import Life, OpenRuntime
from pyinterceptor.serving.channel import R, Subscription
from pyinterceptor.serving.classes import ContainerClass
from pyinterceptor.serving.container import Identity
from pyinterceptor.serving.handle import ContainerHandle, NamespaceHandle
from pyinterceptor.serving.kept import Kept
from pyinterceptor.serving.log import Log, log_records
from pyinterceptor.serving.low_level import GRACE, Effect
from pyinterceptor.serving.namespace import Namespace, Netns, opened
from pyinterceptor.serving.recording import Recording
from pyinterceptor.serving.records import RECORDS
from pyinterceptor.serving.ruled import RuledHosts, RuledNames
from pyinterceptor.serving.run import Run, flows_ended
from pyinterceptor.serving.start import ASKED, Asked, Start
from pyinterceptor.serving.turns import in_turns

log = logging.getLogger("pyinterceptor")


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
        log: Log,
        ruled: RuledNames,
        kept: Kept,
        fetch_head: int,
    ) -> None:
        containers: dict[tuple[str, str], Identity] = {}
        classes = {
            name: ContainerClass(cls, self.get_container, containers)
            for name, cls in app.bindings.items()
            if isinstance(cls, type) and issubclass(cls, Container)
        }
        self.env = Env(vars(env) | classes)  # as handlers see it
        self._containers = containers
        self._exports = Exports(app.entrypoints(), self.env)
        self.runs: dict[int, Run] = {}  # by number
        self.resolver = Resolver(upstream=upstream, relay=relay, v6=v6)
        self.recording = Recording(relay, self.resolver)
        self.ruled = RuledHosts(upstream.resolve, relay, self.runs, ruled)
        self._log = log
        self._kept = kept
        self._fetch_head = fetch_head  # bytes
        self._app = app
        self._nursery = nursery
        self._capture = capture
        self._listener = relay.listen(capture.listener)  # the capture's number in the relay
        self._relay = relay
        self._hub = hub
        self._upstream = upstream
        self._open_runtime = open_runtime
        self._synthetic = synthetic
        self._numbers = itertools.count(1)  # numbers of runs
        self._policies = dict(policies)  # the newest one that was read, by class
        self._generations = itertools.count(1)  # numbers of policies

    def get_container(
        self,
        cls: type[Container],
        name: str = "default",
        *,
        user: str | None = None,
        workdir: str | Path | None = None,
        files: Files | None = None,
        replaced: bool = False,
    ) -> ContainerHandle:
        """Returns the stub of the container of this class and name, always the same one; it may be awaited, too.

        Nothing is started: the first `exec` or `start` does that. The other arguments are kept for the next start.

        It runs as `user`, by default the user that invoked us; in an image one of the image's, by default the one that
        the image names. Containers of different names start side by side. The image's own command runs too, unless
        `replaced`: then a command given to run_inherited() takes its place, behind the image's entrypoint.

        Without an image, `workdir` is a directory of the host that is writable inside, for one container at a time; by
        default the container has an empty one of its own. `files` replaces `workdir` and adds other paths: `Files`.

        Raises PolicyError for a class that the app doesn't have, or an invalid name; RuntimeFailure if an argument or
        the class's image contradicts the container that runs already.
        """
        identity = self._identity(cls, name)
        check_each("get_container", ASKED, user=user, workdir=workdir, files=files)
        if files is None and workdir is not None:
            files = working_in(workdir)
        self._ask(identity, Asked(cls.image, user, files, replaced))
        return identity.stub

    async def started(self, identity: Identity, asked: Asked | None = None) -> Run:
        """Returns the container's run; it is started if it does not run. `asked.image` is ignored.

        Raises PolicyError for an invalid rule; RuntimeFailure or CaptureError if it can't be started or attached.
        RuntimeFailure, too, if an argument contradicts the container that runs already.
        """
        run = identity.run
        if run is None or run.has_ended:
            if identity.begun is not None:
                await identity.begun
            async with identity.starting:
                run = await self._current_run(identity)
                self._ask(identity, asked)
                if run is None:
                    run = await self._start(identity)
        else:
            self._ask(identity, asked)
        return run

    def _ask(self, identity: Identity, asked: Asked | None) -> None:
        """Keeps the arguments of a call for the next start. Raises RuntimeFailure if the running container differs."""
        run = identity.run
        asked = replace(asked or Asked(), image=identity.cls.image)
        found = () if run is None or run.has_ended or run.start is None else run.start.contradictions(asked)
        if contradictions := " and ".join(found):
            remedy = "stop it first, or give this one another name"
            raise RuntimeFailure(f"get {identity}: {contradictions}; {remedy}")
        identity.asked = identity.asked.then(asked)

    def start_soon(
        self,
        identity: Identity,
        entrypoint: str | Sequence[str] | None,
        env: Mapping[str, str] | None,
        effect: Effect,
    ) -> None:
        """Starts a container with an entrypoint; completes the effect when it has started, or can't be."""
        self._nursery.start_soon(self._start_controlled, identity, entrypoint, env, effect)

    async def _start_controlled(
        self,
        identity: Identity,
        entrypoint: str | Sequence[str] | None,
        env: Mapping[str, str] | None,
        effect: Effect,
    ) -> None:
        try:
            async with identity.starting:
                if await self._current_run(identity) is not None:
                    raise RuntimeFailure(f"start {identity}: it runs already")
                await self._start(identity, entrypoint, env)
        except BaseException as error:
            passes, ends = parted(error)
            if identity.run is None:
                identity.overrides = replace(identity.overrides, internet=None)
            identity.begun = None
            effect.complete(ends or RuntimeFailure(f"start {identity}: cancelled"))
            if passes is not None:
                raise passes from None
        else:
            identity.begun = None
            effect.complete()

    async def _start(
        self,
        identity: Identity,
        entrypoint: str | Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Run:
        asked = replace(identity.asked, image=identity.cls.image)
        if entrypoint is not None:
            asked = replace(asked, replaced=True)
        run: Run = await self._nursery.start(self._run, identity, partial(self._processes, asked))
        try:
            if entrypoint is not None:
                run.entrypoint = await run.runtime.start(entrypoint, env=env)
                run.nursery.start_soon(run.follow_entrypoint, run.entrypoint)
            await identity.instance.on_start()
        except BaseException:
            await run.stop(0)
            raise
        return run

    async def attach(
        self, cls: type[Container], name: str, netns: Netns, *, replace_routes: bool = False
    ) -> NamespaceHandle:
        """Puts a network namespace that somebody else made under the rules of a container class.

        `netns` is its path, as /run/netns/NAME or /proc/PID/ns/net, or an open descriptor, which stays yours. It gets
        an interface eth0 (or the next free name), the default routes, and `lo` is set up. Its resolv.conf must be one
        line, "nameserver 169.254.1.1": mount such a file at /etc/resolv.conf. The container ends with the namespace,
        which nothing here keeps alive.

        A namespace in which an interface but `lo` is up, or that has a route, is refused, since traffic could go past
        the rules. With `replace_routes=True` those interfaces are set down and stay so, and all routes are deleted.
        A process inside with CAP_NET_ADMIN can undo that.

        Raises CaptureError if the namespace is refused, is attached already, or is the host's or the gateway's own, or
        if a container of this class and name runs; PolicyError as `get_container`.
        """
        identity = self._identity(cls, name)
        async with identity.starting:
            if await self._current_run(identity) is not None:
                raise CaptureError(f"attach a namespace as {identity}: a container of this class and name runs")
            with opened(netns) as fd:
                opening = partial(self._namespace, fd, replace_routes)
                run: Run = await self._nursery.start(self._run, identity, opening)
        return NamespaceHandle(run)

    async def replace_policy(self, cls: type[Container]) -> None:
        """Reads the class's rules anew and puts them in force in all its containers, for open flows too.

        Every request that begins after the call has returned is decided by them, and an exchange in progress finishes.
        TLS, opaque flows and upgraded connections that they refuse are reset. Ten thousand hosts take about 0.1 s, in
        which other tasks run.

        Raises PolicyError for a bad rule, or a class that the app doesn't have; then nothing has changed.
        """
        self._app.check_class(cls)
        policy = await self._read_policy(cls)
        for identity in [known for known in self._containers.values() if known.cls is cls]:
            async with identity.changing:
                if policy.generation > identity.base.generation:
                    identity.base = policy
                    await self._renew(identity)

    async def change(self, identity: Identity, edit: Edit) -> None:
        """Changes the container's own rules. Raises PolicyError; then nothing has changed."""
        async with identity.changing:
            handlers = dict(identity.cls.outbound_handlers.items())
            base = replace(identity.base, handlers=handlers)
            changes = edit(identity.changes, handlers)
            with trio.CancelScope(shield=True):  # rules that are on the disk are in force
                if changes != identity.changes:
                    await self._kept.write((identity.cls.__name__, identity.name), changes)
                identity.base, identity.changes = base, changes
                await self._renew(identity)

    async def _renew(self, identity: Identity) -> None:
        """Puts the container's policy in force: the class's with its own rules. Overrides may change meanwhile."""
        overrides = None
        while overrides is not identity.overrides:
            overrides = identity.overrides
            policy = await in_turns(self._combining(identity))
        self._put(identity, policy)

    def renew_now(self, identity: Identity) -> None:
        """Puts the container's policy in force without a pause, for changes of its overrides."""
        self._put(identity, at_once(self._combining(identity)))

    def _combining(self, identity: Identity) -> Pieces[Policy]:
        base, now = identity.base, identity.policies.now
        if identity.changes or identity.overrides != Overrides() or base.generation <= now.generation:
            return (yield from changing(base, identity.changes, identity.overrides, next(self._generations)))
        return base

    def _put(self, identity: Identity, policy: Policy) -> None:
        """Puts a policy in force."""
        identity.policies.replace(policy)
        for run in self.runs.values():
            if run.identity is identity:
                self.ruled.publish(run)
                run.tunnels.judge_again()
                self._capture.set_reach(run.attachment, ipv6=policy.ipv6, metadata=policy.metadata)

    def count(self, cls: type[Container] | None = None, name: str = "default") -> Counters:
        """Counts the flows of one container, or of all since the start.

        Raises KeyError if it does not run; PolicyError for a class that the app doesn't have.
        """
        if cls is None:
            return self._relay.count()
        return self._relay.count(self._running(cls, name).number)

    def count_queries(self, cls: type[Container] | None = None, name: str = "default") -> QueryCounters:
        """Counts the DNS queries of one container, or of all that run. Raises as `count` does."""
        if cls is None:
            return self.resolver.count_all()
        return self.resolver.count(self._running(cls, name).lookups)

    @asynccontextmanager
    async def records(self, *kinds: type[R]) -> AsyncIterator[Subscription[R]]:
        """Subscribes to records of these types while the block lasts: iterate with `async for`, in one task.

        The types: `FlowRecord`, `RequestRecord`, `RefusalRecord`, `NameRecord`; without any, all of them. They cost
        nothing without a subscriber. Up to 8 192 records, and 2 048 refusals beside them, wait for a slow reader;
        further ones are dropped, and counted in `dropped` and `dropped_refusals`.

        Raises TypeError for any other type.
        """
        for kind in kinds:
            if kind not in RECORDS:
                known = ", ".join(known.__name__ for known in RECORDS)
                raise TypeError(f"records(…) takes record types, not {kind!r}; they are {known}")
        with self.recording.channel.subscribe(*(kinds or cast("tuple[type[R], ...]", RECORDS))) as subscription:
            yield subscription

    @asynccontextmanager
    async def log_records(self) -> AsyncIterator[None]:
        """Logs each request, flow and refusal while the block lasts, at level INFO, to the logger "pyinterceptor"."""
        async with log_records(self.recording.channel, self._log):
            yield

    def set_ipv6(self, v6: bool) -> None:
        """Reports that the host has gained or lost its IPv6 route."""
        self._capture.set_ipv6(v6)
        self.resolver.set_ipv6(v6)

    def _running(self, cls: type[Container], name: str) -> Run:
        self._check_identity(cls, name)
        identity = self._containers.get((cls.__name__, name))
        if identity is None or identity.run is None:
            raise KeyError(f"{cls.__name__} {name!r} does not run")
        return identity.run

    def _identity(self, cls: type[Container], name: str) -> Identity:
        self._check_identity(cls, name)
        identity = self._containers.get((cls.__name__, name))
        if identity is None:
            identity = Identity(cls, name, self.env, self._policies[cls], self, self._exports)
            identity.changes = self._kept.found.get((cls.__name__, name), identity.changes)
            identity.stub = ContainerHandle(identity, self)
            self._containers[cls.__name__, name] = identity
        return identity

    def _check_identity(self, cls: object, name: object) -> None:
        self._app.check_class(cls)
        if not (isinstance(name, str) and name):
            raise PolicyError(f"a container's name is a non-empty str, not {name!r}")

    async def _read_policy(self, cls: type[Container]) -> Policy:
        """Reads the class's rules; returns the newer ones if a later call has read them meanwhile."""
        policy = await in_turns(self._app.reading(cls, next(self._generations)))
        if policy.generation > self._policies[cls].generation:
            self._policies[cls] = policy
        return self._policies[cls]

    async def _current_run(self, identity: Identity) -> Run | None:
        """Returns the container's run, None if it has none. Waits for the end of one that is ending."""
        run = identity.run
        if run is None or not run.has_ended:
            return run
        await run.gone.wait()
        return None

    @asynccontextmanager
    async def _processes(self, asked: Asked, run: Run) -> AsyncIterator[Life]:
        """Opens the processes of a runtime, which makes their namespace."""
        opening = self._open_runtime(
            image=asked.image,
            name=run.identity.name,
            user=asked.user,
            files=asked.files or Files(),
            limits=limits_of(run.identity.cls),
            attach=partial(self._tie, run),
            replaced=asked.replaced,
        )
        async with opening as runtime:
            run.start = Start(asked, runtime)
            yield runtime

    @asynccontextmanager
    async def _namespace(self, netns_fd: int, replace_routes: bool, run: Run) -> AsyncIterator[Life]:
        """Attaches a foreign namespace. Borrows the descriptor until the block begins."""
        self._claim(run, netns_fd)
        if replace_routes:
            await self._capture.empty_namespace(netns_fd)
        else:
            await self._capture.check_namespace(netns_fd)
        await self._capture.attach(run.attachment, netns_fd)
        yield Namespace(self._capture, run.attachment)

    async def _tie(self, run: Run, netns_fd: int) -> None:
        self._claim(run, netns_fd)
        await self._capture.attach(run.attachment, netns_fd)

    def _claim(self, run: Run, netns_fd: int) -> None:
        """Notes that this run has the namespace. Raises CaptureError if another run has it."""
        status = os.fstat(netns_fd)
        namespace = status.st_dev, status.st_ino
        for other in self.runs.values():
            if other.namespace == namespace:
                raise CaptureError(f"attach a namespace as {run.identity}: it is attached as {other.identity}")
        run.namespace = namespace

    async def _run(
        self,
        identity: Identity,
        opening: Callable[[Run], AbstractAsyncContextManager[Life]],
        *,
        task_status: trio.TaskStatus[Run] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Runs one container from its start to its stop. A failure after the start ends this container alone."""
        run: Run | None = None
        try:
            async with self._open_run(identity) as made, opening(made) as life:
                run = identity.run = made
                task_status.started(run)
                await run.serve(life, self._relay)
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
                identity.run, identity.overrides = None, Overrides()
                await self._after(identity, run)
                run.gone.set()

    def _report_kept(self, identity: Identity) -> None:
        """Logs that rules of an earlier process are in force, and each of them whose handler is gone."""
        if identity.changes and identity.changes is self._kept.found.get((identity.cls.__name__, identity.name)):
            rules = ", ".join(f"{rule}: {name}" for rule, name in identity.changes.names.items())
            log.warning("%s: rules of an earlier run are in force: %s; reset_outbound() removes them", identity, rules)
        for rule, name in identity.changes.names.items():
            if name not in identity.base.handlers:
                gone = "outbound_handlers has no %r any more; set the rule anew or remove it"
                log.warning("%s: %s is refused: " + gone, identity, rule, name)

    async def _after(self, identity: Identity, run: Run) -> None:
        """Calls `on_stop` for at most GRACE seconds. Its exception is logged."""
        try:
            with trio.move_on_after(GRACE):
                await identity.instance.on_stop(run.exit_code)
        except BaseException as error:
            passes, ends = parted(error)
            if ends is not None:
                run.faults.error("on_stop failed", ends)
            if passes is not None:
                raise passes from None

    @asynccontextmanager
    async def _open_run(self, identity: Identity) -> AsyncIterator[Run]:
        """Makes a run that is ready for its network namespace. Nothing of it is left when the block ends."""
        async with identity.changing:
            identity.base = await self._read_policy(identity.cls)
            await self._renew(identity)
            self._report_kept(identity)
        attachment = self._capture.reserve(next(self._numbers))
        number = attachment.container
        try:
            self._relay.add_container(self._listener, attachment, identity.cls.budget)
            async with (
                open_client(
                    self._dialer(number),
                    pump=partial(self._relay.pump, number),
                    descriptors=self._relay.descriptors(number),
                    content_methods=self._relay.content_methods,
                    max_head=self._fetch_head,
                ) as client,
                flows_ended(self._relay, number),
                trio.open_nursery() as nursery,
            ):
                run = Run(
                    identity,
                    attachment,
                    client,
                    nursery,
                    self._synthetic,
                    self.recording.channel,
                    self._log,
                    partial(self._relay.standing, number),
                )
                self.runs[number] = run
                self.resolver.add(run.lookups, attachment.interface)
                self.recording.begin(number, run.recorder)
                self.ruled.publish(run)
                policy = identity.policies.now
                self._capture.set_reach(attachment, ipv6=policy.ipv6, metadata=policy.metadata)
                try:
                    yield run
                finally:
                    run.end_tasks()  # however the block ends, or a flow that comes now would find the nursery closed
        finally:
            ended = self.runs.pop(number, None)
            if ended is not None:
                self.resolver.remove(ended.lookups)
            with suppress(CaptureError):  # it was never added
                self._relay.remove_container(number)
            self.recording.end(number)
            with trio.CancelScope(shield=True):
                await self._capture.detach(attachment)

    def _dialer(self, container: int) -> Dialer:
        def may_dial(ip: str, port: int, local: bool) -> bool:
            return self._relay.may_dial(ipaddress.ip_address(ip), port, container=container, local=local)

        return Dialer(
            resolve=self._upstream.resolve,
            may_dial=may_dial,
            make_stream=self._hub.stream,
            connect=partial(connect, partial(self._relay.take_port, container)),
            descriptors=self._relay.descriptors(container),
        )
