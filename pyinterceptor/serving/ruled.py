"""The real addresses of hosts that rules name exactly, resolved in the background and published to C.

C refuses traffic that could be read in two ways if it could reach one of these addresses, or another host with a rule,
and dials a flow to one of them by the name that its client says.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from pyinterceptor.app.policy import Policy
from pyinterceptor.arguments import check, is_count, is_seconds
from pyinterceptor.dns.upstream import Addresses
from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.layout import resolved
from pyinterceptor.relay.relay import Relay
from pyinterceptor.serving.run import Run

PACE = 0.02  # seconds between two publications, so that names that are resolved one after the other share one

Resolve = Callable[[str], Awaitable[Addresses]]


@dataclass(frozen=True, slots=True)
class RuledNames:
    """How names that rules name exactly are resolved: `open_interceptor(…, ruled=RuledNames(…))`.

    `at_once` names are resolved at the same time. A name is resolved again by its TTL, but after `least` seconds at the
    earliest; one without addresses after twice as long each time, up to `kept`. An address stays for its TTL and `kept`
    seconds after the last answer that had it: large sites rotate theirs.

    Raises PolicyError for a number that isn't positive.
    """

    at_once: int = 16
    least: float = 10.0
    kept: float = 600.0

    def __post_init__(self) -> None:
        check(is_count(self.at_once, 1), "RuledNames", "at_once", "a count of at least 1", self.at_once)
        for name, seconds in (("least", self.least), ("kept", self.kept)):
            check(is_seconds(seconds) and seconds > 0, "RuledNames", name, "seconds above 0", seconds)


class RuledHosts:
    """Of all containers. `runs` is the interceptor's own mapping; it changes while the containers come and go."""

    def __init__(
        self, resolve: Resolve, relay: Relay, runs: Mapping[int, Run], options: RuledNames | None = None
    ) -> None:
        self._resolve = resolve
        self._relay = relay
        self._runs = runs
        self._options = options or RuledNames()
        self._known: dict[str, dict[bytes, float]] = {}  # by name: addresses, and the time until which each stays
        self._due: dict[str, float] = {}  # by name: the time of its next question
        self._waits: dict[str, float] = {}  # by name: seconds between its last question and the next
        self._asked: set[str] = set()  # names whose answer is awaited
        self._published: dict[int, tuple[int, frozenset[bytes] | None]] = {}  # by run: generation, addresses
        self._are_rules_new = trio.Event()
        self._are_names_new = trio.Event()

    def publish(self, run: Run) -> None:
        """Publishes the run's policy with the addresses known now, and has the others resolved."""
        self._publish(run, self._addresses(run.identity.policies.now))
        self._are_rules_new.set()

    async def keep(self) -> None:
        """Resolves the names of all containers' rules again and again, until cancelled.

        A policy is published when all of its own names are known, whatever becomes of another policy's.
        """
        slots = trio.Semaphore(self._options.at_once)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish_news)
            while True:
                self._are_rules_new = trio.Event()
                names = {name for run in self._runs.values() for name in run.identity.policies.now.exact}
                self._forget(names)
                now = trio.current_time()
                for name in names - self._asked:
                    if self._due.get(name, 0.0) <= now:
                        await slots.acquire()
                        self._asked.add(name)
                        nursery.start_soon(self._ask, name, slots)
                due = [when for name, when in self._due.items() if name not in self._asked]
                if self._asked:  # each of them is due again after `least` at the earliest
                    due.append(trio.current_time() + self._options.least)
                with trio.move_on_at(min(due, default=float("inf"))):
                    await self._are_rules_new.wait()

    async def _publish_news(self) -> None:
        while True:
            await self._are_names_new.wait()
            self._are_names_new = trio.Event()
            known: dict[int, frozenset[bytes] | None] = {}  # by policy
            for run in list(self._runs.values()):
                policy = run.identity.policies.now
                if id(policy) not in known:
                    known[id(policy)] = self._addresses(policy)
                self._publish(run, known[id(policy)])
                await trio.lowlevel.checkpoint()
            await trio.sleep(PACE)

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
        run.set_ruled(are_known=addresses is not None)

    def _forget(self, names: set[str]) -> None:
        for name in self._due.keys() - names:
            del self._known[name], self._due[name], self._waits[name]
        for number in self._published.keys() - self._runs.keys():
            del self._published[number]

    async def _ask(self, name: str, slots: trio.Semaphore) -> None:
        found = await self._resolve(name)
        slots.release()
        now, options = trio.current_time(), self._options
        kept = {address: until for address, until in self._known.get(name, {}).items() if until > now}
        texts = found.both()
        kept.update((packed(ipaddress.ip_address(text)), now + found.ttl + options.kept) for text in texts)
        wait = float(found.ttl) if texts else min(2 * self._waits.get(name, 0.0), options.kept)
        self._waits[name] = max(wait, options.least)
        self._known[name] = kept
        self._due[name] = now + self._waits[name]
        self._asked.discard(name)
        self._are_names_new.set()
