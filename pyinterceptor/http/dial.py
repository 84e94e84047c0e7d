"""Dials connections to the internet: resolves the name, checks every address, and keeps the first that connects.

Happy Eyeballs (RFC 8305): both families, IPv6 first, a new attempt every 250 ms or as soon as one fails. At most
OPEN_ATTEMPTS are open at once; with more addresses, each has a share of the time, so that all of them are tried.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import Protocol

import trio

from pyinterceptor.errors import DialRefused, FetchError, InterceptorError, OtherRule

ATTEMPT_DELAY = 0.25  # seconds (RFC 8305 section 5)
OPEN_ATTEMPTS = 3  # at once, so that a name with many dead addresses doesn't hold a socket for each of them
CONNECT_DEADLINE = 15.0  # seconds for all attempts together; the same as the relay's
MAX_ADDRESSES = 16  # addresses to try for one name, so that its DNS server can't make us try hundreds


class Addresses(Protocol):
    """The addresses of a name, as text."""

    @property
    def v4(self) -> Sequence[str]: ...
    @property
    def v6(self) -> Sequence[str]: ...


Resolve = Callable[[str], Awaitable[Addresses]]
MayDial = Callable[[str, int, bool], bool]
Decides = Callable[[str, int], bool]  # whether the policy's decision for a request also holds at this address and port
Connect = Callable[[str, int], Awaitable[socket.socket]]
MakeStream = Callable[[socket.socket], trio.abc.Stream]


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connected stream, which the caller takes, and the address of its peer."""

    stream: trio.abc.Stream
    ip: str


class Descriptors(Protocol):
    """A budget of descriptors."""

    def take(self) -> bool: ...
    def give_back(self) -> None: ...


class Unlimited:
    """Descriptors without a budget."""

    def take(self) -> bool:
        return True

    def give_back(self) -> None:
        """Does nothing."""


class Dialer:
    """Dials by name. `may_dial(ip, port, local)` decides about every address after resolution.

    The caller has taken a descriptor for the connection. Further attempts at the same time take theirs from
    `descriptors`, or wait.
    """

    def __init__(
        self,
        *,
        resolve: Resolve,
        may_dial: MayDial,
        make_stream: MakeStream,
        connect: Connect,
        descriptors: Descriptors | None = None,
    ) -> None:
        self._resolve = resolve
        self._may_dial = may_dial
        self._make_stream = make_stream
        self._connect = connect
        self._descriptors = descriptors or Unlimited()

    async def __call__(
        self, host: str, port: int, local: bool, at: str | None = None, decides: Decides | None = None
    ) -> Dialled:
        """Returns a connected stream to `host`, a name or an address. `local` permits addresses that the guard
        classifies as local.

        With `at`, that address is dialled first; the host's other addresses are dialled only if `at` is one of the
        host's. With `decides`, an address for which it returns False is not dialled.

        Raises DialRefused if the guard permits none of the addresses, OtherRule if `decides` permits none of the rest,
        and FetchError if none of them connects.
        """
        ips = [at] if at is not None else await self._addresses(host)
        race = _Race(self._permitted(host, ips, port, local, decides), port, self._connect, self._descriptors)
        with trio.move_on_after(CONNECT_DEADLINE):
            more = None if at is None else partial(self._others, host, at, port, local, decides)
            connection, ip = await race.run(more)
            try:
                return Dialled(self._make_stream(connection), ip)
            except OSError as error:
                raise FetchError(f"connect to {host}:{port}: {error.strerror}") from error
        raise FetchError("; ".join(f"connect to {endpoint(ip, port)}: timed out" for ip in race.tried))

    def may_use(self, ip: str, port: int, local: bool, decides: Decides | None) -> bool:
        """Whether this address may be dialled now, or a connection to it be reused."""
        return self._may_dial(ip, port, local) and (decides is None or decides(ip, port))

    def _permitted(self, host: str, ips: Sequence[str], port: int, local: bool, decides: Decides | None) -> list[str]:
        guarded = [ip for ip in ips if self._may_dial(ip, port, local)]
        if not guarded:
            remedy = "local_networks or fetch(…, local=True) must name it"
            raise DialRefused(f"{_where(host, ips, port)}, which is local to the host: {remedy}")
        permitted = [ip for ip in guarded if decides is None or decides(ip, port)]
        if not permitted:
            raise OtherRule(f"{_where(host, guarded, port)}, which is under another rule")
        return permitted

    async def _others(self, host: str, at: str, port: int, local: bool, decides: Decides | None) -> list[str]:
        """Returns the host's other addresses, which may replace `at`; none if `at` is not an address of the host."""
        try:
            ips = await self._addresses(host)
        except (DialRefused, FetchError):
            return []
        return [ip for ip in ips if ip != at and self.may_use(ip, port, local, decides)] if at in ips else []

    async def _addresses(self, host: str) -> list[str]:
        if _is_address(host):
            return [host]
        try:
            found = await self._resolve(host)
        except DialRefused:
            raise
        except (InterceptorError, OSError) as error:
            raise FetchError(f"resolve {host}: {error}") from error
        ips = interleaved(found.v6, found.v4)
        if not ips:
            raise FetchError(f"resolve {host}: the name has no address")
        return ips


