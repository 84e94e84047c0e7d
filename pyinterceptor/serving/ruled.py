"""The real addresses of hosts that rules name exactly, resolved in the background and published to C.

C refuses traffic that could be read in two ways if it could reach one of these addresses, or another host with a rule.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping

import trio

from pyinterceptor.app.policy import Policy
from pyinterceptor.dns.upstream import Addresses
from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.layout import resolved
from pyinterceptor.relay.relay import Relay
from pyinterceptor.serving.run import Run

AT_ONCE = 16  # names that are resolved at the same time
LEAST = 10.0  # seconds between two questions for one name, whatever its TTL
KEPT = 600.0  # seconds for which an address stays after the last answer with it: large sites rotate theirs

Resolve = Callable[[str], Awaitable[Addresses]]


class RuledHosts:
    """Of all containers. `runs` is the interceptor's own mapping; it changes while the containers come and go."""

    def __init__(self, resolve: Resolve, relay: Relay, runs: Mapping[int, Run]) -> None:
        self._resolve = resolve
        self._relay = relay
        self._runs = runs
        self._known: dict[str, dict[bytes, float]] = {}  # by name: addresses, and the time until which each stays
        self._due: dict[str, float] = {}  # by name: the time of its next question
        self._published: dict[int, tuple[int, frozenset[bytes] | None]] = {}  # by run: generation, addresses
        self._is_changed = trio.Event()

    def publish(self, run: Run) -> None:
        """Publishes the run's policy with the addresses known now, and has the others resolved."""
        self._publish(run, self._addresses(run.identity.policies.now))
        self._is_changed.set()

    async def keep(self) -> None:
        """Resolves the names of all containers' rules again and again, until cancelled."""
        while True:
            self._is_changed = trio.Event()
            names = {name for run in self._runs.values() for name in run.identity.policies.now.exact}
            self._forget(names)
            await self._refresh([name for name in names if self._due.get(name, 0.0) <= trio.current_time()])
            for run in list(self._runs.values()):
                self._publish(run, self._addresses(run.identity.policies.now))
                await trio.lowlevel.checkpoint()
            next_ = min(self._due.values(), default=float("inf"))
            with trio.move_on_at(next_):
                await self._is_changed.wait()

    def _addresses(self, policy: Policy) -> frozenset[bytes] | None:
        """Returns the addresses of the policy's names; None until every name was resolved, or couldn't be."""
        if not all(name in self._known for name in policy.exact):
            return None
        return frozenset(address for name in policy.exact for address in self._known[name])

    def _publish(self, run: Run, addresses: frozenset[bytes] | None) -> None:
        policy = run.identity.policies.now
        if self._published.get(run.number) == (policy.generation, addresses) or run.number not in self._runs:
            return
        self._published[run.number] = policy.generation, addresses
        self._relay.publish_policy(run.number, policy.blob if addresses is None else resolved(policy.blob, addresses))

    def _forget(self, names: set[str]) -> None:
        for name in self._due.keys() - names:
            self._known.pop(name, None)
            del self._due[name]
        for number in self._published.keys() - self._runs.keys():
            del self._published[number]

    async def _refresh(self, names: Iterable[str]) -> None:
        waiting = iter(names)

        async def work() -> None:
            for name in waiting:
                found = await self._resolve(name)
                now = trio.current_time()
                kept = {address: until for address, until in self._known.get(name, {}).items() if until > now}
                kept.update((packed(ipaddress.ip_address(text)), now + found.ttl + KEPT) for text in found.both())
                self._known[name] = kept
                self._due[name] = now + max(found.ttl, LEAST)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)