class _Race:
    """Staggered attempts on several addresses. The first connection is kept; any others are closed."""

    def __init__(self, ips: Sequence[str], port: int, connect: Connect, descriptors: Descriptors) -> None:
        self.tried: list[str] = []
        self._ips = ips
        self._port = port
        self._connect = connect
        self._slots = trio.Semaphore(OPEN_ATTEMPTS)
        self._descriptors = descriptors
        self._further = 0  # descriptors taken for attempts beside another
        self._winner: tuple[socket.socket, str] | None = None
        self._failures: list[str] = []
        self._cause: OSError | None = None

    async def run(self, more: Callable[[], Awaitable[Sequence[str]]] | None) -> tuple[socket.socket, str]:
        """Returns the connection and its address. `more` returns addresses to try after the first ones."""
        try:
            async with trio.open_nursery() as nursery:
                await self._start(self._ips, nursery)
                if more is not None:
                    await self._start(await more(), nursery)
        except BaseException:
            if self._winner is not None:
                self._winner[0].close()
            raise
        if self._winner is None:
            raise FetchError("; ".join(self._failures)) from self._cause
        return self._winner

    async def _start(self, ips: Sequence[str], nursery: trio.Nursery) -> None:
        """Starts the attempts, each ATTEMPT_DELAY after the one before, or as soon as that one fails."""
        lasts = CONNECT_DEADLINE * min(1.0, self._slots.value / max(1, len(ips)))
        for ip in ips:
            await self._slots.acquire()
            await self._take_descriptor()
            failed = trio.Event()
            self.tried.append(ip)
            nursery.start_soon(self._attempt, ip, lasts, failed, nursery.cancel_scope)
            with trio.move_on_after(ATTEMPT_DELAY):
                await failed.wait()

    async def _take_descriptor(self) -> None:
        """Takes a descriptor for an attempt. The only open one needs none, so others wait until they are that one."""
        while OPEN_ATTEMPTS - self._slots.value > 1:
            if self._descriptors.take():
                self._further += 1
                return
            await trio.sleep(ATTEMPT_DELAY)

    async def _attempt(self, ip: str, lasts: float, failed: trio.Event, race: trio.CancelScope) -> None:
        connection: socket.socket | None = None
        try:
            with trio.move_on_after(lasts):
                connection = await self._connect(ip, self._port)
            if connection is None:
                raise TimeoutError(errno.ETIMEDOUT, "timed out")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self._failures.append(f"connect to {endpoint(ip, self._port)}: {reason}")
            self._cause = error
            failed.set()
        else:
            if self._winner is None:
                self._winner = connection, ip
                race.cancel()
            else:
                connection.close()
        finally:
            self._slots.release()
            if self._further:
                self._further -= 1
                self._descriptors.give_back()


def interleaved(v6: Sequence[str], v4: Sequence[str]) -> list[str]:
    """Returns the addresses in the order of attempts: the families alternate, IPv6 first (RFC 8305 section 4)."""
    turns = chain.from_iterable(zip_longest(v6, v4))
    return list(dict.fromkeys(ip for ip in turns if ip is not None))[:MAX_ADDRESSES]


def endpoint(ip: str, port: int) -> str:
    """Returns "address:port", with brackets around an IPv6 address."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _where(host: str, ips: Sequence[str], port: int) -> str:
    places = " and ".join(endpoint(ip, port) for ip in ips)
    return f"connect to {host}: {places}" if host in ips else f"connect to {host}: {host} is {places}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
